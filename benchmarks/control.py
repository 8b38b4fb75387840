"""Control where the truth is known: moment matching, RePaint, round trips and guidance on Gaussian and mixture data.

    python benchmarks/control.py [--out docs/results/control.json]

Exact denoisers in float64, so that what is left is the method's own error. A minute on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from markovae.diffusion.reverse import PosteriorVariance
from markovae.log import log, track
from markovae.networks.conditioning import Condition
from markovae.randomness import generator
from markovae.sampling.editor import RePaint
from markovae.sampling.generation import final_latents
from markovae.sampling.grids import rho_grid, uniform_grid
from markovae.sampling.guidance import Guided
from markovae.sampling.inverse import (
    BoxDown,
    FullCovariance,
    IsotropicCovariance,
    Known,
    LinearOperator,
    MomentMatched,
    Observation,
)
from markovae.sampling.samplers import (
    DDIM,
    AdamsBashforth,
    Ancestral,
    DPMSolverPP2M,
    DPMSolverPP3S,
    Heun,
    UniC,
    trajectory,
)
from markovae.system.files import make_folder, write_file
from markovae.theory.mixture import Mixture, Toy, pink_gaussian, pink_pair
from markovae.theory.quadrature import slope

SHAPE, DIMS = (1, 4, 4), 16
SEED = 0


class Exact:
    """A toy's own denoiser."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def predict(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        return self.toy.denoise(z, logsnr).to(z.dtype), None


def matching() -> list[dict[str, Any]]:
    """Relative errors of mean and covariance of P(x|y), by covariance and steps; without sampling.

    The end of a walk is affine in z_L ~ N(0, I), so walking the origin and the axes gives its moments.
    """
    toy = pink_gaussian(SHAPE)
    source = generator(SEED, "control y")
    mask = torch.rand(4, 4, generator=source) < 0.5
    x = torch.randn(1, *SHAPE, generator=source, dtype=torch.float64) / 2
    rows = []
    problems: dict[str, LinearOperator] = {"inpainting": Known(mask), "super-resolution": BoxDown(2)}
    for name, operator in problems.items():
        observation = Observation(operator, operator.apply(x))
        mean, covariance = conditioned(toy, observation)
        for kind in (FullCovariance(), IsotropicCovariance(0.25)):
            model = MomentMatched(Exact(toy), observation, kind, iterations=DIMS)
            for steps in (10, 20, 40, 80, 160):
                found, spread = moments_of_end(model, steps)
                rows.append(
                    {
                        "problem": name,
                        "covariance": "full" if isinstance(kind, FullCovariance) else "isotropic",
                        "steps": steps,
                        "mean": float((found - mean).norm() / mean.norm()),
                        "spread": float((spread - covariance).norm() / covariance.norm()),
                    }
                )
    return rows


def conditioned(toy: Toy, observation: Observation) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of the Gaussian given y."""
    distribution, basis = toy.distribution(1), torch.eye(DIMS, dtype=torch.float64).reshape(DIMS, *SHAPE)
    whole = observation.operator.apply(basis).flatten(1).T
    seen = whole.abs().sum(1) > 0
    matrix, mean, covariance = whole[seen], distribution.mean().flatten(), distribution.covariance()[0]
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T)
    return mean + gain @ (observation.y.flatten()[seen] - matrix @ mean), covariance - gain @ matrix @ covariance


def moments_of_end(model: MomentMatched, steps: int) -> tuple[Tensor, Tensor]:
    z = torch.cat([torch.zeros(1, DIMS, dtype=torch.float64), torch.eye(DIMS, dtype=torch.float64)])
    states = trajectory(model, z.reshape(-1, *SHAPE), uniform_grid(16, -18, steps), DPMSolverPP2M(), generator(SEED))
    end = final_latents(states)
    axes = (end[1:] - end[:1]).flatten(1)
    return end[0].flatten(), axes.T @ axes


def repaint(count: int = 20_000) -> list[dict[str, Any]]:
    """Cov(known, drawn) against the truth, a correlation of 0.9, by how often each of 30 steps is taken."""
    truth = 0.09 * torch.tensor([[1, 0.9], [0.9, 1]], dtype=torch.float64)
    toy = Mixture.gaussian(torch.tensor([0.1, -0.1]), truth)
    x, known = toy.sample(count, generator(SEED, "control x")), torch.tensor([True, False])
    z = torch.randn(count, 2, generator=generator(SEED, "control z"), dtype=torch.float64)
    rows = []
    for resampling in (1, 2, 3, 5, 10, 20):
        stepper = RePaint(Ancestral(PosteriorVariance()), x, known, resampling)
        states = trajectory(Exact(toy), z, rho_grid(9, -9, 30), stepper, generator(SEED, "control n"))
        drawn = torch.where(known, x, final_latents(states))
        share = float(drawn.T.cov()[0, 1] / truth[0, 1])
        stderr = float((truth[0, 0] * truth[1, 1] + truth[0, 1] ** 2).sqrt() / truth[0, 1]) / count**0.5
        rows.append({"resampling": resampling, "covariance_over_truth": {"mean": share, "stderr": stderr}})
    return rows


def round_trip() -> list[dict[str, Any]]:
    """RMSE of encode → decode of a mixture's images between log-SNR 13.3 and −10, by solver and steps."""
    toy = pink_pair(SHAPE)
    x = toy.sample(32, generator(SEED, "control images"))
    counts, rows = (16, 32, 64, 128), []
    for name, stepper, order in (
        ("ddim", DDIM(), 1),
        ("dpmpp2m", DPMSolverPP2M(), 2),
        ("heun", Heun(), 2),
        ("dpmpp3s", DPMSolverPP3S(), 3),
    ):
        errors = []
        for count in counts:
            grid = uniform_grid(13.3, -10, count)[1:]
            a = float(torch.sigmoid(grid[0]).sqrt())
            noise = final_latents(trajectory(Exact(toy), a * x, grid.flip(0), stepper, generator(SEED)))
            back = final_latents(trajectory(Exact(toy), noise, grid, stepper, generator(SEED))) / a
            errors.append(float((back - x).square().mean().sqrt()))
        falls = -slope(torch.tensor(counts), torch.tensor(errors, dtype=torch.float64))
        rows.append({"solver": name, "order": order, "steps": counts, "rmse": errors, "falls_as": float(falls)})
    return rows


def guided() -> list[dict[str, Any]]:
    """Class 0 of two on a line (±0.6, width 0.1), guided: distance to a fine walk and the mean shift, by solver."""
    whole = Exact(Mixture.line([0.5, 0.5], [-0.6, 0.6], [0.1, 0.1]))
    part = Exact(Mixture.line([1.0], [-0.6], [0.1]))
    z = torch.randn(512, 1, generator=generator(SEED, "control guided"), dtype=torch.float64)
    solvers: dict[str, tuple[Any, Any]] = {
        "ddim": (DDIM(), None),
        "dpmpp2m": (DPMSolverPP2M(), None),
        "unipc2": (DPMSolverPP2M(), UniC(2)),
        "deis2": (AdamsBashforth(2), None),
    }
    rows = []
    for weight in (1.0, 2.0, 4.0):
        model = Guided(part, whole, weight)
        fine = trajectory(model, z, uniform_grid(9, -8, 1000), AdamsBashforth(3), generator(SEED), None, UniC(3))
        reference = final_latents(fine)
        for name, (stepper, corrector) in solvers.items():
            for calls in (5, 8, 12, 20, 40):
                end = final_latents(
                    trajectory(model, z, uniform_grid(9, -8, calls), stepper, generator(SEED), None, corrector)
                )
                rows.append(
                    {
                        "weight": weight,
                        "solver": name,
                        "calls": calls,
                        "rmse": float((end - reference).square().mean().sqrt()),
                        "shift": float((end - reference).mean()),
                        "mean": float(reference.mean()),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("control.json"))
    options = parser.parse_args()
    parts = {"matching": matching, "repaint": repaint, "round_trip": round_trip, "guided": guided}
    record = {name: parts[name]() for name in track(list(parts), "control")}
    make_folder(options.out.parent)
    write_file(options.out, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    log(f"written: {options.out}; python benchmarks/pages.py puts it into docs/results.md")


if __name__ == "__main__":
    main()
