"""CSV text: the same entries as Python's reader finds, with places that keep all else as it is."""

import csv

import numpy as np
import pytest

from cogen.models.data.csv_text import columns_of, records_of, replace_entries

TEXTS = [
    "a,b\n1,2\n",
    "a,b\r\n1,2\r\n\r\n3,4",
    'a,"b"\r"x, ""y""\nz",\r,""\r',
    ' a , b"c \n 1",2\n',
    "\n\na\n\n1\n \n",
    'a\n""\n1',
    "a,b,\n,,\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_entries_are_those_of_pythons_reader(text):
    expected = [[entry.strip() for entry in row] for row in csv.reader(text.splitlines(keepends=True), strict=True) if row]
    found = list(records_of(text, "t.csv"))
    assert [[entry.text for entry in record.entries] for record in found] == expected
    assert replace_entries(text, {}) == text


def test_random_tables_are_read_as_they_were_written():
    random = np.random.default_rng(0)
    for _ in range(200):
        rows = ["".join(random.choice(list('a", \n\r1'), random.integers(0, 5))) for _ in range(12)]
        text = "".join(
            ",".join('"' + entry.replace('"', '""') + '"' for entry in rows[at : at + 3]) + "\n" for at in (0, 3, 6, 9)
        )
        found = [entry.text for record in records_of(text, "t.csv") for entry in record.entries]
        assert found == [entry.strip() for entry in rows]


def test_lines_are_those_of_an_editor():
    text = '\ufeffa,b\r\n\r\n"x\ny",1\r\nz,2\r3,4\n'
    columns, lines = columns_of(text, "t.csv")
    assert columns == {"a": ["x\ny", "z", "3"], "b": ["1", "2", "4"]}
    assert lines == [3, 5, 6]
    with pytest.raises(ValueError, match=r"t.csv, line 5 has 1 entries, but the first line names 2 columns"):
        columns_of('a,b\n1,2\n"x\ny",2\n3\n', "t.csv")
    with pytest.raises(ValueError, match=r"t.csv, line 3: invalid CSV; check for an unclosed quote"):
        columns_of('a,b\n1,2\n3,"4\n5,6\n', "t.csv")


def test_spaces_around_quotes_mean_nothing():
    columns, _ = columns_of('a , "b, c" ,"d"\n "1", 2,\t"" \n', "t.csv")
    assert columns == {"a": ["1"], "b, c": ["2"], "d": [""]}


def test_replaced_entries_are_quoted_where_they_must_be():
    text = 'a,b\n, NA \n"",x\n'
    assert replace_entries(text, {(0, 0): "p,q", (0, 1): 'r"', (1, 0): "s"}) == 'a,b\n"p,q","r"""\n"s",x\n'
