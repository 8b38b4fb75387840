r"""What a chain of few levels costs with steps that are no Gaussians.

    python benchmarks/few_levels.py tests/fixtures/reference --levels 4 8 --train 1500 --test 256 --seconds 90

A step of the prior draws z_{ℓ−1} given z_ℓ, or, the same thing, r = (z_{ℓ−1} − c_z z_ℓ)/c_x = x + ε/√Δγ. The Gaussian
step is N(x̂, 1/Δγ + e). Here a small network, trained on the network's x̂ of training images, gives instead

- `gaussian`: a variance of its own to each value;
- `mixture`: 3 colors to choose from for each pixel, with their variances;
- `passes`: the same, but the pixels of a step are drawn in 6 passes, from a lattice of every fourth pixel to all, each
  given those before; to its 3 colors a pixel adds the 16 nearest that may be known by then.

One evaluation of the large network a step, and 1 or 6 of the small one (95,000 weights). Nats of a draw of r are
unbiased; nothing is clipped. All chains on the levels of the least bound with isotropic variances, beside the bound of
all levels. Writes a JSON record.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import markovae as mv
from machine import processor
from markovae.diffusion.bound import estimate_mean
from markovae.diffusion.forward import noised
from markovae.diffusion.model import Diffusion
from markovae.likelihood.measuring import prepare
from markovae.likelihood.method import Method
from markovae.randomness import generator

FREE, WIDTH = 3, 64
NEAR = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
OFFSETS = [*NEAR, *((2 * i, 2 * j) for i, j in NEAR)]


def passes(height: int, width: int) -> Tensor:
    """The pass in which each pixel is drawn, 0…5, (H, W): every fourth one first, then halfway between, and so on."""
    i, j = torch.meshgrid(torch.arange(height) % 4, torch.arange(width) % 4, indexing="ij")
    order = torch.where(i % 2 == j % 2, 3, torch.where(i % 2 == 0, 4, 5))  # 3: both odd
    order[(i % 2 == 0) & (j % 2 == 0)] = 2
    order[(i == 2) & (j == 2)] = 1
    order[(i == 0) & (j == 0)] = 0
    return order


class Step(nn.Module):
    """Mixtures of Gaussians over r for each pixel, its channels together, of K−1 steps.

    Args:
        kind: gaussian, mixture or passes.
        widths: 1/Δγ of each step, (K−1,).
        errors: E(x − x̂)² of each, (K−1,): where it begins.
    """

    def __init__(self, kind: str, channels: int, widths: Tensor, errors: Tensor) -> None:
        super().__init__()
        self.kind, self.channels = kind, channels
        self.free = 1 if kind == "gaussian" else FREE
        self.parts = self.free + (len(OFFSETS) if kind == "passes" else 0)
        self.register_buffer("widths", widths.float())
        self.register_buffer("errors", errors.float())
        steps = len(widths)
        taken = 3 * channels + 1 + steps
        out = self.parts * (1 + channels) + self.free * channels
        self.layers = nn.ModuleList(
            [nn.Conv2d(taken, WIDTH, 3, padding=1), *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))]
        )
        self.last = nn.Conv2d(WIDTH, out, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def nats(self, x: Tensor, r: Tensor, z: Tensor, x_hat: Tensor, step: Tensor, number: Tensor) -> Tensor:
        """−ln p(r) + ln q(r|x) of the pixels of one pass, (B,), float64.

        Args:
            step: 0…K−2, (B,).   number: of the pass, (B,).
        """
        count, channels, height, width = x.shape
        order = passes(height, width)[None]
        if self.kind == "passes":
            known, wanted = order < number[:, None, None], order == number[:, None, None]
        else:
            known, wanted = (torch.full((count, height, width), value) for value in (False, True))
        spread, scale = self.widths[step][:, None, None, None], self.errors[step][:, None, None, None].sqrt()
        shown = torch.where(known[:, None], (r - x_hat) / (scale + spread.sqrt()), 0.0)
        which = F.one_hot(step, len(self.widths)).float()[:, :, None, None].expand(-1, -1, height, width)
        hidden = torch.cat([z, x_hat, shown, known[:, None].float(), which], 1)
        for layer in self.layers:
            hidden = F.silu(layer(hidden))
        logits, log_std, shift = self.last(hidden).split(
            [self.parts, self.parts * channels, self.free * channels], dim=1
        )
        means = x_hat[:, None] + scale[:, None] * (
            shift.reshape(count, self.free, channels, height, width) + self._apart(shift)
        )
        if self.parts > self.free:
            padded, there = F.pad(r, (2, 2, 2, 2)), F.pad(known.float(), (2, 2, 2, 2))
            cut = [(slice(2 + i, 2 + i + height), slice(2 + j, 2 + j + width)) for i, j in OFFSETS]
            means = torch.cat([means, torch.stack([padded[:, :, i, j] for i, j in cut], 1)], 1)
            seen = torch.stack([there[:, i, j] for i, j in cut], 1) > 0
            seen = torch.cat([torch.ones(count, self.free, height, width, dtype=torch.bool), seen], 1)
            logits = logits.masked_fill(~seen, -torch.inf)
        log_std = log_std.reshape(count, self.parts, channels, height, width)
        variance = spread[:, None] + (scale**2)[:, None] * (2 * log_std).exp()
        each = -0.5 * ((r[:, None] - means) ** 2 / variance + variance.log()).sum(2)
        own = -0.5 * ((r - x) ** 2 / spread + spread.log()).sum(1)
        gone = own - torch.logsumexp(logits.log_softmax(1) + each, 1)
        return (gone * wanted).double().flatten(1).sum(1)

    def _apart(self, like: Tensor) -> Tensor:
        """Where the colors begin: apart, so that they can become different."""
        start = torch.linspace(-1, 1, self.free) if self.free > 1 else torch.zeros(1)
        return start[None, :, None, None, None].to(like)

    @property
    def count(self) -> int:
        """Passes of a step."""
        return 6 if self.kind == "passes" else 1


class Draws:
    """z and x̂ of images at each step of a chain, one draw each, and r when it is asked for."""

    def __init__(self, model: Diffusion, x: Tensor, name: str) -> None:
        logsnr = model.schedule.logsnr.detach()
        self.x, self.steps = x, len(logsnr) - 2
        self.widths = 1 / (logsnr[1:-1].exp() - logsnr[2:].exp())
        source, self.z, self.x_hat = generator(0, name), [], []
        for level in range(2, len(logsnr)):
            z = noised(x, torch.randn(x.shape, generator=source), logsnr[level].expand(len(x)))
            parts = [model.denoise(part, logsnr[level]) for part in z.split(64)]
            self.z.append(z)
            self.x_hat.append(torch.cat(parts))
        self.errors = torch.stack([(x - x_hat).double().square().mean() for x_hat in self.x_hat])

    def at(self, rows: Tensor, step: Tensor, source: torch.Generator) -> tuple[Tensor, ...]:
        """(x, r, z, x̂) of some images, each at its step."""
        z, x_hat = (
            torch.stack([table[k][i] for k, i in zip(step.tolist(), rows.tolist(), strict=True)])
            for table in (self.z, self.x_hat)
        )
        x = self.x[rows]
        width = self.widths[step].sqrt().float()[:, None, None, None]
        return x, x + width * torch.randn(x.shape, generator=source), z, x_hat


def trained(kind: str, draws: Draws, seconds: float, batch: int = 16) -> Step:
    """A head, trained for so many seconds of the processor."""
    torch.manual_seed(0)
    head = Step(kind, draws.x.shape[1], draws.widths, draws.errors)
    optimizer = torch.optim.Adam(head.parameters(), 2e-3)
    source, began = generator(0, "head", kind), time.process_time()
    while (spent := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, 2 * (1 - spent))
        rows = torch.randint(len(draws.x), (batch,), generator=source)
        step = torch.randint(draws.steps, (batch,), generator=source)
        number = torch.randint(head.count, (batch,), generator=source)
        loss = head.nats(*draws.at(rows, step, source), step, number).mean() * head.count * draws.steps
        optimizer.zero_grad()
        (loss / draws.x[0].numel()).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return head


@torch.no_grad()
def cost(head: Step, draws: Draws) -> Tensor:
    """Nats of all steps of each image, (n,), float64."""
    total, source = torch.zeros(len(draws.x), dtype=torch.float64), generator(0, "r")
    for rows in torch.arange(len(draws.x)).split(32):
        for k in range(draws.steps):
            step = torch.full((len(rows),), k)
            at = draws.at(rows, step, source)
            for number in range(head.count):
                total[rows] += head.nats(*at, step, torch.full((len(rows),), number))
    return total


def gaussian_cost(draws: Draws, errors: Tensor) -> Tensor:
    """Nats of all steps of each image with isotropic variances, in closed form, (n,), float64."""
    total = torch.zeros(len(draws.x), dtype=torch.float64)
    for k in range(draws.steps):
        error = (draws.x - draws.x_hat[k]).double().square().flatten(1).sum(1)
        over, dims = errors[k] / draws.widths[k], draws.x[0].numel()
        total += 0.5 * (dims * (over.log1p() - over / (1 + over)) + error / (draws.widths[k] + errors[k]))
    return total


def main() -> None:
    """Measure chains of each length with each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--levels", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--kinds", nargs="+", default=["gaussian", "mixture", "passes"])
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--fit", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, loaded = mv.load(options.run), mv.load_run(options.run)
    splits = mv.load_data(loaded.checkpoint.config.data)
    train, test = splits.train.images[: options.train], splits.test.images[: options.test]
    record: dict[str, Any] = {"processor": processor(), **{k: str(v) for k, v in vars(options).items()}, "chains": {}}
    how = {"draws": 16, "variance": "isotropic", "fit": splits.train.images[-options.fit :]}
    bits = mv.measure(model, test, **how).bits_per_dim
    record["all_levels"] = {"levels": model.num_levels, "mean": bits.value, "stderr": bits.stderr}
    for levels in options.levels:
        method = Method(levels=levels, grid="optimal", variance="isotropic")
        on = prepare(model, method, splits.train.images[-options.fit :]).model
        with torch.no_grad():
            on.eval()
            taught, tested = (Draws(on, on.to_x(images).float(), name) for images, name in ((train, "a"), (test, "b")))
            rest = on.prior_nats(tested.x) + on.reconstruction_nats(tested.x, generator(0, "level 1"))
        rows: dict[str, Any] = {}
        unit = tested.x[0].numel() * math.log(2)
        isotropic = gaussian_cost(tested, taught.errors)
        costs = {"isotropic": isotropic}
        for kind in options.kinds:
            costs[kind] = cost(trained(kind, taught, options.seconds), tested)
        for kind, nats in costs.items():
            whole, saved = estimate_mean((nats + rest) / unit), estimate_mean((isotropic - nats) / unit)
            rows[kind] = {"bits_per_dim": whole.value, "stderr": whole.stderr}
            rows[kind] |= {"saved": saved.value, "saved_stderr": saved.stderr}
        record["chains"][str(levels)] = rows
        print(json.dumps({levels: rows}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
