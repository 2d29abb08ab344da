"""The pages that teach do what they say: their Python blocks run, one after the other."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    *sorted(DOCS.glob("adding_a_*.md")),
    *(
        DOCS / f"{name}.md"
        for name in ("cgml", "cooperative", "energies", "generators", "rbm", "score_matching", "translation")
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
