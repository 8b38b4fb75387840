"""Errors of one per cent, planted wherever a formula of the library is used."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from markovae.diffusion.target import TARGETS, Target

Change = Callable[[Any], Any]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Change], None]:
    """`_plant`, taken back after the test."""
    return lambda where, change: _plant(monkeypatch, where, change)


def _plant(monkeypatch: pytest.MonkeyPatch, where: str, change: Change) -> None:
    """Pass every result of `markovae.<where>` through `change`: a function in every module that uses it, or a method.

    Where a target's pair or spread is meant, `where` is "target.NAME.pair" or "target.NAME.spread".
    """
    parts = where.split(".")
    if parts[0] == "target" and parts[-1] in ("pair", "spread"):
        _plant_target(monkeypatch, parts[1], parts[2], change)
        return
    owner, name = _resolve(parts)
    if isinstance(owner, type):
        right = vars(owner)[name]
        if isinstance(right, property):
            monkeypatch.setattr(owner, name, property(lambda self: change(right.fget(self))))
        else:
            monkeypatch.setattr(owner, name, lambda *a, **k: change(right(*a, **k)))
        return
    right = getattr(owner, name)
    _swap(monkeypatch, right, lambda *a, **k: change(right(*a, **k)))


def _resolve(parts: list[str]) -> tuple[Any, str]:
    module = import_module("markovae")
    for depth, part in enumerate(parts[:-1]):
        try:
            module = import_module(".".join(("markovae", *parts[: depth + 1])))
        except ModuleNotFoundError:
            return getattr(module, part), parts[-1]
    return module, parts[-1]


def _swap(monkeypatch: pytest.MonkeyPatch, old: object, new: object) -> None:
    """Every name of every module that means `old` means `new`, and so in tuples."""
    found = 0
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] != "markovae":
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                monkeypatch.setattr(module, name, new)
                found += 1
            elif type(value) is tuple and any(part is old for part in value):
                monkeypatch.setattr(module, name, tuple(new if part is old else part for part in value))
    assert found, "the formula is used nowhere"


def _plant_target(monkeypatch: pytest.MonkeyPatch, name: str, part: str, change: Change) -> None:
    (old,) = [target for target in TARGETS if target.name == name]
    right = getattr(old, part)
    new: Target = replace(old, **{part: lambda *levels: change(right(*levels))})
    _swap(monkeypatch, old, new)
