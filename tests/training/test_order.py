from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.randomness import generator
from markovae.training.batches import WINDOW, Order


def runs_of(sizes: list[int]) -> list[tuple[int, int]]:
    ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return list(pairwise(ends))


def taken(count: int, epoch: int, runs: list[tuple[int, int]] | None = None, batch: int = 7) -> list[int]:
    order = Order(count, 5, epoch, runs)
    return [
        i for start in range(0, count, batch) for i in order.at(torch.arange(start, min(start + batch, count))).tolist()
    ]


def test_images_at_hand_are_permuted_as_a_whole():
    whole = torch.randperm(50, generator=generator(5, "order", 3))
    assert Order(50, 5, 3).at(torch.arange(50)).tolist() == whole.tolist()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, 3), st.integers(1, 20))
def test_every_image_comes_once_an_epoch_whatever_the_runs(sizes: list[int], epoch: int, batch: int):
    count = sum(sizes)
    assert sorted(taken(count, epoch, runs_of(sizes), batch)) == list(range(count))


@given(st.lists(st.integers(1, 9), min_size=20, max_size=60), st.integers(0, 3), st.data())
def test_a_place_is_a_function_of_seed_and_epoch_alone(sizes: list[int], epoch: int, data: st.DataObject):
    count, runs = sum(sizes), runs_of(sizes)
    whole = taken(count, epoch, runs)
    places = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=30)))
    assert Order(count, 5, epoch, runs).at(places).tolist() == [whole[place] for place in places.tolist()]


def test_epochs_differ_in_the_runs_and_within_them():
    sizes = [10] * 40
    first, second = (taken(400, epoch, runs_of(sizes)) for epoch in (0, 1))
    assert first != second
    runs = [[i // 10 for i in order[:160]] for order in (first, second)]
    assert set(runs[0]) != set(runs[1]), "other runs come first"


def test_only_a_windows_runs_are_read_at_a_time():
    order = taken(1000, 0, runs_of([10] * 100))
    for start in range(0, 1000, 10 * WINDOW):
        window = order[start : start + 10 * WINDOW]
        assert len({i // 10 for i in window}) == min(WINDOW, len(window) // 10)
    first = order[: 10 * WINDOW]
    assert len({i // 10 for i in first[:16]}) > 6, "and they are mixed"


def test_few_runs_are_mixed_as_a_whole():
    order = taken(160, 0, runs_of([10] * WINDOW))
    places = torch.tensor([order.index(i) for i in range(160)], dtype=torch.float64).reshape(WINDOW, 10)
    spread = (160**2 - 1) / 12 / 10
    assert bool(((places.mean(1) - 79.5).abs() < 4 * spread**0.5).all()), "each run is spread over the epoch"


def test_runs_that_are_not_the_images_are_a_bug():
    with pytest.raises(AssertionError, match="the runs are the images"):
        Order(10, 0, 0, [(0, 4), (4, 9)])
