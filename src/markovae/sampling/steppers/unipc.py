r"""UniC: a step taken again once x̂ at its end is known, at no further call. UniPC is UniP followed by UniC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from markovae.randomness import Source
from markovae.sampling.steppers.base import Corrector, Look, State
from markovae.sampling.steppers.exponential import combine, leap, weights


@final
class UniC(Corrector):
    r"""z = (s/s_1) z_1 + a Σ_j w_j x̂_j over the new x̂, and the `order` states before it: implicit Adams–Moulton.

    It raises the order of any solver of order p by one. x̂ stays that of the uncorrected z, which is within the
    order reached.

    Args:
        order: p of the solver before it, 1…3.
    Source: Zhao et al. 2023 (UniPC), eq. 9 and algorithm 1, solved exactly.
    """

    def __init__(self, order: int) -> None:
        if not 1 <= order <= 3:
            raise ValueError(f"order={order} must lie in 1…3: it is that of the solver to be corrected")
        self.order, self.history = order, order

    def correct(self, now: State, past: Sequence[State], look: Look, source: Source) -> State:
        """`now` with the corrected z."""
        start = past[0]
        fade, gain, width = leap(start.logsnr, now.logsnr)
        states = [now, *past[: self.order]]
        nodes = [float(state.logsnr - start.logsnr) / (2 * width) for state in states]
        terms = [(gain * w, state.x_hat) for w, state in zip(weights(nodes, width), states, strict=True)]
        return State(now.logsnr, combine(fade, start.z, *terms), now.x_hat, now.head)
