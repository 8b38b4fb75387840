from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.checkpoints.reading import load
from markovae.data.pictures import viewable
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import constant
from markovae.report.image_sheets import COLUMNS, encoder_strip, reverse_strip, shown_levels
from markovae.sampling.generation import sample


@pytest.fixture
def model(colour_run: Path) -> Diffusion:
    return load(colour_run)


def test_levels_are_even_in_log_snr_and_end_at_the_top():
    grid = constant(num_levels=1000, delta=0.01).logsnr
    levels = shown_levels(grid)
    assert levels == sorted(set(levels))
    assert (levels[0], levels[-1]) == (1, 1000)
    assert len(levels) <= COLUMNS
    gaps = np.diff(grid[levels[:-1]].numpy())
    assert np.abs(gaps / gaps.mean() - 1).max() < 0.5
    assert shown_levels(torch.tensor([float("inf"), 2.0], dtype=torch.float64)) == [1]


def test_the_encoder_starts_at_the_data_and_ends_in_noise(model: Diffusion):
    images = np.zeros((4, 3, 8, 8), np.uint8)
    images[:, 0] = 255
    strip = encoder_strip(model, images)
    assert (strip[0].level, strip[0].logsnr) == (0, float("inf"))
    assert (strip[0].pictures == viewable(images, 256)).all()
    assert [column.logsnr for column in strip[1:]] == [float(model.schedule.logsnr[c.level]) for c in strip[1:]]
    spread = [abs(float(c.pictures[..., 0].mean()) - float(c.pictures[..., 1].mean())) for c in strip]
    assert spread[0] == 255
    assert spread[-1] < 20, "red and green no longer differ"
    again = encoder_strip(model, images)
    assert all((a.pictures == b.pictures).all() for a, b in zip(strip, again, strict=True))


def test_the_way_back_ends_at_the_samples_themselves(model: Diffusion):
    strip = reverse_strip(model, 2, 20)
    assert len(strip) == COLUMNS
    logsnr = [column.logsnr for column in strip]
    assert logsnr == sorted(logsnr)
    assert logsnr[0] < -5
    assert logsnr[-1] == float("inf")
    z, guess = strip[-1].pictures[::2].astype(int), strip[-1].pictures[1::2].astype(int)
    drawn = viewable(sample(model, 2, steps=20, seed=0), 256).astype(int)
    assert np.abs(z - drawn).max() <= 1
    assert (z == guess).all(), "at λ = ∞ the guess is the sample"
