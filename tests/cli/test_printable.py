"""Names that are no UTF-8, or that command terminals: every command takes them, and none repeats them raw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import TINY

from markovae.cli.entry import main

HEAVIER = {"sympy", "torch._dynamo"}  # seconds of start that a training does without
ESCAPES = "\x1b[31m\u202e"
SMALL = {name: value for name, value in TINY.items() if not name.startswith("network.")} | {
    "network.kind": "ddpm",  # the one that can be exported
    "network.ddpm.widths": "[8]",
    "network.ddpm.blocks": "1",
    "network.ddpm.groups": "4",
    "network.ddpm.attention": "[]",
    "network.ddpm.middle_attention": "false",
    "target.name": "noise",
    "schedule.kind": "linear",
    "schedule.num_levels": "30",
}
DDPM = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def pictures(folder: Path) -> Path:
    """Forty labelled images; the folder, its classes and its files have names that are no UTF-8."""
    data, chance = named(folder, b"phot\xf6s"), np.random.default_rng(0)
    for kind in (b"caf\xe9", b"\x1b[31mred\xff"):
        named(data, kind).mkdir(parents=True)
        for number in range(20):
            pixels = chance.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(named(named(data, kind), b"\xe9%d.png" % number))
    named(data, b"\x1b[31mred\xff/\x9b broken.png").write_bytes(b"nothing")
    return data


def all_commands(folder: Path) -> list[list[str]]:
    """Commands that name data, an image or a run."""
    data, run = str(pictures(folder)), str(named(folder, b"r\xfcn"))
    return [
        ["inspect", data],
        ["train", data, "--out", run, "--steps", "2", *DDPM],
        ["train", "--resume", "--out", run, "--steps", "3", "--no-report"],
        ["sample", run, "--n", "2"],
        ["measure", run, data, "--save"],
        ["quality", run, "--n", "4"],
        ["edit", run, str(named(Path(data), b"caf\xe9/\xe91.png")), "--degrade", "sr2", "--n", "1", "--steps", "2"],
        ["export", run, f"{run}-exported", "--to", "diffusers"],
        ["shard", data, "--out", f"{run}-shards"],
        ["train", "--config", f"{run}/config.toml", "--out", f"{run}-again", "--steps", "2", "--no-report"],
    ]


def test_every_command_takes_names_that_are_no_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for words in all_commands(tmp_path):
        code = main(words)
        out, err = capsys.readouterr()
        assert code == 0, (words, err)
        for line in (out + err).splitlines():
            assert line.isprintable(), (words, line)
    run = named(tmp_path, b"r\xfcn")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "r\\udcfcn" in page
    assert main(["measure", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["source"] == str(named(tmp_path, b"phot\xf6s"))
    # safetensors' own reader of folders takes no such name: a sentence says so.
    assert main(["import", f"{run}-exported", "--out", f"{run}-imported"]) == 2
    assert "r\\udcfcn-exported" in capsys.readouterr().err


def test_nor_does_a_machine_without_utf8_mind_and_none_waits_for_the_compiler(tmp_path: Path):
    code = (
        "import json, os, sys\nfrom markovae.cli import main\n"
        "sys.exit(max(main(words) for words in json.loads(sys.stdin.read()))"
        f" or bool({HEAVIER} & set(sys.modules)))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    commands = json.dumps(all_commands(tmp_path)[1:5:3])
    done = subprocess.run([sys.executable, "-c", code], input=commands.encode(), capture_output=True, env=plain)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert named(tmp_path, b"r\xfcn/report.html").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "--out", "{}x", "--set", "a{}=1"],
        ["train", "digits", "--out", "{}/x", "--set", "network.kind={}"],
        ["train", "digits", "--out", "x", "--set", "{}"],
        ["train", "{}", "--out", "x"],
        ["sample", "{}"],
        ["measure", "x{}"],
        ["import", "{}", "--out", "x"],
        ["inspect", "{}.npy"],
        ["{}"],
        ["sample", "--{}"],
    ],
)
def test_what_is_refused_is_not_repeated_raw(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(ESCAPES) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.isprintable() for line in err.splitlines())
    assert "\\x1b[31m\\u202e" in err
