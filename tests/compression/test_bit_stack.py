"""A stack of bits: what is pushed is popped, noise is normal whatever bits it is drawn from, nothing runs dry."""

import numpy as np
import pytest
from tests.compression import conftest as conftest  # the package constriction

from markovae.compression.bit_stack import LIVE, BitStack, EmptyStackError
from markovae.compression.lattice import LatticeGaussian, RoundedGaussian
from markovae.errors import UserError


def full(count: int = 4000, words: object = None) -> BitStack:
    rng = np.random.default_rng(0)
    return BitStack(rng.integers(0, 2**32, count, dtype=np.uint32) if words is None else words, borrowed=True)


def test_what_is_pushed_is_popped_and_the_bits_come_back():
    rng, stack = np.random.default_rng(1), full()
    before, mean = stack.words(borrowed=False), rng.normal(0, 30, (2, 3, 8, 8))
    pmfs = LatticeGaussian(0.7), LatticeGaussian(rng.uniform(0.5, 3, mean.size)), RoundedGaussian(0.2, 256)
    drawn = [stack.pop_noise(pmf, mean, (7, k)) for k, pmf in enumerate(pmfs[:2])]
    pixels = rng.integers(0, 256, mean.shape)
    for pmf, values, shift in (
        (pmfs[2], pixels, 0),
        (pmfs[0], drawn[0], 0.3),
        (pmfs[0], drawn[0], 5e3),
        (pmfs[1], drawn[1], 40),
    ):
        stack.push(pmf, values, (pixels if pmf is pmfs[2] else mean) + shift)
        assert np.array_equal(stack.pop(pmf, (pixels if pmf is pmfs[2] else mean) + shift), values)
    stack.push_corrections(np.array([3, 9]), np.array([1, 0]), 100)
    assert [part.tolist() for part in stack.pop_corrections(100)] == [[3, 9], [1, 0]]
    for k in (1, 0):
        stack.push_noise(pmfs[k], drawn[k], mean, (7, k))
    assert np.array_equal(stack.words(borrowed=False), before)


def test_the_net_length_is_the_entropy():
    stack, mean = full(200_000), np.random.default_rng(1).normal(0, 30, 300_000)
    before = len(stack)
    stack.pop_noise(LatticeGaussian(0.7), mean, (0, 0))
    assert 32 * (before - len(stack)) / mean.size == pytest.approx(np.log2(np.sqrt(2 * np.pi * np.e) * 0.7), abs=0.01)


@pytest.mark.parametrize("word", [0, 2**32 - 1, 0x0F0F0F0F])
def test_noise_is_normal_whatever_bits_it_is_drawn_from(word: int):
    stack = full(words=np.full(3000, word, np.uint32))
    drawn = stack.pop_noise(LatticeGaussian(2.0), np.zeros(20_000), (3, 4))
    assert abs(drawn.mean()) < 0.06
    assert drawn.std() == pytest.approx(2.0, rel=0.03)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


def test_a_long_stack_keeps_its_bottom_out_of_the_way():
    words = np.random.default_rng(0).integers(0, 2**32, 48 * LIVE, dtype=np.uint32)
    stack, pmf = BitStack(words, borrowed=True), LatticeGaussian(1.0)
    mean = np.random.default_rng(1).normal(0, 3, 20_000)
    stack.push(pmf, np.round(mean).astype(np.int64), mean)
    drawn = [stack.pop_noise(pmf, mean, (k, 0)) for k in range(50)]
    for k in reversed(range(50)):
        stack.push_noise(pmf, drawn[k], mean, (k, 0))
    stack.pop(pmf, mean)
    assert np.array_equal(stack.words(borrowed=True), words)


def test_an_image_that_takes_more_words_than_are_live_comes_back():
    """Numbers far from their means take up to a word each: 49,152 of them are more than lie at hand."""
    stack, pmf = full(20 * LIVE), LatticeGaussian(0.57)
    mean = np.zeros(49_152)
    values = np.where(np.arange(mean.size) % 2, -pmf.half(3), pmf.half(3))
    for _ in range(2):
        stack.push(pmf, values, mean)
    for _ in range(2):
        assert np.array_equal(stack.pop(pmf, mean), values)


def test_a_stack_that_runs_dry_says_so():
    pmf, mean = LatticeGaussian(1.0), np.zeros(1000)
    for stack in (full(2), full(30)):
        with pytest.raises(EmptyStackError):
            stack.pop_noise(pmf, mean, (0, 0))
    with pytest.raises(EmptyStackError):
        full(30).pop(pmf, mean)
    for words in ([], [1], [5, 0]):
        with pytest.raises(EmptyStackError):
            BitStack(np.array(words, np.uint32), borrowed=False)
    with pytest.raises(EmptyStackError):
        full().push_noise(pmf, np.full(10, 999), np.zeros(10), (0, 0))


def test_numbers_too_far_to_be_coded_are_one_sentence():
    with pytest.raises(UserError, match="too far"):
        full().push(LatticeGaussian(1.0), np.array([2**40]), np.zeros(1))
    with pytest.raises(UserError, match="cluster at rounding boundaries"):
        full().push_corrections(np.arange(300), np.zeros(300, np.int64), 400)
