import errno
import fcntl
import gc
import itertools
import json
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reliability.disks import Recording, WatchedDisk

from markovae.build import create
from markovae.checkpoints.manifest import MANIFEST, CheckpointError, make_manifest, verify_bundle
from markovae.checkpoints.reading import Checkpoint, load, open_checkpoint
from markovae.cli.entry import main
from markovae.config import Config
from markovae.data.images import ImageData
from markovae.errors import StoppedRun, UserError
from markovae.run import evaluations, session
from markovae.run.introduction import unused
from markovae.run.start import resume_run, train_run
from markovae.run.surroundings import Surroundings
from markovae.sampling.generation import NonFiniteSamples
from markovae.system.jsonlines import read_rows
from markovae.training import trainer
from markovae.training.trainer import Training


def weights(run: Path) -> dict[str, bytes]:
    """The tensors of a run's newest checkpoint, as bytes: equal if and only if bitwise equal."""
    contents = open_checkpoint(run).contents
    return {name: content for name, content in contents.items() if name.endswith(".safetensors")}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """The signal arrives while that step is being taken."""
    advance = Training.advance

    def interrupted(self: Training):
        if self.step + 1 == step:
            os.kill(os.getpid(), number)
        return advance(self)

    monkeypatch.setattr(Training, "advance", interrupted)


def test_a_run_leaves_everything_that_is_promised(run_config: Config, tmp_path: Path, capsys):
    run_config = run_config.with_settings(["train.grids=1"])
    run = train_run(run_config, tmp_path / "run")
    names = {path.name for path in run.iterdir()}
    assert {"config.toml", "checkpoints", "metrics.jsonl", "samples", "split.json"} <= names
    decided = ["condition.kind=class", "train.preset=none"]
    assert Config.from_toml(run / "config.toml") == run_config.with_settings(decided)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000000", "step-00000012"]
    assert [path.name for path in (run / "samples").iterdir()] == ["step-00000012.png"]
    rows = read_rows(run / "metrics.jsonl").rows
    assert [row["step"] for row in rows if row["kind"] == "train"] == [10, 12]
    assert [row["step"] for row in rows if row["kind"] == "heldout"] == [6, 12]
    state = open_checkpoint(run).state
    assert state["data"] == json.loads((run / "split.json").read_text())
    assert (state["step"], state["total_steps"], state["shape"], state["bins"]) == (12, 12, [1, 4, 4], 256)
    assert load(run).shape == (1, 4, 4)
    said = capsys.readouterr()
    assert said.out == ""
    for words in ("training images", "go to", "float32", "images/s", "left", "held-out bound", ": expect "):
        assert words in said.err


@pytest.mark.parametrize(
    ("step", "number", "code"), [(1, signal.SIGINT, 130), (6, signal.SIGTERM, 143), (12, signal.SIGINT, 130)]
)
def test_an_interrupted_run_saves_says_how_to_go_on_and_ends_bitwise_as_if_never_stopped(
    run_config: Config, tmp_path: Path, trained: Path, monkeypatch, capfd, step: int, number: int, code: int
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, number)
        with pytest.raises(SystemExit) as left:
            train_run(run_config, tmp_path / "cut")
    assert left.value.code == code
    assert open_checkpoint(tmp_path / "cut").step == step
    assert (
        f"stopped at step {step}: continue with  markovae train --resume --out {tmp_path / 'cut'}"
        in capfd.readouterr().err
    )
    resume_run(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(trained)


def test_a_kill_loses_at_most_the_steps_since_the_last_save(
    run_config: Config, tmp_path: Path, trained: Path, monkeypatch
):
    class Kill(BaseException):
        pass

    advance = Training.advance

    def kill(self: Training):
        if self.step == 7:
            raise Kill
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", kill)
        with pytest.raises(Kill):
            train_run(run_config.with_settings(["train.save_minutes=1e-9", "train.keep=3"]), tmp_path / "cut")
    cut = tmp_path / "cut" / "checkpoints"
    assert sorted(path.name for path in cut.iterdir()) == [f"step-0000000{step}" for step in (5, 6, 7)]
    (cut / "step-00000007" / "model.safetensors").write_bytes(b"torn")
    (cut / ".tmp-step-00000008-x").mkdir()
    resume_run(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(trained)
    assert not list(cut.glob(".tmp-*"))


def test_a_finished_run_is_left_alone_and_can_be_extended(finished: Path, capsys):
    run = finished
    before = weights(run)
    resume_run(run)
    assert weights(run) == before
    assert "has finished its 12 steps: extend it with a larger --steps or --minutes" in capsys.readouterr().err
    with pytest.raises(UserError, match="--steps 12 is spent: the run has taken 12 steps"):
        resume_run(run, steps=12)
    with pytest.raises(UserError, match=r"--minutes 1e-06 is spent"):
        resume_run(run, minutes=1e-6)
    resume_run(run, steps=15)
    assert open_checkpoint(run).step == 15
    assert Config.from_toml(run / "config.toml").train.steps == 15
    resume_run(run)
    assert open_checkpoint(run).step == 15


def test_a_run_in_minutes_fixes_its_steps_and_keeps_them(run_config: Config, tmp_path: Path, monkeypatch):
    config = run_config.with_settings(["train.minutes=0.03", "train.evaluations=0"])
    ticks = itertools.count()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25, signal.SIGINT)
        with pytest.raises(SystemExit):
            train_run(config, tmp_path / "run", Surroundings(clock=lambda: 0.01 * next(ticks)))
    total = open_checkpoint(tmp_path / "run").state["total_steps"]
    assert total > 25
    resume_run(tmp_path / "run", Surroundings(clock=lambda: 0.02 * next(ticks)))
    assert open_checkpoint(tmp_path / "run").step == total


def test_a_clock_set_back_a_day_changes_nothing(run_config: Config, tmp_path: Path):
    """Every tenth look at the clock finds it a day earlier than before; what then passes, passes."""
    config = run_config.with_settings(["train.minutes=0.03", "train.save_minutes=0.005", "train.keep=100"])

    def clock(back: float) -> Iterator[float]:
        now = 1e9
        for look in itertools.count(1):
            now += 0.01 if look % 10 else -back
            yield now

    for name, back in (("still", 0.0), ("back", 86_400.0)):
        train_run(config, tmp_path / name, Surroundings(clock=partial(next, clock(back))))
    still, back = (open_checkpoint(tmp_path / name) for name in ("still", "back"))
    assert still.step == back.step > 12
    assert {k: v for k, v in still.state.items() if k != "seconds"} == {
        k: v for k, v in back.state.items() if k != "seconds"
    }
    assert still.state["seconds"] == pytest.approx(back.state["seconds"])
    assert weights(tmp_path / "still") == weights(tmp_path / "back")
    saved = [[path.name for path in sorted((tmp_path / name / "checkpoints").iterdir())] for name in ("still", "back")]
    assert saved[0] == saved[1]
    assert len(saved[0]) > 3


def test_init_starts_from_the_average_of_another_run(run_config: Config, tmp_path: Path, trained: Path, capsys):
    first = trained
    with pytest.raises(UserError, match=r"--init .* does not fit this run: weight .* has shape"):
        train_run(run_config.with_settings(["network.width=16"]), tmp_path / "wide", init=first)
    assert not (tmp_path / "wide").exists()
    for other in ("target.name=data", "target.pixels=centres"):
        with pytest.raises(UserError, match=r"its weights mean something else: set target\.(name|pixels)="):
            train_run(run_config.with_settings([other]), tmp_path / "other", init=first)
    capsys.readouterr()
    second = train_run(run_config.with_settings(["train.seed=5"]), tmp_path / "second", init=first)
    assert ": expect " not in capsys.readouterr().err  # noise, of weights that are trained
    begin = open_checkpoint(second / "checkpoints" / "step-00000000").tensors("model")
    assert all(torch.equal(begin[name], value) for name, value in open_checkpoint(first).tensors("ema").items())
    with pytest.raises(UserError, match="is no"):
        train_run(run_config, tmp_path / "third", init=tmp_path / "nowhere")
    assert not (tmp_path / "third").exists()


def test_fine_tuning_that_was_stopped_ends_alike(run_config: Config, tmp_path: Path, trained: Path):
    config = run_config.with_settings(["train.steps=3", "train.warmup_steps=50"])
    whole = train_run(config, tmp_path / "whole", init=trained)
    part = train_run(config.with_settings(["train.keep_every=1", "train.keep=9"]), tmp_path / "part", init=trained)
    for newer in sorted((part / "checkpoints").glob("step-*"))[2:]:
        shutil.rmtree(newer)
    assert weights(resume_run(part)) == weights(whole)
    assert open_checkpoint(part).state["pretrained"] is True


def test_what_is_known_and_does_not_reach_the_model_is_told(tiny_config: Config):
    pixels = np.zeros((3, 3, 8, 8), np.uint8)
    data = ImageData(pixels, np.array([0, 1, 0]), ("cat", "dog"), ("", "a red hat\na hat", "x"))
    configs = [tiny_config.with_settings([text]) for text in ("condition.kind=class", "condition.kind=none")]
    told = [list(unused(config, create(config, data), data)) for config in configs]
    captions = "the captions of 2 images do not reach the model (“a red hat”): --set condition.kind=text uses them"
    assert told[0] == [captions]
    assert told[1][1] == "the 2 classes (cat, dog) do not reach the model: --set condition.kind=class uses them"


def test_a_rate_that_no_weight_has_is_told(run_config: Config, tmp_path: Path, capfd):
    train_run(run_config.with_settings(["train.optimizer=adamw", "train.lr=0.5"]), tmp_path / "told")
    assert (
        "train.lr and train.momentum are Muon's; with train.optimizer=adamw every weight has" in capfd.readouterr().err
    )
    train_run(run_config.with_settings(["train.optimizer=adamw"]), tmp_path / "plain")
    assert "Muon's" not in capfd.readouterr().err


def test_bad_input_is_refused_before_anything_is_written(run_config: Config, tmp_path: Path):
    out = tmp_path / "run"
    for settings, message in (
        (["data.source=/none/at/all"], "none"),
        (["train.batch=100"], r"train\.batch=100 but there are only \d+ images"),
        (["network.patch=8"], "stride of 8"),
        (
            ["schedule.kind=constant", "schedule.num_levels=none", "schedule.sigma=1e-7", "schedule.delta=0.01"],
            "schedule",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train_run(run_config.with_settings(settings), out)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_a_full_folder_is_refused_untouched_whatever_is_asked(run_config: Config, finished: Path):
    run = finished
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a run already: add --resume"):
        train_run(run_config, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_changed_data_are_noticed_on_resume(run_config: Config, tmp_path: Path):
    run = train_run(run_config, tmp_path / "run")
    images = np.load(tmp_path / "images.npy")
    np.save(tmp_path / "images.npy", 255 - images)
    with pytest.raises(UserError, match=r"changed|other pixels"):
        resume_run(run, steps=20)


def test_images_that_were_moved_are_named_anew(run_config: Config, tmp_path: Path):
    run = train_run(run_config, tmp_path / "run")
    shutil.copytree(run, tmp_path / "unmoved")
    resume_run(tmp_path / "unmoved", steps=15)
    (tmp_path / "images.npy").rename(tmp_path / "moved.npy")
    with pytest.raises(UserError, match="no data source"):
        resume_run(run)
    np.save(tmp_path / "other.npy", np.zeros((40, 4, 4), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None])
    with pytest.raises(UserError, match="other pixels"):
        resume_run(run, data=str(tmp_path / "other.npy"))
    before = weights(run)
    resume_run(run, data=str(tmp_path / "moved.npy"))
    assert open_checkpoint(run).config.data.source == str(tmp_path / "moved.npy")
    assert weights(run) == before
    resume_run(run, steps=15)
    assert open_checkpoint(run).step == 15
    assert weights(run) == weights(tmp_path / "unmoved")


def test_changed_labels_and_classes_are_noticed_on_resume(tiny_config: Config, tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)
    labels = np.arange(40) % 3

    def stored(labels: np.ndarray) -> str:
        np.savez(tmp_path / "images.npz", images=images, labels=labels)
        return f"data.source={tmp_path / 'images.npz'}"

    run = train_run(tiny_config.with_settings([stored(labels)]), tmp_path / "run")
    bundles = sorted(path.name for path in (run / "checkpoints").iterdir())
    for other, sentence in (
        (2 - labels, "the labels of the train part .* changed"),
        (np.minimum(labels, 1), "the labels of the train part .* changed"),
        (labels + 7, "the classes of .* are 7, 8, 9 and were 0, 1, 2"),
    ):
        stored(other)
        with pytest.raises(UserError, match=sentence):
            resume_run(run, steps=20)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == bundles
    stored(labels)
    assert open_checkpoint(resume_run(run, steps=20)).step == 20


def test_a_run_that_goes_on_does_not_keep_the_bundle_it_came_from(run_config: Config, finished: Path, monkeypatch):
    run, held = finished, []
    go = session.Session.go
    before = {id(found) for found in gc.get_objects() if type(found) is Checkpoint}  # of other tests' fixtures

    def looking(self: session.Session) -> None:
        gc.collect()
        held.extend(found for found in gc.get_objects() if type(found) is Checkpoint and id(found) not in before)
        go(self)

    monkeypatch.setattr(session.Session, "go", looking)
    resume_run(run, steps=run_config.train.steps + 1)
    assert held == []


def test_a_run_without_a_good_checkpoint_is_never_started_afresh(finished: Path):
    run = finished
    for path in run.glob("checkpoints/*/ema.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint that verifies"):
        resume_run(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="is not a run"):
        resume_run(run)


def test_a_loss_that_is_no_number_names_step_and_last_good_checkpoint(run_config: Config, tmp_path: Path, monkeypatch):
    advance = Training.advance

    def poisoned(self: Training):
        if self.step == 4:
            with torch.no_grad():
                self.model.network.head.bias.fill_(torch.nan)
        return advance(self)

    monkeypatch.setattr(Training, "advance", poisoned)
    with pytest.raises(
        StoppedRun, match=r"head\.bias is not finite at step 5, .*last good checkpoint is .*step-00000000: lower"
    ) as e:
        train_run(run_config, tmp_path / "run")
    assert "\n" not in str(e.value)
    verify_bundle(tmp_path / "run" / "checkpoints" / "step-00000000")
    assert open_checkpoint(tmp_path / "run").step == 0


def test_a_constant_sigma_run_works_and_warns_with_its_figure(run_config: Config, tmp_path: Path, capsys):
    config = run_config.with_settings(["schedule.kind=constant", "schedule.delta=0.01", "train.steps=2"])
    run = train_run(config, tmp_path / "run")
    assert load(run).schedule.num_levels == 50
    assert "warning: level 1 has log-SNR" in capsys.readouterr().err


def test_a_disk_without_room_is_refused_before_the_run(run_config: Config, tmp_path: Path):
    with pytest.raises(UserError, match="has 10 bytes free and the run needs"):
        train_run(run_config, tmp_path / "run", Surroundings(disk=WatchedDisk(Recording(), free=10)))
    assert not (tmp_path / "run").exists()
    train_run(run_config.with_settings(["train.steps=1"]), tmp_path / "run")


def test_a_picture_that_is_none_is_told_and_ends_no_training(run_config: Config, tmp_path: Path, monkeypatch, capsys):
    def none(model, data):
        raise NonFiniteSamples("16 of 16 images came out NaN")

    monkeypatch.setattr(evaluations, "sample_grid", none)
    out = train_run(run_config.with_settings(["train.grids=1"]), tmp_path / "run")
    assert open_checkpoint(out).step == run_config.train.steps
    assert "no picture, 16 of 16 images came out NaN" in capsys.readouterr().err
    assert not list((out / "samples").glob("*.png"))


@pytest.mark.parametrize("budget", [{"steps": 13}, {"minutes": 0.02}])
def test_a_new_budget_is_kept_from_before_its_first_step(run_config: Config, tmp_path: Path, monkeypatch, budget):
    class Kill(BaseException):
        pass

    def kill(self: Training):
        raise Kill

    ticks = itertools.count()
    run = train_run(run_config, tmp_path / "run", Surroundings(clock=lambda: 0.001 * next(ticks)))
    before = weights(run)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", kill)
        with pytest.raises(Kill):
            resume_run(run, **budget)
    assert weights(run) == before
    resume_run(run, Surroundings(clock=lambda: 0.01 * next(ticks)))
    assert open_checkpoint(run).step > 12


def test_an_extended_time_that_is_cut_short_goes_on_at_the_rate_it_had(run_config: Config, tmp_path: Path, monkeypatch):
    ticks = itertools.count()
    clock = partial(lambda: 0.001 * next(ticks))
    run = train_run(run_config, tmp_path / "run", Surroundings(clock=clock))
    spent = open_checkpoint(run).state["seconds"]
    factors = []
    rate = trainer.rate_factor

    def noted(step, total, *settings):
        factors.append((step, total))
        return rate(step, total, *settings)

    monkeypatch.setattr(trainer, "rate_factor", noted)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 15, signal.SIGINT)
        with pytest.raises(SystemExit):
            resume_run(run, Surroundings(clock=clock), minutes=4 * spent / 60)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 16, signal.SIGINT)
        with pytest.raises(SystemExit):
            resume_run(run, Surroundings(clock=clock))
    assert [step for step, _ in factors] == [12, 13, 14, 15]
    assert len({total for _, total in factors}) == 1
    assert factors[0][1] > 15


def test_a_run_whose_folder_is_replaced_writes_nothing_more_there(run_config: Config, tmp_path: Path, monkeypatch):
    advance, run = Training.advance, tmp_path / "run"

    def moved(self: Training):
        if self.step == 4:
            run.rename(tmp_path / "moved")
            run.mkdir()
        return advance(self)

    monkeypatch.setattr(Training, "advance", moved)
    with pytest.raises(StoppedRun, match="run was moved or replaced while this process trained in it"):
        train_run(run_config, run)
    assert list(run.iterdir()) == []
    monkeypatch.undo()
    resume_run(tmp_path / "moved")
    assert open_checkpoint(tmp_path / "moved").step == 12


def test_going_back_sets_damage_aside_and_forgets_what_was_fitted_since(
    run_config: Config, tmp_path: Path, monkeypatch
):
    advance, run = Training.advance, tmp_path / "run"

    def spoilt(self: Training):
        if self.step == 5 and self.rollbacks == 0:
            model = run / "checkpoints" / "step-00000005" / "model.safetensors"
            model.write_bytes(model.read_bytes()[:-1] + b"?")
            with torch.no_grad():
                self.model.network.head.bias.fill_(torch.nan)
        return advance(self)

    fits = []
    fit = Training.fit_variance

    def fitted(self: Training, images=None):
        fits.append((self.step, self.rollbacks))
        fit(self, images)

    monkeypatch.setattr(Training, "advance", spoilt)
    monkeypatch.setattr(Training, "fit_variance", fitted)
    settings = ["train.rollback=1", "train.save_minutes=1e-9", "train.keep=2", "train.evaluations=12"]
    train_run(run_config.with_settings([*settings, "target.reverse=isotropic", "train.grids=0"]), run)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["damaged-step-00000005-1", "step-00000011", "step-00000012"]
    assert (5, 1) in fits, "the second time step 5 is fitted anew"
    rows = [row["step"] for row in read_rows(run / "metrics.jsonl").rows if row["kind"] == "heldout"]
    assert rows == list(range(1, 13))


def test_a_resumed_run_that_times_its_looks_again_adds_no_row(run_config: Config, tmp_path: Path, monkeypatch):
    class Kill(BaseException):
        pass

    def kill(self: Training):
        raise Kill

    monkeypatch.setattr(Training, "advance", kill)
    config = run_config.with_settings(["train.minutes=1"])
    with pytest.raises(Kill):
        train_run(config, tmp_path / "run")
    with pytest.raises(Kill):
        resume_run(tmp_path / "run")
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl").rows] == [0]


def test_a_bundle_whose_position_cannot_be_is_refused(run_config: Config, tmp_path: Path):
    run = train_run(run_config.with_settings(["train.steps=2"]), tmp_path / "run")
    path = open_checkpoint(run).path
    for change, message in (({"parts": 0}, "has parts=0"), ({"total_steps": None}, "no total_steps")):
        contents = {file.name: file.read_bytes() for file in path.iterdir() if file.name != MANIFEST}
        state = json.loads(contents["state.json"])
        contents["state.json"] = json.dumps({**state, **change}).encode()
        forged = tmp_path / message.replace(" ", "-") / "checkpoints" / path.name
        forged.mkdir(parents=True)
        for name, content in contents.items():
            (forged / name).write_bytes(content)
        (forged / MANIFEST).write_bytes(make_manifest(contents))
        with pytest.raises(CheckpointError, match=message):
            resume_run(forged.parent.parent)


def test_a_file_system_without_locks_is_told(run_config: Config, tmp_path: Path, monkeypatch, capsys):
    def none(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    train_run(run_config.with_settings(["train.steps=1"]), tmp_path / "run")
    assert "lies where files cannot be locked (No locks available): let no other process" in capsys.readouterr().err


def test_a_run_does_not_lie_in_its_own_images(run_config: Config, tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    config = run_config.with_settings([f"data.source={photos}"])
    for out in (photos, photos / "a" / "run"):
        with pytest.raises(UserError, match=r"--out .* lies in the data, .*photos, and its pictures would be read"):
            train_run(config, out)
    assert list(photos.iterdir()) == []
    shards = tmp_path / "shards"
    assert main(["shard", str(tmp_path / "images.npy"), "--out", str(shards)]) == 0
    config = run_config.with_settings([f"data.source={shards}", "train.steps=1"])
    assert train_run(config, shards / "run") == shards / "run"


def test_sigpipe_stops_nothing(run_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    interrupt_at(monkeypatch, 3, signal.SIGPIPE)
    run = train_run(run_config, tmp_path / "run")
    assert open_checkpoint(run).step == 12
