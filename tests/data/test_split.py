import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import splits_of
from markovae.data.source import DatasetSummary, Source
from markovae.data.split import SplitIndices, Splits, split_by_content, split_given
from markovae.errors import UserError

# Content values with many repeats; at least three different ones.
contents = st.lists(st.integers(0, 60), min_size=3, max_size=150).filter(lambda values: len(set(values)) >= 3)
fractions = st.floats(0.01, 0.45)


def hashes_of(values: list[int]) -> list[bytes]:
    return [bytes([value]) * 32 for value in values]


def sets_of(parts: SplitIndices, values: list[int]) -> list[set[int]]:
    return [{values[i] for i in part.tolist()} for part in (parts.train, parts.validation, parts.test)]


@given(contents, st.integers(0, 2**40), fractions, fractions)
def test_parts_cover_everything_once_and_share_no_content(values: list[int], seed: int, validation: float, test: float):
    config = DataConfig("x", split_seed=seed, validation_fraction=validation, test_fraction=test)
    parts = split_by_content(hashes_of(values), config, "x")
    joined = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(joined.tolist()) == list(range(len(values)))
    train, held_out, tested = sets_of(parts, values)
    assert train
    assert held_out
    assert tested
    assert not train & held_out
    assert not train & tested
    assert not held_out & tested
    different = len(set(values))
    assert len(tested) == min(max(1, round(different * test)), different - 2)


@given(contents, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_move_an_image(values: list[int], seed: int, random):
    config = DataConfig("x", split_seed=seed)
    shuffled = random.sample(values, len(values))
    first = sets_of(split_by_content(hashes_of(values), config, "x"), values)
    second = sets_of(split_by_content(hashes_of(shuffled), config, "x"), shuffled)
    assert first == second


def test_the_seed_chooses_the_parts():
    values = list(range(200))
    parts = [split_by_content(hashes_of(values), DataConfig("x", split_seed=seed), "x") for seed in (0, 0, 1)]
    assert np.array_equal(parts[0].test, parts[1].test)
    assert not np.array_equal(parts[0].test, parts[2].test)
    assert [len(parts[0].train), len(parts[0].validation), len(parts[0].test)] == [160, 20, 20]


@pytest.mark.parametrize(
    ("values", "start"), [([1], "x holds 1 image,"), ([1, 1, 1, 2], "x holds 4 images, 2 of them different")]
)
def test_too_few_different_images_is_one_sentence(values: list[int], start: str):
    parts = split_by_content(hashes_of(values), DataConfig("x"), "x")
    assert re.match(start, parts.refusal)
    assert parts.train.tolist() == list(range(len(values)))
    assert not len(parts.validation) + len(parts.test)


@given(contents, st.lists(st.integers(40, 100), min_size=1, max_size=40))
def test_a_given_test_part_stays_whole_and_is_never_trained_on(values: list[int], tested: list[int]):
    every, part = values + tested, ["train"] * len(values) + ["test"] * len(tested)
    left = set(values) - set(tested)
    if len(left) < 2:
        with pytest.raises(UserError, match="at least 2 are needed"):
            split_given(hashes_of(every), part, DataConfig("x"), "x")
        return
    parts = split_given(hashes_of(every), part, DataConfig("x"), "x")
    assert parts.test.tolist() == list(range(len(values), len(every)))
    train, held_out, test = sets_of(parts, every)
    assert train | held_out == left
    assert not train & held_out
    assert not (train | held_out) & test
    assert parts.left_out == sum(value in test for value in values)


def made_splits(seed: int = 0) -> Splits:
    images = np.random.default_rng(5).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    data = ImageData(images, name="made")
    parts = split_by_content(data.content_hashes(), DataConfig("x", split_seed=seed), "made")
    return splits_of(Source(data, parts, DatasetSummary("array")))


def test_a_record_survives_json_and_verifies():
    record = json.loads(json.dumps(made_splits().record()))
    assert [record[part]["count"] for part in ("train", "validation", "test")] == [32, 4, 4]
    assert record["seed"] == 0
    made_splits().verify(record)


def test_another_split_or_other_pixels_do_not_verify():
    record = made_splits().record()
    with pytest.raises(UserError, match="the train part of made holds other pixels"):
        made_splits(seed=1).verify(record)
    splits = made_splits()
    images = splits.test.images.copy()
    images[0, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="the test part"):
        replace(splits, test=replace(splits.test, images=images)).verify(record)
    with pytest.raises(UserError, match="has 3 images where the run had 4"):
        replace(splits, test=splits.test.take([0, 1, 2])).verify(record)
    with pytest.raises(UserError, match="record is damaged"):
        splits.verify({})
