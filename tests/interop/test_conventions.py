"""The conventions of `mv.wrap`: the exact denoiser of a Gaussian costs the same in each, and a wrong one is told."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from markovae.diffusion.conventions import CONVENTIONS, convention_named, conventions_markdown
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import LogSNRLinear, cosine, linear
from markovae.errors import UserError
from markovae.interop.convention_check import denoising_error
from markovae.interop.wrapping import wrap
from markovae.networks.conditioning import Condition

SHAPE = (2, 4, 4)
VARIANCE = 0.2
GRID = LogSNRLinear(12, 8.0, -7.0)
G = torch.Generator().manual_seed(0)
REST = 0.01  # of each pixel alone; VARIANCE is that of an image's mean
X = 0.2 + VARIANCE**0.5 * torch.randn(24, 1, 1, 1, generator=G) + REST**0.5 * torch.randn(24, *SHAPE, generator=G)
X = X.clamp(-1, 1)
IMAGES = ((X + 1) * 127.5).round().to(torch.uint8)


def column(value: Tensor, like: Tensor) -> Tensor:
    return value.double().reshape(-1, *[1] * (like.ndim - 1))


class Gaussian:
    """E[x | y] of x ~ N(m, v 11ᵀ + w I) and y = signal x + noise ε, and the noise it implies, in any range."""

    def __init__(self, data_range: tuple[float, float] = (-1.0, 1.0)) -> None:
        half, middle = (data_range[1] - data_range[0]) / 2, (data_range[1] + data_range[0]) / 2
        self.mean, self.rest = middle + half * 0.2, half**2 * REST
        self.whole = half**2 * (X[0].numel() * VARIANCE + REST)

    def __call__(self, y: Tensor, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        signal, noise, y = column(signal, y), column(noise, y), y.double()
        residual = y - signal * self.mean
        common = residual.mean((1, 2, 3), keepdim=True)
        parts = ((common, self.whole), (residual - common, self.rest))
        x = self.mean + sum(v * signal * part / (signal**2 * v + noise**2) for part, v in parts)
        return x, (y - signal * x) / noise


def denoiser(name: str, data_range: tuple[float, float] = (-1.0, 1.0), grid=GRID):
    """f(given, t) of each convention, from the papers' own formulas."""
    exact, levels = Gaussian(data_range), grid.logsnr[1:]

    def stepped(z: Tensor, t: Tensor) -> Tensor:
        logsnr = levels[t.long()]
        a, s = column(logsnr.sigmoid().sqrt(), z), column((-logsnr).sigmoid().sqrt(), z)
        x, eps = exact(z, a, s)
        return {"noise": eps, "data": x, "velocity": a * eps - s * x, "score": -eps / s}[name]

    def score_vp(z: Tensor, t: Tensor) -> Tensor:
        log_a = -(t.double() ** 2) * (20 - 0.1) / 4 - 0.1 * t.double() / 2
        s = (1 - (2 * log_a).exp()).sqrt()
        return -exact(z, log_a.exp(), s)[1] / column(s, z)

    def score_ve(y: Tensor, sigma: Tensor) -> Tensor:
        return -exact(y, torch.ones_like(sigma), sigma)[1] / column(sigma, y)

    def edm(y: Tensor, sigma: Tensor) -> Tensor:
        return exact(y, torch.ones_like(sigma), sigma)[0]

    def edm_network(given: Tensor, c_noise: Tensor) -> Tensor:
        sigma = (4 * c_noise.double()).exp()
        deep = column(sigma, given)
        y = given.double() * (deep**2 + 0.25).sqrt()
        c_skip, c_out = 0.25 / (deep**2 + 0.25), 0.5 * deep / (deep**2 + 0.25).sqrt()
        return (edm(y, sigma) - c_skip * y) / c_out

    def flow(sign: int, noise_at: int):
        def velocity(mixed: Tensor, t: Tensor) -> Tensor:
            share = t.double() if noise_at else 1 - t.double()  # of noise
            x, eps = exact(mixed, 1 - share, share)
            return sign * (eps - x)

        return velocity

    made = {
        "score_vp": score_vp, "score_ve": score_ve, "edm": edm, "edm_network": edm_network,
        "flow": flow(1, 1), "flow_negative": flow(-1, 1),
        "rectified_flow": flow(-1, 0), "rectified_flow_negative": flow(1, 0),
    }  # fmt: skip
    return made.get(name, stepped)


NAMES = [each.name for each in CONVENTIONS if not each.target.needs_neighbour]


def nats(model: Diffusion) -> Tensor:
    model.precision, model.decoder = torch.float64, REFERENCE.decoder
    return model.bound(IMAGES[:2]).total


REFERENCE = wrap(denoiser("noise"), SHAPE, GRID, "noise")


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_exact_denoiser_costs_the_same_in_every_convention(name, data_range) -> None:
    # A grid told in terms of data of half the width stands where log-SNR is 2 ln 2 higher.
    shift = 2 * torch.tensor(2.0).log().item() if data_range[0] == 0 else 0.0
    grid = LogSNRLinear(12, 8.0 + shift, -7.0 + shift)
    model = wrap(denoiser(name, data_range, grid), SHAPE, grid, name, data_range=data_range)
    torch.testing.assert_close(model.schedule.logsnr, GRID.logsnr)
    torch.testing.assert_close(nats(model), nats(REFERENCE), rtol=1e-6, atol=1e-6)


def test_channels_last_and_one_hot_labels_and_heads() -> None:
    seen = []

    def last(y: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        seen.append(label)
        out = denoiser("edm")(y.movedim(-1, 1), sigma).movedim(1, -1)
        return torch.cat([out, torch.zeros_like(out)], -1)

    model = wrap(last, SHAPE, GRID, "edm", channels_last=True, num_classes=3)
    z = torch.randn(2, *SHAPE, generator=G)
    level = GRID.logsnr[6]
    got, head = model.predict(z, level, Condition(label=torch.tensor([2, 0])))
    torch.testing.assert_close(got, REFERENCE.denoise(z, level), rtol=1e-4, atol=1e-4)
    assert seen[0].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert head is not None
    assert not head.any()


def test_self_conditioning_is_given_the_guess_of_a_first_call() -> None:
    seen = []

    def conditioned(z: Tensor, t: Tensor, x_self: Tensor) -> Tensor:
        seen.append(x_self)
        return denoiser("velocity")(z, t)

    model = wrap(conditioned, SHAPE, GRID, "pred_v", self_conditioning=True)
    z = torch.randn(2, *SHAPE, generator=G)
    x_hat = model.denoise(z, GRID.logsnr[5])
    assert not seen[0].any()
    torch.testing.assert_close(seen[1], x_hat)


@pytest.mark.parametrize("grid", [linear(40), cosine(40)], ids=["linear", "cosine"])
def test_default_grids_reach_both_ends_of_the_paper(grid) -> None:
    times = {name: convention_named(name).time(convention_named(name).default_grid().logsnr[1:]) for name in
             ("score_vp", "score_ve", "edm", "flow", "rectified_flow")}  # fmt: skip
    assert 0 < times["score_vp"][0] < 1e-4
    assert times["score_vp"][-1] == pytest.approx(1)
    assert (times["score_ve"][0], times["score_ve"][-1]) == pytest.approx((0.01, 50))
    assert (times["edm"][0], times["edm"][-1]) == pytest.approx((0.002, 80))
    torch.testing.assert_close(times["flow"], 1 - times["rectified_flow"])
    with pytest.raises(UserError, match="counts the steps of a grid: give the schedule"):
        wrap(denoiser("noise"), SHAPE)
    assert wrap(denoiser("noise", grid=grid), SHAPE, grid, "epsilon").num_levels == 40


def test_the_exact_denoiser_is_far_below_guessing_and_guessing_is_one() -> None:
    assert denoising_error(REFERENCE, IMAGES) < 0.5
    seen = REFERENCE.to_x(IMAGES[:8])
    m, v = float(seen.mean()), float(seen.var())

    def guess(y: Tensor, sigma: Tensor) -> Tensor:
        return m + v * (y - m) / (v + column(sigma, y) ** 2)

    assert denoising_error(wrap(guess, SHAPE, GRID, "edm"), IMAGES) == pytest.approx(1, abs=0.15)
    assert wrap(denoiser("edm"), SHAPE, GRID, "edm", images=IMAGES).num_levels == 12


WRONG = [
    ("flow", "flow_negative"),
    ("rectified_flow", "flow"),
    ("flow", "rectified_flow_negative"),
    ("edm", "score_ve"),
    ("edm_network", "edm"),
    ("score_vp", "edm"),
    ("velocity", "noise"),
    ("data", "noise"),
    ("noise", "pred_v"),
    ("edm", "noise"),
]


@pytest.mark.parametrize(("right", "said"), WRONG)
def test_another_convention_is_told_by_name(right, said) -> None:
    with pytest.raises(
        UserError, match=f"times the error of the best linear guess on these images, and predicts='{right}'"
    ):
        wrap(denoiser(right), SHAPE, GRID, said, images=IMAGES)


def test_another_range_is_told() -> None:
    with pytest.raises(UserError, match=r"wrap it with predicts='edm', data_range=\(0, 1\)"):
        wrap(denoiser("edm", (0.0, 1.0)), SHAPE, GRID, "edm", images=IMAGES)


def test_what_no_convention_explains_is_told() -> None:
    with pytest.raises(UserError, match="no other named convention fits better: check the schedule"):
        wrap(lambda z, t: 7 + 0 * z, SHAPE, GRID, "noise", images=IMAGES)
    with pytest.raises(UserError, match=r"predicts='epsillon' must be one of noise, .*did you mean epsilon"):
        wrap(denoiser("noise"), SHAPE, GRID, "epsillon")
    with pytest.raises(UserError, match=r"data_range=\(1, 0\) must be what black and white are"):
        wrap(denoiser("noise"), SHAPE, GRID, "noise", data_range=(1, 0))


def test_the_table_of_the_page_is_made_of_the_conventions() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
    assert conventions_markdown() in page.read_text(encoding="utf-8")
    assert len({word for each in CONVENTIONS for word in (each.name, *each.also)}) == sum(
        1 + len(each.also) for each in CONVENTIONS
    )


def test_a_network_kept_in_half_precision_is_called_in_it() -> None:
    net = torch.nn.Conv2d(2, 2, 1).half()
    z = torch.randn(2, *SHAPE, generator=G)
    denoised = wrap(lambda z, t: net(z), SHAPE, GRID, "data")
    with pytest.raises(RuntimeError):
        denoised.denoise(z, GRID.logsnr[3])
    module = torch.nn.Module()
    module.net, module.forward = net, lambda z, t: net(z)
    got = wrap(module, SHAPE, GRID, "data").denoise(z, GRID.logsnr[3])
    assert got.dtype == torch.float32
    assert torch.equal(got, net(z.half()).float())
