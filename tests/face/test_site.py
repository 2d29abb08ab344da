"""The sources of the site are complete, and their links lead somewhere. `make -C docs html`, in `.ci/run`, builds it."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in DOCS.rglob("*")
    if path.suffix in (".md", ".rst") and not {"_build", "generated", "_templates"} & set(path.parts)
)
READ = [
    *(path for path in PAGES if path.suffix == ".md"),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/shipped/README.md")),
]


def in_toctrees():
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        trees = re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL)
        trees += re.findall(r"^\.\. toctree::\n((?:\n|   .*\n)+)", text, flags=re.MULTILINE)
        names = [line.strip() for tree in trees for line in tree.splitlines()]
        found |= {(page.parent / name).relative_to(DOCS).as_posix() for name in names if name and not name.startswith(":")}
    return found


def test_every_page_is_in_a_toctree():
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}
    assert len(pages) > 25
    assert in_toctrees() == pages - {"index"}


@pytest.mark.parametrize("wing", ["models", "inference", "diagnostics"])
def test_every_public_name_is_in_the_reference(wing):
    page = (DOCS / "api" / f"{wing}.rst").read_text(encoding="utf-8")
    listed = [name for tree in re.findall(r":nosignatures:\n\n((?:   \w+\n)+)", page) for name in tree.split()]
    assert sorted(listed) == sorted(importlib.import_module(f"cogen.{wing}").__all__)


def anchors(page):
    """The anchors of the headings of a page, as a forge makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^[ ]*```.*?^[ ]*```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))
    for link in links:
        if not link.startswith(("http:", "https:")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
