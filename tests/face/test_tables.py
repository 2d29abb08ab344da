"""Tables that are written from records are those of the records, every row of them."""

import json

import pytest


@pytest.fixture(scope="module")
def tables(benchmark):
    return benchmark("tables")


def test_halves_are_rounded_away_from_zero(tables):
    assert [tables.fixed(value, 0) for value in (0.5, 1.5, 2.5, -0.5)] == ["1", "2", "3", "-1"]
    assert tables.fixed(0.0125, 3) == "0.013"
    assert [tables.short(value) for value in (0.0012345, 1234.5, 0.0, 2.5e-9)] == ["0.00123", "1,230", "0", "2.5e-9"]


def test_the_pages_hold_the_tables_of_the_records(tables):
    tables.main(tables.Options(check=True))


def row(method, view, crps, difference=0.0, error=0.0, **more):
    scores = {"hidden_crps": crps, "crps_difference": difference, "crps_difference_se": error, "seconds": 2.0}
    return {"generator": "digits", "part": "test", "view": view, "method": method, **scores, **more}


def test_a_page_is_written_from_a_record_and_a_changed_one_is_refused(tables, tmp_path, monkeypatch):
    rows = [row("HMC", "half", 0.1), row("descent", "half", 0.1236, 0.0236, 0.005), row("HMC", "left", None)]
    (tmp_path / "record.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    mark = "<!-- table: {}: record.json -->\n<!-- end of table -->\n"
    page.write_text("Words.\n" + mark.format("completions in short") + "More.\n" + mark.format("completions"))
    options = tables.Options(pages=(page,))
    tables.main(options)
    written = page.read_text()
    assert "| CRPS, minus the first (s.e.) | digits, half | digits, left |" in written
    assert "| descent | 0.1236, +0.0236 (0.0050) |  |" in written  # the second view has no such row
    assert written.count("| digits, half | HMC |") == 1
    tables.main(tables.Options(pages=(page,), check=True))
    page.write_text(written.replace("0.1236", "0.1235"))
    with pytest.raises(SystemExit, match=r"page\.md: a table differs from its record"):
        tables.main(tables.Options(pages=(page,), check=True))
