"""Folders that come from diffusers and go to it: the same images, the same files, and nothing half-written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.build import create
from markovae.checkpoints.reading import open_checkpoint
from markovae.checkpoints.writing import save_checkpoint
from markovae.config import Config
from markovae.diffusion.model import Diffusion
from markovae.diffusion.schedule import LogSNRLinear, linear
from markovae.errors import UserError
from markovae.interop.diffusers_scheduler import rounding_warning
from markovae.interop.exporting import export
from markovae.interop.importing import import_run
from markovae.sampling.plans import plan
from markovae.sampling.samplers import trajectory

TOLERANCE = 1e-4
DDPM = [
    "network.kind=ddpm",
    "network.ddpm.widths=[8, 16]",
    "network.ddpm.groups=4",
    "network.ddpm.blocks=1",
    "schedule.num_levels=30",
]


def their_images(pipeline, steps: int, batch: int = 3) -> np.ndarray:
    source = torch.Generator().manual_seed(11)
    return pipeline(batch, generator=source, num_inference_steps=steps, output_type="np").images


def our_images(model: Diffusion, batch: int = 3) -> np.ndarray:
    """The prior's chain from the same starting noise, with the same noise at each step."""
    source = torch.Generator().manual_seed(11)
    z = torch.randn(batch, *model.shape, generator=source)
    chain = plan(model, "ancestral", None)
    *_, last = trajectory(model, z, chain.grid, chain.stepper, source)
    return (last.z / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def saved(pipeline, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


LEVELS = 12
SCHEDULERS = [
    {},
    {"variance_type": "fixed_large", "clip_sample": False},
    {"variance_type": "fixed_small_log", "beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.3},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample_range": 1.5},
    {"prediction_type": "sample", "trained_betas": list(np.linspace(1e-3, 0.4, LEVELS))},
    {"variance_type": "learned_range"},
    {"variance_type": "learned_range", "prediction_type": "v_prediction", "clip_sample": False},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    {"prediction_type": "sample", "rescale_betas_zero_snr": True, "beta_schedule": "squaredcos_cap_v2"},
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: "-".join(map(str, s.values()))[:40] or "defaults")
def test_an_imported_model_makes_the_pipelines_images_and_goes_back_as_it_came(
    pipeline, diffusers, tmp_path: Path, scheduler: dict
) -> None:
    learned = scheduler.get("variance_type") == "learned_range"
    unet = {"out_channels": 6} if learned else {}
    folder = saved(pipeline(unet, **{"num_train_timesteps": LEVELS, **scheduler}), tmp_path / "theirs")
    model = import_run(folder, tmp_path / "run")
    expected = their_images(diffusers.DDPMPipeline.from_pretrained(folder), LEVELS)
    assert np.abs(our_images(model) - expected).max() <= TOLERANCE
    again = mv.load(tmp_path / "run")
    np.testing.assert_array_equal(our_images(again), our_images(model))
    images = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).numpy().astype(np.uint8)
    assert np.isfinite(mv.measure(again, images, draws=None).bits_per_dim.value)
    back = export(tmp_path / "run", tmp_path / "back")
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        assert json.loads((back / name).read_text()) == json.loads((folder / name).read_text())
    weights = [diffusers.UNet2DModel.from_pretrained(path / "unet").state_dict() for path in (folder, back)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert isinstance(diffusers.DiffusionPipeline.from_pretrained(back), diffusers.DDPMPipeline)


def test_a_grid_that_begins_too_near_the_data_for_float32_is_told() -> None:
    """6e-8, the step of float32 below 1, against s² of level 1."""
    assert rounding_warning(linear()) is None
    assert rounding_warning(LogSNRLinear(100, 10.0, -10.0)) is None
    warning = rounding_warning(LogSNRLinear(100))
    assert warning is not None
    assert re.search(r"log-SNR 13\.3, and .* level 3 to be 2\.2% more or less", warning)
    assert "level 16 to be 7.9%" in str(rounding_warning(LogSNRLinear(1000)))


def test_a_pipeline_of_the_deterministic_scheduler_goes_back_as_one(pipeline, diffusers, tmp_path: Path) -> None:
    made = pipeline()
    folder = saved(diffusers.DDIMPipeline(made.unet, made.scheduler), tmp_path / "theirs")
    import_run(folder, tmp_path / "run")
    back = export(tmp_path / "run", tmp_path / "back")
    assert isinstance(diffusers.DiffusionPipeline.from_pretrained(back), diffusers.DDIMPipeline)
    name = "scheduler/scheduler_config.json"
    assert json.loads((back / name).read_text()) == json.loads((folder / name).read_text())


@pytest.mark.slow
def test_a_thousand_levels_stay_within_the_tolerance(pipeline, diffusers, tmp_path: Path) -> None:
    made = pipeline(num_train_timesteps=1000)
    model = import_run(saved(made, tmp_path / "theirs"), tmp_path / "run")
    assert np.abs(our_images(model) - their_images(made, 1000)).max() <= TOLERANCE


def run_of(config: Config, folder: Path, num_classes: int = 0, classes: tuple[str, ...] = ()) -> Diffusion:
    """A run's folder with one checkpoint of a fresh model that no zero hides."""
    classes = classes or tuple(str(k) for k in range(num_classes))
    model = create(config, (3, 8, 8), num_classes=len(classes))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.abs().max() == 0:
                weight.normal_(0, 0.1, generator=generator)
    state = {"step": 5, "shape": [3, 8, 8], "bins": 256, "class_names": list(classes)}
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    save_checkpoint(folder / "checkpoints", 5, {"ema": tensors}, state, config)
    return model.eval()


OWN = [
    ["schedule.kind=linear", "target.name=noise", "target.clip=1"],
    ["schedule.kind=constant", "schedule.delta=0.01", "target.name=velocity", "target.reverse=step"],
    ["schedule.start=7", "target.name=data", "network.ddpm.scale_shift=true", "network.ddpm.residual_down=[0]"],
    ["schedule.kind=cosine", "target.reverse=learned", "target.name=noise", "network.ddpm.attention_up=[]"],
    ["schedule.kind=linear", "schedule.zero_terminal=true", "network.ddpm.middle_attention=false"],
]


@pytest.mark.parametrize("settings", OWN, ids=lambda s: s[0].partition("=")[2])
def test_an_exported_run_is_loaded_by_diffusers_and_makes_the_same_images(
    diffusers, tmp_path: Path, settings: list
) -> None:
    model = run_of(Config().with_settings([*DDPM, "schedule.num_levels=21", *settings]), tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "out" / "exported")
    loaded = diffusers.DDPMPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(our_images(model) - their_images(loaded, model.num_levels)).max() <= TOLERANCE
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "README.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    again = import_run(folder, tmp_path / "again")
    assert np.abs(our_images(again) - our_images(model)).max() <= TOLERANCE
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_lines_of_the_card_make_images(diffusers, tmp_path: Path, monkeypatch) -> None:
    run_of(Config().with_settings([*DDPM, "schedule.kind=linear", "schedule.zero_terminal=true"]), tmp_path / "run")
    folder = export(tmp_path / "run", tmp_path / "out")
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "num_inference_steps=30" in lines
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(lines, made)  # the card is ours
    assert made["images"][0].size == (8, 8)
    assert made["pipeline"].scheduler.config.timestep_spacing == "trailing"
    assert (
        'from_pretrained("me/faces")'
        in (export(tmp_path / "run", tmp_path / "b", name="me/faces") / "README.md").read_text()
    )


def test_classes_travel_with_the_null_as_one_more(diffusers, tmp_path: Path) -> None:
    run_of(Config().with_settings([*DDPM, "schedule.kind=linear", "target.name=noise"]), tmp_path / "run", 3)
    folder = export(tmp_path / "run", tmp_path / "out")
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    assert unet.config.num_class_embeds == 4
    assert "class_labels" in (folder / "README.md").read_text()
    (folder / "markovae.json").unlink()  # as a folder of anyone else
    model = import_run(folder, tmp_path / "back")
    assert mv.sample(model, 2, steps=2, labels=[0, 3]).shape == (2, 3, 8, 8)
    with pytest.raises(UserError, match="never trained without classes"):
        mv.sample(model, 2, steps=2, labels="none")


def test_the_card_has_the_front_matter_that_the_hub_reads(tmp_path: Path) -> None:
    run_of(Config().with_settings([*DDPM, "target.name=noise"]), tmp_path / "run")
    row = {"kind": "heldout", "step": 5, "seconds": 1.0, "bits_per_dim": {"mean": 3.25, "stderr": 0.01}}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    card = (export(tmp_path / "run", tmp_path / "out") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: unconditional-image-generation\n")
    assert "| held-out bound | 3.250 ± 0.010 bits/dim, after step 5 |" in card
    assert "| images | 8x8 pixels, 3 channels |" in card


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.kind=unet"], r"network\.kind=unet, which is none of diffusers' networks"),
        (["target.name=score"], r"target\.name=score cannot be expressed"),
        (["target.name=mean"], r"target\.name=mean cannot be expressed"),
        (["target.reverse=isotropic"], r"target\.reverse=isotropic cannot be expressed"),
        (["target.pixels=centres"], r"target\.pixels=centres cannot be expressed"),
        (["schedule.num_levels=4000"], "float32 rounds to none"),
        (["network.ddpm.middle_groups=0"], "no normalization is none of diffusers'"),
        (
            ["network.ddpm.widths=[8, 8, 8]", "network.ddpm.attention=[0, 1]", "network.ddpm.residual_down=[0]"],
            "changes the resolution of all levels with attention in one way",
        ),
    ],
)
def test_what_diffusers_cannot_express_is_refused_and_nothing_is_written(
    tmp_path: Path, settings: list, message: str
) -> None:
    ddpm = [] if "network.kind=unet" in settings else DDPM
    run_of(Config().with_settings([*ddpm, "schedule.num_levels=30", *settings]), tmp_path / "run")
    with pytest.raises(UserError, match=message):
        export(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_digits_of_another_number_are_refused(tmp_path: Path) -> None:
    config = Config().with_settings([*DDPM, "target.name=noise"])
    model = create(config, (3, 8, 8), bins=17)
    state = {"step": 0, "shape": [3, 8, 8], "bins": 17, "class_names": []}
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    save_checkpoint(tmp_path / "run" / "checkpoints", 0, {"ema": tensors}, state, config)
    with pytest.raises(UserError, match="has 17 values per pixel"):
        export(tmp_path / "run", tmp_path / "out")


def test_what_is_there_is_not_overwritten(pipeline, tmp_path: Path) -> None:
    folder = saved(pipeline(), tmp_path / "theirs")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, words in (("full", "is not empty"), ("file", "is a file")):
        with pytest.raises(UserError, match=words):
            import_run(folder, tmp_path / name)
    import_run(folder, tmp_path / "empty")
    with pytest.raises(UserError, match="is not empty"):
        export(tmp_path / "empty", tmp_path / "full")
    assert (tmp_path / "full" / "mine").read_text() == "x"
    assert open_checkpoint(tmp_path / "empty").state["kind"] == "imported"


def test_the_names_of_classes_and_no_class_come_back(tmp_path: Path) -> None:
    config = Config().with_settings([*DDPM, "schedule.kind=linear", "target.name=noise"])
    model = run_of(config, tmp_path / "run", classes=("cats", "dogs"))
    folder = export(tmp_path / "run", tmp_path / "out")
    assert json.loads((folder / "unet" / "config.json").read_text())["num_class_embeds"] == 3
    import_run(folder, tmp_path / "again")
    again = open_checkpoint(tmp_path / "again")
    assert again.class_names == ("cats", "dogs")
    assert again.config.train.label_dropout > 0
    for ours, theirs in zip(model.parameters(), again.model().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    back = export(tmp_path / "again", tmp_path / "back")
    names = ("markovae.json", "unet/config.json")
    assert all((back / name).read_bytes() == (folder / name).read_bytes() for name in names)
    for text in (
        '{"class_names": ["a", "b"], "null_class": false, "null_learnt": false}',
        '{"class_names": ["a", "b"], "null_class": true}',
        "{}",
    ):
        (folder / "markovae.json").write_text(text)
        with pytest.raises(UserError, match=r"markovae\.json does not name the 3 labels of the unet"):
            import_run(folder, tmp_path / "third")


def test_no_class_that_was_never_trained_stays_so(tmp_path: Path) -> None:
    settings = [*DDPM, "schedule.kind=linear", "target.name=noise", "train.label_dropout=0"]
    run_of(Config().with_settings(settings), tmp_path / "run", classes=("cats", "dogs"))
    folder = export(tmp_path / "run", tmp_path / "out")
    import_run(folder, tmp_path / "again")
    assert open_checkpoint(tmp_path / "again").config.train.label_dropout == 0
