"""Grids that take work: found once for a checkpoint, kept in the cache folder, used again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markovae.cli.classes import chosen_labels
from markovae.cli.prompts import conditions_for
from markovae.data import cache
from markovae.log import log
from markovae.sampling.conditions import condition_for
from markovae.sampling.grids import explicit_grid
from markovae.sampling.guidance import guided
from markovae.sampling.tuning import optimal_grid, tuned

if TYPE_CHECKING:
    from torch import Tensor

    from markovae.cli.running import Opened
    from markovae.networks.conditioning import Condition
    from markovae.sampling.guidance import Guidance
    from markovae.sampling.plans import Plan

RECIPE = 2  # raised when a grid of the same options would come out otherwise
SAMPLES = 16


def worked_out_grid(
    opened: Opened,
    start: Plan,
    guidance: Guidance,
    asked: str | tuple[str, ...] | None,
    facts: dict[str, Any],
    negative: str | None = None,
) -> Tensor:
    """The grid of `facts["spacing"]`, optimal or tuned, with as many log-SNRs as `start` has.

    Args:
        asked: --class, or the prompts, or None: what is tuned for.   facts: what the grid depends on.
        negative: the prompt that is led away from.
    Raises:
        UserError: for a sampler that cannot be tuned, or too few levels.
    """
    count = len(start.grid) - 1
    prompts = asked if isinstance(asked, tuple) else ()
    labels = chosen_labels(opened, None if isinstance(asked, tuple) else asked, SAMPLES)
    given = conditions_for(opened, prompts[:SAMPLES], -(-SAMPLES // max(1, len(prompts[:SAMPLES]))))
    condition = condition_for(opened.model, labels) if given is None else given[:SAMPLES].condition()
    key = {
        "recipe": RECIPE,
        "checkpoint": opened.checkpoint.digest,
        "count": count,
        "labels": None if labels is None else labels.tolist(),
        "precision": opened.precision,
        **({"prompts": prompts, "negative": negative} if prompts else {}),
        **facts,
    }
    if facts["spacing"] == "optimal":
        key = {name: key[name] for name in ("recipe", "checkpoint", "count", "spacing", "precision")}

    def make(folder: Path) -> None:
        log(f"finding the {facts['spacing']} grid of {count} log-SNRs")
        grid = _optimal(opened, count) if facts["spacing"] == "optimal" else _tuned(opened, start, guidance, condition)
        cache.write_json(folder / "grid.json", {"logsnr": grid[1:].tolist(), "of": key})

    name = f"grid-{cache.key_of(key)}"
    if cache.is_kept(name):
        log(f"{facts['spacing']} grid of {count} log-SNRs from {cache.cache_folder() / name}")
    return cache.entry(name, make, _read)


def _read(kept: cache.Entry) -> Tensor:
    import torch

    return explicit_grid(torch.tensor(kept.json("grid.json")["logsnr"], dtype=torch.float64))


def _optimal(opened: Opened, count: int) -> Tensor:
    return optimal_grid(opened.model, count)


def _tuned(opened: Opened, start: Plan, guidance: Guidance, condition: Condition | None) -> Tensor:
    model = opened.model
    condition = None if condition is None else condition.to(model.device)
    found = tuned(model, start, samples=SAMPLES, condition=condition, denoiser=guided(model, condition, guidance))
    log(
        f"tuned in {found.seconds:.0f} s over {found.tried} grids: {found.rmse_before:.4f} to {found.rmse:.4f} root "
        f"mean square off a walk of {found.calls} calls"
    )
    return found.plan.grid
