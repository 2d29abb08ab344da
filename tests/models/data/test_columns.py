"""Columns as people have them: numbers stay numbers, words stay words, and what is between them is named with its remedy."""

import warnings

import numpy as np
import pytest

from cogen.models.data.columns import Column, Place, decode_column, encode_column, infer_column, text_of_decoded
from cogen.models.data.entries import Holes

PLACE = Place("people.csv", lambda row: f"line {row + 2}")
AGES = np.random.default_rng(0).integers(20, 80, 200).tolist()


def infer(texts, *, missing=(), **settled):
    return infer_column("c", [str(text) for text in texts], Holes(missing), PLACE, **settled)


def with_text(text):
    return [*AGES[:3], text, *AGES[4:50], text, *AGES[51:]]


@pytest.mark.parametrize("text", ["-", ".", "missing", "inf", "3+", "#DIV/0!", "Null"])
def test_a_text_among_numbers_is_named_with_its_remedies(text):
    with pytest.raises(ValueError, match=r"people.csv, line 5, column 'c': .* 2 of 200 entries are of this kind") as caught:
        infer(with_text(text))
    said = str(caught.value)
    assert f"{text!r} is neither a finite number nor a word for a hole" in said
    assert f"missing=[{text!r}]" in said
    assert "give categorical=['c'], or remove it, as with drop=['c']" in said
    assert infer(with_text(text), missing=[text]).kind == "continuous"
    assert text in infer(with_text(text), categorical=True).levels


@pytest.mark.parametrize("form", ["{:,}", "{}%", "${}", "{} €", "{},5"])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.01])
def test_numbers_that_are_not_written_as_such_are_refused(form, share):
    """All of them, or most beside words, or a few beside numbers."""
    count = round(share * 200)
    others = AGES if share < 0.5 else ["free", "unknown"] * 100
    texts = [form.format(1000 + age) for age in AGES[:count]] + others[count:]
    with pytest.raises(ValueError, match=r"line 2, column 'c': '.*' is not a plain number: write it as 1234.5") as caught:
        infer(texts)
    assert repr(texts[0]) in str(caught.value)
    assert "categorical=['c']" in str(caught.value)


def test_a_number_among_words_is_named():
    said = r"line 5, column 'c': '7' is a number among texts such as 'yes': correct it. 1 of 41 entries are of this kind"
    with pytest.raises(ValueError, match=said):
        infer([*["yes", "no", "no"], "7", *["no"] * 37])
    with pytest.raises(ValueError, match=r"line 2, column 'c': 'unknown' is neither .* 300 of 500 entries are of this kind"):
        infer(["unknown"] * 300 + AGES)


def test_words_stay_levels():
    assert infer(["a", "b", "c", "b"]).levels == ("a", "b", "c")
    assert infer(["low", "high", "low"]).kind == "binary"
    assert infer(["none", "10%", "some", "all"] * 5).levels == (
        "10%",
        "all",
        "none",
        "some",
    )  # one of four is not a column of them
    assert infer(["<=50K", ">50K"] * 5).kind == "binary"
    assert infer(["2024-01-05", "never", "later"] * 5).kind == "categorical"
    assert infer(["2024-01", "2024-02", "2024-03"] * 5, categorical=True).kind == "categorical"


def test_digits_behind_a_zero_are_codes():
    column = infer(["00501", "90210", "08540"] * 3)
    assert (column.kind, column.levels) == ("categorical", ("00501", "08540", "90210"))
    codes = encode_column(column, ["90210", "00501", ""], Holes(), PLACE)
    assert decode_column(column, codes).tolist() == ["90210", "00501", ""]
    many = [f"{row:05d}" for row in range(400)]
    for texts, count in [(many, 400), (many[:150] * 2, 150)]:
        with pytest.warns(UserWarning, match=rf"{count} different codes \('00000' begins with a zero\), too many for levels"):
            column = infer(texts)
        assert column.kind == "continuous"
        code = encode_column(column, ["00007"], Holes(), PLACE)
        assert decode_column(column, code)[0] == pytest.approx(7, abs=1e-3)
    with pytest.raises(
        ValueError, match="line 5, column 'c': '007' begins with a zero, so it is a code and not a number: write"
    ):
        infer(["1.5", "2", "3", "007"])
    with pytest.raises(ValueError, match="contains '01' and '1': write codes in one notation"):
        infer(["01", "1", "02"] * 3)


# --- what 32 bits and a generator resolve ----------------------------------------------------------------------------

RANDOM = np.random.default_rng(1)
INCOMES = np.round(np.exp(RANDOM.normal(10, 1, 200))).astype(int).tolist()


@pytest.mark.parametrize(
    "texts",
    [
        [2**24 + 7 * row for row in range(300)],
        [1700000000123456789 + row * 10**9 for row in range(200)],  # nanoseconds, standardised in float64
        [f"{age}e-12" for age in AGES],
        RANDOM.normal(size=20_000).tolist(),  # some are equal in 32 bits
        [0] * 900 + RANDOM.integers(100, 100_000, 100).tolist(),
        np.exp(RANDOM.normal(0, 2, 500)).tolist(),
        [1, 2, 1000],
        [0, 1, 2, "1e-99999999999999999999"],
    ],
    ids=["above 2**24", "nanoseconds", "tiny", "normal", "mostly zero", "log-normal", "three", "no decimal"],
)
def test_columns_that_are_resolved(texts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        column = infer(texts)
    codes = encode_column(column, [str(text) for text in texts], Holes(), PLACE)
    assert len(set(codes.tolist())) >= 0.99 * len(set(map(float, texts)))


def test_values_that_become_equal_are_said():
    said = (
        r"column 'c': its standard deviation is 7.05e\+10, with outliers such as 1000000000000 in line 201, so \d+ of its"
        r" 199 distinct values equal the next one in float32 .*missing=\['1000000000000'\]"
    )
    with pytest.warns(UserWarning, match=said):
        assert infer([*INCOMES[1:], 10**12]).kind == "continuous"
    assert infer([*INCOMES[1:], 10**12], missing=["1e12"]).kind == "continuous"
    with pytest.raises(
        ValueError, match=r"distinct values equal the next one in float32 \(9007.* and 9007.*\): subtract a constant"
    ):
        infer([2**53 + row for row in range(100)])


def test_columns_of_whole_numbers_are_decoded_as_such():
    column = infer(["20", "31.0", "40", "?"])
    assert column.decimals == 0
    codes = encode_column(column, ["31", "40"], Holes(), PLACE)
    assert decode_column(column, np.append(codes, [0.01, -9.0])).tolist() == [31.0, 40.0, 30.0, -43.0]
    assert [infer(texts).decimals for texts in (["20", "31.5", "40"], ["1.25", "1.50", "2"], ["1e-3", "2", "3.5"])] == [
        1,
        2,
        None,
    ]
    assert infer(["0.1234567", "2", "3.5"]).decimals is None
    column = infer(["38.5", "41.25", "40"])
    assert decode_column(column, np.array([0.12345, np.nan])).tolist()[0] == round(column.mean + 0.12345 * column.sd, 2)
    assert [text_of_decoded(column, value) for value in (38.0, 38.25, float("nan"))] == ["38.00", "38.25", ""]
    assert infer(["0", "1", "1"]).kind == "binary"
    assert (infer(["0", "1", "1"], integer=True).kind, infer(["007", "12"], integer=True).decimals) == ("continuous", 0)
    with pytest.raises(ValueError, match=r"column 'c' is constant \('7'"):
        infer(["7", "7.0", "?"], integer=True)
    with pytest.raises(ValueError, match=r"line 3, column 'c': '1.5' is not an integer, as integer=\['c'\] requires"):
        infer(["1", "1.5", "2"], integer=True)
    with pytest.raises(ValueError, match="decimals=0 is for continuous columns, this one is binary"):
        Column("c", "binary", levels=("a", "b"), decimals=0)
    with pytest.raises(ValueError, match="decimals is 9: it must be an integer from 0 to 6, or None"):
        Column("c", "continuous", decimals=9)


def test_values_far_out_that_decide_the_spread_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"outliers such as 1000000.0 in line 2, and nine tenths of its distinct values span only"
    ):
        infer([1e6, *(round(0.001 * row, 3) for row in range(1, 200))])
