"""Captions weighed: of the faces' form, phrase by phrase and attribute by attribute."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from markovae.data.faces import SWAPPED, attributes, caption
from markovae.diffusion.decoder import StepDecoder
from markovae.diffusion.forward import noise_scale, signal_scale
from markovae.diffusion.model import Diffusion
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import PosteriorVariance
from markovae.diffusion.schedule import LogSNRLinear
from markovae.diffusion.target import DATA
from markovae.errors import UserError
from markovae.likelihood.caption_information import caption_information
from markovae.networks.conditioning import Condition, TextConditioner


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


BACKGROUNDS = {"blue": 20, "green": 70, "lilac": 120, "yellow": 170, "white": 220}
GREYS = Pixels(256).to_x(torch.tensor(list(BACKGROUNDS.values())))
STD = 0.02


class Backgrounds(TextConditioner):
    """Of a caption its background is read and nothing else: one weight for each of five, all alike where none is."""

    identity = {"encoder": "backgrounds", "sha256": ""}  # noqa: RUF012
    width = 5

    def prompts(self, texts: Sequence[str]) -> Condition:
        said = [[float(f" {name} background" in text) for name in BACKGROUNDS] for text in texts]
        weight = torch.tensor(said)
        return Condition(vector=torch.where(weight.sum(1, keepdim=True) > 0, weight, 1.0))

    captions = prompts


class PlainFaces(nn.Module):
    """E[x|z] of images of one grey each, with a little noise, given how likely each grey is."""

    def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
        a, s = (f(logsnr).reshape(-1, 1, 1, 1) for f in (signal_scale, noise_scale))
        weight = z.new_ones(len(z), 5) if condition is None else condition.vector.to(z.dtype)
        spread = a**2 * STD**2 + s**2
        off = z[:, None] - (a * GREYS.reshape(1, -1, 1, 1))[:, :, None]
        score = weight.log() - 0.5 * (off**2 / spread[:, None]).flatten(2).sum(2)
        grey = (score.softmax(1) * GREYS).sum(1).reshape(-1, 1, 1, 1)
        return grey + a * STD**2 / spread * (z - a * grey)


@pytest.fixture
def exact() -> Diffusion:
    grid = LogSNRLinear(64, 13.0, -10.0)
    model = Diffusion(PlainFaces(), grid, DATA, PosteriorVariance(), StepDecoder(Pixels(256)), (1, 4, 4))
    model.precision, model.text_conditioner = torch.float64, Backgrounds()
    return model


def test_what_shows_is_worth_nats_and_what_does_not_is_worth_none(exact: Diffusion):
    shown = [attributes(i) for i in range(20)]
    clean = torch.stack([GREYS[list(BACKGROUNDS).index(face.background)] for face in shown])[:, None, None, None]
    noise = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = Pixels(256).to_pixel_values(clean + STD * noise).numpy().astype(np.uint8)
    found = caption_information(exact, images, [caption(face) for face in shown], candidates=10, draws="all")
    accuracy = {choice.attribute: choice.accuracy.value for choice in found.choices}
    assert accuracy.pop("background") == 1
    assert set(accuracy) == set(SWAPPED) - {"background"}
    assert set(accuracy.values()) == {0}, "a tie is no knowledge"
    choices = {choice.attribute: choice for choice in found.choices}
    assert choices["background"].chance == pytest.approx(0.2)
    torch.testing.assert_close(choices["mouth"].log_prob, torch.full((20,), -math.log(6)).double())
    nats = {name: float(costs.mean()) for name, costs in found.phrases.items()}
    background = nats.pop("background")
    assert set(nats.values()) == {0}
    # Of five backgrounds a caption names one, ln 5 nats; with 64 levels the gap is larger where none is named.
    assert math.log(5) < background < math.log(5) + 1
    assert float(found.difference.mean()) == pytest.approx(background)
    # With 10 candidates several show the image's own background, so that fewer than ln 5 can be told.
    assert 1.0 < found.information.value < math.log(5)


def test_captions_of_another_form_are_weighed_as_a_whole(text_model, tiny_data):
    captions = tuple("" if i == 2 else f"image {i}\nagain" for i in range(20))
    found = caption_information(text_model, tiny_data.images, captions, candidates=3, draws=2)
    assert found.phrases == {}
    assert found.choices == ()
    assert found.places == (0, 1, *range(3, 20))
    assert found.captions[2] == "image 3"
    assert found.calls == 3 * (2 * 19 + 2 * 18)


def test_a_model_without_captions_is_refused(tiny_model, tiny_data):
    with pytest.raises(UserError, match="trained without captions"):
        caption_information(tiny_model, tiny_data.images, ("a",) * 20)
