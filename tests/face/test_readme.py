"""The code of the README runs as it stands."""

import re
from pathlib import Path

import pytest

from cogen.command_line import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def test_every_block_is_run_below():
    assert [name for name, _ in BLOCKS] == ["sh", "python"]


@pytest.mark.slow
def test_the_commands(tmp_path, monkeypatch, capsys):
    """The first installs the package, which `.ci/run` does; the second runs here."""
    install, complete = (line.split("#")[0].split() for line in blocks("sh")[0].splitlines())
    assert install == ["pip", "install", "."]
    monkeypatch.chdir(tmp_path)
    assert complete[0] == "cogen"
    main(complete[1:])
    assert "nothing looks wrong" in capsys.readouterr().out
    assert (tmp_path / "cogen-output" / "report.html").exists()
    assert (tmp_path / "cogen-output" / "completions.png").exists()


@pytest.mark.slow
def test_the_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), found)
    assert found["posterior"]["predictions"]["x_mean"].shape == (4, 1, 28, 28)
