"""`distill` as a run: begun from a teacher, resumed bit by bit, sampled in its own evaluations; what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import markovae as mv
from markovae.cli.entry import main
from markovae.config import Config
from markovae.errors import UserError
from markovae.run.distilling import _student_config, distill
from markovae.training.distillation_config import DistillConfig

SMALL = (
    *("network.width=8", "network.multipliers=[1]", "network.blocks=1", "network.attention=[]", "train.batch=8"),
    *(
        "train.precision=float32",
        "train.evaluations=0",
        "train.grids=0",
        "schedule.num_levels=20",
        "train.fit_images=16",
    ),
)


def trained(out: Path, *settings: str) -> Path:
    mv.train("digits", out, Config().with_settings([*SMALL, "train.steps=3", *settings]), progress=False)
    return out


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "teacher")


def weights(model: mv.Diffusion) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_a_student_is_a_run_that_resumes_bit_by_bit(teacher: Path, tmp_path: Path) -> None:
    settings = ["train.keep_every=3"]
    whole = distill(teacher, tmp_path / "student", 2, steps=6, settings=settings, progress=False).model
    kept = weights(whole)
    assert any(not torch.equal(weight, kept[name]) for name, weight in weights(mv.load(teacher)).items())
    shutil.rmtree(tmp_path / "student" / "checkpoints" / "step-00000006")
    resumed = mv.resume(tmp_path / "student", progress=False)
    assert resumed.checkpoint.step == 6
    assert resumed.model.calls == 2
    assert all(torch.equal(weight, kept[name]) for name, weight in weights(resumed.model).items())


def test_a_student_samples_in_its_own_evaluations(teacher: Path, tmp_path: Path) -> None:
    model = distill(teacher, tmp_path / "student", 2, steps=2, progress=False).model
    calls: list[int] = []
    hook = model.network.register_forward_hook(lambda *_: calls.append(1))
    images = mv.sample(model, 4, labels="none")
    assert len(calls) == 2
    hook.remove()
    assert np.array_equal(images, mv.sample(model, 4, steps=2, sampler="ddim", labels="none"))
    for wrong in ({"steps": 3}, {"sampler": "heun"}, {"spacing": "karras"}):
        with pytest.raises(UserError, match="this student was distilled for 2"):
            mv.sample(model, 4, labels="none", **wrong)
    splits = mv.load_data("digits")
    fit = {"fit": splits.train.images[:8], "fit_labels": splits.train.labels[:8], "variance": "isotropic"}
    chain = mv.measure(model, splits.test.images[:4], splits.test.labels[:4], levels=4, draws=None, **fit)
    assert np.isfinite(chain.bits_per_dim.value)
    mv.save(model, tmp_path / "saved")
    assert mv.load(tmp_path / "saved").calls == 2


def test_a_small_budget_makes_no_smaller_student(teacher: Path, tmp_path: Path) -> None:
    """A run of few minutes takes a smaller network where the configuration names none; a student has its teacher's."""
    config = _student_config(teacher, DistillConfig(2), ())
    assert config.train.preset == "none"
    assert config.train.lr == mv.load_run(teacher).checkpoint.config.train.lr
    assert config.network == mv.load_run(teacher).checkpoint.config.network


def test_what_is_no_teacher_is_told(teacher: Path, tmp_path: Path) -> None:
    distill(teacher, tmp_path / "student", 4, steps=1, progress=False)
    with pytest.raises(UserError, match="is a student of 4 evaluations itself: distill the run that it came from"):
        distill(tmp_path / "student", tmp_path / "second", 2, steps=1, progress=False)
    with pytest.raises(UserError, match=r"distill\.calls=3 must be 1, 2 or 4"):
        distill(teacher, tmp_path / "third", 3, steps=1, progress=False)
    with pytest.raises(UserError, match="both given"):
        distill(teacher, tmp_path / "third", 2, steps=1, minutes=1.0)
    stepped = trained(tmp_path / "stepped", "target.name=mean")
    with pytest.raises(UserError, match="defined by the steps of its grid, and a student crosses several at once"):
        distill(stepped, tmp_path / "third", 2, steps=1, progress=False)
    with pytest.raises(UserError, match="names no teacher: use markovae distill RUN"):
        trained(tmp_path / "third", "distill.calls=2")
    np.save(tmp_path / "others.npy", np.random.default_rng(0).integers(0, 17, (60, 10, 10)).astype(np.uint8))
    with pytest.raises(UserError, match=r"makes images of|does not fit this run"):
        distill(
            teacher, tmp_path / "third", 2, steps=1, settings=[f"data.source={tmp_path}/others.npy"], progress=False
        )
    assert not (tmp_path / "third").exists()


def test_the_command(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "student")
    assert main(["distill", str(teacher), "--calls", "1", "--out", out, "--steps", "2", "--no-report"]) == 0
    assert main(["sample", out, "--n", "2", "--steps", "3", "--out", str(tmp_path / "s")]) == 2
    assert "this student was distilled for 1: leave --steps out" in capsys.readouterr().err
    assert main(["sample", out, "--n", "2", "--out", str(tmp_path / "s")]) == 0
    assert "1 network evaluation" in capsys.readouterr().out
