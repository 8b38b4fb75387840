"""A record is made by one command, and a check believes nothing that it can repeat."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from markovae.data.images import ImageData
from markovae.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = [
    "network.width=8",
    "network.patch=1",
    "network.blocks=1",
    "schedule.num_levels=30",
    "train.evaluations=0",
    "train.fit_images=16",
]


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """The benchmarks import one another as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.setattr(sys, "dont_write_bytecode", True)
        yield


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with its record."""
    import record

    run = tmp_path_factory.mktemp("record") / "run"
    sets = [word for setting in [*SMALL, "train.grids=0"] for word in ("--set", setting)]
    assert record.main(["digits", "--steps", "3", *sets, "--images", "20", "--draws", "3", "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(entered: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(entered, tmp_path / "run")


def claim(run: Path, **changes: Any) -> None:
    """Change entries of a record: "part.name"=value."""
    path = run / "record.json"
    record = json.loads(path.read_bytes())
    for name, value in changes.items():
        part, _, entry = name.rpartition("__")
        (record[part] if part else record)[entry] = value
    path.write_text(json.dumps(record))


def refusal(run: Path) -> str:
    """The sentence of a check that fails."""
    import record

    with pytest.raises(UserError) as error:
        record.check(run, 5)
    return str(error.value)


def test_a_record_is_made_checked_and_shown(entered: Path) -> None:
    import pages
    import record

    said = record.check(entered, 5)
    assert "20 of 180 test images of digits" in said
    assert "5 images measured again agree" in said
    made = json.loads((entered / "record.json").read_bytes())
    assert made["training"]["images_seen"] == 96
    assert made["training"]["settings"]["train.objective"] == "bound"
    assert "--images 20 --draws 3 --out RUN" in made["command"]
    page = pages.pages({"record_tiny": made})[pages.DOCS / "records.md"].decode()
    assert f"| tiny | {made['bits_per_dim']['mean']:.3f} ±" in page
    assert "20 of 180" in page


def test_rows_of_another_run_are_found_by_measuring_again(run: Path) -> None:
    import record

    lines = (run / "record.csv").read_text().splitlines()
    column = lines[0].split(",").index("total_nats")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[column] = str(float(row[column]) * 0.99)
    (run / "record.csv").write_text("\n".join([lines[0], *(",".join(row) for row in rows)]))
    assert "its rows make" in refusal(run)
    bits = json.loads((run / "record.json").read_bytes())["bits_per_dim"]
    claim(run, bits_per_dim={name: 0.99 * bits[name] for name in ("mean", "stderr")})
    assert "the record is not of this run" in refusal(run)
    assert record.main(["--check", str(run)]) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"training__digest": "0" * 16}, "training has digest="),
        ({"training__images_seen": 5}, "training has images_seen=5, and this run 96"),
        ({"training__settings": {"network.width": 9}}, "settings has network.width=9, and this run 8"),
        ({"data__test": {"count": 180, "sha256": "0" * 64}}, "data has test="),
        ({"n": 30}, "20 rows, the record n=30"),
        ({"method__estimator": "importance"}, "none of stratified draws"),
        ({"method__draws": 10**9}, "none of stratified draws"),
        ({"bits_per_dim": {"mean": 0.5}}, "no bits_per_dim with a standard error"),
        ({"training": 3}, "has no training"),
    ],
)
def test_a_claim_that_is_not_the_runs_is_one_sentence(run: Path, changes: dict[str, Any], sentence: str) -> None:
    claim(run, **changes)
    assert sentence in refusal(run)


def test_a_changed_bundle_and_missing_files_are_refused(run: Path) -> None:
    (run / "record.csv").write_bytes(b"image\n\xff")
    assert "not a table of total_nats" in refusal(run)
    (run / "record.csv").unlink()
    assert "has no record.csv" in refusal(run)
    for weights in run.glob("checkpoints/*/ema.safetensors"):
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    assert "its SHA-256 is not the manifest's" in refusal(run)


def test_test_images_that_are_trained_on_are_counted() -> None:
    import record

    images = np.random.default_rng(0).integers(0, 256, (9, 1, 4, 4), dtype=np.uint8)
    train, test = ImageData(images[:6]), ImageData(images[3:])
    record.require_apart(train, ImageData(images[6:]))
    with pytest.raises(UserError, match="3 of the 6 test images are trained on"):
        record.require_apart(train, test)


def test_a_search_compares_finished_runs_and_says_their_commands(entered: Path, tmp_path: Path) -> None:
    import pages
    import search

    out = tmp_path / "search.json"
    assert search.main([str(entered), str(entered), "--images", "4", "--draws", "2", "--out", str(out)]) == 0
    made = json.loads(out.read_bytes())
    first, second = made["arms"]
    assert first["less_than_base"]["mean"] == second["less_than_base"]["mean"] == 0
    assert "--steps 3" in first["command"]
    assert "--set network.width=8" in first["command"]
    assert "train.steps" not in first["command"].replace("--steps", "")
    second["command"] = None  # of a variant that was not kept
    text = pages.records_search(made)
    assert f"{first['bits_per_dim']['mean']:.3f}" in text
    assert "None" not in text
