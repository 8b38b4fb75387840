"""Several processes that measure and draw: what one of them would have, to the last bit."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from markovae.cli.entry import main


def test_a_measurement_is_the_same_by_several(together, digits_run, capfd):
    words = ["measure", str(digits_run), "--limit", "23", "--draws", "3", "--precision", "float64", "--json"]
    words += ["--batch", "16"]
    assert main(words) == 0
    alone = json.loads(capfd.readouterr().out)
    ended = together(lambda: main(words), size=3)
    assert [(end.code, end.value) for end in ended] == [(0, 0)] * 3, [end.said for end in ended]
    shared = json.loads(capfd.readouterr().out)
    assert shared["n"] == 23
    for key in ("bits_per_dim", "nats", "per_level", "terms_bits_per_dim", "network_calls_per_example"):
        assert shared[key] == alone[key], key


def test_samples_are_the_same_by_several(together, digits_run, tmp_path: Path):
    words = ["sample", str(digits_run), "--n", "22", "--batch", "4", "--steps", "3", "--class", "all"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    ended = together(lambda: main([*words, "--out", str(tmp_path / "two")]))
    assert [(end.code, end.value) for end in ended] == [(0, 0)] * 2, [end.said for end in ended]
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 24
    assert one == two


def test_parts_by_number_are_those_of_the_whole(digits_run, tmp_path: Path, refused):
    words = ["sample", str(digits_run), "--n", "22", "--batch", "4", "--steps", "3"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    whole = np.load(tmp_path / "whole" / "samples.npz")
    seen: list[int] = []
    for part in (1, 2, 3, 4):
        out = tmp_path / f"part-{part}"
        assert main([*words, "--shard", f"{part}/4", "--out", str(out)]) == 0
        own = np.load(out / "samples.npz")
        seen += own["numbers"].tolist()
        assert np.array_equal(own["arr_0"], whole["arr_0"][own["numbers"]])
        assert np.array_equal(own["arr_1"], whole["arr_1"][own["numbers"]])
        for number in own["numbers"].tolist():
            with Image.open(out / f"{number:05}.png") as image:
                assert image.text["markovae:index"] == str(number)
    assert sorted(seen) == list(range(22))
    assert "numbers" not in whole
    # Another batch size may round differently, by a grey level at most.
    assert main([*words[:-2], "--steps", "3", "--batch", "7", "--shard", "2/2", "--out", str(tmp_path / "other")]) == 0
    other = np.load(tmp_path / "other" / "samples.npz")
    difference = other["arr_0"].astype(int) - whole["arr_0"][other["numbers"]].astype(int)
    assert np.abs(difference).max() <= 1
    assert "has nothing to draw" in refused(*words, "--shard", "7/7", "--out", tmp_path / "none")
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0"):
        assert "must be I/N with I from 1 to N" in refused(*words, "--shard", wrong)


def test_what_one_process_alone_does_is_said(digits_run, monkeypatch, refused):
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert "--continuous and --ode are measured by one process" in refused("measure", digits_run, "--ode")
