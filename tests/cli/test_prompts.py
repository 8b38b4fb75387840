"""`markovae sample --prompt`: the sheet, where a picture comes from, and what is refused in one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.words import Words

from markovae.checkpoints.reading import load
from markovae.cli.entry import main
from markovae.sampling.editing import edit
from markovae.sampling.generation import sample

from .conftest import check, settings

RANKED = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def stand_in(words) -> None:
    """The encoder of the tests, whatever is installed."""


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on two hundred captioned images of 8x8 pixels, with its report."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(200):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "photos" / f"{i}.png")
        (folder / "photos" / f"{i}.txt").write_text(f"picture {i} with a {'hat' if i % 2 else 'beard'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder / "cache"))
        patch.setattr("markovae.text.conditioner.load_encoder", Words)
        patch.setattr("markovae.text.conditioner.encoder_hash", lambda name: Words.hash)
        words = ["train", str(folder / "photos"), "--out", str(folder / "run"), "--steps", "12"]
        assert main([*words, *settings(condition__kind="text", train__label_dropout="0.2")]) == 0
        yield folder / "run"


def opened(path: Path) -> tuple[tuple[int, int], dict[str, str]]:
    """Width and height of a PNG, and its texts."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size, dict(picture.text)


def test_several_prompts_are_rows_with_the_same_noise_down_each_column(text_run: Path, tmp_path: Path, json_of):
    out = tmp_path / "out"
    words = ["--prompt", "a hat", "--prompt", "a beard é", "--n", "3", "--steps", "4", "--batch", "3"]
    record = json_of("sample", "sample", text_run, *words, "--out", out)
    assert (record["n"], record["prompts"], record["guidance"]) == (6, ["a hat", "a beard é"], 2)
    arrays = np.load(out / "samples.npz", allow_pickle=False)
    assert arrays["prompts"].tolist() == ["a hat"] * 3 + ["a beard é"] * 3
    model = load(text_run)
    for row, prompt in enumerate(("a hat", "a beard é")):
        expected = sample(model, 3, steps=4, batch=3, prompt=prompt)
        assert np.array_equal(arrays["arr_0"][3 * row : 3 * row + 3], expected.transpose(0, 2, 3, 1))
    size, text = opened(out / "grid.png")
    assert size == (8 * (3 * 9 - 1), 8 * (2 * 9 - 1))
    assert text["markovae:prompt"] == "a hat\na beard é"
    _, text = opened(out / "00004.png")
    assert (text["markovae:prompt"], text["markovae:index"]) == ("a beard é", "4")
    assert text["markovae:encoder"] == f"all-MiniLM-L6-v2 {Words.hash}"


def test_prompts_from_a_file_with_a_negative_one(text_run: Path, tmp_path: Path):
    (tmp_path / "lines.txt").write_text("\ufeffa hat\n  a beard \n", encoding="utf-8")
    words = ["sample", str(text_run), "--prompts", str(tmp_path / "lines.txt"), "--n", "2", "--steps", "3"]
    assert main([*words, "--out", str(tmp_path / "one"), "--guidance", "3", "--negative", "picture"]) == 0
    assert opened(tmp_path / "one" / "00003.png")[1]["markovae:negative"] == "picture"
    found = np.load(tmp_path / "one" / "samples.npz", allow_pickle=False)["arr_0"]
    prompts = ["a hat", "a hat"]
    expected = sample(load(text_run), 2, steps=3, prompt=prompts, guidance=3, negative="picture")
    assert np.array_equal(found[:2], expected.transpose(0, 2, 3, 1))


def test_an_empty_prompt_is_said_to_ask_for_nothing(text_run: Path, tmp_path: Path, capsys):
    words = ["sample", str(text_run), "--n", "2", "--steps", "3"]
    assert main([*words, "--prompt", "", "--out", str(tmp_path / "empty")]) == 0
    assert "empty prompt: sampling unconditionally" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert "no --prompt: sampling unconditionally" in capsys.readouterr().err
    empty, plain = (np.load(tmp_path / name / "samples.npz")["arr_0"] for name in ("empty", "plain"))
    assert np.array_equal(empty, plain)


def test_what_cannot_be_asked_is_one_sentence(text_run: Path, tmp_path: Path, refused):
    (tmp_path / "gap.txt").write_text("a hat\n\na beard\n")
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for words, sentence in (
        (("--prompts", tmp_path / "gap.txt"), "gap.txt line 2 is empty: write a prompt there, or remove the line"),
        (("--prompts", tmp_path / "none.txt"), "none.txt is empty: write one prompt per line"),
        (("--prompts", tmp_path / "bytes.txt"), "is not UTF-8 text"),
        (("--prompts", tmp_path / "away.txt"), "cannot be read (No such file or directory)"),
        (("--prompts", tmp_path / "gap.txt", "--prompt", "a"), "are both given: keep one of them"),
        (("--prompt", "a", "--class", "1"), "a model of captions takes prompts alone"),
        (("--negative", "a"), "give a prompt"),
        (("--guidance", "3"), "needs a condition to be guided to: give a prompt"),
        (("--prompt", "a", "--guidance", "1", "--negative", "b"), "shapes guidance"),
    ):
        assert sentence in refused("sample", text_run, "--out", tmp_path / "x", *words), words


def test_a_run_without_captions_refuses_a_prompt(digits_run: Path, tmp_path: Path, refused):
    for words in (("--prompt", "a seven"), ("--negative", "an eight")):
        said = refused("sample", digits_run, "--out", tmp_path / "x", *words)
        assert f"{words[0]} needs a model of captions, and {digits_run} was trained without: leave it out" in said


def test_another_encoder_than_the_runs_is_refused(text_run: Path, tmp_path: Path, refused, monkeypatch):
    monkeypatch.setattr("markovae.text.conditioner.encoder_hash", lambda name: "99" * 32)
    said = refused("sample", text_run, "--out", tmp_path / "x", "--prompt", "a hat")
    assert "this model was trained with the text encoder all-MiniLM-L6-v2 of SHA-256 abab" in said


def test_the_report_shows_prompts_by_seeds(text_run: Path):
    record = json.loads((text_run / "report.json").read_text())
    check(record, "report")
    sheet = record["prompts"]
    assert len(set(sheet["prompts"])) == len(sheet["prompts"]) >= 2
    weighed = record["captions"]
    assert weighed["information_lower_bound"]["nats"]["mean"] <= weighed["information_lower_bound"]["ceiling_nats"]
    page = (text_run / "report.html").read_text()
    assert "What captions say" in page
    assert "From caption to image" in page
    assert all(prompt in page for prompt in sheet["prompts"])


def test_measure_gives_each_image_its_caption_and_says_so(text_run: Path, capsys):
    assert main(["measure", str(text_run), "--split", "validation", "--draws", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert "measuring each image given its caption" in said.err
    check(json.loads(said.out), "measure")


def test_captions_are_weighed(text_run: Path, json_of, capsys):
    words = [
        "measure",
        text_run,
        "--captions",
        "--split",
        "train",
        "--limit",
        "10",
        "--candidates",
        "4",
        "--draws",
        "2",
    ]
    record = json_of("captions", *words)
    lower = record["information_lower_bound"]
    assert (record["n"], lower["n"], lower["candidates"]) == (10, 8, 4)
    assert lower["nats"]["mean"] <= lower["ceiling_nats"]
    assert lower["at_least_nats"] == max(0, lower["nats"]["mean"])
    assert record["network_calls"] == 3 * (2 * 10 + 3 * 8)
    assert [row["image"] for row in record["images"]] == list(range(10))
    mean = sum(row["nats"] for row in record["images"]) / 10
    assert abs(record["bound_difference"]["nats"]["mean"] - mean) < 1e-9
    bits = record["bits_per_dim"]
    gap = bits["without_caption"]["mean"] - bits["with_caption"]["mean"]
    assert abs(record["bound_difference"]["bits_per_dim"]["mean"] - gap) < 1e-9
    plain = ["measure", str(text_run), "--split", "train", "--limit", "10", "--draws", "2"]
    assert abs(json_of("measure", *plain)["bits_per_dim"]["mean"] - bits["with_caption"]["mean"]) < 1e-6
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "no bound on it, either way" in said
    assert "among 4; it cannot exceed ln 4 = 1.39" in said


def test_what_does_not_go_with_captions_is_one_sentence(text_run: Path, digits_run: Path, refused):
    for words, sentence in (
        (("--captions", "--ode"), "takes no --ode"),
        (("--captions", "--estimator", "importance"), "takes no --estimator"),
        (("--captions", "--limit", "3"), "at least 32 are needed"),
        (("--candidates", "4"), "add --captions"),
    ):
        assert sentence in refused("measure", text_run, "--split", "train", *words), words
    assert "was trained without: leave it out" in refused("measure", digits_run, "--captions")


def test_captions_are_weighed_by_one_process(text_run: Path, refused, monkeypatch):
    for name, value in {**RANKED, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "start without torchrun" in refused("measure", text_run, "--captions")


def test_prompts_are_drawn_the_same_by_several(together, text_run: Path, tmp_path: Path):
    words = ["sample", str(text_run), "--prompt", "a hat", "--prompt", "", "--n", "5", "--batch", "4", "--steps", "3"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    ended = together(lambda: main([*words, "--out", str(tmp_path / "two")]))
    assert [(end.code, end.value) for end in ended] == [(0, 0)] * 2, [end.said for end in ended]
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 12
    assert one == two


def test_a_run_that_never_left_a_caption_out_draws_and_weighs_none(text_run: Path, tmp_path: Path, refused):
    words = ["--out", str(tmp_path / "run"), "--steps", "2", "--no-report"]
    words += settings(condition__kind="text", train__label_dropout="0")
    assert main(["train", str(text_run.parent / "photos"), *words]) == 0
    assert "never trained without captions" in refused("sample", tmp_path / "run", "--out", tmp_path / "x")
    assert "never trained without captions" in refused("measure", tmp_path / "run", "--captions")
    drawn = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "y"), "--n", "1", "--steps", "2"]
    assert main([*drawn, "--prompt", "a hat"]) == 0
    assert opened(tmp_path / "y" / "00000.png")[1]["markovae:guidance"] == "1"
    words = ["sample", tmp_path / "run", "--prompt", "a hat", "--guidance", "2", "--out", tmp_path / "z"]
    assert "name a negative prompt" in refused(*words)


def test_an_edit_shows_a_prompt(text_run: Path, tmp_path: Path):
    picture, out = tmp_path / "face.png", tmp_path / "out"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture)
    words = ["edit", str(text_run), str(picture), "--from-level", "0.8", "--steps", "4", "--n", "2"]
    assert main([*words, "--prompt", "a hat", "--negative", "a beard", "--out", str(out)]) == 0
    _, text = opened(out / "00001.png")
    assert (text["markovae:prompt"], text["markovae:negative"], text["markovae:guidance"]) == ("a hat", "a beard", "2")
    model = load(text_run)
    told = edit(model, picture, from_level=0.8, steps=4, n=2, prompt="a hat", negative="a beard")
    assert np.array_equal(told.images[1], np.asarray(Image.open(out / "00001.png")).transpose(2, 0, 1))
    for prompt in (None, "a beard"):
        other = edit(model, picture, from_level=0.8, steps=4, n=2, prompt=prompt, guidance=2 if prompt else None)
        assert not np.array_equal(other.images, told.images)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--prompt", "a", "--prompt", "b"], "--prompt is given twice: an edit shows one"),
        (["--negative", "a"], "a negative prompt is what a prompt is guided away from"),
        (["--guidance", "3"], "needs a condition to be guided to: give a prompt"),
        (["--prompt", "a", "--class", "hat"], "--class and a prompt are both given"),
    ],
)
def test_edits_that_ask_for_what_does_not_go_together(text_run: Path, tmp_path: Path, asked, said: str, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "face.png")
    words = ["edit", str(text_run), str(tmp_path / "face.png"), "--from-level", "0.5", "--out", str(tmp_path / "out")]
    assert main([*words, *asked]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_edit_without_a_prompt_says_so(text_run: Path, tmp_path: Path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "face.png")
    words = ["edit", str(text_run), str(tmp_path / "face.png"), "--from-level", "0.5", "--steps", "2", "--n", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "no --prompt: sampling unconditionally" in capsys.readouterr().err


def test_captions_and_columns_of_one_folder_together(tmp_path: Path, json_of, capsys):
    """From the folder to samples of a prompt and a value, and to the nats of each."""
    rng, rows = np.random.default_rng(0), ["file_name,text,age,smiling"]
    (tmp_path / "photos").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
        rows.append(f"{i}.png,a {('hat', 'beard')[i % 2]},{20 + i % 40},{('no', 'yes')[i % 3 > 0]}")
    (tmp_path / "photos" / "captions.csv").write_text("\n".join(rows))
    own = ["--set", "condition.columns=[age,smiling]", "--set", "train.preset=none", *settings()]
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "photos"), "--out", str(run), "--steps", "3", "--no-report", *own]) == 0
    said = capsys.readouterr().err
    assert "captions condition the model" in said
    assert "columns condition the model: age (20…59); smiling (no, yes)" in said
    asked = ["--prompt", "a hat", "--where", "age=30", "--where", "smiling=yes"]
    record = json_of("sample", "sample", run, *asked, "--n", "2", "--steps", "2", "--out", tmp_path / "out")
    assert (record["prompts"], record["where"]) == (["a hat"], {"age": "30", "smiling": "yes"})
    assert opened(tmp_path / "out" / "00000.png")[1]["markovae:where"] == "age=30; smiling=yes"
    model, drawn = load(run), []
    for prompt, age, smiling in (
        ("a hat", 30, "yes"),
        ("a beard", 30, "yes"),
        ("a hat", 59, "yes"),
        ("a hat", 30, "no"),
    ):
        where = {"age": age, "smiling": smiling}
        drawn.append(sample(model, 1, steps=2, prompt=prompt, where=where, raw=True).tobytes())
    assert len(set(drawn)) == 4, "each of them tells the network something"
    weighed = ["--split", "train", "--draws", "2", "--candidates", "4"]
    assert json_of("captions", "measure", run, "--captions", *weighed, "--limit", "10")["n"] == 10
    columns = json_of("columns", "measure", run, "--columns", *weighed, "--limit", "4")["columns"]
    assert [row["column"] for row in columns] == ["age", "smiling"]
