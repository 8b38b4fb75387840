"""What a bundle or a shared configuration names is never asked over a network; keys in URLs stay in the process."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import settings

from markovae.checkpoints.manifest import MANIFEST, make_manifest
from markovae.checkpoints.reading import newest_checkpoint
from markovae.cli.entry import main
from markovae.data.data_config import DataConfig
from markovae.data.loading import read_source
from markovae.data.shard_format import write_shards
from markovae.errors import UserError
from markovae.locations import SCHEMES

REFERENCE = (
    'reference://::data:application/json,{"version":1,"gen":[{"key":'
    "\"{{cycler.__init__.__globals__.os.system('touch executed_by_markovae')}}\"}]}"
)
HOSTILE = (REFERENCE, "ftp://host/shards", "github://someone/repository/x", "webhdfs://host/x", "https://host/x")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fsspec or a socket were asked, the test would fail by a bug's traceback and exit code 1."""

    class Reached:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError(f"fsspec.{name} was reached")

    def connect(*arguments: object) -> None:
        raise RuntimeError("a socket was opened")

    monkeypatch.setitem(sys.modules, "fsspec", Reached())
    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)


def handed_over(run: Path, target: Path, source: str) -> Path:
    """A copy of a run whose bundles name other data, their manifests right."""
    shutil.copytree(run, target)
    for config in target.rglob("config.toml"):
        text = re.sub(r"(?m)^source = .*$", lambda _: f"source = {json.dumps(source)}", config.read_text(), count=1)
        config.write_text(text)
    for bundle in (target / "checkpoints").iterdir():
        contents = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != MANIFEST}
        (bundle / MANIFEST).write_bytes(make_manifest(contents))
    return target


@pytest.mark.parametrize("source", HOSTILE)
def test_no_command_asks_where_a_bundle_or_a_configuration_says(
    digits_run: Path, tmp_path: Path, no_network: None, refused: Callable[..., str], source: str
) -> None:
    run = handed_over(digits_run, tmp_path / "run", source)
    assert newest_checkpoint(run).config.data.source == source, "the bundle itself is a valid one"
    commands = (
        ("measure", run),
        ("measure", run, "--split", "all"),
        ("quality", run, "--n", "4", "--steps", "1"),
        ("train", "--resume", "--out", run, "--steps", "14"),
        ("train", "--config", run / "config.toml", "--out", tmp_path / "new"),
        ("distill", run, "--out", tmp_path / "new", "--steps", "1"),
    )
    for words in commands[:: 1 if source == REFERENCE else 3]:
        said = refused(*words)
        assert f"{source} comes from a file" in said
        assert "as DATA (markovae train URL --resume --out RUN" in said
    assert not (tmp_path / "new").exists()


def test_sampling_needs_nothing_that_a_bundle_names(digits_run: Path, tmp_path: Path, no_network: None) -> None:
    run = handed_over(digits_run, tmp_path / "run", REFERENCE)
    assert main(["sample", str(run), "--n", "2", "--steps", "1", "--out", str(tmp_path / "samples")]) == 0


def test_keys_in_a_url_are_used_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    monkeypatch.setattr("markovae.locations.SCHEMES", (*SCHEMES, "memory"))
    memory = pytest.importorskip("fsspec").filesystem("memory")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "images" / f"{number}.png")
    write_shards(read_source(DataConfig(str(tmp_path / "images"))), tmp_path / "shards", 20)
    for path in (tmp_path / "shards").iterdir():
        memory.pipe(f"/someone:hidden-key@bucket/{path.name}", path.read_bytes())
    url, shown, run = "memory://someone:hidden-key@bucket", "memory://bucket", tmp_path / "run"

    assert main(["train", url, "--out", str(run), "--steps", "4", "--no-report", *settings()]) == 0
    assert shown in refused("train", "--resume", "--out", run, "--steps", "6")
    assert main(["train", url, "--resume", "--out", str(run), "--steps", "6"]) == 0
    assert main(["measure", str(run), url, "--limit", "4", "--json"]) == 0
    assert refused("measure", run, "memory://someone:hidden-key@nowhere").startswith("memory://nowhere holds no .tar")
    assert newest_checkpoint(run).config.data.source == shown
    assert json.loads((run / "report.json").read_text())["run"]
    told = capsys.readouterr()
    everything = [told.out, told.err, *(str(path) for path in tmp_path.rglob("*"))]
    everything += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in everything if "hidden-key" in text or "someone" in text]
    assert any(shown in text for text in everything)


def test_a_job_that_torchrun_starts_anew_still_knows_the_url_of_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    def resume(out: str, around: object, *, data: str | None) -> Path:
        raise UserError(f"data is {data}")

    monkeypatch.setattr("markovae.run.start._restarted", lambda out: True)
    monkeypatch.setattr("markovae.run.start.resume_run", resume)
    file, out = tmp_path / "shared.toml", tmp_path / "run"
    file.write_text('[data]\nsource = "https://host/x"\n')
    assert refused("train", "https://host/x", "--out", out) == "data is https://host/x"
    assert refused("train", "--set", "data.source=s3://b/x", "--out", out) == "data is s3://b/x"
    assert refused("train", "--config", file, "--out", out) == "data is None"
    assert refused("train", "digits", "--out", out) == "data is None"
