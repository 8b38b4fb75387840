"""Each choice of a model and an objective on the digits, 80 steps, by the command line alone."""

import pytest

from markovae.checkpoints.reading import load
from markovae.cli.entry import main
from markovae.data.loading import load_data
from markovae.diffusion.reverse import PosteriorVariance
from markovae.likelihood.measuring import measure

from .conftest import settings

CHOICES = {
    "posterior": [],
    "step": ["target.reverse=step"],
    "isotropic": ["target.reverse=isotropic"],
    "diagonal": ["target.reverse=diagonal"],
    "learned": ["target.reverse=learned"],
    "full": ["target.reverse=full"],
    "ho": ["target.decoder=ho_small", "target.name=noise", "schedule.kind=linear"],
    "softmax": ["target.decoder=softmax"],
    "bound": ["train.objective=bound"],
    "importance": ["train.objective=bound", "train.level_sampling=importance", "target.reverse=isotropic"],
    "bound, learned variance": ["train.objective=bound", "target.reverse=learned"],
    "learned schedule": ["train.objective=bound", "schedule.kind=learned"],
    "learned schedule, softmax": ["train.objective=bound", "schedule.kind=learned", "target.decoder=softmax"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_eighty_steps_bring_the_bound_below_that_of_the_untrained_network(name: str, tmp_path, json_of):
    out = tmp_path / "run"
    chosen = [word for setting in CHOICES[name] for word in ("--set", setting)]
    small = settings(network__width="16", schedule__num_levels="60", train__fit_images="64", train__batch="16")
    assert main(["train", "digits", "--out", str(out), "--steps", "80", "--no-report", *small, *chosen]) == 0
    record = json_of("measure", "measure", out, "--limit", "40", "--draws", "all")
    rows = (out / "metrics.jsonl").read_text(encoding="utf-8")
    assert rows.count('"heldout"') == 2
    assert record["bits_per_dim"]["mean"] < (12 if name == "ho" else 4.9)
    json_of("sample", "sample", out, "--n", "2", "--sampler", "ancestral", "--steps", "5", "--out", tmp_path / "s")
    if name in ("isotropic", "diagonal", "learned", "full"):
        # Twelve levels: where the variance matters. The same network with β̃, image by image at the same noise.
        test = load_data("digits").test
        model = load(out)
        few = model.on_grid(model.schedule.subgrid(12))
        images, labels = test.images[:60], test.labels[:60]
        own = measure(few, images, labels, draws=None).total
        gain = measure(few.with_reverse(PosteriorVariance()), images, labels, draws=None).total - own
        assert float(gain.mean()) > 3 * float(gain.std()) / len(gain) ** 0.5


@pytest.mark.slow
def test_a_transformer_learns_the_digits_goes_on_and_samples(tmp_path, json_of):
    out = tmp_path / "run"
    chosen = ["kind=dit", "dit.width=32", "dit.depth=2", "dit.head_dim=16", "dit.patch=1"]
    words = [word for setting in chosen for word in ("--set", f"network.{setting}")]
    for setting in ("train.batch=16", "schedule.num_levels=30", "train.precision=float32", "train.warmup_steps=5"):
        words += ["--set", setting]
    assert main(["train", "digits", "--out", str(out), "--steps", "20", "--no-report", *words]) == 0
    first = json_of("measure", "measure", out, "--limit", "40", "--draws", "all")
    assert main(["train", "--resume", "--out", str(out), "--steps", "150", "--no-report"]) == 0
    record = json_of("measure", "measure", out, "--limit", "40", "--draws", "all")
    assert record["bits_per_dim"]["mean"] < first["bits_per_dim"]["mean"] - 0.5
    json_of("sample", "sample", out, "--n", "2", "--class", "3", "--steps", "4", "--out", tmp_path / "s")
