import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.quality import memorization as neighbours
from markovae.quality.memorization import nearest, pool_of


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 17, 256, 65536]), st.integers(1, 40))
def test_found_exactly_in_any_blocks(seed: int, bins: int, size: int):
    rng = np.random.default_rng(seed)
    kind = np.uint8 if bins <= 256 else np.uint16
    pool = rng.integers(0, bins, (size, 3, 4, 2)).astype(kind)
    images = rng.integers(0, bins, (5, 3, 4, 2)).astype(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", 7)
        found, several = nearest(images, pool, bins), nearest(images, pool, bins, 3)
    difference = images[:, None].astype(np.float64) - pool[None].astype(np.float64)
    distance = np.sqrt((difference**2).mean((2, 3, 4))) * 255 / (bins - 1)
    np.testing.assert_allclose(found.distance, distance.min(1), rtol=1e-6, atol=1e-4)
    chosen = distance[np.arange(5), found.index]
    np.testing.assert_allclose(chosen, distance.min(1), rtol=1e-9)
    np.testing.assert_allclose(several.distance, np.sort(distance, 1)[:, :3], rtol=1e-6, atol=1e-4)
    assert all(len({*row}) == min(3, size) for row in several.index.tolist())


def test_a_copy_is_found_at_no_distance():
    pool = np.random.default_rng(1).integers(0, 256, (3000, 1, 4, 4)).astype(np.uint8)
    found = nearest(pool[[2999, 0, 1024]], pool, 256)
    assert found.index.tolist() == [2999, 0, 1024]
    assert found.distance.tolist() == [0, 0, 0]


def test_one_grey_level_everywhere_is_a_distance_of_one():
    pool = np.full((1, 1, 5, 5), 100, np.uint8)
    assert nearest(pool + 1, pool, 256).distance.tolist() == pytest.approx([1.0])


def test_large_pools_are_searched_at_even_strides(monkeypatch):
    images = np.arange(10)[:, None, None, None]
    assert pool_of(images) is not None
    assert len(pool_of(images)) == 10
    monkeypatch.setattr(neighbours, "LARGEST_POOL", 4)
    assert pool_of(images).ravel().tolist() == [0, 2, 4, 6, 8]
