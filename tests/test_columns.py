"""Columns of a table: what they are, their features, and what is refused of them, whoever wrote it."""

import json
import math
import re

import numpy as np
import pytest

from markovae.columns import (
    MAX_VALUES,
    Column,
    Columns,
    cell_of,
    columns_named,
    understand,
    written,
)
from markovae.errors import UserError

AGE = Column("age", "number", (), 40.0, 10.0, 20.0, 60.0)
HAIR = Column("hair", "category", ("black", "red"))
TAGS = Column("tags", "labels", ("beard", "hat"))
ALL = Columns((AGE, HAIR, TAGS))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", None, "-3e2"], "number"),
        (["0", "1", "1"], "number"),
        (["yes", "no", "no", None], "category"),
        (["1", "2", "unknown"], "category"),
        (["a;b", "a", "b"], "labels"),
        ([("a", "b"), ("b",), ()], "labels"),
    ],
)
def test_kinds_by_the_cells(cells: list, kind: str) -> None:
    column = understand("x", cells)
    assert isinstance(column, Column)
    assert column.kind == kind


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([None, None], "it is empty"),
        (["7", "7.0", None], "every image has 7"),
        (["cat", "cat"], "every image has cat"),
        ([f"photo {i}" for i in range(40)], r"40 different texts \(photo 0, …\) are no categories"),
        ([*map(str, range(40)), "about thirty"], r"it holds numbers, and others \(about thirty\)"),
        ([f"x{i % (MAX_VALUES + 1)}" for i in range(4 * MAX_VALUES)], "different texts"),
        (["\x1b[31mred", "blue"], "invalid name of a column"),
        (["0,5", "1,5", "0,5"], r"its numbers have commas \(0,5\): write 0\.5, and 1000"),
    ],
)
def test_what_cannot_condition_says_why(cells: list, reason: str) -> None:
    found = understand("x", cells)
    assert isinstance(found, str)
    assert re.search(reason, found)


def test_numbers_are_standardised_by_the_training_images() -> None:
    values = np.random.default_rng(0).normal(1e6, 3.0, 500)
    column = understand("x", [*map(repr, values.tolist()), None])
    assert isinstance(column, Column)
    z = np.array([column.features(repr(value))[1] for value in values.tolist()])
    assert abs(z.mean()) < 1e-6
    assert abs(z.std() - 1) < 1e-6
    one, at, sine, cosine = column.features(repr(float(values[0])))
    assert (one, sine, cosine) == (1.0, math.sin(2 * at), math.cos(2 * at))


def test_features_and_the_missing_cell() -> None:
    assert AGE.features("50") == [1.0, 1.0, math.sin(2), math.cos(2)]
    assert HAIR.features("red") == [0.0, 1.0]
    assert TAGS.features("hat; beard") == [1.0, 1.0, 1.0]
    assert TAGS.features(()) == [0.0, 0.0, 1.0]  # known to have none, which is not missing
    assert [column.features(None) for column in ALL.each] == [[0.0] * 4, [0.0] * 2, [0.0] * 3]
    assert ALL.width == 9


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (True, "true"),
        (30, "30"),
        (np.float32(0.5), "0.5"),
        (math.nan, None),
        ("  two \n words ", "two words"),
        ("N/A", None),
        ("", None),
        (["a", "b"], ("a", "b")),
    ],
)
def test_cells_of_values(value: object, cell: object) -> None:
    assert cell_of(value) == cell


@pytest.mark.parametrize("value", [[1, 2, 3, 4], {"a": 1}, [["a"]], b"x"])
def test_structures_are_no_cells(value: object) -> None:
    with pytest.raises(ValueError, match="is not a list of texts"):
        cell_of(value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("age=30", ["30"]),
        (" age = 20..60:5 ", ["20", "30", "40", "50", "60"]),
        ("age=60..20:2", ["60", "20"]),
        ("age=*", ["20", "30", "40", "50", "60"]),
        ("age=", [None]),
        ("hair=*", ["black", "red"]),
        ("tags=hat;beard,hat", ["hat;beard", "hat"]),
    ],
)
def test_values_as_they_are_written(text: str, values: list) -> None:
    name, found = written(text, ALL)
    assert name == text.partition("=")[0].strip()
    assert found == values


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("aeg=3", "the column aeg is unknown: .*; did you mean age"),
        ("hair=red,none", "hair=none is unknown"),  # none stands alone: in a list it would be a name
        ("hair=rod", "hair=rod is unknown: it is one of black, red; did you mean red"),
        ("age=old", "age='old' must be a number; training had 20…60"),
        ("age=20..x", r"must be a range LOW..HIGH:COUNT, such as 20..60:5"),
        ("age=20..60:1", "must be a range"),
        ("age", "write it as NAME=VALUE"),
    ],
)
def test_unknown_names_and_values_are_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        written(text, ALL)


def test_columns_go_through_text_unchanged() -> None:
    assert Columns.from_json(ALL.to_json()) == ALL
    found = columns_named(["a"], {"a": ["1", "2"], "b": ["x"] * 2})
    assert Columns.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "rows",
    [
        [],
        "age",
        [{"name": "age"}],
        [{"name": "age", "kind": "number", "mean": 0, "std": 0, "low": 0, "high": 1}],
        [{"name": "age", "kind": "number", "mean": True, "std": 1, "low": 0, "high": 1}],
        [{"name": "age", "kind": "number", "mean": 1e40, "std": 1, "low": 0, "high": 1}],
        [{"name": "age", "kind": "number", "mean": 0, "std": 1, "low": 2, "high": 1}],
        [{"name": "age", "kind": "number", "values": ["a"], "std": 1}],
        [{"name": "a\x1b[2J", "kind": "category", "values": ["a", "b"]}],
        [{"name": "a", "kind": "category", "values": ["b\n", "c"]}],
        [{"name": "a", "kind": "category", "values": ["b", "b"]}],
        [{"name": "a", "kind": "category", "values": [["b"], "c"]}],
        [{"name": "a", "kind": "category", "values": [str(i) for i in range(MAX_VALUES + 1)]}],
        [{"name": "a", "kind": "image", "values": ["b"]}],
        [{"name": "a", "kind": "category", "values": ["b", "c"], "code": "x"}],
        [{"name": "a" * 300, "kind": "category", "values": ["b", "c"]}],
        [{"name": "a", "kind": "category", "values": ["b", "c"]}] * 2,
        [{"name": f"c{i}", "kind": "category", "values": ["b", "c"]} for i in range(65)],
    ],
)
def test_what_a_file_may_say_is_checked(rows: object) -> None:
    with pytest.raises(UserError):
        Columns.from_json(json.dumps({"columns": rows}))


def test_columns_that_are_named_must_be_there_and_of_use() -> None:
    cells = {"age": ["1", "2"], "id": ["x", "x"]}
    with pytest.raises(UserError, match=r"no column aeg: they have age, id; did you mean age\?"):
        columns_named(["aeg"], cells)
    with pytest.raises(UserError, match="id cannot condition a model: every image has x"):
        columns_named(["age", "id"], cells)
    with pytest.raises(UserError, match="no table beside them has any"):
        columns_named(["age"], {})


@pytest.mark.parametrize("std", [5e-324, 1e-50])
def test_a_number_that_is_immensely_far_is_one_sentence(std: float) -> None:
    row = {"name": "age", "kind": "number", "mean": 0.0, "std": std, "low": 0.0, "high": std}
    columns = Columns.from_json(json.dumps({"columns": [row]}))
    with pytest.raises(UserError, match="age='5' is too far from what training had"):
        columns["age"].features("5")
