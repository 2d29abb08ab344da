"""Every number of a table in the documentation stands in the record of the command that made it (`claims.py` says how)."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from claims import ROOT, complaints, main, shown_as, tables_of

PAGES = sorted(["README.md", "models/shipped/README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])

RECORD = {
    "rows": [
        {"view": "half", "method": "HMC", "crps": 0.0884, "difference": 0.0, "error": 0.0, "setting": "16 chains"},
        {
            "view": "half",
            "method": "descent, 300 steps",
            "crps": 0.09998,
            "difference": 0.0116,
            "error": 0.0043,
            "setting": "1",
        },
    ],
    "seeds": {"gan": {"0": {"modes": 25, "share": 0.942}, "1": {"modes": 24, "share": 0.918}}},
    "growth": {"size": [1, 10], "seconds": [0.25, 2876.3]},
}
OTHER = {"rows": [{"view": "block", "method": "HMC", "crps": 0.5}]}

COMMENT = """<!-- claims: record.json or other.json#rows[view={view}][method={method}]
CRPS = crps
minus HMC (s.e.) = difference, error
setting = setting
top half -> half
-->
"""
HEADER = """| view, method | CRPS | minus HMC (s.e.) | setting | the paper's |
|---|---|---|---|---|
"""
ROWS = """| top half, HMC | **0.0884** | | 16 chains | 0.1 |
| top half, descent, 300 steps | 0.1000 | +0.0116 (0.0043) | | |
| block, HMC | 0.500 | | | |
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    (tmp_path / "other.json").write_text(json.dumps(OTHER))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_number_in_a_table_has_its_record(page):
    assert complaints((ROOT / page).read_text(encoding="utf-8")) == []


def test_the_pages_are_found():
    assert {"README.md", "docs/inference.md", "docs/families.md", "models/shipped/README.md"} <= set(PAGES)
    assert sum(len(list(tables_of((ROOT / page).read_text(encoding="utf-8")))) for page in PAGES) > 20


# --- the check can fail --------------------------------------------------------------------------------------------


def test_right_numbers_pass(root):
    assert complaints(COMMENT + HEADER + ROWS, root) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("0.0884", "0.0885"), "line 9: '0.0885' under 'CRPS': 0.0885 is 0.0884 in the record"),
        (("0.1000", "0.1001"), "0.1001 is 0.09998 in the record"),
        (("+0.0116", "-0.0116"), "-0.0116 is 0.0116 in the record"),
        (("(0.0043)", "(0.0043, 3)"), "3 numbers, and 2 in the record"),
        (("16 chains", "32 chains"), "the record says '16 chains'"),
        (("300 steps | 0.1", "400 steps | 0.1"), "no entry fits"),
        (("block, HMC | 0.500", "half, HMC | 0.500"), "0.500 is 0.0884 in the record"),
        (("record.json or ", ""), "no entry fits"),
        (("or other", "or another"), "line 7: there is no file another.json"),
        (("| setting |", "| CRPS |"), "two columns have the header 'CRPS'"),
        (("record.json or other.json", "old.json"), "there is no file old.json"),
        (("record.json or", "other.json or"), "an entry in 2 records"),
        (("[method={method}]", ""), "2 entries fit"),
        (("[method={method}]", "[method={kind}]"), "there is no column 'kind'"),
        (("CRPS = crps\n", ""), "the comment names no place of this column"),
        (("CRPS = crps", "CRPS = crsp"), "there is no 'crsp'"),
        (("CRPS = crps", "score = crps"), "the comment names a column 'score'"),
        (("CRPS = crps", "CRPS crps"), "neither 'HEADER = PATH' nor 'text -> value'"),
        (("16 chains | 0.1 |", "16 chains |"), "4 cells under 5 headers"),
        ((COMMENT, ""), "line 1: a table with numbers has no"),
        ((COMMENT, COMMENT + "Some words.\n\n"), "has no '<!-- claims"),
        (("claims: ", ""), "has no '<!-- claims"),
    ],
)
def test_what_is_wrong_is_said(root, change, says):
    text = COMMENT + HEADER + ROWS
    assert change[0] in text
    found = complaints(text.replace(*change), root)
    assert any(says in one for one in found), found


def test_functions_factors_lists_and_columns(root):
    table = """<!-- claims: record.json#seeds.{family}
modes = *.modes
share, % = 100**.share
mean, % = 100*mean(*.share)
-->
| family | modes | share, % | mean, % |
|---|---|---|---|
| `gan` | 25, 24 | 94.2, 91.8 | 93.0 |

<!-- claims: record.json#growth[size={size}]
* = {column}
-->
| size | seconds |
|---|---|
| 1 | 0.25 |
| 10 | 2,880 |
"""
    assert complaints(table, root) == []
    assert "93.1 is 93.0" in complaints(table.replace("93.0", "93.1"), root)[0]
    assert "2,870 is 2876.3" in complaints(table.replace("2,880", "2,870"), root)[0]


def test_what_is_exempt(root):
    assert complaints(HEADER + "| half | | | | |\n", root) == []
    assert complaints("```\n" + HEADER + ROWS + "```\n", root) == []
    assert complaints("| option | what |\n|---|---|\n| `--chains 16` | `16` or more |\n", root) == []
    assert complaints("<!-- claims: none -->\n" + HEADER + ROWS, root) == []
    assert complaints(COMMENT + HEADER + ROWS.replace("0.0884", "0.7 †"), root) == []


@pytest.mark.parametrize(
    ("value", "text", "right"),
    [
        (2.5, "2", True),
        (3.5, "4", True),
        (2.5, "3", False),
        (0.125, "0.12", True),
        (1.664952, "1.66", True),
        (1.664952, "1.67", False),
        (-0.00004, "-0.0000", True),
        (8.74e-143, "9e-143", True),
        (4.7e-19, "4e-19", False),
        (2876.3, "2,880", True),
        (2876.3, "2,900", False),
        (1500, "1,500", True),
        (1499.0, "1,500", True),
        (1490.0, "1,500", False),
        (25, "25", True),
        (25.4, "25", True),
        (25.6, "25", False),
    ],
)
def test_rounding(value, text, right):
    assert shown_as(value, text) == right


def test_the_command(root, capsys):
    page = root / "page.md"
    page.write_text(HEADER + ROWS)
    assert main([str(page)]) == 1
    assert "page.md: line 1" in capsys.readouterr().out
