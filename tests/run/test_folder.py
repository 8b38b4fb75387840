from pathlib import Path

import pytest

from markovae.config import Config
from markovae.errors import UserError
from markovae.run.run_folder import RunFolder
from markovae.run.start import resume_run, train_run
from markovae.system.jsonlines import read_rows


def test_an_empty_folder_has_nothing_to_lose(tmp_path: Path):
    RunFolder(tmp_path).require_empty()
    RunFolder(tmp_path / "missing").require_empty()


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints"])
def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path: Path, name: str):
    if name == "checkpoints":
        (tmp_path / name / "step-00000000").mkdir(parents=True)
    else:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="add --resume to continue it, or name another folder"):
        RunFolder(tmp_path).require_empty()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_killed_before_its_first_save_can_be_started_again(tmp_path: Path):
    (tmp_path / "checkpoints" / ".tmp-step-00000000-x").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    RunFolder(tmp_path).require_empty()
    RunFolder(tmp_path).clear()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="is not a run"):
            RunFolder(path).open()


def test_rows_survive_a_line_cut_short_and_forget_what_is_taken_again(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert read_rows(folder.metrics).rows == ()
    for step in (10, 20, 30):
        folder.append({"kind": "train", "step": step, "seconds": 1.0, "loss": 0.1 * step, "nats": 1.0})
    with folder.metrics.open("ab") as file:
        file.write(b'{"kind": "train", "st')
    assert [row["step"] for row in read_rows(folder.metrics).rows] == [10, 20, 30]
    folder.forget_after(20)
    assert folder.metrics.read_bytes().count(b"\n") == 2
    folder.append({"kind": "rollback", "step": 21})
    assert [row["step"] for row in read_rows(folder.metrics).rows] == [10, 20, 21]


def test_figures_that_are_none_are_never_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path).append({"loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples", "checkpoints"])
def test_training_in_a_folder_with_links_is_refused_and_touches_nothing(run_config: Config, tmp_path: Path, name: str):
    run, victim = tmp_path / "run", tmp_path / "victim"
    (victim / ".tmp-mine").mkdir(parents=True)
    run.mkdir()
    (run / name).symlink_to(victim)
    for begin in (lambda: train_run(run_config, run), lambda: resume_run(run)):
        with pytest.raises(UserError, match=r"is a link|is not a run"):
            begin()
    assert [path.name for path in run.iterdir()] == [name]
    assert [path.name for path in victim.iterdir()] == [".tmp-mine"]


def test_a_checkpoint_in_the_place_of_its_run_leads_to_the_run(tmp_path: Path):
    inside = tmp_path / "run" / "checkpoints" / "step-00000004"
    inside.mkdir(parents=True)
    with pytest.raises(UserError, match="is not a run"):  # a folder of somebody's that is called checkpoints
        RunFolder(inside).open()
    (tmp_path / "run" / "config.toml").touch()
    for path in (inside, inside / "model.safetensors"):
        with pytest.raises(UserError, match=r"lies in the run .*run: name the run, which continues from its newest"):
            RunFolder(path).open()
