"""Muon and AdamW against plain reference implementations."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from markovae.networks.mlp import MLP, MLPConfig
from markovae.networks.network_config import DataSpec, NetworkConfig
from markovae.networks.unet import UNet
from markovae.training.optimizers import BAND, COEFFICIENTS, ROUNDS, MuonAdamW, orthogonalise, split_weights


def plain_newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """Five rounds X <- a X + b (X X') X + c (X X')² X, in float64, no shortcut."""
    x = matrix.double() / matrix.double().norm()
    x = x if len(x) <= len(x.T) else x.T
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if len(matrix) <= len(matrix.T) else x.T


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 24), columns=st.integers(1, 24), seed=st.integers(0, 9999))
def test_gram_form_equals_the_plain_iteration(rows: int, columns: int, seed: int) -> None:
    stack = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    found = orthogonalise(stack)
    for matrix, value in zip(stack, found, strict=True):
        torch.testing.assert_close(value.double(), plain_newton_schulz(matrix), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("shape", [(64, 64), (32, 288), (512, 64), (48, 432)])
@pytest.mark.parametrize("condition", [1.0, 30.0, 100.0])
def test_singular_values_land_in_the_band(shape: tuple[int, int], condition: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rank = min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(shape[1], rank, generator=generator))[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), rank)
    found = torch.linalg.svdvals(orthogonalise(1e3 * (left * values) @ right.T))
    assert found.min() > BAND[0]
    assert found.max() < BAND[1]


def test_scale_of_the_gradient_does_not_matter_and_zero_stays_zero() -> None:
    matrix = torch.randn(8, 40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalise(matrix * 1e-12), orthogonalise(matrix), atol=1e-4, rtol=1e-4)
    assert orthogonalise(torch.zeros(4, 4)).eq(0).all()


@pytest.mark.parametrize("power", [-149, -140, -126, -100, -70, -10, 10, 60, 100, 120])
def test_gradients_that_vanish_or_are_huge_give_the_same_step(power: int):
    """Powers of two change no digit until float32 ends; then few are left, and the step is still one."""
    matrix = torch.randint(1, 64, (6, 9), generator=torch.Generator().manual_seed(4)).float()
    scaled = torch.ldexp(matrix, torch.tensor(power // 2)).ldexp(torch.tensor(power - power // 2))
    torch.testing.assert_close(orthogonalise(scaled), orthogonalise(matrix), atol=0, rtol=0)


def test_a_weight_whose_gradient_vanishes_stays_finite():
    weight, other = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = MuonAdamW([weight], [other])
    for size in (0.0, 1e-45, 1e-30, 1e-20, 1e30, 0.0):
        weight.grad, other.grad = torch.full((4, 4), size), torch.full((4, 4), size)
        optimizer.step()
        assert weight.isfinite().all()
        assert other.isfinite().all()


def reference_step(weights, grads, state, lr, adamw_lr, momentum, betas, decay, count):
    """One step of both rules, written out a weight at a time."""
    for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        if weight.ndim >= 2:
            state[i] = momentum * state.get(i, 0) + (1 - momentum) * grad
            update = ((1 - momentum) * grad + momentum * state[i]).reshape(len(weight), -1)
            direction = plain_newton_schulz(update).reshape(weight.shape)
            weight.mul_(1 - lr * decay).sub_(lr * 0.2 * max(update.shape) ** 0.5 * direction)
        else:
            first, second = state.get(i, (torch.zeros_like(weight), torch.zeros_like(weight)))
            first = betas[0] * first + (1 - betas[0]) * grad
            second = betas[1] * second + (1 - betas[1]) * grad**2
            state[i] = (first, second)
            corrected = (second / (1 - betas[1] ** count)).sqrt() + 1e-8
            weight.sub_(adamw_lr * first / (1 - betas[0] ** count) / corrected)


def test_steps_equal_a_plain_reference() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(6, 4, 3, 3), (6, 36), (5, 9), (9, 5), (7,), (3,)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours = [torch.nn.Parameter(value.clone()) for value in start]
    plain = [value.double() for value in start]
    options = {"lr": 0.03, "adamw_lr": 0.01, "momentum": 0.9, "betas": (0.8, 0.95)}
    optimizer = MuonAdamW(
        [w for w in ours if w.ndim >= 2], [w for w in ours if w.ndim < 2], weight_decay=0.1, **options
    )
    state: dict = {}
    for count in range(1, 8):
        grads = [torch.randn(shape, generator=generator) for shape in shapes]
        for weight, grad in zip(ours, grads, strict=True):
            weight.grad = grad
        optimizer.step()
        reference_step(plain, [g.double() for g in grads], state, decay=0.1, count=count, **options)
    for weight, value in zip(ours, plain, strict=True):
        torch.testing.assert_close(weight.detach().double(), value, atol=2e-3, rtol=1e-3)


def test_adamw_part_equals_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
    ours, theirs = ([torch.nn.Parameter(v.clone()) for v in start] for _ in range(2))
    mine = MuonAdamW([], ours, adamw_lr=0.02, betas=(0.9, 0.99), weight_decay=0.0)
    peer = torch.optim.AdamW(theirs, lr=0.02, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(6):
        for weight, other in zip(ours, theirs, strict=True):
            weight.grad = torch.randn(weight.shape, generator=generator)
            other.grad = weight.grad.clone()
        mine.step()
        peer.step()
    for weight, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(weight, other, atol=1e-6, rtol=1e-5)


def test_converges_on_a_quadratic() -> None:
    generator = torch.Generator().manual_seed(4)
    goal, offset = torch.randn(8, 20, generator=generator), torch.randn(8, generator=generator)
    weight, bias = torch.nn.Parameter(torch.zeros(8, 20)), torch.nn.Parameter(torch.zeros(8))
    optimizer = MuonAdamW([weight], [bias], lr=0.5, adamw_lr=0.1)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1 - step / 300)
        loss = (weight - goal).square().sum() + (bias - offset).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-2 * float(goal.square().sum())


def _train(network: MLP, optimizer: MuonAdamW, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        z = torch.randn(16, 2, generator=generator)
        optimizer.zero_grad()
        (network(z, torch.zeros(16)) - z.flip(1)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("flat", [True, False])
def test_state_round_trip_gives_the_same_next_steps(flat: bool) -> None:
    torch.manual_seed(0)
    first, second = (MLP(MLPConfig(2, 2, width=16, depth=2)) for _ in range(2))
    optimizer = MuonAdamW(*split_weights(first))
    _train(first, optimizer, range(4))
    second.load_state_dict(first.state_dict())
    other = MuonAdamW(*split_weights(second))
    if flat:
        other.load_state_tensors({k: v.clone() for k, v in optimizer.state_tensors().items()})
    else:
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _train(first, optimizer, range(4, 8))
    _train(second, other, range(4, 8))
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_state_that_fits_no_weight_is_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    for tensors in ({"7.momentum": torch.zeros(4, 4)}, {"0.momentum": torch.zeros(3, 4)}):
        with pytest.raises(ValueError, match="fits no weight"):
            MuonAdamW([weight], []).load_state_tensors(tensors)


def test_weights_are_split_once_and_the_outer_ones_go_to_adamw() -> None:
    network = UNet(
        NetworkConfig(width=16, blocks=1, embedding=16, head_dim=16, attention=()),
        DataSpec(num_classes=3, vector_dim=5),
    )
    hidden, rest = split_weights(network)
    assert len(hidden) + len(rest) == len(list(network.parameters()))
    assert {id(w) for w in hidden}.isdisjoint(id(w) for w in rest)
    assert all(weight.ndim >= 2 for weight in hidden)
    named = {name: id(weight) for name, weight in network.named_parameters()}
    outer = {id(weight) for weight in rest}
    for name in ("stem.weight", "head.weight", "condition.label.weight", "condition.vector.weight"):
        assert named[name] in outer
    assert named["down.0.blocks.0.first.weight"] not in outer


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"momentum": 1.0}, {"betas": (0.9, 1.0)}, {"lr": float("nan")}])
def test_rates_outside_their_range_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        MuonAdamW([torch.nn.Parameter(torch.zeros(2, 2))], [], **option)


def test_each_fused_step_is_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU refuses a mixture, which a learned schedule's float64 beside the network's float32 would be."""
    weights = [torch.nn.Parameter(torch.ones(3, dtype=kind)) for kind in (torch.float32, torch.float64, torch.float32)]
    seen: list[set[torch.dtype]] = []
    fused = torch._fused_adamw_

    def watched(some: list[torch.Tensor], *arguments: object, **options: object) -> None:
        seen.append({weight.dtype for weight in some})
        fused(some, *arguments, **options)

    monkeypatch.setattr(torch, "_fused_adamw_", watched)
    optimizer = MuonAdamW([], weights, adamw_lr=0.1)
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
    optimizer.step()
    assert seen == [{torch.float32}, {torch.float64}]
    assert all(torch.allclose(weight, torch.full_like(weight, 0.9)) for weight in weights)
