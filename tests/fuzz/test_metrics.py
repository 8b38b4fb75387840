"""The door of a run's records: metrics.jsonl, report.json, what a checkpoint says of itself, and their folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fuzz.conftest import Fuzzer, cleared
from tests.report.conftest import reported

from markovae.checkpoints.reading import Checkpoint
from markovae.cli.demo import tell as tell_of_demo
from markovae.interop.exporting import _held_out
from markovae.log import show_json
from markovae.report import page as sections
from markovae.report.curves import heldout_curve, training_curve
from markovae.report.report_data import run_facts
from markovae.report.report_writing import current_report
from markovae.report.reported_run import ReportedRun, load_reported_run
from markovae.run.heldout import heldout_sentence
from markovae.run.outlook import outlook
from markovae.run.run_folder import RunFolder
from markovae.system.jsonlines import read_rows
from markovae.system.lock import hold
from markovae.system.plain import FILES, FOLDERS

DEEP = "\0deep\0"  # becomes brackets in the text: no encoder writes so many
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1 << 62, 1 << 63, 10**310, -(10**310), 1e308, -1e308, 5e-324, float("nan"), float("inf")),
    *(
        "",
        "x",
        "9" * 5000,
        "\ud800",
        "\x1b[2J",
        "\0",
        "é" * 1000,
        "train",
        "heldout",
        [],
        {},
        [[]],
        {"": {}},
        [1.0] * 50,
    ),
    *({"mean": None}, {"mean": 1e400, "stderr": None}, {"mean": 1.0, "stderr": "x"}, DEEP),
)
HELDOUT = {"kind": "heldout", "step": 12, "n": 4, "bits_per_dim": {"mean": 3.0, "stderr": 0.1}}


def changed(chance: random.Random, value: Any) -> Any:
    """A copy with one place in it made odd, left out, doubled, or made a link of deep nesting."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        if chance.random() < 0.15:
            return {key: inside for key, inside in value.items() if key != name}
        return {**value, name: changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [
            *value[:place],
            *([] if chance.random() < 0.1 else [changed(chance, value[place])]),
            *value[place + 1 :],
        ]
    return chance.choice(ODD)


def encoded(chance: random.Random, value: Any) -> bytes:
    """JSON, NaN and all, deep where it was asked for."""
    depth = chance.choice((20, 400, 2000, 100_000))
    text = json.dumps(value).replace(json.dumps(DEEP), "[" * depth + "]" * depth)
    return text.encode("utf-8", "surrogatepass")


def torn(chance: random.Random, content: bytes) -> bytes:
    """Cut, flipped, repeated, or in another encoding."""
    how, at = chance.randrange(6), chance.randrange(len(content) + 1)
    if how == 0:
        return content[:at]
    if how == 1:
        return content[:at] + bytes(chance.randrange(256) for _ in range(8)) + content[at:]
    if how == 2:
        return content[:at] + b"\0" * chance.choice((1, 4096, 1 << 21)) + content[at:]
    if how == 3:
        return b"\xef\xbb\xbf" + content
    if how == 4:
        return content.decode("utf-8", "replace").encode("utf-16")
    return content * chance.choice((2, 40))


def misplaced(chance: random.Random, run: Path, outside: Path) -> None:
    """Something under a name of the run that is no plain file or folder, or a stage that leads outside."""
    old = (
        ".tmp-old-config.toml-0123abcd",
        ".tmp-old-metrics.jsonl-0123abcd",
        ".tmp-x",
        "samples/.tmp-x",
        "samples/a.png",
    )
    path = run / chance.choice((*FILES, *FOLDERS, *old))
    if path.parent.is_symlink() or not path.parent.is_dir():
        cleared(path.parent).mkdir()
    cleared(path)
    how, target = (
        chance.randrange(5),
        chance.choice((outside, outside / "file", outside / "missing", Path("/dev/zero"))),
    )
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.mkdir()
        (path / "inside").symlink_to(target)
    elif how == 2:
        path.hardlink_to(outside / "file")
    else:
        path.symlink_to(target)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the digits with its report."""
    run = reported(tmp_path_factory.mktemp("finished"), "data.source=digits")
    shutil.rmtree(run / "samples")
    return run


def restore(run: Path, finished: Path) -> None:
    """The finished run again; its checkpoints, which take the longest to copy, only where they were spoilt."""
    whole = {path.relative_to(finished) for path in finished.glob("checkpoints/*")}
    kept = {path.relative_to(run) for path in run.glob("checkpoints/*")} == whole
    for path in run.iterdir() if run.is_dir() else ():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name != "checkpoints" or not kept:
            shutil.rmtree(path)
    shutil.copytree(finished, run, dirs_exist_ok=True, ignore=lambda *_: ["checkpoints"] if kept else [])


def make_run(chance: random.Random, run: Path, finished: Path, outside: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of the finished run with one to three of its records spoilt, and what its checkpoint says."""
    restore(run, finished)
    state: dict[str, Any] = {"versions": {"torch": "2", "markovae": "0"}, "images_seen": 96, "seconds": 1.5}
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(5)
        metrics, report = run / "metrics.jsonl", run / "report.json"
        if kind == 0 and metrics.is_file() and not metrics.is_symlink():
            rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_bytes().splitlines()]
            lines = [encoded(chance, changed(chance, row) if chance.random() < 0.5 else row) for row in rows]
            metrics.unlink()  # it may be another file's second name by now
            metrics.write_bytes(b"\n".join(chance.choices(lines, k=chance.randint(1, 60))) + b"\n")
        elif kind == 1 and report.is_file() and not report.is_symlink():
            report.unlink()
            report.write_bytes(encoded(chance, changed(chance, json.loads((finished / "report.json").read_bytes()))))
        elif kind == 2:
            path = chance.choice((metrics, report))
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                path.write_bytes(torn(chance, path.read_bytes()))
        elif kind == 3:
            state = changed(chance, state)
        else:
            misplaced(chance, run, outside)
    return run, state if isinstance(state, dict) else {}


def read_all(base: ReportedRun) -> Callable[[tuple[Path, dict[str, Any]]], None]:
    """All that is done with a run's records: as it goes on, as its report is written, as that is taken up again."""

    def door(case: tuple[Path, dict[str, Any]]) -> None:
        run, said = case
        with hold(run):
            folder = RunFolder(run)
            folder.clear()
            heldout_sentence(HELDOUT, folder.last("heldout"), 17)
            folder.forget_after(10)
            folder.append({"kind": "rollback", "step": 11})
            folder.flush()
        checkpoint = Checkpoint(base.checkpoint.path, base.checkpoint.contents)
        kept = {name: value for name, value in base.checkpoint.state.items() if name not in ("versions", "images_seen")}
        checkpoint.__dict__["state"] = {**kept, **said}
        metrics = read_rows(run / "metrics.jsonl")
        curves = {"training": training_curve(metrics.rows), "heldout": heldout_curve(metrics.rows)}
        record = {
            "run": run_facts(replace(base, checkpoint=checkpoint, metrics=metrics)),
            "rows": {"left_out": metrics.left_out},
            "data": {"train": 10, "validation": 1, "test": 1},
            "curves": curves,
            "outlook": None if (ahead := outlook(metrics.rows)) is None else ahead.to_dict(),
        }
        json.dumps(record, allow_nan=False)
        "".join(part(record) for part in (sections.training, sections.heldout, sections.facts)).encode()
        _held_out(run)
        stored = current_report(run)
        if stored is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                show_json(stored)
                tell_of_demo(run, stored)

    return door


def test_records_of_a_run_are_read_or_left_out(
    fuzzer: Fuzzer,
    finished: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    outside = tmp_path_factory.mktemp("outside")
    (outside / ".tmp-mine").mkdir()
    (outside / ".tmp-mine" / "a").write_text("kept")
    (outside / "file").write_text("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
        base = load_reported_run(finished, torch.device("cpu"))
    monkeypatch.setattr("os.fsync", lambda handle: None)  # which no record has a say in
    door = read_all(base)
    shutil.copytree(finished, tmp_path / "good")
    door((tmp_path / "good", {}))
    shutil.copytree(finished, tmp_path / "again")
    assert current_report(tmp_path / "again") is not None
    found = fuzzer(
        "records of a run",
        door,
        lambda chance: make_run(chance, tmp_path / "run", finished, outside),
        readable=[finished],
        writable=[tmp_path],
    )
    assert found.accepted > found.refused > 0
    assert {path.name: path.read_text() for path in outside.rglob("*") if path.is_file()} == {
        "a": "kept",
        "file": "kept",
    }
