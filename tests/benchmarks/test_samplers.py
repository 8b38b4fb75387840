"""The benchmarks of samplers, guidance and control: end to end on a small checkpoint, and the page made from them."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from markovae.diffusion.reverse import PosteriorVariance
from markovae.sampling.generation import final_latents, sample_trajectory
from markovae.sampling.grids import uniform_grid
from markovae.sampling.plans import Plan
from markovae.sampling.samplers import AdamsBashforth, UniC
from markovae.theory.mixture import Denoiser, pink_pair

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "tests" / "fixtures" / "bundles" / "format-4" / "step-00000006"


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    """The benchmarks import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def ran(module, monkeypatch, *words):
    """The record a benchmark writes."""
    out = Path(words[-1])
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, words[:-1]), "--out", str(out)])
    module.main()
    return json.loads(out.read_text(encoding="utf-8"))


def test_cells_are_drawn_once_and_gone_on_with(tmp_path):
    from samplers_cells import cell

    asked = []

    def draw(numbers, labels):
        asked.append((list(numbers), None if labels is None else labels.tolist()))
        return torch.tensor(numbers, dtype=torch.float32)[:, None]

    labels = torch.arange(7) % 3
    first = cell(tmp_path / "a", draw, 7, 4, labels)
    assert asked == [([0, 1, 2, 3], [0, 1, 2, 0]), ([4, 5, 6], [1, 2, 0])]
    again = cell(tmp_path / "a", draw, 7, 4, labels)
    assert len(asked) == 2
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.x[:, 0], torch.arange(7.0))
    assert again.seconds == first.seconds
    next((tmp_path / "a").glob("000004*")).unlink()
    assert torch.equal(cell(tmp_path / "a", draw, 7, 4, labels).x, first.x)
    assert asked[2:] == asked[1:2]


@pytest.mark.slow
def test_samplers_end_to_end(tmp_path, monkeypatch):
    import pages
    import samplers

    words = ["--n", "8", "--paired", "6", "--calls", "3", "4", "--samplers", "sde-dpmpp2m", "ddim", "--peers"]
    record = ran(samplers, monkeypatch, BUNDLE, *words, "--batch", "5", tmp_path / "samplers_digits.json")
    rows = {(row["sampler"], row["calls"]): row for row in record["rows"]}
    assert set(rows) == {("ancestral", record["levels"]), *((s, c) for s in ("sde-dpmpp2m", "ddim") for c in (3, 4))}
    assert rows["ddim", 3]["rmse"] > 0
    assert rows["sde-dpmpp2m", 3]["rmse"] is None
    assert rows["sde-dpmpp2m", 4]["over_chain"]["stderr"] > 0
    assert rows["ancestral", record["levels"]]["over_chain"] is None
    made = {
        path.name: content.decode() for path, content in pages.pages({"samplers_digits": record, "other": {}}).items()
    }
    assert f"| `ddim` | {rows['ddim', 3]['rmse']:.4f} | {rows['ddim', 4]['rmse']:.4f} |" in made["results.md"]
    assert {name for name in made if name.endswith(".svg")} == {"samplers_digits.svg"}
    assert pages.pages({"other": {}}) == pages.pages({})


def test_guidance_end_to_end(tmp_path, monkeypatch):
    import classifier
    import guidance
    import pages

    monkeypatch.setattr(classifier, "RECIPE", classifier.RECIPE | {"steps": 20, "batch": 16, "width": 8})
    words = ["--weights", "1", "3", "--interval", "-2", "3", "--n", "10", "--steps", "3"]
    record = ran(guidance, monkeypatch, BUNDLE, *words, tmp_path / "guidance_digits.json")
    assert [(row["weight"], row["interval"]) for row in record["rows"]] == [
        *((1.0, None), (3.0, None)),
        *((1.0, [-2.0, 3.0]), (3.0, [-2.0, 3.0])),
    ]
    assert record["rows"][0]["kid"] == record["rows"][2]["kid"], "weight 1 is no guidance, wherever it acts"
    made = {path.name: content.decode() for path, content in pages.pages({"guidance_digits": record}).items()}
    assert "| 3 | log-SNR −2 to 3 |" in made["results.md"]
    assert {*made} >= {"guidance_digits_accuracy.svg", "guidance_digits_kid.svg"}


def test_control_is_what_its_record_says():
    """The committed record: exact moments in the limit, an error that falls with resampling, orders of round trips."""
    import pages

    record = json.loads((ROOT / "docs" / "results" / "control.json").read_text(encoding="utf-8"))
    full = [row for row in record["matching"] if row["covariance"] == "full"]
    left = math.exp(-18 / 2)  # of the mean at log-SNR −18, where the walks start without it
    assert all(row["mean"] < left for row in full)
    assert all(row["spread"] < 0.002 for row in full if row["steps"] == 160)
    shares = [row["covariance_over_truth"]["mean"] for row in record["repaint"]]
    assert shares == sorted(shares)
    assert [round(row["falls_as"]) for row in record["round_trip"]] == [1, 3, 3, 3]
    text = pages.pages({"control": record})[pages.DOCS / "results.md"].decode()
    assert "| `ddim` | 1 |" in text


@pytest.mark.filterwarnings("ignore")
def test_peers_drive_the_same_network_to_the_same_images():
    """With many calls diffusers' schedulers end where our fine walk ends: the betas, the log-SNRs and x̂ are right."""
    pytest.importorskip("diffusers")
    from markovae.diffusion.decoder import StepDecoder
    from markovae.diffusion.model import Diffusion
    from markovae.diffusion.pixels import Pixels
    from markovae.diffusion.schedule import LogSNRLinear
    from markovae.diffusion.target import DATA
    from samplers_peers import PEERS, STOCHASTIC, by_scheduler

    toy = pink_pair((1, 4, 4))
    model = Diffusion(
        Denoiser(toy), LogSNRLinear(1000, 13.3, -10.0), DATA, PosteriorVariance(), StepDecoder(Pixels(256)), toy.shape
    )
    fine = Plan(AdamsBashforth(3), uniform_grid(13.3, -10.0, 200), UniC(3))
    reference = final_latents(sample_trajectory(model, range(6), fine)).float()
    for name in PEERS:
        drawn = by_scheduler(model, name, 60, 0)(range(6), None)
        assert drawn.isfinite().all()
        if name not in STOCHASTIC:
            assert float((drawn - reference).square().mean().sqrt()) < 0.01, name
