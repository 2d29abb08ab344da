"""Tables: what is read comes back as it was written, and what does not belong is named by file, line and column."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cogen.models.data.tables import Column, Schema, read_csv, write_csv, write_filled

PEOPLE = """age,sex,job,income
39,Male,clerk,1234.5
?,Female,"cook, chief",
17,Male,clerk,-20
,,farmer,1e3
52.25,NA,farmer,nan
"""


def write(folder: Path, text: str, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refuses(folder: Path, text: str, message: str, **options) -> None:
    path = write(folder, text, "bad.csv")
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(path, **options)
    assert "bad.csv" in str(caught.value)


def test_kinds_levels_and_holes_are_found(tmp_path):
    table = read_csv(write(tmp_path, PEOPLE))
    assert [column.kind for column in table.schema.columns] == ["continuous", "binary", "categorical", "continuous"]
    assert table.schema.names == ("age", "sex", "job", "income")
    assert table.schema.columns[1].levels == ("Female", "Male")
    assert table.schema.columns[2].levels == ("clerk", "cook, chief", "farmer")
    ages = np.array([39, 17, 52.25])
    assert table.schema.columns[0].mean == pytest.approx(ages.mean())  # over the entries seen
    assert table.schema.columns[0].sd == pytest.approx(ages.std())
    assert (table.values.shape, table.values.dtype) == ((5, 4), np.float32)
    np.testing.assert_array_equal(np.isnan(table.values[:, 0]), [False, True, False, True, False])
    np.testing.assert_allclose(table.values[[0, 2, 4], 0], (ages - ages.mean()) / ages.std(), rtol=1e-6)
    np.testing.assert_array_equal(table.values[:, 1], [1, 0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(table.values[:, 2], [0, 1, 0, 2, 2])


def test_a_table_comes_back_as_it_was(tmp_path):
    table = read_csv(write(tmp_path, PEOPLE))
    write_csv(tmp_path / "again.csv", table.schema, table.values)
    assert (tmp_path / "again.csv").read_text() == (
        'age,sex,job,income\n39,Male,clerk,1234.5\n,Female,"cook, chief",\n17,Male,clerk,-20\n,,farmer,1000\n52.25,,farmer,\n'
    )
    again = read_csv(tmp_path / "again.csv", schema=table.schema)
    np.testing.assert_array_equal(again.values, table.values)
    single = Schema((Column("x", "continuous"),))
    write_csv(tmp_path / "single.csv", single, np.array([[0.5], [np.nan]]))  # a line of one hole is no blank line
    np.testing.assert_array_equal(read_csv(tmp_path / "single.csv", schema=single).values, [[0.5], [np.nan]])


def test_entries_keep_their_digits_far_from_zero():
    years = 1e6 + np.arange(5)
    lengths = np.array([1e-9, 2e-9, 4.5e-9, 7e-9, 9e-9])
    schema = Schema.of({"year": years, "length": lengths})
    decoded = schema.decode(schema.encode({"year": years, "length": lengths}))
    np.testing.assert_array_equal(decoded["year"], years)
    np.testing.assert_allclose(decoded["length"], lengths, rtol=1e-6)


def test_a_schema_survives_json():
    schema = Schema.of({"age": [1, 2, 3, 3], "job": ["a", "b", "c", "a"], "sex": [True, False, None, True]})
    content = json.loads(json.dumps(schema.to_json()))
    assert Schema.from_json(content) == schema
    assert schema.index("job") == 1
    with pytest.raises(ValueError, match="there is no column 'work'; the columns are age, job, sex"):
        schema.index("work")
    for broken in (
        {},
        {"columns": [{"name": "x"}]},
        {"columns": [{"name": "x", "kind": "continuous", "unit": "m"}]},
        {"columns": 3},
    ):
        with pytest.raises(ValueError, match="invalid schema of columns"):
            Schema.from_json(broken)


def test_columns_without_a_file_give_the_same_as_with_one(tmp_path):
    table = read_csv(write(tmp_path, PEOPLE))
    columns = {
        "age": np.array([39, np.nan, 17, np.nan, 52.25]),
        "sex": np.array(["Male", "Female", "Male", None, np.nan], object),
        "job": ["clerk", "cook, chief", "clerk", "farmer", "farmer"],
        "income": np.array([1234.5, np.nan, -20, 1000, np.nan]),
    }
    assert Schema.of(columns) == table.schema
    np.testing.assert_array_equal(table.schema.encode(dict(reversed(columns.items()))), table.values)
    np.testing.assert_array_equal(table.schema.encode(list(zip(*columns.values(), strict=True))), table.values)
    decoded = table.schema.decode(np.stack([table.values] * 2))  # any leading axes
    assert decoded["age"].shape == (2, 5)
    np.testing.assert_array_equal(decoded["age"][1], columns["age"])
    assert decoded["sex"][1].tolist() == ["Male", "Female", "Male", "", ""]


def test_two_values_are_binary_and_categorical_can_be_asked_for(tmp_path):
    text = "smokes,grade,code\n1,3,01\n0,1,02\n0.0,2,01\n1,3,02\n"
    schema = read_csv(write(tmp_path, text), categorical=["grade", "code"]).schema
    assert [(c.kind, c.levels) for c in schema.columns] == [
        ("binary", ("0", "1")),
        ("categorical", ("1", "2", "3")),
        ("binary", ("01", "02")),
    ]
    rows = [[1.0, np.int64(2), "1"], [0, 3.0, 2]]  # other ways to write the same numbers
    np.testing.assert_array_equal(schema.encode(rows), [[1, 1, 0], [0, 2, 1]])
    tens = Schema.of({"x": ["10", "9", "100", "9"]}, categorical=["x"])
    assert tens.columns[0].levels == ("9", "10", "100")


def test_a_schema_reads_columns_in_any_order(tmp_path):
    table = read_csv(write(tmp_path, PEOPLE))
    other = "job,income,sex,age\nfarmer,,Female,39\n\nclerk,1000,,\n"  # a blank line is no row
    values = read_csv(write(tmp_path, "\ufeff" + other, "other.csv"), schema=table.schema).values
    np.testing.assert_array_equal(values[:, 1:3], [[0, 2], [np.nan, 0]])
    np.testing.assert_array_equal(values[0, 0], table.values[0, 0])
    np.testing.assert_array_equal(np.isnan(values[:, [0, 3]]), [[False, True], [True, False]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: its first line must name the columns"),
        ("a,b\n", "has column names but no rows"),
        ("1,2\n3,4\n", "line 1 has numbers instead of column names"),
        ("a,,c\n1,2,3\n", "line 1: column 2 has no name"),
        ("a,b,a\n1,2,3\n", "line 1: column 'a' appears twice"),
        ("a;b\n1;2\n", "line 1: a column is named 'a;b': separate columns by commas"),
        ("a, x\tb\n1, 3\t2\n", r"line 1: a column is named 'x\\tb': separate columns by commas"),
        ("# by x\na,b\n1,2\n", "line 1: '# by x' looks like a comment: remove it, the first line must name the columns"),
        (
            ",a\n0,5\n1,7\n",
            r"column 1 has no name: name it, or remove the column .pandas writes its index there, unless to_csv",
        ),
        ("a,b,\n1,2,\n", "column 3 has no name: name it, or remove the column$"),
        ('a,b\n1,"2"x\n', "line 2: invalid CSV; .* or text after a closing quote"),
        ("a\0,b\0\n", "contains zero bytes, as UTF-16"),
        ('a,b\n1,2\n"x\ny",2\n1,2,3\n', "line 5 has 3 entries, but the first line names 2 columns"),
        ('a,b\n1,2\n"1,2\n', "line 3: invalid CSV"),
        ("a,b\n1,x\n2,x\n3,x\n", "column 'b' is constant .'x' in every row.: remove it"),
        ("a,b\n1,5\n2,5.0\n3,5\n", "column 'b' is constant"),
        ("a,b\n1,\n2,?\n3,NA\n", "column 'b' contains only holes"),
        (
            "a,b\n1,x\n2,y\n3,z\n",
            r"column 'b' has a different text in every row and looks like an identifier: remove it, as with drop=\['b'\]$",
        ),
        ("a,b\n1,1\n2,y\n3,3\n", "line 3, column 'b': 'y' is neither a finite number nor a word for a hole: correct it"),
        ("a,b\n1,1\n2,2\n3,inf\n", "line 4, column 'b': 'inf' is neither a finite number"),
        ("b\n" + "".join(f"v{i % 101}\n" for i in range(202)), "column 'b' has 101 different texts, more than 100"),
        ("b\n1e300\n-1e300\n0\n", "column 'b' cannot be standardised"),
    ],
)
def test_files_that_are_no_table_are_named(tmp_path, text, message):
    refuses(tmp_path, text, message)


def test_other_files_that_are_no_table_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no CSV file at .*nowhere.csv"):
        read_csv(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes("a,b\n1,Köln\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.csv is not UTF-8 .*: save it as UTF-8"):
        read_csv(tmp_path / "latin.csv")
    refuses(tmp_path, PEOPLE, r"categorical=\['work'\]: there is no such column; the columns are age", categorical=["work"])
    with pytest.raises(ValueError, match="not both"):
        read_csv(write(tmp_path, PEOPLE), categorical=["sex"], schema=read_csv(write(tmp_path, PEOPLE)).schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,sex,job\n1,Male,clerk\n", "column 'income' is missing: add it, with empty entries"),
        (
            "age,sex,job,income,town\n1,Male,clerk,2,Bonn\n",
            "column 'town' is not in the schema .age, sex, job, income.: remove it",
        ),
        (
            "age,sex,job,income\n1,Male,clerk,2\n1,Other,clerk,2\n",
            "line 3, column 'sex': unknown level 'Other': use 'Female', 'M",
        ),
        ("age,sex,job,income\n1,Male,clerk,2\nold,Male,clerk,2\n", "line 3, column 'age': 'old' is neither a finite number"),
        ("age,sex,job,income\n1_0,Male,clerk,2\n", "line 2, column 'age': '1_0' is not a plain number"),
        ("age,sex,job,income\n35%,Male,clerk,2\n", "line 2, column 'age': '35%' is not a plain number"),
        ("age,sex,job,income\n1e300,Male,clerk,2\n", "line 2, column 'age': 1e300 is too far from the mean"),
    ],
)
def test_files_that_are_not_the_schemas_are_named(tmp_path, text, message):
    refuses(tmp_path, text, message, schema=read_csv(write(tmp_path, PEOPLE)).schema)


def test_rows_that_are_not_the_schemas_are_named():
    schema = Schema.of({"age": [1, 2, 3], "sex": ["f", "m", "f"]})
    for rows, message in [
        ({"age": [1]}, "column 'sex' is missing"),
        ({"age": [1, 2], "sex": ["f"]}, "column 'sex' has 1 entries, column 'age' 2"),
        ({"age": [[1]], "sex": ["f"]}, r"column 'age' has shape \(1, 1\)"),
        ([[1, "f"], [1]], "row 1 has 1 entries, but the schema 2 columns"),
        ([[1, "f"], [1, "x"]], "row 1, column 'sex': unknown level 'x'"),
        ([["x", "f"]], "row 0, column 'age': 'x' is neither a finite number"),
    ]:
        with pytest.raises(ValueError, match=message):
            schema.encode(rows)
    assert schema.encode([]).shape == (0, 2)


def test_arrays_that_are_not_the_schemas_are_named(tmp_path):
    schema = Schema.of({"age": [1, 2, 3], "sex": ["f", "m", "f"]})
    for array, message in [
        (np.zeros((2, 3)), r"the array has shape \(2, 3\); its last axis must be the 2 columns"),
        (np.float32(0), r"shape \(\)"),
        ([[0, 0.3]], "column 'sex': 0.3 is not the index of a level, 0 to 1: draw a level"),
        ([[0, 2]], "2 is not the index of a level"),
        ([[0, -1]], "-1 is not the index of a level"),
        ([[np.inf, 0]], "column 'age' contains infinite values"),
    ]:
        with pytest.raises(ValueError, match=message):
            schema.decode(array)
    with pytest.raises(ValueError, match=r"out.csv: the values have shape \(2,\), expected .row, column."):
        write_csv(tmp_path / "out.csv", schema, np.zeros(2))
    assert not (tmp_path / "out.csv").exists()


# --- holes, and columns as they come from files and data frames ------------------------------------------------------


@pytest.mark.parametrize("word", ["NULL", "null", "None", "N/A", "n/a", "#N/A", "NaT", "NA ", "<NA>", "-1.#IND", "-NaN"])
def test_the_words_of_pandas_are_holes(tmp_path, word):
    table = read_csv(write(tmp_path, f"age,job\n30,cook\n{word},clerk\n50,{word}\n70.5,clerk\n"))
    assert [column.kind for column in table.schema.columns] == ["continuous", "binary"]
    np.testing.assert_array_equal(np.isnan(table.values), [[0, 0], [1, 0], [0, 1], [0, 0]])
    assert table.holes == {"age": {word.strip(): 1}, "job": {word.strip(): 1}}


def test_words_for_holes_can_be_added_and_are_remembered(tmp_path):
    text = "age,job\n30,cook\n-,clerk\n50,?\n70,-\n-999.0,clerk\n"
    refuses(tmp_path, text, r"line 3, column 'age': '-' is .* give missing=\['-'\] if it marks a hole")
    table = read_csv(write(tmp_path, text), missing=["-", "-999"])
    assert [column.kind for column in table.schema.columns] == ["continuous", "binary"]
    assert table.holes["age"] == {"-": 1, "-999.0": 1}
    schema = Schema.from_json(json.loads(json.dumps(table.schema.to_json())))
    assert schema == table.schema
    assert schema.missing == ("-", "-999")
    later = read_csv(write(tmp_path, "job,age\n-,30\n.,-\n", "later.csv"), schema=schema, missing=["."])
    np.testing.assert_array_equal(np.isnan(later.values), [[False, True], [True, True]])
    columns = {"age": [30, -999, 50.0, np.nan], "job": ["cook", "-", "clerk", "clerk"]}
    np.testing.assert_array_equal(np.isnan(schema.encode(columns)[:, 0]), [False, True, False, True])
    assert Schema.of(columns, missing=["-", "-999"]).columns[1] == schema.columns[1]
    with pytest.raises(ValueError, match="'cook' is a level of column 'job', so it cannot be a word for a hole"):
        read_csv(tmp_path / "later.csv", schema=schema, missing=["cook"])
    with pytest.raises(TypeError, match=r"missing='-': give a sequence of words, as in missing=\['-'\]"):
        Schema(schema.columns, missing="-")
    for given in (None, schema):
        with pytest.raises(TypeError, match="missing='-999': give a sequence of words"):
            read_csv(tmp_path / "later.csv", missing="-999", schema=given)
    assert Schema.of(columns, missing=["-", -999]) == Schema.of(columns, missing=["-", "-999"])
    assert Schema.from_json({"columns": schema.to_json()["columns"]}).missing == ()  # of an earlier version
    earlier = {"columns": [{"name": "age", "kind": "continuous", "mean": 3.0, "sd": 2.0, "integer": True}]}
    assert Schema.from_json(earlier).columns[0].decimals == 0


DAYS = pd.date_range("2024-01-01", periods=40)
HOLED_DAYS = pd.Series(DAYS).where(np.arange(40) != 3)


@pytest.mark.parametrize(
    "column",
    [
        DAYS,
        DAYS.astype("datetime64[ns]"),
        DAYS.astype("datetime64[s]"),
        DAYS.tz_localize("Asia/Tokyo"),
        DAYS.to_period("M"),
        DAYS.date,
        DAYS.to_numpy("datetime64[D]"),
        HOLED_DAYS,
        HOLED_DAYS.astype("datetime64[ns]"),
        HOLED_DAYS - DAYS[0],
        (HOLED_DAYS - DAYS[0]).astype("timedelta64[ns]"),
        list(DAYS - DAYS[0]),
        DAYS.strftime("%d.%m.%Y %H:%M"),
        DAYS.strftime("%m/%d/%y"),
        DAYS.strftime("%d %b %Y"),
        [f"2024-01-0{1 + row % 9}" for row in range(40)],
    ],
    ids=range(16),
)
def test_dates_are_refused_whatever_their_unit_and_reader(tmp_path, column):
    frame = pd.DataFrame({"when": column, "k": np.arange(40)})
    frame.to_csv(tmp_path / "dates.csv", index=False)
    said = "column 'when': .* is a date, a time or a duration: give a number instead, such as the days since"
    with pytest.raises(ValueError, match=f"the columns given, row 0, {said}"):
        Schema.of(frame)
    with pytest.raises(ValueError, match=f"dates.csv, line 2, {said}"):
        read_csv(tmp_path / "dates.csv")
    schema = Schema.of({"when": np.arange(40), "k": np.arange(40)})
    with pytest.raises(ValueError, match=f"the rows given, row 0, {said}"):
        schema.encode(frame)


def test_other_columns_of_arrays():
    masked = np.ma.masked_equal(np.array([30, -1, 50, 70]), -1)
    schema = Schema.of({"age": masked, "job": np.array([b"cook", b"clerk", b"cook", b""])})
    assert schema.columns[0].mean == 50
    assert schema.columns[1].levels == ("clerk", "cook")
    np.testing.assert_array_equal(np.isnan(schema.encode({"age": masked, "job": ["cook"] * 4})[:, 0]), [0, 1, 0, 0])
    with pytest.raises(ValueError, match="column 'z' contains complex numbers: give real and imaginary parts as two columns"):
        Schema.of({"z": np.arange(5) + 0j})


# --- files written again ---------------------------------------------------------------------------------------------

DIALECTS = {  # the file with two holes, how they are written, and how they are filled
    "plain": (
        "income,code,job\n1025146.04,00501,cook\n{},00501,clerk\n1e9,{},cook\n",
        ("", ""),
        ("1", '"0,8540"'),
    ),
    "quoted, with a mark and Windows' lines": (
        '\ufeff"income" , code,"job"\r\n"1.50","0,8540","cook"\r\n{},00501, clerk \r\n\r\n +2,{},"café"',
        ('""', "NA"),
        ('"1"', '"0,8540"'),
    ),
    "old lines, another order": (
        "job,code,income\rcook,00501,7\rclerk,00501,{1}\r cook ,{0},7.00\r\r",
        ("?", " NULL "),
        ('"0,8540"', "1"),
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_what_was_seen_comes_back_byte_for_byte(tmp_path, name):
    code, job = (
        Column("code", "binary", levels=("00501", "0,8540")),
        Column("job", "categorical", levels=("café", "clerk", "cook")),
    )
    schema = Schema((Column("income", "continuous"), code, job))
    content, holes, filled = DIALECTS[name]
    (tmp_path / "rows.csv").write_bytes(content.format(*holes).encode())
    table = read_csv(tmp_path / "rows.csv", schema=schema)
    np.testing.assert_array_equal(np.isnan(table.values), [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    values = np.ones((3, 3))
    write_filled(tmp_path / "filled.csv", table, values)
    assert (tmp_path / "filled.csv").read_bytes() == content.format(*filled).encode()
    write_filled(tmp_path / "as_it_was.csv", table, values * np.nan)
    assert (tmp_path / "as_it_was.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    with pytest.raises(ValueError, match=r"the values have shape \(2, 3\), but the table has \(3, 3\)"):
        write_filled(tmp_path / "filled.csv", table, values[:2])


def test_columns_that_contradict_themselves_are_named():
    for arguments, message in [
        ({"name": "", "kind": "continuous"}, "a name must be a text"),
        ({"name": "x", "kind": "number"}, "kind is 'number'; it must be one of continuous, binary, categorical"),
        ({"name": "x", "kind": "continuous", "sd": 0.0}, "column 'x': mean 0.0 and sd 0.0"),
        ({"name": "x", "kind": "continuous", "mean": float("nan")}, "mean nan"),
        ({"name": "x", "kind": "continuous", "levels": ("a", "b")}, "2 levels; a continuous column has none"),
        ({"name": "x", "kind": "binary", "levels": ("a", "b", "c")}, "3 levels"),
        ({"name": "x", "kind": "categorical", "levels": ("a",)}, "1 levels"),
        ({"name": "x", "kind": "categorical", "levels": "abc"}, "must be texts"),
        ({"name": "x", "kind": "categorical", "levels": ("a", "a")}, "contain duplicates"),
        ({"name": "x", "kind": "binary", "levels": ("a", "?")}, "the level '.' is a word for a hole"),
    ]:
        with pytest.raises(ValueError, match=message):
            Column(**arguments)
    with pytest.raises(ValueError, match="at least one column"):
        Schema(())
    with pytest.raises(ValueError, match="column 'x' appears twice"):
        Schema((Column("x", "continuous"), Column("x", "continuous")))


def test_columns_that_are_dropped_are_carried_along(tmp_path):
    table = read_csv(write(tmp_path, "id,age,kids\nP1,20.5,0\nP2,30,1\nP3,24.5,0\nP4,,1\n"), drop=["id"], integer=["kids"])
    schema = Schema.from_json(json.loads(json.dumps(table.schema.to_json())))
    assert schema == table.schema
    assert (schema.names, schema.dropped) == (("age", "kids"), ("id",))
    assert [(column.kind, column.decimals) for column in schema.columns] == [("continuous", 1), ("continuous", 0)]
    assert schema == Schema.of(
        {"id": ["a"] * 4, "age": [20.5, 30, 24.5, None], "kids": [0, 1, 0, 1]}, drop=["id"], integer=["kids"]
    )
    assert schema.encode({"id": ["b"], "age": [30], "kids": [1]}).shape == (1, 2)
    later = read_csv(write(tmp_path, "kids,note,age\n,Ann,30\n1,Bo,\n", "later.csv"), schema=schema, drop=["note"])
    write_filled(tmp_path / "filled.csv", later, np.array([[0.0, 0.9], [0.0, 0.0]]))
    assert (
        tmp_path / "filled.csv"
    ).read_text() == f"kids,note,age\n1,Ann,30\n1,Bo,{schema.decode(np.zeros((1, 2)))['age'][0]:.1f}\n"
    assert later.lines == [2, 3]


def test_faults_of_all_columns_are_one_message(tmp_path):
    lines = [f"C{row},2024-01-{row + 1:02d},{row}.5,{'ab'[row % 2]}" for row in range(9)]
    text = "\n".join(["id,joined,size,kind", *lines, ""])
    reason = (
        r"bad.csv: 2 columns cannot be used as they are: \(1\) column 'id' has .*drop=\['id'\]; \(2\) line 2, column 'joined'"
    )
    refuses(tmp_path, text, reason + r": '2024-01-01' is a date.*drop=\['joined'\]")
    schema = read_csv(write(tmp_path, text), drop=["id", "joined"]).schema
    later = "size,name\nlarge,Ann\n"
    reason = r"3 columns .*\(1\) line 2, column 'size': 'large' .*; \(2\) column 'kind' is missing: .*; \(3\) column 'name' is"
    refuses(tmp_path, later, reason, schema=schema)
    refuses(tmp_path, text, r"drop=\['x'\], drop=\['y'\]: there are no such columns; the columns are id", drop=["x", "y"])


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"drop": ["work"]}, r"drop=\['work'\]: there is no such column; the columns are age"),
        ({"integer": ["work"]}, r"integer=\['work'\]: there is no such column; the columns are age"),
        ({"drop": ["age", "sex", "job", "income"]}, "every column is dropped: keep at least one"),
        ({"drop": ["age"], "integer": ["age"]}, r"integer=\['age'\] and drop=\['age'\] are contradictory"),
        ({"categorical": ["age"], "integer": ["age"]}, r"integer=\['age'\] and categorical=\['age'\] are contradictory"),
    ],
)
def test_columns_cannot_be_settled_so(tmp_path, named, reason):
    refuses(tmp_path, PEOPLE, reason, **named)


def test_a_column_of_the_training_cannot_be_dropped_later(tmp_path):
    schema = read_csv(write(tmp_path, PEOPLE)).schema
    refuses(tmp_path, PEOPLE, r"column 'age' is a column of the training table .*drop=\['age'\]", schema=schema, drop=["age"])
    with pytest.raises(ValueError, match="column 'age' is both dropped and a column of the schema"):
        Schema(schema.columns, dropped=["age"])
    with pytest.raises(TypeError, match=r"drop='age': give a sequence of names, as in drop=\['age'\]"):
        read_csv(tmp_path / "bad.csv", drop="age")
