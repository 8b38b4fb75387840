"""`check`: compare a student's function with the library's own on random inputs, and say in words what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import Tensor

from markovae.course.bound_exercises import BOUND_EXERCISES
from markovae.course.chain_exercises import CHAIN_EXERCISES
from markovae.course.exercise import Answer, Exercise
from markovae.course.level_exercises import LEVEL_EXERCISES
from markovae.course.measuring_exercises import MEASURING_EXERCISES
from markovae.course.network_exercises import NETWORK_EXERCISES
from markovae.course.sampling_exercises import SAMPLING_EXERCISES
from markovae.errors import UserError

TRIALS = 16
TOLERANCE = 1e-9  # of the largest number of the right answer


@dataclass(frozen=True)
class Mark:
    """What a check found; true where the answer is right.

    Args:
        name: of the exercise.
        passed: right on every trial.
        words: what was found, a sentence or two.
    """

    name: str
    passed: bool
    words: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{'passed' if self.passed else 'not yet'}: {self.name}: {self.words}"


def exercises() -> tuple[Exercise, ...]:
    """Every exercise, in the order of the course."""
    together = (
        *BOUND_EXERCISES,
        *CHAIN_EXERCISES,
        *LEVEL_EXERCISES,
        *NETWORK_EXERCISES,
        *MEASURING_EXERCISES,
        *SAMPLING_EXERCISES,
    )
    return tuple(sorted(together, key=lambda exercise: exercise.chapter))


def exercise_named(name: str) -> Exercise:
    """The exercise of this name, or of this number in `exercises()`, counted from 1.

    Raises:
        UserError: where there is none.
    """
    known = exercises()
    if name.isdecimal() and name.isascii() and len(name) < 9:
        if 1 <= int(name) <= len(known):
            return known[int(name) - 1]
        raise UserError(f"exercise {name} must be one of 1…{len(known)}")
    found = next((exercise for exercise in known if exercise.name == name), None)
    if found is None:
        close = get_close_matches(name[:80], [exercise.name for exercise in known], 1, 0)[0]
        raise UserError(
            f"unknown exercise {name[:80]!r}: did you mean {close}? `markovae verify --exercise all` lists them"
        )
    return found


def check(answer: Answer, name: str | None = None) -> Mark:
    """Compare an answer with the library's own on random inputs.

    Args:
        answer: the function; its name is the exercise's, unless `name` says otherwise.
        name: of the exercise, or its number.
    Returns: a `Mark`, true where the answer is right; printed, it says what is wrong.
    Raises:
        UserError: for a name that no exercise has.

    Example:
        check(lambda logsnr: logsnr.exp(), "snr")
    """
    exercise = exercise_named(getattr(answer, "__name__", "") if name is None else str(name))
    trials, expected = _right_answers(exercise)
    given = []
    for inputs, right in zip(trials, expected, strict=True):
        try:
            out = answer(*_copied(inputs))
        except Exception as error:  # whatever a student's code raises is an answer to be told of
            return Mark(exercise.name, False, f"it raises {type(error).__name__}: {error}")
        if (fault := _not_comparable(out, right)) is not None:
            return Mark(exercise.name, False, fault)
        given.append(_tensor(out))
    right_ones = [_equal(a, b) for a, b in zip(given, expected, strict=True)]
    if all(right_ones):
        return Mark(exercise.name, True, f"equal to the library's own on {TRIALS} random inputs")
    return Mark(exercise.name, False, _diagnosis(exercise, trials, given, expected, right_ones))


@cache
def _right_answers(exercise: Exercise) -> tuple[list[tuple[Any, ...]], list[Tensor]]:
    """(the arguments, the library's own answers) of every trial."""
    trials = [exercise.inputs(trial) for trial in range(TRIALS)]
    return trials, [_tensor(exercise.answer(*_copied(inputs))) for inputs in trials]


def _copied(inputs: Sequence[Any]) -> list[Any]:
    """An answer may write into its arguments: it gets its own."""
    return [value.clone() if isinstance(value, Tensor) else value for value in inputs]


def _tensor(value: Any) -> Tensor:
    if isinstance(value, tuple | list):
        return torch.stack([_tensor(part).reshape(()) for part in value])
    return torch.as_tensor(value, dtype=torch.float64).detach()


def _not_comparable(out: Any, right: Tensor) -> str | None:
    if out is None:
        return "it returns None: is the `return` missing?"
    try:
        got = _tensor(out)
    except (TypeError, ValueError, RuntimeError):
        return f"it returns {type(out).__name__}: a number or a tensor is expected"
    if got.shape != right.shape:
        return f"it returns shape {tuple(got.shape)}: {tuple(right.shape)} is expected"
    if got.isnan().any() and not right.isnan().any():
        return "it returns NaN for some inputs"
    return None


def _equal(got: Tensor, right: Tensor) -> bool:
    finite = right.isfinite()
    if not torch.equal(got[~finite], right[~finite]):
        return False
    size = float(right[finite].abs().max()) if finite.any() else 0.0
    return bool(((got - right)[finite].abs() <= TOLERANCE * size).all())


def _diagnosis(
    exercise: Exercise, trials: Sequence[Any], given: list[Tensor], expected: list[Tensor], right_ones: list[bool]
) -> str:
    for mistake in exercise.mistakes:
        wrong = [_tensor(mistake.answer(*_copied(inputs))) for inputs in trials]
        if _same(given, wrong):
            return mistake.words
    for words, change in _CHANGES:
        if _same(given, [change(right) for right in expected]):
            return words
    ratio = _constant_ratio(given, expected)
    if ratio is not None:
        return f"every number is {ratio:.6g} times the right one{_known_ratio(ratio)}"
    offset = [a - b for a, b in zip(given, expected, strict=True)]
    if _same(offset, [torch.full_like(value, float(offset[0].flatten()[0])) for value in offset]):
        return f"every number is {float(offset[0].flatten()[0]):+.6g} off: a constant is missing or too many"
    first = right_ones.index(False)
    seen = "" if not any(right_ones) else f"right for {sum(right_ones)} of {TRIALS} inputs; "
    close = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(given, expected, strict=True))
    if close < 1e-3:
        return f"{seen}nearly right: off by up to {close:.1g} of the largest number. Are digits lost by cancellation?"
    where = int((given[first] - expected[first]).abs().flatten().argmax())
    got, right = float(given[first].flatten()[where]), float(expected[first].flatten()[where])
    return f"{seen}for {_shown(exercise, trials[first])} it gives {got:.6g} where {right:.6g} is right"


def _same(given: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(a.shape == b.shape and _equal(a, b) for a, b in zip(given, others, strict=True))


_CHANGES: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("the sign is the other way round", lambda right: -right),
    ("it is the square of the right answer: a square root is missing", lambda right: right**2),
    ("it is the square root of the right answer: a square is missing", lambda right: right.sqrt()),
    ("it is one over the right answer", lambda right: 1 / right),
    ("it is the exponential of the right answer: a logarithm is missing", lambda right: right.exp()),
    ("it is the logarithm of the right answer", lambda right: right.log()),
    ("it is one minus the right answer", lambda right: 1 - right),
)


def _constant_ratio(given: Sequence[Tensor], expected: Sequence[Tensor]) -> float | None:
    pairs = [(a[b != 0], b[b != 0]) for a, b in zip(given, expected, strict=True)]
    ratios = torch.cat([(a / b).flatten() for a, b in pairs])
    if not len(ratios) or not ratios.isfinite().all() or float(ratios[0]) == 0:
        return None
    spread = float((ratios - ratios[0]).abs().max())
    return float(ratios[0]) if spread <= 1e-9 * abs(float(ratios[0])) else None


def _known_ratio(ratio: float) -> str:
    names = {
        math.log(2): "that is ln 2: bits and nats are confused",
        1 / math.log(2): "that is 1/ln 2: bits and nats are confused",
        2.0: "a half is missing",
        0.5: "a half is too many",
        math.sqrt(2): "that is √2",
        1 / math.sqrt(2): "that is 1/√2",
    }
    return next((f" ({words})" for value, words in names.items() if math.isclose(ratio, value, rel_tol=1e-9)), "")


def _shown(exercise: Exercise, inputs: Sequence[Any]) -> str:
    names = [argument.split(":")[0].split("=")[0].strip() for argument in exercise.arguments.split(",")]
    return ", ".join(f"{name}={_brief(value)}" for name, value in zip(names, inputs, strict=True))


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{float(value):.4g}" if value.dim() == 0 else f"({'×'.join(map(str, value.shape))} tensor)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
