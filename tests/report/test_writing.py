import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.pictures import readable, tile, viewable
from markovae.errors import UserError
from markovae.report.report_writing import PARTS, current_report, write_report
from markovae.sampling.generation import sample

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Whether every tag is closed in its turn, and what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def record_and_text(run: Path) -> tuple[dict, str, str]:
    """report.json, report.html, and what a reader sees of it."""
    page = (run / "report.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))
    return json.loads((run / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail), page, text


@pytest.mark.parametrize("name", ["digits_run", "colour_run"])
def test_the_page_needs_nothing_but_itself(name: str, request: pytest.FixtureRequest):
    _, page, _ = record_and_text(request.getfixturevalue(name))
    assert not re.search(r"https?:|<script|<link|<iframe|@import|url\(|javascript:", page, re.IGNORECASE)
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(parser.addresses) > 20
    assert all(address.startswith("data:image/png;base64,") for address in parser.addresses)
    assert not re.search(r"<[^>]*\son\w+=", page), "no handlers of events"
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize("name", ["digits_run", "colour_run"])
def test_the_page_shows_the_figures_of_the_record(name: str, request: pytest.FixtureRequest):
    record, page, text = record_and_text(request.getfixturevalue(name))
    bits = record["measurement"]["bits_per_dim"]
    low, high = bits["ci95"]
    shown = [
        f"{bits['mean']:.3f} ± {bits['stderr']:.3f}",
        f"95 % interval {low:.3f} to {high:.3f}",
        f"first {record['measurement']['n']:,} images, {record['measurement']['network_calls_per_example']} network",
        f"median {record['neighbours']['samples_median']:.1f}",
        f"median {record['neighbours']['real']['median']:.1f}",
        f"{record['run']['parameters']:,} weights",
        f"{record['run']['step']:,} steps",
        f"{record['run']['images_seen']:,} images seen",
        f"{record['run']['images_per_second']:,.0f} a second",
        f"torch {record['run']['versions']['torch']}",
        f"{record['data']['train']:,} + {record['data']['validation']:,} + {record['data']['test']:,}",
        *(f"{value:.4f}" for value in record["measurement"]["terms_bits_per_dim"].values()),
        *(f"{row[key]:.3f}" for row in record["codecs"] for key in ("per_image_bits_per_dim", "tiled_bits_per_dim")),
        *(f"{row['samples']:.1f} ± {row['stderr']:.1f}" for row in record["channels"]),
        *(f"{row['data']:.1f}" for row in record["channels"]),
        *(f"{row['distance']:.1f}" for row in record["neighbours"]["samples"]),
        *(f"{row['bits_per_dim']:.2f}" for rows in record["extremes"].values() for row in rows),
        *(f"λ = {record['run']['last_logsnr']:.1f}".replace("-", "−") for _ in range(1)),
    ]
    for figure in shown:
        assert figure in text, figure
    assert page.count("<svg viewBox") == 4, "levels, held-out bound, rate and distortion, and training"


@pytest.mark.parametrize("name", ["digits_run", "colour_run"])
def test_every_sentence_of_the_record_stands_in_the_page(name: str, request: pytest.FixtureRequest):
    record, _, text = record_and_text(request.getfixturevalue(name))
    meanings = record["meanings"]
    figures = ("bits_per_dim", "per_level", "codecs", "channels", "extremes")
    for figure in (*figures, "curves.training", "curves.heldout", "curves.rate"):
        assert meanings[figure] in text
    for figure in ("prior", "levels", "reconstruction"):
        assert meanings[f"terms_bits_per_dim.{figure}"][1:-1] in text


def test_a_noisy_level_1_is_warned_of_with_its_figure(colour_run: Path, digits_run: Path):
    record, _, text = record_and_text(colour_run)
    assert "blurs" in record["run"]["warning"]
    assert f"Warning: {record['run']['warning']}" in text
    record, page, _ = record_and_text(digits_run)
    assert record["run"]["warning"] is None
    assert "Warning" not in page


def test_classes_are_the_columns_of_the_sheet(digits_run: Path, colour_run: Path):
    record, _, text = record_and_text(digits_run)
    facts = record["samples"]
    assert (facts["n"], facts["columns"]) == (60, 10)
    assert facts["column_classes"] == list("0123456789")
    assert "One class a column: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in text
    facts = record_and_text(colour_run)[0]["samples"]
    assert (facts["n"], facts["columns"], facts["column_classes"]) == (64, 8, None)


def test_the_grid_holds_the_samples_anyone_would_draw(digits_run: Path):
    import markovae as mv

    record = record_and_text(digits_run)[0]["samples"]
    images = sample(
        mv.load(digits_run),
        record["n"],
        steps=record["network_calls_per_sample"],
        seed=record["seed"],
        sampler=record["sampler"],
        labels=[i % 10 for i in range(record["n"])],
    )
    drawn = np.asarray(Image.open(io.BytesIO((digits_run / "samples" / "grid.png").read_bytes())), np.int64)
    pictures = viewable(images, 17)
    # Matrix products change with the shape of a batch: a digit may round the other way.
    assert np.abs(drawn - readable(tile(pictures, 10), pictures)[..., 0].astype(np.int64)).max() <= 16


def test_the_parts_of_a_report_are_those_that_are_asked_for(digits_run: Path):
    assert set(record_and_text(digits_run)[0]) == PARTS


def test_rows_that_cannot_be_read_are_left_out_and_told(digits_run: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    odd = [
        b'{"kind": "train", "step": 5}',
        b'{"kind": "heldout", "step": 5, "bits_per_dim": []}',
        b"[" * 100_000,
        b'{"st',
    ]
    rows = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(rows + b"\n".join(odd))
    record, told = write_report(run), capsys.readouterr().err
    assert record["rows"] == {"read": rows.count(b"\n"), "left_out": 4}
    assert record["curves"]["training"] == record_and_text(digits_run)[0]["curves"]["training"]
    sentence = "4 lines of metrics.jsonl cannot be read and are left out"
    assert f"warning: {sentence} of the report" in told
    _, _, text = record_and_text(run)
    assert f"{sentence}." in text


@pytest.mark.parametrize("name", ["report.html", "report.json", "metrics.jsonl", "samples"])
def test_a_run_with_links_gets_no_report_and_their_targets_stay(digits_run: Path, tmp_path: Path, name: str):
    run, victim = tmp_path / "run", tmp_path / "victim"
    shutil.copytree(digits_run, run)
    victim.write_text("kept")
    (run / name).rename(tmp_path / "real")
    (run / name).symlink_to(victim)
    for door in (write_report, current_report):
        with pytest.raises(UserError, match=rf"{name} is a link: a run holds none"):
            door(run)
    assert victim.read_text() == "kept"


def test_a_report_is_current_while_whole_and_of_the_newest_checkpoint(digits_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    record = current_report(run)
    assert record == record_and_text(run)[0]
    for changed in ({"schema_version": 0}, {"run": {**record["run"], "step": 11}}):
        (run / "report.json").write_text(json.dumps({**record, **changed}), encoding="utf-8")
        assert current_report(run) is None
    for part in PARTS:
        for odd in ("[]", "x", None, [[]]):
            (run / "report.json").write_text(json.dumps({**record, part: odd}), encoding="utf-8")
            found = current_report(run)
            assert found is None or part not in ("run", "measurement", "codecs", "schema_version"), (part, odd)
        (run / "report.json").write_text(json.dumps({k: v for k, v in record.items() if k != part}), encoding="utf-8")
        assert current_report(run) is None, part
    for odd in (float("nan"), float("inf"), "[" * 50 + "]" * 50, "[" * 100_000 + "]" * 100_000):
        text = json.dumps({**record, "samples": odd})
        (run / "report.json").write_text(text.replace('"[', "[").replace(']"', "]"), encoding="utf-8")
        assert current_report(run) is None
    (run / "report.json").write_text("[]", encoding="utf-8")
    assert current_report(run) is None
    (run / "report.json").write_text('{"torn', encoding="utf-8")
    assert current_report(run) is None
    (run / "report.json").write_text(json.dumps(record), encoding="utf-8")
    assert current_report(run) == record
    (run / "report.html").unlink()
    assert current_report(run) is None
