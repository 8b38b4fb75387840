r"""A Markovian VAE over a small alphabet, where H(z_0) and the whole bound are sums that can be written out.

z_ℓ is one of K letters. The encoder's step is a stochastic matrix, P_enc(z_ℓ=j|z_{ℓ−1}=i) = Q_ℓ[i, j]; the prior's
too, P_pri(z_{ℓ−1}=i|z_ℓ=j) = R_ℓ[j, i].
Source: Austin et al. 2021, section 3 (the uniform and absorbing transitions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from markovae.diffusion.markovian_vae import MarkovianVAE, checked_level
from markovae.randomness import Source, uniform

MAX_PATHS = 1 << 22


@dataclass(frozen=True)
class Categorical:
    """Probabilities of K letters, one set for each example of the batch.

    Args:
        probability: ≥ 0, rows summing to one, (B, K); promoted to float64.
    Raises:
        ValueError: for probabilities that are negative or do not sum to one.
    """

    probability: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", checked_probabilities(self.probability))

    def sample(self, source: Source) -> Tensor:
        """A letter by inversion, (B,), int64; letters of probability zero are never drawn."""
        edges = self.probability.cumsum(1)
        u = uniform(len(edges), source).to(edges.device).unsqueeze(1) * edges[:, -1:]
        letters = torch.arange(edges.shape[1], device=edges.device)
        last = torch.where(self.probability > 0, letters, 0).amax(1)
        return torch.minimum((edges <= u).sum(1), last)

    def log_prob(self, x: Tensor) -> Tensor:
        """ln P(x) of the letters x, (B,) int64 -> (B,), nats, float64."""
        return self.probability.gather(1, x.unsqueeze(1))[:, 0].log()

    def kl(self, other: Categorical) -> Tensor:
        """KL(self ‖ other) = Σ p ln(p/p') in nats, (B,), float64; infinite where other excludes a letter of self."""
        p, q = self.probability, other.probability
        return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


@final
class CategoricalChain(MarkovianVAE):
    """Letters that are replaced step by step, and a prior that puts them back.

    Args:
        transitions: Q_1…Q_L, (L, K, K), rows summing to one.
        top: P_pri(z_L), (K,).
        reverse: R_1…R_L, (L, K, K), rows summing to one.
    Raises:
        ValueError: for encoder and prior of different lengths or alphabets, or rows that do not sum to one.
    """

    transitions: Tensor
    top: Tensor
    reverse: Tensor

    def __init__(self, transitions: Tensor, top: Tensor, reverse: Tensor) -> None:
        super().__init__()
        if transitions.ndim != 3 or len(transitions) < 1 or transitions.shape[1] != transitions.shape[2]:
            raise ValueError(f"transitions of shape {tuple(transitions.shape)} must be (L, K, K) with L at least 1")
        if reverse.shape != transitions.shape or top.shape != transitions.shape[2:]:
            raise ValueError(
                f"the prior's steps {tuple(reverse.shape)} and top {tuple(top.shape)} do not match the encoder's "
                f"{tuple(transitions.shape)}: both chains have the same levels and letters"
            )
        self.num_levels = len(transitions)
        self.register_buffer("transitions", checked_probabilities(transitions))
        self.register_buffer("top", checked_probabilities(top))
        self.register_buffer("reverse", checked_probabilities(reverse))

    @property
    def letters(self) -> int:
        """K, the size of the alphabet."""
        return len(self.top)

    def encoder_step(self, z_prev: Tensor, level: int) -> Categorical:
        """The row of Q_ℓ at each letter."""
        return Categorical(self.transitions[checked_level(level, self) - 1][self._letters(z_prev)])

    def prior_top(self, batch: int) -> Categorical:
        """P_pri(z_L)."""
        return Categorical(self.top.expand(batch, -1))

    def prior_step(self, z: Tensor, level: int) -> Categorical:
        """The row of R_ℓ at each letter."""
        return Categorical(self.reverse[checked_level(level, self) - 1][self._letters(z)])

    def marginal(self, x: Tensor, level: int) -> Categorical:
        """P_enc(z_ℓ|z_0): the row of Q_1⋯Q_ℓ."""
        return Categorical(cumulative(self.transitions, checked_level(level, self))[self._letters(x)])

    def posterior(self, x: Tensor, z: Tensor, level: int) -> Categorical:
        """P_enc(z_{ℓ−1}|z_ℓ,z_0) ∝ Q_ℓ[z_{ℓ−1}, z_ℓ] (Q_1⋯Q_{ℓ−1})[z_0, z_{ℓ−1}].

        Raises:
            ValueError: for letters z that the encoder never reaches from x, or a level outside 2…L.
        """
        step = self.transitions[checked_level(level, self, 2) - 1]
        joint = step[:, self._letters(z)].T * cumulative(self.transitions, level - 1)[self._letters(x)]
        total = joint.sum(1, keepdim=True)
        if bool((total == 0).any()):
            raise ValueError(f"a letter at level {level} cannot be reached from its z_0: the posterior does not exist")
        return Categorical(joint / total)

    def paths(self, data: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every path z_0…z_L the encoder can take and its probability p(z_0) P_enc(z_1…z_L|z_0): (L+1) × (N,), (N,).

        Raises:
            ValueError: where there are more than 4 million, or data that are no distribution of the letters.
        """
        data = self._level_distribution(data)
        if self.letters ** (self.num_levels + 1) > MAX_PATHS:
            raise ValueError(
                f"{self.letters} letters at {self.num_levels + 1} levels make more than {MAX_PATHS} paths: use fewer"
            )
        path = [
            z.flatten() for z in torch.meshgrid([torch.arange(self.letters)] * (self.num_levels + 1), indexing="ij")
        ]
        weight = data[path[0]]
        for level in range(1, self.num_levels + 1):
            weight = weight * self.transitions[level - 1][path[level - 1], path[level]]
        taken = weight > 0
        return [z[taken] for z in path], weight[taken]

    def path_kl(self, data: Tensor) -> float:
        r"""The divergence of the two joint distributions of z_0…z_L, split along the reverse chain, nats.

        KL(p(z_L) ‖ P_pri(z_L)) + Σ_ℓ E_{p(z_ℓ)} KL(p(z_{ℓ−1}|z_ℓ) ‖ P_pri(z_{ℓ−1}|z_ℓ)), p the encoder run on the data.
        It is what the bound exceeds H(z_0) by.
        """
        exact, distribution = (
            exact_categorical(self._level_distribution(data), self.transitions),
            self._level_distribution(data),
        )
        total = 0.0
        for level in range(1, self.num_levels + 1):
            distribution = distribution @ self.transitions[level - 1]
            rows = Categorical(exact.reverse[level - 1]).kl(Categorical(self.reverse[level - 1]))
            total += float(torch.where(distribution > 0, distribution * rows, 0.0).sum())
        return total + float(exact.prior_top(1).kl(self.prior_top(1)))

    def _level_distribution(self, data: Tensor) -> Tensor:
        if data.shape != self.top.shape:
            raise ValueError(f"data over {tuple(data.shape)} letters: this chain has {self.letters}")
        return checked_probabilities(data)

    def _letters(self, z: Tensor) -> Tensor:
        if z.is_floating_point() or z.ndim != 1:
            raise ValueError(f"letters of type {z.dtype} and shape {tuple(z.shape)} must be integers, (B,)")
        if len(z) and not 0 <= int(z.min()) <= int(z.max()) < self.letters:
            raise ValueError(f"letters {int(z.min())}…{int(z.max())} must lie in 0…{self.letters - 1}")
        return z.long()  # bytes would be taken for a mask


def exact_categorical(data: Tensor, transitions: Tensor) -> CategoricalChain:
    """The chain whose prior is the true reverse of its encoder on these data: its bound equals H(z_0).

    R_ℓ[j, i] = p(z_{ℓ−1}=i) Q_ℓ[i, j] / p(z_ℓ=j); letters that are never reached get the uniform row.

    Args:
        data: p(z_0), (K,).
        transitions: Q_1…Q_L, (L, K, K).
    Raises:
        ValueError: for distributions that do not sum to one or are of different alphabets.
    """
    if transitions.ndim != 3 or transitions.shape[1:] != (len(data), len(data)):
        raise ValueError(f"transitions of shape {tuple(transitions.shape)} must be (L, K, K) with K={len(data)}")
    distribution, rows = checked_probabilities(data), []
    for step in checked_probabilities(transitions):
        joint = (distribution[:, None] * step).T
        distribution = joint.sum(1)
        reached = distribution[:, None] > 0
        rows.append(
            torch.where(reached, joint / torch.where(reached, distribution[:, None], 1.0), 1 / len(distribution))
        )
    return CategoricalChain(transitions, distribution, torch.stack(rows))


def categorical_entropy(data: Tensor) -> float:
    """H(z_0) = −Σ p ln p in nats, of p(z_0), (K,)."""
    distribution = checked_probabilities(data)
    return -float(torch.xlogy(distribution, distribution).sum())


def uniform_transition(letters: int, rate: float) -> Tensor:
    """(1 − β) I + β/K 11ᵀ, (K, K): with probability β a letter is drawn afresh.

    Raises:
        ValueError: for fewer than 2 letters or a rate outside [0, 1].
    """
    _check_rate(letters, rate)
    return (1 - rate) * torch.eye(letters, dtype=torch.float64) + rate / letters


def absorbing_transition(letters: int, rate: float) -> Tensor:
    """(K, K): with probability β a letter becomes the last one, which stays.

    Raises:
        ValueError: for fewer than 2 letters or a rate outside [0, 1].
    """
    _check_rate(letters, rate)
    matrix = (1 - rate) * torch.eye(letters, dtype=torch.float64)
    matrix[:, -1] += rate
    return matrix


def cumulative(transitions: Tensor, level: int) -> Tensor:
    """Q_1⋯Q_ℓ, (K, K); the identity at ℓ = 0."""
    product = torch.eye(transitions.shape[1], dtype=torch.float64, device=transitions.device)
    for step in transitions[:level]:
        product = product @ step
    return product


def checked_probabilities(rows: Tensor) -> Tensor:
    """Probabilities in float64, their last dimension scaled to sum to one beyond what their own type could hold.

    Raises:
        ValueError: where one is negative, or a sum is off one by more than 1e-9 (1e-6 in single precision).
    """
    slack = 1e-9 if rows.dtype == torch.float64 else 1e-6
    double = rows.double()
    if bool((double < 0).any()):
        raise ValueError(f"a probability is {float(double.min()):g}: they must be >= 0 and sum to 1")
    total = double.sum(-1, keepdim=True)
    off = float((total - 1).abs().max()) if double.numel() else 0.0
    if not off <= slack:
        raise ValueError(
            f"probabilities sum to one only within {off:g}: they must be >= 0 and sum to 1 within {slack:g}"
        )
    return double if rows.dtype == torch.float64 else double / total


def _check_rate(letters: int, rate: float) -> None:
    if letters < 2:
        raise ValueError(f"letters={letters} must be at least 2: one letter carries nothing")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate!r} must lie in [0, 1]: it is a probability")
