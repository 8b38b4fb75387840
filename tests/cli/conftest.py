"""One small run of the digits, trained once through the command line, and what JSON must look like."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from markovae.cli.entry import main

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
TINY = {
    "network.width": "8",
    "network.multipliers": "[1]",
    "network.blocks": "1",
    "network.attention": "[]",
    "network.embedding": "16",
    "network.patch": "1",
    "schedule.num_levels": "8",
    "train.warmup_steps": "3",
    "train.precision": "float32",
    "train.eval_images": "4",
    "train.eval_draws": "2",
    "train.evaluations": "2",
    "train.grids": "1",
    "train.batch": "8",
}


def settings(**changed: str) -> list[str]:
    """--set options of a network that takes a step in milliseconds."""
    table = TINY | {name.replace("__", "."): value for name, value in changed.items()}
    return [word for name, value in table.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of the digits with its report; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        assert main(["train", "digits", "--out", str(folder / "digits"), "--steps", "12", *settings()]) == 0
        yield folder / "digits"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An array file of forty random grey images of 8x8."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8))
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with exit code 2 and one sentence; the sentence."""

    def run(*words: str | Path, code: int = 2) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        last = err.rstrip("\n").splitlines()[-1]
        assert last.startswith("markovae: ")
        return last.removeprefix("markovae: ")

    return run


@pytest.fixture
def json_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a command with --json; the one object on its stdout, checked against the committed schema."""

    def run(schema: str, *words: str | Path, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*(str(word) for word in words), "--json"]) == code
        record: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        check(record, schema)
        return record

    return run


def check(record: Any, schema: str) -> None:
    """A record against the committed schema of this name."""
    validator(schema).validate(record)


@cache
def validator(schema: str) -> jsonschema.Draft202012Validator:
    """Of the committed schema of this name, which is checked itself."""
    described = json.loads((SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(described)
    return jsonschema.Draft202012Validator(described)
