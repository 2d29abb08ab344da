"""Texts of a table: which are numbers, which are holes, and which only look like numbers."""

import pandas as pd
import pytest

from cogen.models.data.entries import WORDS_FOR_HOLES, Holes, is_code, is_date, is_decorated_number, is_plain_number, text_of


def test_pandas_reads_the_same_words_as_holes(tmp_path):
    words = sorted(WORDS_FOR_HOLES - {""})
    (tmp_path / "words.csv").write_text("word,row\n" + "".join(f"{word},{row}\n" for row, word in enumerate(words)))
    read = pd.read_csv(tmp_path / "words.csv")["word"]
    assert read[~read.isna()].tolist() == ["<na>", "?", "NAN", "NaT", "na"]  # which are ours


TEXTS = {
    "number": "5|-3.5|+2|1e-12|.5|5.|0|0.5|1E5|9007199254741205|12.30",
    "decorated": "1,234|1,234.5|3,5|1.234,5|1 234|1'234|35%|35 %|-3,5 %|$35|-$35|$-35|€ 1.234.567|35 €|USD 35|(1,234)|1,234-|−5"
    "|inf|-Infinity|1_000",
    "date": "2024-01-05|2024/1/5|2024-01|2024-01-05T12:30|2024-01-05 12:30:00+01:00|5.1.2024|05.01.24|01/05/24|5 Jan 2024"
    "|05-JAN-24|January 5, 2024|Jan 2024|12:30|9:05 pm|1 day, 0:00:00|-1 days +05:00:00|3 days",
    "code": "00501|01|000",
    "word": "cook|12a|3+|>50K|25-34|A1|BMW 320|10 mg|1.2.3|192.168.0.1|May|Q1 2024|none|Na|-|%|one day|0x1",
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in TEXTS.items() for text in texts.split("|")])
def test_a_text_is_of_one_kind(kind, text):
    kinds = {"number": is_plain_number, "decorated": is_decorated_number, "date": is_date, "code": is_code}
    assert [name for name, is_it in kinds.items() if is_it(text)] == [kind] * (kind != "word")
    assert text not in Holes()


def test_words_for_holes_of_the_caller():
    holes = Holes([" - ", "-999", "0099"])
    assert all(text in holes for text in ("-", "-999", "-999.0", "-9.99e2", "0099", "", "NULL"))
    assert [text in Holes(["501"]) for text in ("501.0", "00501")] == [True, False]
    assert not any(text in holes for text in ("-99", "--", "999", "null-", "99", "-0999x", "none"))


def test_values_as_a_file_would_have_them():
    values = [None, float("nan"), 1.0, 0.1, 9007199254740993, 9007199254740992.0, 1e300, True, b"caf\xc3\xa9", " x "]
    texts = ["", "", "1", "0.1", "9007199254740993", "9007199254740992", "1e+300", "True", "café", "x"]
    assert [text_of(value) for value in values] == texts
