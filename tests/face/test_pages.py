"""The pages that teach do what they say: their Python blocks run, one after the other."""

import re
import shlex
import warnings
from pathlib import Path

import pytest

from cogen.command_line import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    *sorted(DOCS.glob("adding_a_*.md")),
    *(
        DOCS / f"{name}.md"
        for name in (
            "cgml",
            "completing",
            "cooperative",
            "energies",
            "first_steps",
            "generators",
            "kernels",
            "rbm",
            "score_matching",
            "superresolution",
            "table",
            "translation",
            "trust",
            "unknown_class",
        )
    ),
]


def test_there_are_pages():
    assert "adding_a_kernel.md" in [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    script = tmp_path / f"{page.stem}.py"  # a file, since torch and dataclasses look sources up
    script.write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), {"__name__": page.stem})


@pytest.mark.slow
def test_the_commands_of_the_page_on_images_run(tmp_path, monkeypatch, capsys):
    """As they stand there, one after the other; none of them warns."""
    page = (DOCS / "completing.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    exec(compile(block, "completing.py", "exec"), {})
    commands = [line for part in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL) for line in part.splitlines()]
    assert len(commands) == 3
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "cogen"
        main(arguments)
        said = capsys.readouterr().out
        assert "nothing looks wrong" in said
        assert ("CRPS" in said) == ("--truth" in command)
    assert len(list(Path("completed-scans/completed").glob("*/draw-4.png"))) == 4
