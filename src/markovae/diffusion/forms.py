r"""The bound H(z_0) ≤ E[…] in its six equal forms, each along one path z_0…z_L of the encoder.

Averaged over the data and the encoder every form is the same number. Along one path E1 … E5 are the same number too:
E3 uses that the encoder is Markov, E4 Bayes' rule at every ℓ ≥ 2 (never at ℓ = 1, where z_{ℓ−1} is z_0 itself), and
E5 the telescoping of the marginals. E6 replaces log-ratios by their conditional means, so it agrees in expectation.
Source: lecture, "The ELBO of the Markovian VAE" and "Rewriting the ELBO".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from markovae.diffusion.markovian_vae import Distribution, MarkovianVAE, TractableEncoder
from markovae.randomness import Source

Path = Sequence[Tensor]


@dataclass(frozen=True)
class Form:
    """One form of the bound along a path of each example.

    Args:
        terms: what the form adds up, (B, K), nats, float64.
    """

    terms: Tensor

    @property
    def nats(self) -> Tensor:
        """The form's value, (B,), nats."""
        return self.terms.sum(1)

    @property
    def magnitude(self) -> Tensor:
        """1 + Σ|terms|, (B,): the scale of rounding errors in the sum."""
        return 1 + self.terms.abs().sum(1)


def e1(vae: MarkovianVAE, path: Path) -> Form:
    r"""E1: −ln [ p_pri(z_0…z_L) / p_enc(z_1…z_L|z_0) ].

    Terms: −ln p_pri(z_L); −ln p_pri(z_{ℓ−1}|z_ℓ), ℓ = 1…L; ln p_enc(z_ℓ|z_{ℓ−1}), ℓ = 1…L. Differentiable: with
    paths drawn by reparameterisation its gradient trains encoder and prior together.

    Args:
        path: z_0…z_L, L+1 tensors (B, *D), as from `MarkovianVAE.encode`; real numbers are promoted to float64.
    """
    levels, path = _checked(vae, path)
    prior = [-_step_log_prob(vae, path, level) for level in levels]
    encoder = [vae.encoder_step(path[level - 1], level).log_prob(path[level]) for level in levels]
    return Form(torch.stack([-_top_log_prob(vae, path), *prior, *encoder], 1))


def e2(vae: MarkovianVAE, path: Path) -> Form:
    r"""E2: −ln p_pri(z_L) − Σ_{ℓ≥1} ln [ p_pri(z_{ℓ−1}|z_ℓ) / p_enc(z_ℓ|z_{ℓ−1}) ].

    The log of a ratio, where the slides print a ratio of logs. Terms: one for z_L, one for each level.
    """
    levels, path = _checked(vae, path)
    ratios = [
        _step_log_prob(vae, path, level) - vae.encoder_step(path[level - 1], level).log_prob(path[level])
        for level in levels
    ]
    return Form(-torch.stack([_top_log_prob(vae, path), *ratios], 1))


def e3(vae: MarkovianVAE, path: Path) -> Form:
    r"""E3: −ln p_pri(z_L) − Σ_{ℓ≥1} ln [ p_pri(z_{ℓ−1}|z_ℓ) / p_enc(z_ℓ|z_{ℓ−1},z_0) ].

    The encoder is Markov, so its step given z_0 as well is `encoder_given_data`.
    """
    levels, path = _checked(vae, path)
    ratios = [
        _step_log_prob(vae, path, level)
        - encoder_given_data(vae, path[0], path[level - 1], level).log_prob(path[level])
        for level in levels
    ]
    return Form(-torch.stack([_top_log_prob(vae, path), *ratios], 1))


def e4(vae: MarkovianVAE, path: Path) -> Form:
    r"""E4: E3 with Bayes' rule at every ℓ ≥ 2.

    p_enc(z_ℓ|z_{ℓ−1},z_0) = p_enc(z_{ℓ−1}|z_ℓ,z_0) p_enc(z_ℓ|z_0) / p_enc(z_{ℓ−1}|z_0)

    Terms: one for z_L, one for each level.
    Raises:
        ValueError: for an encoder without `marginal` and `posterior`.
    """
    levels, path = _checked(vae, path)
    encoder, x = _tractable(vae, "E4"), path[0]
    first = vae.encoder_step(x, 1).log_prob(path[1])
    bayes = [
        encoder.posterior(x, path[level], level).log_prob(path[level - 1])
        + encoder.marginal(x, level).log_prob(path[level])
        - encoder.marginal(x, level - 1).log_prob(path[level - 1])
        for level in levels[1:]
    ]
    ratios = [_step_log_prob(vae, path, level) - q for level, q in zip(levels, [first, *bayes], strict=True)]
    return Form(-torch.stack([_top_log_prob(vae, path), *ratios], 1))


def e5(vae: MarkovianVAE, path: Path) -> Form:
    r"""E5: the marginals of E4 telescoped.

    −ln [p_pri(z_L)/p_enc(z_L|z_0)] − Σ_{ℓ≥2} ln [p_pri(z_{ℓ−1}|z_ℓ)/p_enc(z_{ℓ−1}|z_ℓ,z_0)] − ln p_pri(z_0|z_1)

    The slides write p_pri(z_{ℓ−1}|z_0) on the way; it is p_enc. Terms: prior, levels ℓ = 2…L, reconstruction.
    Raises:
        ValueError: for an encoder without `marginal` and `posterior`.
    """
    levels, path = _checked(vae, path)
    encoder, x = _tractable(vae, "E5"), path[0]
    top = _top_log_prob(vae, path) - encoder.marginal(x, levels[-1]).log_prob(path[-1])
    ratios = [
        _step_log_prob(vae, path, level) - encoder.posterior(x, path[level], level).log_prob(path[level - 1])
        for level in levels[1:]
    ]
    return Form(-torch.stack([top, *ratios, _step_log_prob(vae, path, 1)], 1))


def e6(vae: MarkovianVAE, path: Path) -> Form:
    r"""E6: the log-ratios of E5 by their means, divergences at this path's latents.

    KL(p_enc(z_L|z_0) ‖ p_pri(z_L)) + Σ_{ℓ≥2} KL(p_enc(z_{ℓ−1}|z_ℓ,z_0) ‖ p_pri(z_{ℓ−1}|z_ℓ)) − ln p_pri(z_0|z_1)

    Terms: prior, levels ℓ = 2…L, reconstruction; equal to E5's in expectation.
    Raises:
        ValueError: for an encoder without `marginal` and `posterior`, or steps whose divergence has no closed form.
    """
    levels, path = _checked(vae, path)
    encoder, x = _tractable(vae, "E6"), path[0]
    top = divergence(encoder.marginal(x, levels[-1]), vae.prior_top(len(x)))
    steps = [
        divergence(encoder.posterior(x, path[level], level), vae.prior_step(path[level], level)) for level in levels[1:]
    ]
    return Form(torch.stack([top, *steps, -_step_log_prob(vae, path, 1)], 1))


FORMS: tuple[Callable[[MarkovianVAE, Path], Form], ...] = (e1, e2, e3, e4, e5, e6)


def draw_form(
    form: Callable[[MarkovianVAE, Path], Form], vae: MarkovianVAE, x: Tensor, source: Source, draws: int = 1
) -> Tensor:
    """The bound by Monte Carlo in the given form: one value for each draw and example, (draws, B), nats.

    Args:
        form: one of `FORMS`.
        x: data, (B, *D); real numbers are promoted to float64.
    Raises:
        ValueError: for draws < 1.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1: a mean needs a draw")
    return torch.stack([form(vae, vae.encode(x, source)).nats for _ in range(draws)])


def encoder_given_data(vae: MarkovianVAE, x: Tensor, z_prev: Tensor, level: int) -> Distribution:
    """P_enc(z_ℓ | z_{ℓ−1}, z_0) = P_enc(z_ℓ | z_{ℓ−1}): the encoder is Markov, so z_0 adds nothing.

    Raises:
        ValueError: where x and z_prev are not batches of the same length.
    """
    if len(x) != len(z_prev):
        raise ValueError(f"{len(x)} examples of z_0 with {len(z_prev)} of z_{level - 1}: a path has one of each")
    return vae.encoder_step(z_prev, level)


def divergence(encoder: Distribution, prior: Distribution) -> Tensor:
    """KL(encoder ‖ prior) in closed form, (B,), nats.

    Raises:
        ValueError: for a pair of families that has none.
    """
    if type(encoder) is not type(prior) or not hasattr(encoder, "kl"):
        raise ValueError(
            f"E6 needs KL({type(encoder).__name__} ‖ {type(prior).__name__}) in closed form, which is not known: use E5"
        )
    return cast(Tensor, cast(Any, encoder).kl(prior))


def _tractable(vae: MarkovianVAE, form: str) -> TractableEncoder:
    if not isinstance(vae, TractableEncoder):
        raise ValueError(
            f"{form} needs P_enc(z_ℓ|z_0) and P_enc(z_(ℓ−1)|z_ℓ,z_0), and the encoder of {type(vae).__name__} offers "
            "no `marginal` and `posterior`: use E1, E2 or E3"
        )
    return vae


def _checked(vae: MarkovianVAE, path: Path) -> tuple[range, Path]:
    if len(path) != vae.num_levels + 1:
        raise ValueError(f"a path of {len(path)} latents: a chain of {vae.num_levels} levels has {vae.num_levels + 1}")
    return range(1, vae.num_levels + 1), [z.double() if z.is_floating_point() else z for z in path]


def _top_log_prob(vae: MarkovianVAE, path: Path) -> Tensor:
    return vae.prior_top(len(path[-1])).log_prob(path[-1])


def _step_log_prob(vae: MarkovianVAE, path: Path, level: int) -> Tensor:
    return vae.prior_step(path[level], level).log_prob(path[level - 1])
