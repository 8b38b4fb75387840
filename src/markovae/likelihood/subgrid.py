r"""The best K of the L levels for the bound, by dynamic programming over the levels' errors.

With the isotropic-optimal variance v = β̃(1 + Δγ e_ℓ), e_ℓ = E‖x − x̂‖²/d at level ℓ, the expected KL of a step from
level ℓ to ℓ' < ℓ is, from ½ Σ [β̃/v − 1 + ln(v/β̃) + c_x²(x − x̂)²/v] with c_x² = β̃ Δγ:
    cost(ℓ' ← ℓ) = (d/2) ln(1 + Δγ e_ℓ),   Δγ = γ_ℓ' − γ_ℓ
(the first, second and last term cancel). A grid's bound is the sum of its steps', so the best is a shortest path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from markovae.errors import UserError


def isotropic_costs(error: Tensor, logsnr: Tensor, dims: int) -> Tensor:
    """(d/2) ln(1 + Δγ e_ℓ): expected nats of every step, with the variance refitted for it, (L, L).

    Args:
        error: e of levels 1…L, (L,).
        logsnr: λ_0…λ_L.
        dims: d.
    Returns: entry (i, j) is the step from level j+1 to level i+1 < j+1; the rest is infinite.
    """
    return _upper(0.5 * dims * torch.log1p(_snr_steps(logsnr) * error.double()))


def diagonal_costs(error: Tensor, logsnr: Tensor) -> Tensor:
    """½ Σ_i ln(1 + Δγ e_{ℓ,i}) with the per-level diagonal variance; error (L, *D). As `isotropic_costs`."""
    steps = _snr_steps(logsnr)
    costs = torch.zeros_like(steps)
    for j, e in enumerate(error.double().flatten(1)):
        costs[:j, j] = 0.5 * torch.log1p(steps[:j, j, None] * e).sum(1)
    return _upper(costs)


@dataclass(frozen=True)
class Subgrids:
    """The best grids of 1…K levels that keep level L, and level 1 from two levels on.

    Args:
        nats: expected nats of the steps of the best grid of k levels, (K,); entry k−1.
        came_from: predecessor of each level on the best path of k levels, (K, L), int64, from 0.
    """

    nats: Tensor
    came_from: Tensor

    def levels(self, num_levels: int) -> Tensor:
        """The best grid of so many levels, (num_levels,), increasing, int64.

        Raises:
            UserError: outside 1…K.
        """
        if not 1 <= num_levels <= len(self.nats):
            raise UserError(f"levels={num_levels} must lie in 1…{len(self.nats)}, the levels that were searched")
        path = [self.came_from.shape[1] - 1]
        for k in range(num_levels - 1, 0, -1):
            path.append(int(self.came_from[k, path[-1]]))
        return 1 + torch.tensor(path[::-1])


def search(costs: Tensor, num_levels: int) -> Subgrids:
    """The best grids of up to `num_levels` levels for the bound, in O(K L²).

    The reconstruction and the prior term are the same for every grid that keeps levels 1 and L. (One level: L alone,
    whose steps cost nothing and whose reconstruction pays for all.)

    Args:
        costs: as from `isotropic_costs`, (L, L).
    Raises:
        UserError: for num_levels outside 1…L.
    """
    total = len(costs)
    if not 1 <= num_levels <= total:
        raise UserError(f"levels={num_levels} must lie in 1…{total}, the levels of this model's grid")
    best = torch.full((total,), torch.inf, dtype=torch.float64)
    best[0] = 0.0
    nats, sources = [torch.zeros((), dtype=torch.float64)], [torch.zeros(total, dtype=torch.int64)]
    for _ in range(num_levels - 1):
        best, source = (best[:, None] + costs).min(0)
        nats.append(best[-1])
        sources.append(source)
    return Subgrids(torch.stack(nats), torch.stack(sources))


def share_steps(searched: Sequence[Subgrids], num_steps: int) -> list[int]:
    """How many steps each of several grids gets, at least one, for the least nats of all together.

    Args:
        searched: the best grids of each.
        num_steps: in all, from one for each grid to as many as were searched.
    """
    best, choices = torch.zeros(1, dtype=torch.float64), []
    for each in searched:
        own = each.nats[1:]
        totals = torch.full((len(own), len(own) + len(best)), torch.inf, dtype=torch.float64)
        for row, nats in enumerate(own):
            totals[row, row + 1 : row + 1 + len(best)] = best + nats
        best, choice = totals.min(0)
        choices.append(1 + choice)
    shares: list[int] = []
    for choice in reversed(choices):
        shares.insert(0, int(choice[num_steps]))
        num_steps -= shares[0]
    return shares


def _snr_steps(logsnr: Tensor) -> Tensor:
    """γ_i − γ_j for levels 1…L, (L, L), 0 where not positive; by expm1, so near levels lose no digits."""
    levels = logsnr[1:].double()
    return (-levels.exp()[:, None] * torch.expm1((levels - levels[:, None]).clamp(max=0))).triu(1)


def _upper(costs: Tensor) -> Tensor:
    later = torch.ones_like(costs, dtype=torch.bool).triu(1)
    return torch.where(later, costs, torch.inf)
