r"""The bound of a linear-Gaussian chain averaged over Gaussian data and the encoder, exactly.

All rests on one mean: for Δ with mean m and covariance C, E[−ln N(Δ; 0, S)] = ½ [ ln |2πS| + tr S⁻¹(C + m mᵀ) ].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from markovae.chains.linear import LinearGaussianChain, Moments, exact_linear
from markovae.gaussian import cholesky
from markovae.vae import Bound


def expected_e1(chain: LinearGaussianChain, data: Moments) -> float:
    """E1 averaged: Σ_ℓ E[−ln P_pri(z_{ℓ−1}|z_ℓ)] + E[−ln P_pri(z_L)] − Σ_ℓ H(z_ℓ|z_{ℓ−1}), nats."""
    law, total = data, 0.0
    for up, down in zip(chain.encoder, chain.prior, strict=True):
        rest = torch.eye(len(law.mean), dtype=torch.float64) - down.matrix @ up.matrix
        spread = rest @ law.covariance @ rest.T + down.matrix @ up.covariance @ down.matrix.T
        shift = rest @ law.mean - down.matrix @ up.offset - down.offset
        total += _cost(down.covariance, shift, spread) - _entropy(up.covariance)
        law = up.push(law)
    return total + _cost(chain.top.covariance, law.mean - chain.top.mean, law.covariance)


def expected_e6(chain: LinearGaussianChain, data: Moments) -> Bound:
    """E6 averaged, in its terms: a Bound with a batch of one, nats."""
    last = chain.marginal_step(chain.num_levels)
    shift = last.matrix @ data.mean + last.offset - chain.top.mean
    prior = _kl(last.covariance, chain.top.covariance, shift, last.matrix @ data.covariance @ last.matrix.T)
    levels = [_level(chain, data, level) for level in range(2, chain.num_levels + 1)]
    decoder, z = chain.prior[0], chain.encoder[0]
    rest = torch.eye(len(data.mean), dtype=torch.float64) - decoder.matrix @ z.matrix
    spread = rest @ data.covariance @ rest.T + decoder.matrix @ z.covariance @ decoder.matrix.T
    off = rest @ data.mean - decoder.matrix @ z.offset - decoder.offset
    reconstruction = _cost(decoder.covariance, off, spread)
    return Bound(_row(prior)[0], _row(*levels), _row(reconstruction)[0], len(data.mean), discrete=False)


def path_kl(chain: LinearGaussianChain, data: Moments) -> float:
    r"""The divergence of the two joint laws of z_0…z_L, split along the reverse chain, nats.

    KL(p(z_L) ‖ P_pri(z_L)) + Σ_ℓ E_{p(z_ℓ)} KL(p(z_{ℓ−1}|z_ℓ) ‖ P_pri(z_{ℓ−1}|z_ℓ)), p the encoder run on the data.
    It is what the bound exceeds H(z_0) by.
    """
    exact = exact_linear(data, chain.encoder)
    total = float(exact.prior_top(1).kl(chain.prior_top(1)))
    law = data
    for up, true, prior in zip(chain.encoder, exact.prior, chain.prior, strict=True):
        law = up.push(law)
        matrix = true.matrix - prior.matrix
        shift = matrix @ law.mean + true.offset - prior.offset
        total += _kl(true.covariance, prior.covariance, shift, matrix @ law.covariance @ matrix.T)
    return total


def _level(chain: LinearGaussianChain, data: Moments, level: int) -> float:
    """E KL(P_enc(z_{ℓ−1}|z_ℓ,z_0) ‖ P_pri(z_{ℓ−1}|z_ℓ)): the difference of the means is linear in (z_0, z_ℓ)."""
    on_x, back = chain.posterior_step(level)
    here, prior = chain.marginal_step(level), chain.prior[level - 1]
    on_z = back.matrix - prior.matrix
    on_data = on_x + on_z @ here.matrix
    shift = on_data @ data.mean + on_z @ here.offset + back.offset - prior.offset
    spread = on_data @ data.covariance @ on_data.T + on_z @ here.covariance @ on_z.T
    return _kl(back.covariance, prior.covariance, shift, spread)


def _cost(covariance: Tensor, shift: Tensor, spread: Tensor) -> float:
    """E[−ln N(Δ; 0, covariance)] for Δ of mean `shift` and covariance `spread`."""
    factor = cholesky(covariance)
    second = spread + torch.outer(shift, shift)
    log_det = 2 * factor.diagonal().log().sum() + len(shift) * math.log(2 * math.pi)
    return 0.5 * float(log_det + torch.cholesky_solve(second, factor).trace())


def _entropy(covariance: Tensor) -> float:
    return Moments(torch.zeros(len(covariance)), covariance).entropy()


def _kl(covariance: Tensor, other: Tensor, shift: Tensor, spread: Tensor) -> float:
    """E KL(N(μ, covariance) ‖ N(μ', other)) for μ − μ' of mean `shift` and covariance `spread`."""
    return _cost(other, shift, spread + covariance) - _entropy(covariance)


def _row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)
