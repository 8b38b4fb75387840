"""Where every random number comes from: generators keyed by a seed and the name of what is drawn.

A draw never depends on the batch it is made in, the device it is used on, or what was drawn before it:
its key is (seed, purpose, example, level or step), and the numbers are made on the CPU.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from markovae.errors import UserError
from markovae.strict_json import shown

Key = int | str


def whole_seed(seed: Any) -> int:
    """A seed as a whole number. Raises: UserError for anything else, which would be cut to one."""
    try:
        return operator.index(seed)
    except (TypeError, ValueError):
        raise UserError(f"seed={shown(seed)} must be a whole number") from None


def generator(seed: int, *key: Key) -> torch.Generator:
    """A CPU generator that is a pure function of its seed and key: equal keys, equal draws.

    Keys are hashed to 64 bits, of which torch's CPU generator keeps 32: among N streams about N²/2³³ pairs coincide.

    Args:
        seed: any integer.
        key: what the stream is for, for instance ("train", example, step).
    """
    text = repr((whole_seed(seed), *(part if isinstance(part, str) else int(part) for part in key))).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


@final
class Streams:
    """One generator an example, keyed by (seed, purpose, global index): the batch leaves no trace in the draws.

    Args:
        seed: any integer.
        purpose: what is drawn, so that two uses of one seed never share numbers.
        indices: global index of each example of the batch, length B.
        key: further parts of the key, common to the batch (a level, a step).
    """

    def __init__(self, seed: int, purpose: str, indices: Sequence[int], *key: Key) -> None:
        self.seed, self.purpose, self.key = whole_seed(seed), purpose, key
        self.indices = tuple(int(i) for i in indices)
        self._generators = [generator(seed, purpose, i, *key) for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Sequence[int]) -> Streams:
        """The streams at `rows`, as far as they have been drawn from: what is drawn here moves these on as well."""
        taken = Streams(self.seed, self.purpose, (), *self.key)
        taken.indices = tuple(self.indices[row] for row in rows)
        taken._generators = [self._generators[row] for row in rows]
        return taken

    def check(self, batch: int) -> None:
        """Refuse, with a ValueError, a batch of another length."""
        if len(self) != batch:
            raise ValueError(f"{len(self)} streams for a batch of {batch}: give one stream an example")

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal draws, (B, *shape), on the CPU; each example's from its own stream."""
        draws = torch.empty((len(self), *shape), dtype=dtype)
        for row, generator in zip(draws, self._generators, strict=True):  # in place: half the time of a stack of draws
            row.normal_(generator=generator)
        return draws

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform draws in [0, 1), (B, *shape), float64, on the CPU."""
        draws = torch.empty((len(self), *shape), dtype=torch.float64)
        for row, generator in zip(draws, self._generators, strict=True):
            row.uniform_(generator=generator)
        return draws


Source = torch.Generator | Streams


def normal_like(z: Tensor, source: Source) -> Tensor:
    """Standard normal noise with the shape, type and device of `z`, (B, *D).

    Raises:
        ValueError: when per-example streams do not match the batch.
    """
    if isinstance(source, Streams):
        source.check(z.shape[0])
        noise = source.normal(z.shape[1:], z.dtype)
    else:
        noise = torch.randn(z.shape, generator=source, dtype=z.dtype, device=source.device)
    return noise.to(z.device)


def uniform(batch: int, source: Source) -> Tensor:
    """One uniform number in [0, 1) an example, (B,), float64, on the CPU.

    Raises:
        ValueError: when per-example streams do not match the batch.
    """
    if isinstance(source, Streams):
        source.check(batch)
        return source.uniform(())
    return torch.rand(batch, generator=source, dtype=torch.float64, device=source.device).cpu()


def stratified(batch: int, source: torch.Generator | None) -> Tensor:
    """Low-discrepancy uniforms: (i + U)/B for i = 0…B−1 with one common shift U, (B,), float64.

    Each is uniform on [0, 1) by itself once the positions are assigned to examples drawn at random; together
    they fill the interval evenly, so an average over them has less variance than over independent draws.
    Source: Kingma et al. 2021, appendix I.1.
    """
    shift = torch.rand((), generator=source, dtype=torch.float64, device=None if source is None else source.device)
    return (torch.arange(batch, dtype=torch.float64) + shift.cpu()) / batch
