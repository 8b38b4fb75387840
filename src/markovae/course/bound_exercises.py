"""Chapters 1 and 4: the Markovian VAE over letters, where every path can be written out, and the bound's six forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from markovae.course.exercise import Draw, Exercise, Mistake
from markovae.diffusion import forward
from markovae.diffusion.forms import e1
from markovae.diffusion.gaussian import Gaussian
from markovae.theory.categorical import CategoricalChain, exact_categorical


def _chain(draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """(encoder (L, K, K), top (K,), prior (L, K, K))."""
    levels, letters = draw.whole(2, 4), draw.whole(2, 4)
    return (
        draw.distribution(levels, letters, letters),
        draw.distribution(letters),
        draw.distribution(levels, letters, letters),
    )


def _path(draw: Draw) -> tuple[Tensor, ...]:
    encoder, top, prior = _chain(draw)
    path = torch.tensor([draw.whole(0, len(top)) for _ in range(len(encoder) + 1)])
    return path, encoder, top, prior


def _prior_path(path: Tensor, top: Tensor, prior: Tensor) -> Tensor:
    steps = [prior[level, path[level + 1], path[level]] for level in range(len(prior))]
    return torch.log(top[path[-1]]) + torch.log(torch.stack(steps)).sum()


def _encoder_path(path: Tensor, encoder: Tensor) -> Tensor:
    return torch.log(torch.stack([encoder[i, path[i], path[i + 1]] for i in range(len(encoder))])).sum()


def _e1(path: Tensor, encoder: Tensor, top: Tensor, prior: Tensor) -> Tensor:
    chain = CategoricalChain(encoder, top, prior)
    return e1(chain, [z.reshape(1) for z in path]).nats.squeeze(0)


def _marginal(top: Tensor, prior: Tensor) -> Tensor:
    for step in reversed(prior):
        top = top @ step
    return top


def _bound(letter: int, encoder: Tensor, top: Tensor, prior: Tensor) -> Tensor:
    data = torch.zeros(len(top), dtype=torch.float64)
    data[letter] = 1
    paths, weights = CategoricalChain(encoder, top, prior).paths(data)
    values = torch.stack(
        [_e1(torch.stack(path), encoder, top, prior) for path in zip(*[z.flatten() for z in paths], strict=True)]
    )
    return (weights * torch.where(weights > 0, values, 0)).sum()


def _exact_reverse(data: Tensor, step: Tensor) -> Tensor:
    return exact_categorical(data, step.unsqueeze(0)).reverse[0]


def _marginal_logs(draw: Draw) -> tuple[Any, ...]:
    return tuple(-draw.uniform(0.1, 3, 4) for _ in range(3))


BOUND_EXERCISES = (
    Exercise(
        "prior_log_prob",
        1,
        "path, top, prior",
        "ln p_pri(z_0 … z_L) of one path of letters, nats. path: (L+1,) letters z_0 … z_L. top: (K,), p_pri(z_L). "
        "prior: (L, K, K), prior[l-1, z_l, z_{l-1}] = p_pri(z_{l-1} | z_l)",
        lambda draw: (lambda p: (p[0], p[2], p[3]))(_path(draw)),
        _prior_path,
        (
            Mistake(
                "the top's ln p_pri(z_L) is missing",
                lambda path, top, prior: _prior_path(path, torch.ones_like(top), prior),
            ),
            Mistake(
                "the conditional is read the wrong way round: the letter that is known, z_l, comes first",
                lambda path, top, prior: _prior_path(path, top, prior.transpose(1, 2)),
            ),
            Mistake(
                "the top's probability is taken at z_0: it belongs to z_L",
                lambda path, top, prior: _prior_path(path, top, prior) - top[path[-1]].log() + top[path[0]].log(),
            ),
        ),
    ),
    Exercise(
        "marginal",
        1,
        "top, prior",
        "p_pri(z_0) of every letter, (K,): the prior's steps applied from the top down. Shapes as in prior_log_prob",
        lambda draw: _chain(draw)[1:],
        _marginal,
        (
            Mistake("the steps are applied from the bottom up", lambda top, prior: _marginal(top, prior.flip(0))),
            Mistake(
                "the matrices multiply from the other side: sum over z_l, the first index",
                lambda top, prior: _marginal(top, prior.transpose(1, 2)),
            ),
        ),
    ),
    Exercise(
        "path_cost",
        1,
        "path, encoder, top, prior",
        "E1 of one path: −ln [p_pri(z_0 … z_L) / p_enc(z_1 … z_L | z_0)], nats. "
        "encoder: (L, K, K), encoder[l-1, z_{l-1}, z_l] = p_enc(z_l | z_{l-1}); the rest as in prior_log_prob",
        _path,
        _e1,
        (
            Mistake("the encoder's probability is missing", lambda p, encoder, top, prior: -_prior_path(p, top, prior)),
            Mistake(
                "it is a ratio of logarithms: it should be the logarithm of a ratio",
                lambda p, encoder, top, prior: -_prior_path(p, top, prior) / _encoder_path(p, encoder),
            ),
            Mistake(
                "the encoder's logarithm has the wrong sign: it stands below the fraction",
                lambda p, encoder, top, prior: -_prior_path(p, top, prior) - _encoder_path(p, encoder),
            ),
        ),
    ),
    Exercise(
        "enumerated_bound",
        1,
        "letter, encoder, top, prior",
        "The bound of one letter z_0, nats: the mean of E1 over every path, each with the encoder's probability",
        lambda draw: (lambda c: (draw.whole(0, len(c[1])), *c))(_chain(draw)),
        _bound,
        (
            Mistake(
                "this is −ln p_pri(z_0) itself: the bound is larger, as the encoder is not the exact posterior",
                lambda letter, encoder, top, prior: -_marginal(top, prior)[letter].log(),
            ),
        ),
    ),
    Exercise(
        "kl_divergence",
        1,
        "p, q",
        "KL(p ‖ q) = Σ p ln(p/q) of two distributions over letters, (K,), nats",
        lambda draw: (lambda k: (draw.distribution(k), draw.distribution(k)))(draw.whole(2, 6)),
        lambda p, q: (p * (p / q).log()).sum(),
        (
            Mistake("p and q are swapped: the mean is over p", lambda p, q: (q * (q / p).log()).sum()),
            Mistake("this is the cross-entropy: the entropy of p is missing", lambda p, q: -(p * q.log()).sum()),
            Mistake("the logarithms are not weighted by p", lambda p, q: (p / q).log().sum()),
            Mistake("it is a mean over letters: p weighs already, so sum", lambda p, q: (p * (p / q).log()).mean()),
        ),
    ),
    Exercise(
        "exact_reverse",
        1,
        "data, step",
        "The reverse of one encoder step, (K, K), reverse[z_1, z_0] = p(z_0 | z_1), by Bayes. data: (K,), p(z_0). "
        "step: (K, K), step[z_0, z_1] = p_enc(z_1 | z_0)",
        lambda draw: (lambda k: (draw.distribution(k), draw.distribution(k, k)))(draw.whole(2, 5)),
        _exact_reverse,
        (
            Mistake("the rows do not sum to one: divide by p(z_1)", lambda data, step: (data[:, None] * step).T),
            Mistake("it is transposed: z_1 comes first", lambda data, step: _exact_reverse(data, step).T),
            Mistake(
                "p(z_0) is missing: Bayes weighs by the data",
                lambda data, step: step.T / step.T.sum(1, keepdim=True),
            ),
            Mistake("this is the encoder's step, transposed: Bayes is not used", lambda data, step: step.T),
        ),
    ),
    Exercise(
        "bayes_encoder",
        4,
        "log_posterior, log_marginal, log_marginal_prev",
        "From E3 to E4: ln p_enc(z_l | z_{l-1}, z_0) from ln p_enc(z_{l-1} | z_l, z_0), ln p_enc(z_l | z_0) and "
        "ln p_enc(z_{l-1} | z_0), each (B,)",
        _marginal_logs,
        lambda posterior, now, before: posterior + now - before,
        (
            Mistake(
                "the two marginals are swapped: p(z_l | z_0) multiplies, p(z_{l-1} | z_0) divides",
                lambda posterior, now, before: posterior - now + before,
            ),
            Mistake(
                "both marginals multiply: one of them divides", lambda posterior, now, before: posterior + now + before
            ),
            Mistake("p(z_{l-1} | z_0) is missing: it divides", lambda posterior, now, before: posterior + now),
            Mistake("p(z_l | z_0) is missing: it multiplies", lambda posterior, now, before: posterior - before),
        ),
    ),
    Exercise(
        "top_kl",
        4,
        "x, logsnr",
        "The first term of E6: KL(p_enc(z_L | x) ‖ N(0, I)) of each example, nats, (B,). x: (B, D). logsnr: of L, ()",
        lambda draw: (draw.normal(3, 4), draw.uniform(-6, 3)),
        lambda x, logsnr: forward.marginal(x, logsnr).kl(
            Gaussian(torch.zeros_like(x), torch.ones(1, 1, dtype=x.dtype))
        ),
        (
            Mistake(
                "the mean is a·x, not x: the signal scale is missing",
                lambda x, logsnr: _top_kl(x, torch.sigmoid(-logsnr), 1.0),
            ),
            Mistake(
                "the divergence is taken the other way round: from the encoder to N(0, I)",
                lambda x, logsnr: Gaussian(torch.zeros_like(x), torch.ones(1, 1, dtype=x.dtype)).kl(
                    forward.marginal(x, logsnr)
                ),
            ),
            Mistake(
                "it is a mean over dimensions: nats of an example are their sum",
                lambda x, logsnr: _top_kl(x, torch.sigmoid(-logsnr), torch.sigmoid(logsnr).sqrt()) / x.shape[1],
            ),
            Mistake(
                "the variance enters as its square root: s is a standard deviation, s² the variance",
                lambda x, logsnr: _top_kl(x, torch.sigmoid(-logsnr).sqrt(), torch.sigmoid(logsnr).sqrt()),
            ),
            Mistake(
                "the logarithm of the variance, −ln s² in each dimension, is missing",
                lambda x, logsnr: 0.5 * (torch.sigmoid(-logsnr) + torch.sigmoid(logsnr) * x**2 - 1).sum(1),
            ),
        ),
    ),
    Exercise(
        "level_kl",
        4,
        "x, x_hat, logsnr_prev, logsnr",
        "A middle term of E6 where the prior has the variance β̃: KL(q(z_{l-1}|z_l, x) ‖ p_pri(z_{l-1}|z_l)) of "
        "each example, nats, (B,), for the network's estimate x_hat. x, x_hat: (B, D). log-SNRs: ()",
        lambda draw: (draw.normal(3, 4), draw.normal(3, 4), *draw.falling_logsnr()),
        lambda x, x_hat, before, now: _level_kl(x, x_hat, before, now),
        (
            Mistake(
                "the difference of signal-to-noise ratios has the wrong sign: γ falls from level to level",
                lambda x, x_hat, before, now: -_level_kl(x, x_hat, before, now),
            ),
            Mistake(
                "it uses log-SNRs: the weight is a difference of the ratios γ = e^λ themselves",
                lambda x, x_hat, before, now: 0.5 * (before - now) * ((x - x_hat) ** 2).sum(1),
            ),
            Mistake(
                "it is a mean over dimensions: nats of an example are their sum",
                lambda x, x_hat, before, now: _level_kl(x, x_hat, before, now) / x.shape[1],
            ),
            Mistake(
                "the error is not squared",
                lambda x, x_hat, before, now: 0.5 * (before.exp() - now.exp()) * (x - x_hat).abs().sum(1),
            ),
        ),
    ),
    Exercise(
        "gaussian_kl",
        4,
        "mean, variance, other_mean, other_variance",
        "KL of Gaussians with diagonal covariance, KL(N(mean, variance) ‖ N(other_mean, other_variance)), nats, (B,). "
        "All (B, D)",
        lambda draw: (draw.normal(3, 4), draw.uniform(0.2, 3, 3, 4), draw.normal(3, 4), draw.uniform(0.2, 3, 3, 4)),
        lambda m, v, n, w: Gaussian(m, v).kl(Gaussian(n, w)),
        (
            Mistake("the two Gaussians are swapped", lambda m, v, n, w: Gaussian(n, w).kl(Gaussian(m, v))),
            Mistake(
                "the logarithm of the variances' ratio is missing",
                lambda m, v, n, w: 0.5 * ((v + (m - n) ** 2) / w - 1).sum(1),
            ),
            Mistake(
                "the −1 of every dimension is missing",
                lambda m, v, n, w: 0.5 * ((v + (m - n) ** 2) / w + (w / v).log()).sum(1),
            ),
            Mistake(
                "the distance of the means is divided by the first variance: it is the second's",
                lambda m, v, n, w: 0.5 * (v / w + (m - n) ** 2 / v - 1 + (w / v).log()).sum(1),
            ),
        ),
    ),
)


def _top_kl(x: Tensor, variance: Tensor, signal: Tensor | float) -> Tensor:
    return 0.5 * (variance + (signal * x) ** 2 - 1 - variance.log()).sum(1)


def _level_kl(x: Tensor, x_hat: Tensor, logsnr_prev: Tensor, logsnr: Tensor) -> Tensor:
    return 0.5 * (logsnr_prev.exp() - logsnr.exp()) * ((x - x_hat) ** 2).sum(1)
