"""A stack of bits that numbers are pushed to and popped from: an ANS coder whose popped bits look uniform.

Bits-back coding draws latents by popping. What a prior that is a little wrong has pushed does not look random, and
latents drawn from it would not be those of the bound. So the top of the stack is combined with a keyed stream of
pseudo-random words before a latent is drawn, and again, which undoes it, when the decoder has given the bits back.

Source: Duda 2009 (ANS); Townsend et al. 2019 (bits back with ANS).
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from markovae.compression.lattice import IntegerDistribution
from markovae.errors import UserError

MOST_DOUBLINGS = 6
FAR = 1 << 24  # whole numbers beyond every window are written plainly, within this range
MOST_CORRECTIONS = 255
LIVE = 1 << 12  # words of the coder; older ones lie beneath it


class EmptyStackError(Exception):
    """More bits were popped than the stack held."""


@final
class BitStack:
    """Whole numbers under distributions, on one stack: what is pushed last is popped first.

    Args:
        words: uint32, the top last.
        borrowed: True for bits of any kind, to be popped first and given back; False
            for what another stack's `words` gave.
    Raises:
        UserError: without the package constriction.
    """

    def __init__(self, words: Any, borrowed: bool) -> None:
        try:
            import constriction
        except ImportError:
            raise UserError("compression needs the package constriction: pip install 'markovae[codec]'") from None
        self._make, self._models = constriction.stream.stack.AnsCoder, constriction.stream.model
        words = np.ascontiguousarray(words, np.uint32)
        if not borrowed and (len(words) < 2 or not words[-1]):
            raise EmptyStackError
        self._coder = self._make(words, seal=borrowed)
        self._beneath: list[Any] = []
        # A window is nearly always the first one; each doubling is as rare again.
        self._reach = self._models.Categorical(_falling(MOST_DOUBLINGS + 2, 2.0**-12), perfect=False)
        self._few = self._models.Categorical(_falling(MOST_CORRECTIONS + 1, 2.0**-6), perfect=False)
        self._each = self._models.Categorical(perfect=False)
        self.lowest = len(self)

    def __len__(self) -> int:
        """Words on the stack."""
        return sum(map(len, self._beneath)) + int(self._coder.num_words())

    def words(self, borrowed: bool) -> Any:
        """All that is on the stack, uint32; borrowed: the bits that it began with, once all else is popped."""
        self._raise(LIVE, everything=True)
        return self._coder.get_compressed(unseal=borrowed)

    # -- numbers under distributions, and noise ------------------------------------------------------------------

    def push(self, pmf: IntegerDistribution, values: Any, mean: Any) -> None:
        """Push whole numbers, of the shape of `mean`.

        Raises:
            UserError: for a number so far from its mean that no window holds it.
        """
        distance, doublings = np.abs(values.ravel() - pmf.centres(mean.ravel())), 0
        while doublings <= MOST_DOUBLINGS and int(distance.max(initial=0)) > pmf.half(doublings):
            doublings += 1
        if doublings <= MOST_DOUBLINGS:
            self._push(pmf, values, mean, doublings)
        else:
            shifted = values.ravel() - pmf.centres(mean.ravel()) + FAR // 2
            if not 0 <= int(shifted.min()) <= int(shifted.max()) < FAR:
                raise UserError(
                    "a latent lies too far from what the model expects to be coded: its weights are damaged"
                )
            self._coder.encode_reverse(shifted.astype(np.int32), self._models.Uniform(FAR))
        self._coder.encode_reverse(np.array([doublings], np.int32), self._reach)
        self._lower()

    def pop(self, pmf: IntegerDistribution, mean: Any) -> Any:
        """What `push` was given, int64.

        Raises:
            EmptyStackError: where the stack ran out.
        """
        self._raise(mean.size + LIVE // 2)  # no number takes more than a word
        doublings = int(self._popped(1, self._reach)[0])
        if doublings <= MOST_DOUBLINGS:
            return self._pop(pmf, mean, doublings)
        shifted = self._popped(mean.size, self._models.Uniform(FAR))
        return (pmf.centres(mean.ravel()) + shifted - FAR // 2).reshape(mean.shape)

    def pop_noise(self, pmf: IntegerDistribution, mean: Any, key: tuple[int, int]) -> Any:
        """Draw whole numbers by popping them; `key` names the draw, so that none uses another's pseudo-random words.

        Raises:
            EmptyStackError: where the stack ran out.
        """
        self._whiten(mean.size, key)
        return self._pop(pmf, mean, 0)

    def push_noise(self, pmf: IntegerDistribution, values: Any, mean: Any, key: tuple[int, int]) -> None:
        """Give the bits back that `pop_noise` took."""
        if int(np.abs(values.ravel() - pmf.centres(mean.ravel())).max(initial=0)) > pmf.half(0):
            raise EmptyStackError  # no encoder drew this: the file is damaged
        self._push(pmf, values, mean, 0)
        self._whiten(mean.size, key)
        self._lower()

    # -- corrections ---------------------------------------------------------------------------------------------

    def push_corrections(self, positions: Any, parities: Any, size: int) -> None:
        """Push which of `size` numbers lie near a rounding boundary, and the side each was rounded to.

        Raises:
            UserError: where they are too many to be an accident.
        """
        if len(positions) > MOST_CORRECTIONS:
            raise UserError("portable=True cannot code this model: its outputs cluster at rounding boundaries")
        if len(positions):
            both = (2 * positions + parities).astype(np.int32)
            self._coder.encode_reverse(both, self._models.Uniform(2 * size))
        self._coder.encode_reverse(np.array([len(positions)], np.int32), self._few)

    def pop_corrections(self, size: int) -> tuple[Any, Any]:
        """(positions, parities): what `push_corrections` was given."""
        count = int(self._popped(1, self._few)[0])
        both = self._popped(count, self._models.Uniform(2 * size)) if count else np.zeros(0, np.int64)
        return both // 2, both % 2

    # -- the coder -----------------------------------------------------------------------------------------------

    def _push(self, pmf: IntegerDistribution, values: Any, mean: Any, doublings: int) -> None:
        flat = np.ascontiguousarray(mean.ravel(), np.float64)
        symbols = (values.ravel() - pmf.centres(flat) + pmf.half(doublings)).astype(np.int32)
        for piece, chances in reversed(list(pmf.pieces(flat, doublings))):
            self._coder.encode_reverse(symbols[piece], self._each, np.ascontiguousarray(chances))

    def _pop(self, pmf: IntegerDistribution, mean: Any, doublings: int) -> Any:
        flat = np.ascontiguousarray(mean.ravel(), np.float64)
        found = [
            self._popped(None, self._each, np.ascontiguousarray(chances)) for _, chances in pmf.pieces(flat, doublings)
        ]
        return (pmf.centres(flat) - pmf.half(doublings) + np.concatenate(found)).reshape(mean.shape)

    def _popped(self, count: int | None, *model: Any) -> Any:
        found = self._coder.decode(*model) if count is None else self._coder.decode(*model, count)
        if self._coder.num_words() < 2:  # the coder's state is no longer full: it has run dry
            raise EmptyStackError
        self.lowest = min(self.lowest, len(self))
        return np.asarray(found, np.int64)

    def _whiten(self, size: int, key: tuple[int, int]) -> None:
        """Combine the top of the stack with pseudo-random words, or undo that; the last word must not become 0."""
        count = size // 2 + 64  # 16 bits a number, more than a draw takes
        self._raise(count + LIVE // 2)
        words = self._coder.get_compressed(unseal=False)
        stream = np.random.Philox(key=np.array(key, np.uint64)).random_raw(count // 2 + 1).view("<u4").astype(np.uint32)
        top = words[:-1][-count:]
        top[::-1] ^= stream[: len(top)]
        self._coder = self._make(words, seal=False)

    def _raise(self, count: int, *, everything: bool = False) -> None:
        """Bring words from beneath, so that the coder has `count` or all there are."""
        while self._beneath and (everything or self._coder.num_words() < count):
            words = self._coder.get_compressed(unseal=False)
            self._coder = self._make(np.concatenate([self._beneath.pop(), words]), seal=False)

    def _lower(self) -> None:
        """Put old words beneath, so that a long stack costs no copies."""
        if self._coder.num_words() > 4 * LIVE:
            words = self._coder.get_compressed(unseal=False)
            self._beneath.append(words[:-LIVE])
            self._coder = self._make(words[-LIVE:], seal=False)


def _falling(count: int, share: float) -> Any:
    """Probabilities of 0, 1, 2, …, each `share` of the one before."""
    return np.array([max(share**n, 2.0**-40) for n in range(count)])
