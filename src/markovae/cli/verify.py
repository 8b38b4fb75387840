"""`markovae verify`: the derivation, equation by equation, in numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from markovae.cli.options import add_json
from markovae.errors import UserError
from markovae.log import log, show, show_json

if TYPE_CHECKING:
    from markovae.theory.rows import Row

SUMMARY = "check every equation of the derivation numerically"
DESCRIPTION = """\
Compute both sides of every equation that leads from the Markovian VAE to the network's loss, without training, with
fixed seeds. Exact statements are held to rounding, estimates to 4 standard errors. Exit code 1 where one fails.
docs/derivation.md leads through the equations in the same order.
"""
EXAMPLES = """\
examples:
  markovae verify
  markovae verify --json | jq '.rows[] | select(.pass | not)'
  markovae verify --plots build/derivation
  markovae verify --exercise all
  markovae verify --exercise posterior_mean my_answers.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae verify`."""
    add_json(parser)
    parser.add_argument(
        "--exercise",
        nargs="+",
        metavar=("NAME", "FILE.py"),
        help="show a task of the course (a name, a number or all), or mark your answers in a Python file of yours",
    )
    parser.add_argument("--plots", metavar="DIR", help="draw the convergence plots there, as SVG files")


def run(options: argparse.Namespace) -> int:
    """Check and print; exit code 0, or 1 where an equation fails.

    Raises:
        UserError: where --plots cannot be made a folder, for an unknown exercise, or a file that does not run.
        StoppedRun: where the disk refuses the plots.
    """
    if options.exercise is not None:
        return _exercise(*options.exercise)
    from markovae.theory.checks import check_all

    folder = None if options.plots is None else _folder(Path(options.plots))

    with _one_thread():
        rows = list(check_all()) if options.json else list(_printed(check_all()))
        if folder is not None:
            _draw(folder)
    failed = [row.name for row in rows if not row.passed]
    if options.json:
        show_json({"schema_version": 1, "rows": [row.to_dict() for row in rows]})
    elif failed:
        show(f"\n{len(failed)} of {len(rows)} equations FAIL: {', '.join(failed)}")
    else:
        show(f"\nall {len(rows)} equations hold")
    return 1 if failed else 0


def _exercise(name: str, file: str | None = None, *more: str) -> int:
    """Show tasks, or mark the functions of a file that the person named; exit code 1 where one is wrong."""
    from markovae.course import check, exercise_named, exercises

    if more:
        raise UserError(f"--exercise takes a name and one file, not {2 + len(more)} words: leave out {more[0]}")
    chosen = exercises() if name == "all" else (exercise_named(name),)
    if file is None:
        for number, exercise in enumerate(exercises(), 1):
            if exercise in chosen:
                show(f"{number:>2}  chapter {exercise.chapter}  {exercise.signature}\n    {exercise.task}")
        return 0
    answers = _answers(Path(file))
    marks = [check(answers[exercise.name], exercise.name) for exercise in chosen if exercise.name in answers]
    if not marks:
        wanted = "any exercise" if name == "all" else chosen[0].signature
        raise UserError(f"{file} defines no function for {wanted}: name it as the exercise is named")
    for mark in marks:
        show(repr(mark))
    if name == "all":
        show(f"{sum(map(bool, marks))} of {len(chosen)} exercises passed")
    return 0 if all(marks) else 1


def _answers(file: Path) -> dict[str, Callable[..., object]]:
    """The functions that a Python file defines; it is run because the person named it."""
    from runpy import run_path

    if not file.is_file():
        raise UserError(f"{file} is not a file: give the Python file with your answers")
    try:
        scope = run_path(str(file), run_name="answers")
    except Exception as error:  # whatever a student's file raises is theirs to mend
        raise UserError(f"{file} does not run: {type(error).__name__}: {error}") from None
    return {name: value for name, value in scope.items() if callable(value)}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small tensors: on a busy machine several threads mostly wait for each other, at ten times the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _folder(folder: Path) -> Path:
    """Made before anything is computed: a folder that cannot be made is refused at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--plots {folder} cannot be made a folder: {error.strerror or error}") from None
    return folder


def _draw(folder: Path) -> None:
    from markovae.system.files import write_file
    from markovae.theory.figures import figures

    for name, picture in figures():
        write_file(folder / name, picture.encode())
    log(f"plots: {folder}")


def _printed(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, each printed under the title of its slide as soon as it is known."""
    slide = None
    for row in rows:
        if row.slide != slide:
            slide = row.slide
            show(f"\n{slide}\n{'':8}{'expected':>16} {'measured':>16} {'tolerance':>10}")
        verdict = "holds" if row.passed else "FAILS"
        figures = f"{row.expected:>16.9g} {row.measured:>16.9g} {row.tolerance:>10.1g}"
        show(f"  {verdict} {figures}  {row.name}: {row.equation}")
        yield row
