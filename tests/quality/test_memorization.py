"""Copies are found, and unseen images are not taken for copies."""

import numpy as np
import pytest

from markovae.quality.memorization import measure_memorization, share_below


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 6, 6), dtype=np.uint8)


def test_fresh_images_are_no_copies() -> None:
    found = measure_memorization(pictures(200, 1), pictures(200, 2), pictures(400, 3), 256)
    assert abs(found.nearer.value - 0.5) < 4 * found.nearer.stderr
    assert found.copies == 0
    assert found.suspicious <= 10
    assert found.expected == 2


def test_copies_and_near_copies_are() -> None:
    training = pictures(400, 3)
    near = np.clip(training[:30].astype(int) + np.random.default_rng(0).integers(-2, 3, (30, 1, 6, 6)), 0, 255)
    samples = np.concatenate([training[40:60], near.astype(np.uint8), pictures(50, 1)])
    found = measure_memorization(samples, pictures(100, 2), training, 256)
    assert found.copies == 20
    assert 50 <= found.suspicious <= 54
    assert found.nearer.value - 4 * found.nearer.stderr > 0.5
    assert found.samples_median < found.heldout_median


def test_the_share_and_its_error_are_those_of_two_independent_samples() -> None:
    rng = np.random.default_rng(0)
    found = [share_below(rng.normal(size=60), rng.normal(0.5, 1, size=40)) for _ in range(400)]
    values = np.array([e.value for e in found])
    exact = 0.6381632  # Φ(0.5/√2)
    assert abs(values.mean() - exact) < 4 * values.std() / 20
    covered = np.mean([abs(e.value - exact) < 1.96 * e.stderr for e in found])
    assert covered > 0.90
    assert share_below(np.zeros(4), np.zeros(5)).value == 0.5


def test_one_image_tells_nothing() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        measure_memorization(pictures(1, 0), pictures(9, 1), pictures(9, 2), 256)
