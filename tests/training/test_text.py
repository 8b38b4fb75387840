"""Training on captions: what a batch is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from markovae.config import Config
from markovae.data.images import ImageData
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.text.conditioner import attach_conditioning
from markovae.training.loop import fit
from markovae.training.trainer import Training


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def told(tiny_data: ImageData) -> ImageData:
    """Bright left or right halves, each said in two ways; one image says nothing."""
    sides = ["left half\nbright at the left", "right half\nbright at the right"]
    captions = tuple("" if i == 3 else sides[i % 2] for i in range(20))
    return replace(tiny_data, labels=None, class_names=(), captions=captions)


def test_a_batch_is_told_a_caption_of_each_image_and_now_and_then_none(
    text_model: Diffusion, told: ImageData, text_config: Config
):
    config = replace(text_config.train, label_dropout=0.4)
    batches = Training(text_model, attach_conditioning(text_model, told), config).batches
    reader, seen, dropped = text_model.text_conditioner, set(), 0
    for step in range(20):
        batch = batches.at(step)
        for row, example in enumerate(batch.example.tolist()):
            lines = told.captions[example].splitlines()
            own = batch.text.tokens[row][batch.text.mask[row]]
            said = [line for line in lines if torch.equal(reader.prompts([line]).tokens[0], own)]
            assert len(said) == bool(lines), "one of its own captions, or none where it has none"
            seen |= set(said)
            assert bool(batch.condition.keep[row]) == (bool(lines) and bool(batch.keep[row]))
            dropped += not batch.keep[row]
    assert len(seen) == 4
    assert 0.25 < dropped / 160 < 0.55


def test_a_share_and_a_part_are_told_what_the_whole_batch_is(
    text_model: Diffusion, told: ImageData, text_config: Config
):
    batches = Training(text_model, attach_conditioning(text_model, told), text_config.train).batches
    whole = batches.at(5)
    for some in (batches.at(5, (3, 6)), whole.part(3, 6)):
        longest = some.text.tokens.shape[1]
        assert torch.equal(some.text.tokens, whole.text.tokens[3:6, :longest])
        assert torch.equal(some.condition.keep, whole.condition.keep[3:6])


def test_fit_learns_what_captions_say(text_config: Config, told: ImageData, words):
    from markovae.build import create

    model = create(text_config, told.shape)
    *_, last = fit(model, told, text_config.train, steps=90, batch=16, lr=2e-2)
    assert last.index == 90
    x = model.to_x(told.images[:2])
    both = torch.cat([x, x])
    condition = model.text_conditioner.prompts(["left half", "right half", "right half", "left half"])
    z = torch.zeros(4, *told.shape, dtype=torch.float64)
    with torch.no_grad():
        error = ((model.denoise(z, torch.tensor(-6.0, dtype=torch.float64), condition) - both) ** 2).mean((1, 2, 3))
    right, wrong = error[:2].mean(), error[2:].mean()
    assert float(right) < 0.5 * float(wrong), "with its own caption an image is guessed from noise alone"


def test_fit_refuses_images_without_captions(text_model: Diffusion, tiny_data: ImageData):
    with pytest.raises(UserError, match="has no captions"):
        fit(text_model, tiny_data, steps=1)
