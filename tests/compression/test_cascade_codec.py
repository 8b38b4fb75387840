"""Compression by cascades: band by band, to the same pixels, at the length of the bound."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.compression.conftest import pictures, with_header
from tests.diffusion.exact_cascade import pixel_cascade
from tests.training.test_cascade_training import cascade

import markovae as mv
from markovae.compression.codec import compress, decompress, describe, reveal
from markovae.compression.mvz_format import read_mvz
from markovae.diffusion.cascade import Cascade
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError


def exact(levels: int = 30, octaves: int = 2) -> tuple[Cascade, Any]:
    """A cascade with exact denoisers, and images as it expects them, (400, 1, 8, 8) uint8."""
    model, images = pixel_cascade(levels, octaves)
    return model, images.numpy()


def untrained(**options: Any) -> Cascade:
    """Our own networks in three stages, of images (3, 8, 8)."""
    return cascade("cascade.stages=2", side=8, **options).eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 3, "group": 5}, {"levels": None}, {"portable": True}, {"fit": 1}, {"progressive": True}],
    ids=str,
)
def test_images_come_back_bit_for_bit(options: dict[str, Any]):
    model, images = exact(8)
    options = {"levels": 12} | options
    if "fit" in options:
        options["fit"] = images[100:164]
    data = compress(model, images[:10], **options)
    assert np.array_equal(decompress(model, data), images[:10])
    facts = describe(data)
    assert any(group["plain_images"] < group["images"] for group in facts["groups"]), "the chain itself was used"


def test_our_own_networks_with_classes_code():
    model, images, labels = untrained(num_classes=3), pictures(8, 3), np.arange(8) % 3
    data = compress(model, images, labels, levels=6, group=4)
    assert describe(data)["side_information"] == ["labels"]
    assert np.array_equal(decompress(model, data), images)
    assert np.array_equal(decompress(model, data, groups=[1]), images[4:])
    fitted = mv.with_reverse(model, "diagonal", pictures(64, 3, seed=1), np.arange(64) % 3)
    assert np.array_equal(decompress(fitted, compress(fitted, images, labels, levels=6, portable=True)), images)


@pytest.mark.parametrize("octaves", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_length_is_the_bound(octaves: int):
    model, images = exact(6, octaves)
    model, images = mv.with_reverse(model, "isotropic", images[:100]), images[100:]
    lengths = [
        len(compress(model, part, levels=None, group=None, batch=60, verify=False)) for part in (images[:60], images)
    ]
    grown = 8 * (lengths[1] - lengths[0]) / images[60:].size
    record = mv.measure(model, images[60:], draws=None, replicates=2)
    assert grown == pytest.approx(record.bits_per_dim.value, rel=0.012)


def test_fitted_variances_make_the_file_shorter_stage_by_stage():
    model, images = exact(20)
    plain, fitted = (compress(model, images[:60], levels=10, batch=20, fit=fit) for fit in (None, images[100:]))
    header = read_mvz(fitted).header
    assert len(header.levels) == 10
    assert len(fitted) < len(plain)
    assert np.array_equal(decompress(model, fitted), images[:60])


def test_a_progressive_image_shows_the_coarse_one_first():
    model, images = exact(8)
    data = compress(model, images[:1], levels=13, progressive=True)
    views = list(reveal(model, data))
    assert [view.level for view in views] == [*range(13, 0, -1), 0]
    assert [view.words for view in views] == sorted(view.words for view in views)
    squares = views[3].images.reshape(1, 1, 2, 4, 2, 4)
    assert (squares == squares[:, :, :, :1, :, :1]).all(), "the base is two pixels a side"
    errors = [float(np.square(view.images - images[:1].astype(float)).mean()) for view in views]
    assert errors[0] > errors[3] > errors[7] > errors[-1] == 0
    half = list(reveal(model, data, stop_after=views[6].words))
    assert np.array_equal(half[6].images, views[6].images)
    assert len(half) < len(views)


def test_another_machines_digits_decode_what_the_portable_mode_wrote(monkeypatch):
    model, images = untrained(), pictures(4, 3)
    data = compress(model, images, levels=7, batch=2, portable=True)
    exact_predict, rng = Diffusion.predict, np.random.default_rng(5)

    def disturbed(self, z, logsnr, condition=None):
        x_hat, head = exact_predict(self, z, logsnr, condition)
        return x_hat * (1 + 1e-11 * torch.from_numpy(rng.standard_normal(x_hat.shape))), head

    monkeypatch.setattr(Diffusion, "predict", disturbed)
    assert np.array_equal(decompress(model, data), images)


def test_what_does_not_fit_is_one_sentence():
    model, images = untrained(), pictures(2, 3)
    data = compress(model, images, levels=6)
    with pytest.raises(UserError, match="compressed with another model"):
        decompress(untrained(num_classes=2), data)
    for levels in ((2, *read_mvz(data).header.levels[1:]), (1, 2, 3, 4, 5, 6)):
        with pytest.raises(UserError, match="the file's header does not fit its model"):
            decompress(model, with_header(data, levels=levels))
    with pytest.raises(UserError, match="levels=2 must be at least 3: each of the cascade's 2 stages codes"):
        compress(model, images, levels=2)


def test_the_best_levels_of_the_stages_code():
    model, images = untrained(), pictures(2, 3)
    data = compress(model, images, levels=6, grid="optimal", fit=pictures(16, 3))
    assert len(read_mvz(data).header.levels) == 6
    assert np.array_equal(decompress(model, data), images)
