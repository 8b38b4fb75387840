"""`markovae measure`: the ways of measuring, what they write, and what they refuse."""

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from markovae.checkpoints.reading import load
from markovae.cli.entry import main
from markovae.data.loading import load_data
from markovae.likelihood.comparison import compare

from .conftest import settings

FEW = ["--limit", "6", "--draws", "3"]


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A second run of the digits, shorter."""
    folder = tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        words = ["train", "digits", "--out", str(folder / "run"), "--steps", "4", "--no-report", *settings()]
        assert main(words) == 0
        yield folder / "run"


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder, with its bytes and its time."""
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_against_is_the_librarys_paired_difference(digits_run, other_run, json_of, capsys):
    record = json_of("measure", "measure", digits_run, "--against", other_run, *FEW)
    test = load_data("digits").test
    found = compare(load(digits_run), load(other_run), test.images, test.labels, draws=3, limit=6)
    difference = found.difference_bits_per_dim
    assert record["difference_bits_per_dim"]["mean"] == difference.value
    assert record["difference_bits_per_dim"]["ci95"] == list(difference.ci95)
    assert record["difference_bits_per_dim"]["same_levels_and_noise"]
    assert record["bits_per_dim"]["mean"] == found.a.bits_per_dim.value
    assert record["against"]["bits_per_dim"]["mean"] == found.b.bits_per_dim.value
    assert record["against"]["checkpoint"]["step"] == 4
    itself = json_of("measure", "measure", digits_run, "--against", digits_run, *FEW)
    assert itself["difference_bits_per_dim"]["mean"] == 0
    assert main(["measure", str(digits_run), "--against", str(other_run), *FEW]) == 0
    assert f"difference {difference.value:+.4f} ± {difference.stderr:.4f}" in capsys.readouterr().out


def test_importance_costs_and_noise_are_in_the_record(digits_run, json_of):
    words = ["--estimator", "importance", "--fit-images", "12", "--replicates", "2", *FEW]
    record = json_of("measure", "measure", digits_run, *words)
    assert record["fit"] == {"images": 12, "network_calls": 12 * 8}
    assert record["replicates"] == 2
    assert record["network_calls_per_example"] == 8
    noise, bits = record["noise_bits_per_dim"], record["bits_per_dim"]
    assert noise["ci95"][0] < bits["mean"] < noise["ci95"][1]
    assert noise["stderr"] == pytest.approx(record["noise_stderr_nats"] / 64 / math.log(2))


def test_an_optimal_grid_keeps_its_ends_and_refits_the_variance(digits_run, json_of, capsys):
    words = ["--levels", "4", "--grid", "optimal", "--fit-images", "40", "--limit", "20", "--draws", "all"]
    record = json_of("measure", "measure", digits_run, *words)
    levels = record["grid"]["levels"]
    assert record["grid"]["kind"] == "optimal"
    assert (levels[0], levels[-1], len(levels)) == (1, 8, 4)
    assert record["levels"] == record["network_calls_per_example"] == 4
    assert record["reverse_variance"] == "isotropic"
    even = json_of("measure", "measure", digits_run, "--levels", "4", "--limit", "20", "--draws", "all")
    assert even["grid"] == {"kind": "even", "levels": [1, 3, 6, 8]}
    assert even["reverse_variance"] == "posterior"
    assert even["fit"] is None
    assert record["bits_per_dim"]["mean"] < even["bits_per_dim"]["mean"]
    assert main(["measure", str(digits_run), *words]) == 0
    assert "4 levels chosen for the least bound, isotropic variance" in capsys.readouterr().out


def test_continuous_and_ode_are_named_apart(digits_run, json_of, capsys):
    words = ["--continuous", "--ode", "--ode-images", "2", "--ode-steps", "6", "--probes", "3", *FEW]
    record = json_of("measure", "measure", digits_run, *words)
    assert record["ode"]["model"] == "probability-flow ODE"
    assert record["ode"]["network_calls_per_example"] == 24
    assert record["levels"] == 8, "the bound's own figures stay what they are"
    assert main(["measure", str(digits_run), *words, "--dequantize", "normal"]) == 0
    out = capsys.readouterr().out
    assert "infinitely many levels: " in out
    assert "probability-flow ODE (a different model): " in out


def test_measuring_leaves_the_run_as_it_is_unless_told_to_save(digits_run, other_run, tmp_path, json_of):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    before = contents(run), contents(other_run)
    rows = tmp_path / "rows.csv"
    json_of("measure", "measure", run, "--against", other_run, "--csv", rows, "--replicates", "2", *FEW)
    assert (contents(run), contents(other_run)) == before
    with rows.open() as lines:
        table = list(csv.DictReader(lines))
    assert [row["image"] for row in table] == [str(i) for i in range(6)]
    for row in table:
        terms = [float(row[f"{name}_nats"]) for name in ("prior", "levels", "reconstruction")]
        assert float(row["total_nats"]) == pytest.approx(sum(terms))
        assert float(row["difference_nats"]) == float(row["total_nats"]) - float(row["against_nats"])
        assert float(row["noise_stderr_nats"]) > 0

    record = json_of("measure", "measure", run, "--save", *FEW)
    saved = Path(record["saved"])
    assert saved.parent == run / "measurements"
    assert json.loads((saved / "record.json").read_text()) == record
    assert len((saved / "images.csv").read_text().splitlines()) == 7
    with Image.open(saved / "cheapest.png") as sheet:
        assert min(sheet.size) >= 256
    kept = contents(run)
    assert {name: kept[name] for name in before[0]} == before[0]
    assert set(kept) - set(before[0]) == {
        f"measurements/{saved.name}/{name}" for name in ("record.json", "images.csv", "cheapest.png", "dearest.png")
    }
    again = json_of("measure", "measure", run / "checkpoints" / "step-00000012", "--save", *FEW)
    assert again["saved"].endswith(saved.name), "the same question's answer takes its place"
    other = json_of("measure", "measure", run, "--save", "--seed", "1", *FEW)
    assert other["saved"] != record["saved"]


def test_the_cheapest_images_come_first_on_their_sheet(digits_run, tmp_path, json_of):
    from markovae.data.pictures import enlarged, tile, viewable

    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    saved = Path(json_of("measure", "measure", run, "--save", *FEW)["saved"])
    with (saved / "images.csv").open() as rows:
        order = sorted(csv.DictReader(rows), key=lambda row: float(row["total_nats"]))
    images = load_data("digits").test.images
    expected = enlarged(tile(viewable(images[[int(row["image"]) for row in order]], 17)))
    with Image.open(saved / "cheapest.png") as sheet:
        assert np.array_equal(np.asarray(sheet), expected[..., 0])


def test_options_that_do_not_go_together_are_refused(digits_run, other_run, tmp_path, refused):
    cases = [
        (["--levels", "0"], "must be at least 1"),
        (["--levels", "9", "--grid", "optimal"], "levels=9 must lie in 1…8"),
        (["--grid", "optimal"], "say how many, levels=16"),
        (["--draws", "all", "--estimator", "importance"], "leave one of them out"),
        (["--draws", "3", "--estimator", "full"], "leave one out"),
        (["--draws", "0"], "must be at least 1"),
        (["--limit", "0"], "must be at least 1"),
        (["--replicates", "0"], "must be at least 1"),
        (["--estimator", "importanc"], "did you mean importance?"),
        (["--split", "all", "--estimator", "importance"], "no image to fit on"),
        (["digits", "--split", "all", "--estimator", "importance"], "are among those fitted on"),
        (["--against", other_run, "--ode"], "no bound of these models"),
        (["--against", tmp_path], "--against"),
        (["--csv", tmp_path / "missing" / "rows.csv"], "which is not a folder"),
        (["--csv", tmp_path], "is a folder"),
        (["--csv", digits_run / "rows.csv"], "take --save"),
    ]
    for words, said in cases:
        if said != "--against":
            assert said in refused("measure", digits_run, *words), words
    assert "checkpoint" in refused("measure", digits_run, "--against", tmp_path)
    loose = tmp_path / "loose"
    shutil.copytree(digits_run / "checkpoints" / "step-00000012", loose)
    assert "outside any" in refused("measure", loose, "--save", *FEW)


def test_models_of_other_images_are_not_compared(digits_run, images, tmp_path, refused):
    run = tmp_path / "run"
    assert main(["train", str(images), "--out", str(run), "--steps", "1", "--no-report", *settings()]) == 0
    assert "17 and 256 bins a pixel" in refused("measure", digits_run, "--against", run)


def test_weights_that_are_no_numbers_and_no_images_are_one_sentence(digits_run, tmp_path, refused):
    from markovae.checkpoints.manifest import make_manifest

    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    bundle = run / "checkpoints" / "step-00000012"
    weights = load_file(bundle / "ema.safetensors")
    first = sorted(weights)[0]
    weights[first] = torch.full_like(weights[first], math.nan)
    save_file(weights, bundle / "ema.safetensors")
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "manifest.json"}
    (bundle / "manifest.json").write_bytes(make_manifest(files))
    assert "is not finite" in refused("measure", bundle, *FEW)

    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8), np.uint8))
    (tmp_path / "empty").mkdir()
    for source, said in (("none.npy", "is empty; give an array with images"), ("empty", "no image")):
        assert said in refused("measure", digits_run, tmp_path / source)
