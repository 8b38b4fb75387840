"""Samples of prompts: guidance, negative prompts, shared noise, and what is refused."""

import numpy as np
import pytest
import torch

from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.sampling.conditions import prompt_condition
from markovae.sampling.generation import batch_trajectories, final_samples, sample
from markovae.sampling.guidance import Guidance, Guided, NegativePrompt, Unconditional
from markovae.sampling.plans import plan

LOGSNR = torch.tensor(0.4, dtype=torch.float64)


def drawn(model: Diffusion, **options) -> np.ndarray:
    return sample(model, 3, steps=4, raw=True, **options)


def test_guidance_one_is_no_guidance_bitwise(text_model: Diffusion):
    condition = text_model.text_conditioner.prompts(["a red hat"])
    plain = drawn(text_model, condition=condition)
    assert np.array_equal(drawn(text_model, prompt="a red hat", guidance=1), plain)
    with pytest.raises(UserError, match="negative shapes guidance, and guidance=1 is none"):
        drawn(text_model, prompt="a red hat", guidance=1, negative="blue")
    assert not np.array_equal(drawn(text_model, prompt="a red hat"), plain), "without a word a prompt is guided to"
    assert not np.array_equal(drawn(text_model, prompt="a blue hat", guidance=1), plain)


def test_an_empty_prompt_asks_for_nothing(text_model: Diffusion):
    plain = drawn(text_model)
    assert np.array_equal(drawn(text_model, prompt=" "), plain)
    mixed = drawn(text_model, prompt=["", "a hat", ""], guidance=1)
    assert np.allclose(mixed[[0, 2]], plain[[0, 2]], atol=1e-5)
    assert not np.allclose(mixed[1], plain[1], atol=1e-2)


def test_a_negative_prompt_takes_the_place_of_no_prompt(text_model: Diffusion):
    z = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    yes, no = (text_model.text_conditioner.prompts([text]) for text in ("a hat", "a blue beard"))
    both = yes[torch.zeros(2, dtype=torch.int64)]
    with torch.no_grad():
        strong = text_model.denoise(z, LOGSNR, both)
        weak = text_model.denoise(z, LOGSNR, no[torch.zeros(2, dtype=torch.int64)])
        found, _ = Guided(text_model, NegativePrompt(text_model, no), 3.0).predict(z, LOGSNR, both)
    torch.testing.assert_close(found, weak + 3 * (strong - weak))
    one = drawn(text_model, prompt="a hat", guidance=3, negative="a blue beard")
    assert np.array_equal(one, drawn(text_model, condition=yes, guidance=Guidance(3, negative=no)))
    assert not np.allclose(one, drawn(text_model, prompt="a hat", guidance=3), atol=1e-3)
    nothing = text_model.text_conditioner.prompts([""])
    with torch.no_grad():
        empty, _ = NegativePrompt(text_model, nothing).predict(z, LOGSNR, both)
        without, _ = Unconditional(text_model).predict(z, LOGSNR, both)
    torch.testing.assert_close(empty, without)


def test_samples_of_one_name_share_their_noise(text_model: Diffusion):
    condition = text_model.text_conditioner.prompts(["a hat", "a hat", "a beard", "a beard"])
    steps = plan(text_model, "ddim", 3)
    x = final_samples(
        batch_trajectories(text_model, 4, steps, condition=condition, noise_indices=[0, 1, 0, 1]), text_model.shape
    )
    again = final_samples(batch_trajectories(text_model, 2, steps, condition=condition[:2]), text_model.shape)
    torch.testing.assert_close(x[:2], again, atol=1e-5, rtol=0)
    other = final_samples(batch_trajectories(text_model, 2, steps, condition=condition[2:]), text_model.shape)
    torch.testing.assert_close(x[2:], other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": ["a", "b"]}, "2 prompts for n=3 samples"),
        ({"negative": "a"}, "give a prompt"),
        ({"prompt": "", "negative": "a"}, "give a prompt"),
        ({"guidance": 2}, "needs a condition to be guided to: give a prompt"),
        ({"prompt": "a", "labels": 1}, "keep one"),
    ],
)
def test_what_is_refused(text_model: Diffusion, options, sentence):
    with pytest.raises(UserError, match=sentence):
        drawn(text_model, **options)


def test_a_null_that_was_never_trained_is_refused_not_sampled(text_model: Diffusion):
    text_model.null_trained = False
    for options in ({}, {"prompt": " "}, {"prompt": ["a", "", "b"]}, {"guidance": 1}):
        with pytest.raises(UserError, match="never trained without captions"):
            drawn(text_model, **options)
    with pytest.raises(UserError, match="name a negative prompt"):
        drawn(text_model, prompt="a hat", guidance=2)
    plain = drawn(text_model, prompt="a hat", guidance=1)
    assert np.array_equal(drawn(text_model, prompt="a hat"), plain), "the default guidance needs a null, too"
    assert not np.array_equal(drawn(text_model, prompt="a hat", negative="blue"), plain)


def test_a_model_without_captions_refuses_a_prompt(tiny_model: Diffusion):
    with pytest.raises(UserError, match="trained without captions: leave the prompt out"):
        sample(tiny_model, 1, steps=2, prompt="a hat")
    with pytest.raises(UserError, match="trained without captions"):
        prompt_condition(tiny_model, [""])
