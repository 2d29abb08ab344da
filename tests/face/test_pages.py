"""The pages that teach do what they say: their Python blocks run, one after the other."""

import re
import shlex
import textwrap
import warnings
from pathlib import Path

import pytest
import tyro

from cogen.command_line import Command, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OTHERS = {"head", "ls", "pip", "pytest", "ruff", "mypy", "make", "nox", "git", "python", "pre-commit"}
PAGES = [
    *sorted(DOCS.glob("adding_a_*.md")),
    *(
        DOCS / f"{name}.md"
        for name in (
            "cgml",
            "completing",
            "cooperative",
            "energies",
            "executors",
            "families",
            "first_steps",
            "generators",
            "inference",
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
FIRST = ("first_steps", "completing", "generators", "trust", "adding_a_kernel", "adding_a_view")
"""Pages that run with the quick tests; the others run with the slow ones."""


def blocks_of(page, language):
    """The fenced blocks of a page, those in lists too."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def commands_of(page):
    """The commands of a page, those that go on after a backslash too."""
    text = "\n".join(blocks_of(page, "sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def test_every_page_with_python_runs():
    """But for the transcript, which needs MNIST and is run by `benchmarks/transcript.py`."""
    assert {page for page in DOCS.glob("*.md") if blocks_of(page, "python")} - {DOCS / "five_jobs.md"} == set(PAGES)


COMMANDS = [
    (page.stem, command) for page in sorted(ROOT.glob("*.md")) + sorted(DOCS.glob("*.md")) for command in commands_of(page)
]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda each: each if isinstance(each, str) else " ".join(each)[:60])
def test_commands_have_the_options_that_they_name(page, command):
    """Of `cogen` all is read as the command line reads it; of scripts, that they exist and have these options."""
    match command:
        case ["cogen", "--version"]:
            main(["--version"])
        case ["cogen", *arguments]:
            tyro.cli(Command, args=arguments)
        case ["python", script, *arguments] if script.endswith(".py"):
            source = (ROOT / script).read_text(encoding="utf-8")
            for option in (word.removeprefix("--").replace("-", "_") for word in arguments if re.match("--[a-z]", word)):
                assert re.search(rf"^    {option.removeprefix('no_')}: ", source, flags=re.MULTILINE), option
        case _:
            assert command[0] in OTHERS


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=[] if page.stem in FIRST else [pytest.mark.slow]) for page in PAGES]
)
def test_a_page_runs(page, tmp_path, monkeypatch):
    if page.stem == "executors":
        pytest.importorskip("ray")
    blocks = blocks_of(page, "python")
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


@pytest.mark.slow
def test_the_commands_of_the_page_on_tables_run(tmp_path, monkeypatch, capsys):
    """Without warnings; the generator is better than independent columns."""
    page = DOCS / "table.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    exec(compile(blocks_of(page, "python")[0], "table.py", "exec"), {})
    commands = commands_of(page)
    assert [command[:2] for command in commands] == [["cogen", "train"], ["cogen", "fill"]]
    for _, *arguments in commands:
        main(arguments)
    said = capsys.readouterr()
    assert "cogen: warning" not in said.err
    assert "nothing looks wrong" in said.out
    before, after = (Path(name).read_text().splitlines() for name in ("customers.csv", "cogen-filled/filled.csv"))
    assert [line.split(",")[::6] for line in after] == [line.split(",")[::6] for line in before]  # the dropped ones
    assert not any(",," in line for line in after)
