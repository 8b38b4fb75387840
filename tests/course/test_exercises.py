"""The course marks itself: right answers pass, usual mistakes are named, and no mutation of a right answer passes."""

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch

from markovae.cli.entry import main
from markovae.course import Mark, check, exercise_named, exercises
from markovae.errors import UserError

SOLUTIONS = Path(__file__).parents[2] / "docs" / "course" / "solutions" / "solutions.py"
FUNCTIONS = {
    name: value for name, value in run_path(str(SOLUTIONS)).items() if inspect.isfunction(value) and name[0] != "_"
}
NAMES = [exercise.name for exercise in exercises()]


def test_there_is_one_solution_for_every_exercise() -> None:
    assert sorted(FUNCTIONS) == sorted(NAMES)
    assert len(set(NAMES)) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_every_usual_mistake_is_named(name: str) -> None:
    exercise = exercise_named(name)
    assert check(FUNCTIONS[name]), check(FUNCTIONS[name])
    for mistake in exercise.mistakes:
        mark = check(mistake.answer, name)
        assert not mark
        assert mark.words == mistake.words


SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
}


def mutations(source: str) -> Iterator[str]:
    """A right answer with one operator swapped, one minus or square root dropped, or one number changed."""
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    for place in range(count):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[place]
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            node.op = SWAPS[type(node.op)]()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node.op = ast.UAdd()
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and 2 <= abs(node.value) <= 256:
            node.value = node.value * 1.5
        elif isinstance(node, ast.Attribute) and node.attr in ("sqrt", "log", "exp"):
            node.attr = "abs"
        else:
            continue
        yield ast.unparse(tree)


def compiled(source: str, name: str) -> Callable[..., Any]:
    scope = dict(FUNCTIONS[name].__globals__)
    exec(compile(source, name, "exec"), scope)
    found: Callable[..., Any] = scope[name]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_mutation_of_the_solution_passes(name: str) -> None:
    sources = list(mutations(inspect.getsource(FUNCTIONS[name])))
    passed = [source for source in sources if check(compiled(source, name), name)]
    assert not passed, passed[0]


def test_an_answer_that_cannot_be_compared_is_told_of() -> None:
    right = FUNCTIONS["bits_per_dim"]
    cases: dict[str, Callable[..., Any]] = {
        "return": lambda nats, dims: None,
        "ZeroDivisionError": lambda nats, dims: 1 / 0,
        "shape": lambda nats, dims: right(nats, dims).sum(),
        "NaN": lambda nats, dims: right(nats, dims) * torch.nan,
        "str": lambda nats, dims: "four",
    }
    for word, answer in cases.items():
        mark = check(answer, "bits_per_dim")
        assert not mark
        assert word in mark.words


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("sign", lambda right: -right),
        ("square root", lambda right: right**2),
        ("one over", lambda right: 1 / right),
        ("3 times", lambda right: 3 * right),
        ("bits and nats", lambda right: right / torch.log(torch.tensor(2.0, dtype=torch.float64))),
        ("+0.25 off", lambda right: right + 0.25),
        ("cancellation", lambda right: right * (1 + 1e-5 * torch.sin(right))),
    ],
)
def test_a_wrong_answer_is_described_in_words(word: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    mark = check(lambda *inputs: change(FUNCTIONS["bound_total"](*inputs)), "bound_total")
    assert not mark
    assert word in mark.words


def test_an_answer_that_writes_into_its_arguments_gets_its_own() -> None:
    def bits_per_dim(nats: torch.Tensor, dims: int) -> torch.Tensor:
        return nats.div_(dims).div_(torch.log(torch.tensor(2.0, dtype=torch.float64)))

    assert check(bits_per_dim)


def test_exercises_are_found_by_name_and_by_number() -> None:
    assert exercise_named("1") is exercises()[0]
    for wrong in ("0", "99", "posterior_man", ""):
        with pytest.raises(UserError):
            exercise_named(wrong)
    with pytest.raises(UserError, match="posterior_mean"):
        exercise_named("posterior_man")
    assert repr(Mark("x", False, "no")) == "not yet: x: no"


def test_the_command_shows_tasks_and_marks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--exercise", "all"]) == 0
    assert "posterior_mean(x, z, logsnr_prev, logsnr)" in capsys.readouterr().out
    answers = tmp_path / "answers.py"
    answers.write_text("def kl_divergence(p, q):\n    return (q * (q / p).log()).sum()\n")
    assert main(["verify", "--exercise", "kl_divergence", str(answers)]) == 1
    assert "swapped" in capsys.readouterr().out
    assert main(["verify", "--exercise", "all", str(SOLUTIONS)]) == 0
    assert f"{len(NAMES)} of {len(NAMES)}" in capsys.readouterr().out
    answers.write_text("1/0")
    assert main(["verify", "--exercise", "1", str(answers)]) == 2
    assert main(["verify", "--exercise", "snr", str(answers)]) == 2
    assert main(["verify", "--exercise", "1", str(tmp_path / "none.py")]) == 2
    assert "Traceback" not in capsys.readouterr().err
