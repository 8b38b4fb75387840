"""Compression: files decode to the same pixels, are as long as the bound, and are refused where anything differs."""

import math

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.build import create
from markovae.config import Config
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.likelihood.codec import compress, decompress, describe
from markovae.likelihood.fitting import with_reverse

pytest.importorskip("constriction", reason="the extra codec is not installed")


def pictures(count: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Smooth images of 8x8 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 50, (count, channels, 2, 2))
    fine = coarse.repeat(4, 2).repeat(4, 3) + rng.normal(0, 12, (count, channels, 8, 8))
    return fine.round().clip(0, 255).astype(np.uint8)


def model_of(config: Config, channels: int = 1, num_classes: int = 0, **settings: str) -> Diffusion:
    named = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    made = create(config.with_settings(named), (channels, 8, 8), num_classes=num_classes)
    torch.manual_seed(0)
    for weight in made.network.parameters():  # a first output of zero would hide what the network says
        torch.nn.init.normal_(weight, std=0.05)
    return made


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (3, {}),
        (1, {"batch": 4}),
        (1, {"group": 5}),
        (1, {"levels": 6}),
        (1, {"portable": True}),
        (3, {"fit": 1}),
    ],
    ids=str,
)
def test_images_come_back_bit_for_bit(tiny_config: Config, channels: int, options: dict):
    model, images = model_of(tiny_config, channels), pictures(14, channels)
    if "fit" in options:
        options = {"fit": pictures(64, channels, seed=1)}
    data = compress(model, images, levels=options.pop("levels", 12), **options)
    assert np.array_equal(decompress(model, data), images)
    facts = describe(data)
    assert facts["count"] == 14
    assert facts["bytes"] == len(data)
    assert any(len(group["plain"]) < group["count"] for group in facts["groups"]), "the chain itself was used"


@pytest.mark.parametrize("decoder", ["softmax", "ho_small"])
def test_every_decoder_of_pixels_codes(tiny_config: Config, decoder: str):
    model = model_of(tiny_config, target__decoder=decoder)
    images = pictures(10)
    assert np.array_equal(decompress(model, compress(model, images, levels=10)), images)


def test_classes_and_single_groups(tiny_config: Config):
    model, images = model_of(tiny_config, num_classes=3), pictures(20)
    labels = np.arange(20) % 3
    data = compress(model, images, labels, levels=10, group=10)
    assert np.array_equal(decompress(model, data), images)
    assert np.array_equal(decompress(model, data, groups=[1]), images[10:])
    with pytest.raises(UserError, match="group 2 is not in the file"):
        decompress(model, data, groups=[2])


def test_the_length_is_the_bound(tiny_config: Config):
    """What the images after the borrowed ones add is the bound of the same chain, within its own noise."""
    images = pictures(340)
    model = with_reverse(model_of(tiny_config), "isotropic", pictures(400, seed=2))
    lengths = [len(compress(model, part, levels=8, batch=20, verify=False)) for part in (images[:100], images)]
    grown = lengths[1] - lengths[0]
    record = mv.measure(model, images[100:], levels=8, draws=None)
    bits, stderr = record.bits_per_dim.value, record.bits_per_dim.stderr
    assert abs(8 * grown / images[100:].size - bits) < 0.01 * bits + 2 * stderr / math.sqrt(10)


def test_another_machines_last_digits_decode_what_the_portable_mode_wrote(tiny_config: Config, monkeypatch):
    model, images = model_of(tiny_config), pictures(12)
    data = compress(model, images, levels=12, portable=True)
    assert next(model.network.parameters()).dtype == torch.float32, "the caller's network stays as it was"
    exact, rng = Diffusion.predict, np.random.default_rng(5)

    def disturbed(self, z, logsnr, condition=None):
        x_hat, head = exact(self, z, logsnr, condition)
        return x_hat * (1 + 1e-11 * torch.from_numpy(rng.standard_normal(x_hat.shape))), head

    monkeypatch.setattr(Diffusion, "predict", disturbed)
    assert np.array_equal(decompress(model, data), images)


def test_what_differs_is_refused_before_anything_is_decoded(tiny_config: Config, monkeypatch):
    model, images = model_of(tiny_config), pictures(12)
    data = compress(model, images, levels=8)
    monkeypatch.setattr("markovae.likelihood.codec._Chain.decode", lambda *_: pytest.fail("it was decoded"))
    for at in (0, 5, 12, 30, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(UserError):
            decompress(model, bytes(damaged))
    for cut in (3, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(UserError):
            decompress(model, data[:cut])
    other = model_of(tiny_config, train__seed="1")
    next(other.network.parameters()).data.add_(1e-6)
    with pytest.raises(UserError, match="compressed with another model"):
        decompress(other, data)
    monkeypatch.setattr("markovae.likelihood.codec._Chain.probe", lambda self: "of another processor")
    with pytest.raises(UserError, match="differ from the encoder's in their last bits"):
        decompress(model, data)


def test_images_that_do_not_fit_are_one_sentence(tiny_config: Config):
    model = model_of(tiny_config)
    for images, said in (
        (pictures(2).astype(np.float32), "must be integers"),
        (pictures(2)[:, :, :4], "do not fit the model"),
        (pictures(2).astype(np.int32) * 9, "with pixel values 0…255"),
        (pictures(2)[:0], "must be one or more"),
    ):
        with pytest.raises(UserError, match=said):
            compress(model, images)
    with pytest.raises(UserError, match="names for 2 images"):
        compress(model, pictures(2), names=["a"])
