"""The shipped reference model: its weights open, and it knows faces it has never seen."""

from pathlib import Path

import numpy as np
import pytest

import markovae as mv
from markovae.checkpoints.reading import open_checkpoint
from markovae.data.faceset import render

FIXTURE = Path(__file__).parent / "fixtures" / "reference"
UNSEEN = range(20_000, 20_012)  # training, validation and test end before example 12,100


@pytest.fixture(scope="module")
def model() -> mv.Diffusion:
    return mv.load(FIXTURE)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.stack([render(i, 32) for i in UNSEEN])


def test_the_bundle_is_small_and_says_how_it_was_made() -> None:
    checkpoint = open_checkpoint(FIXTURE)
    assert sum(file.stat().st_size for file in FIXTURE.iterdir()) < 15_000_000
    assert checkpoint.step == checkpoint.config.train.steps
    assert checkpoint.config.data.source == "faces"


def test_unseen_faces_cost_less_than_two_bits_and_noise_costs_more_than_eight(
    model: mv.Diffusion, faces: np.ndarray
) -> None:
    bits = mv.measure(model, faces, draws=16).bits_per_dim
    assert bits.value + 4 * bits.stderr < 2.2
    noise = np.random.default_rng(0).integers(0, 256, faces[:3].shape, dtype=np.uint8)
    assert mv.measure(model, noise, draws=8).bits_per_dim.value > 8


def test_samples_have_flat_backgrounds(model: mv.Diffusion) -> None:
    images = mv.sample(model, 8, steps=20).astype(np.float64)
    # Top corners are background in every face: neighbours there differ by a few grey levels at most.
    corner = images[:, :, :3, :3]
    assert np.median(np.abs(np.diff(corner, axis=3))) < 4
    assert images.std() > 40


def test_two_steps_of_fine_tuning_leave_the_bound_as_good(model: mv.Diffusion, faces: np.ndarray) -> None:
    """It was 0.45 bits/dim worse: AdamW's first steps had the whole rate, and the average copied the weights."""
    tuned = mv.load(FIXTURE)
    list(mv.fit(tuned, faces[:4], steps=2, batch=4))
    worse = mv.compare(tuned, model, faces[4:], draws=2).difference_bits_per_dim
    assert worse.value < 0.001
