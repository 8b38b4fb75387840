import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.randomness import Streams, generator, normal_like, stratified, uniform


def draw(source: torch.Generator) -> list[float]:
    return torch.randn(4, generator=source).tolist()


def test_equal_keys_give_equal_draws_whatever_integer_type_they_come_in() -> None:
    assert draw(generator(3, "train", 5, 7)) == draw(generator(3, "train", 5, 7))
    assert draw(generator(3, "train", np.int64(5))) == draw(generator(np.int64(3), "train", 5))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=8, unique=True))
def test_different_keys_give_different_draws(keys: list[tuple[int, int]]) -> None:
    draws = [tuple(draw(generator(seed, "a", index))) for seed, index in keys]
    assert len(set(draws)) == len(keys)


def test_words_and_numbers_and_purposes_are_different_keys() -> None:
    kinds = [("1",), (1,), ("a", 1), ("b", 1), (), ("a", "1"), (1, "a")]
    assert len({tuple(draw(generator(0, *key))) for key in kinds}) == len(kinds)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_an_examples_draws_do_not_depend_on_its_batch(order: list[int], cut: int) -> None:
    whole = Streams(1, "noise", range(6)).normal((2, 3), torch.float64)
    parts = [Streams(1, "noise", part).normal((2, 3), torch.float64) for part in (order[:cut], order[cut:])]
    assert torch.equal(torch.cat(parts), whole[list(order)])


def test_streams_continue_and_their_keys_separate_levels() -> None:
    streams = Streams(1, "noise", [0])
    first, second = streams.normal((3,), torch.float32), streams.normal((3,), torch.float32)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Streams(1, "noise", [0], 2).normal((3,), torch.float32))
    assert not torch.equal(first, Streams(1, "other", [0]).normal((3,), torch.float32))


def test_normal_draws_have_unit_moments_across_streams() -> None:
    noise = normal_like(torch.zeros(4000, 4, dtype=torch.float64), Streams(0, "moments", range(4000)))
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 4 / 4000**0.5


def test_uniform_draws_fill_the_interval() -> None:
    u = uniform(4000, Streams(0, "uniform", range(4000)))
    assert u.dtype == torch.float64
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    edges = (torch.arange(1, 4001) / 4000).double()
    assert float((u.sort().values - edges).abs().max()) < 1.95 / 4000**0.5  # Kolmogorov–Smirnov at 0.1 %


@pytest.mark.parametrize("draw_wrong", [lambda s: uniform(3, s), lambda s: normal_like(torch.zeros(3, 2), s)])
def test_streams_of_another_batch_are_refused(draw_wrong) -> None:
    with pytest.raises(ValueError, match="2 streams for a batch of 3"):
        draw_wrong(Streams(0, "a", [0, 1]))


@given(st.integers(1, 300), st.integers(0, 10**9))
def test_stratified_puts_one_number_in_each_stratum(batch: int, seed: int) -> None:
    u = stratified(batch, generator(seed, "strata"))
    assert torch.equal((u * batch).floor().long().clamp(max=batch - 1), torch.arange(batch))


def test_stratified_numbers_are_uniform_over_shifts() -> None:
    first = torch.stack([stratified(4, generator(seed, "shift"))[0] for seed in range(2000)]) * 4
    assert abs(float(first.mean()) - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
