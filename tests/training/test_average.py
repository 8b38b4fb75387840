import pytest
import torch

from markovae.diffusion.model import Diffusion
from markovae.training.ema import EMA, decay_at


def test_the_average_is_the_recursion_worked_by_hand(tiny_model: Diffusion):
    average = EMA(tiny_model, horizon=4.0, warmup=2.0)
    weight = tiny_model.network.stem.weight
    start = weight.detach().clone()
    expected = start.clone()
    for update in range(1, 9):
        with torch.no_grad():
            weight.copy_(start + update)
        average.update(update)
        decay = min(0.75, (update - 1) / (update + 1))
        expected = decay * expected + (1 - decay) * (start + update)
        torch.testing.assert_close(average.model.network.stem.weight, expected, rtol=0, atol=1e-5)
    assert not average.model.network.stem.weight.requires_grad


def test_the_first_update_copies_and_the_last_ones_look_back_a_horizon():
    assert decay_at(1, 1000, 10) == 0
    assert decay_at(11, 1000, 10) == 0.5
    assert decay_at(10**6, 1000, 10) == pytest.approx(0.999)
    assert decay_at(1, 1, 0) == 0  # a horizon of one step averages nothing
    assert decay_at(5, 8, 0) == 1 - 1 / 8


def test_buffers_are_never_averaged(tiny_model: Diffusion):
    tiny_model.register_buffer("odd", torch.zeros(3))
    average = EMA(tiny_model, 10.0, 0.0)
    tiny_model.odd += 5
    average.update(1)
    assert torch.equal(average.model.odd, torch.zeros(3))


def test_the_average_shares_no_memory_with_the_model(tiny_model: Diffusion):
    average = EMA(tiny_model, 10.0, 0.0)
    before = average.model.network.stem.weight.clone()
    with torch.no_grad():
        tiny_model.network.stem.weight += 1
    assert torch.equal(average.model.network.stem.weight, before)
