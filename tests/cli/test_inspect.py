"""`markovae inspect`: JSON by the schema, settings, and what is refused."""

import json

import numpy as np
from PIL import Image

import markovae as mv
from markovae.cli.entry import main


def test_json_says_what_a_folder_holds(tmp_path, json_of):
    for index in range(12):
        Image.fromarray(np.full((8, 8), 20 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    record = json_of("inspect", "inspect", tmp_path)
    assert record["count"] == 12
    assert record["unreadable"][0][0].endswith("broken.png")
    assert sum(record["split"][part]["count"] for part in ("train", "validation", "test")) == 12
    assert json_of("inspect", "inspect", tmp_path, "--set", "data.size=4")["shape"] == [1, 4, 4]


def test_the_command_and_python_give_one_record(images, json_of, capsys):
    assert json_of("inspect", "inspect", images) == json.loads(json.dumps(mv.inspect(images).to_dict()))
    assert main(["inspect", str(images)]) == 0
    assert capsys.readouterr().out == mv.inspect(str(images)).describe() + "\n"


def test_text(capsys):
    assert main(["inspect", "digits"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits: 1,797 images")
    assert "split" in out


def test_what_cannot_be_inspected_is_refused(tmp_path, refused):
    assert "there is no data source" in refused("inspect", tmp_path / "missing")
    assert "did you mean digits" in refused("inspect", "digit")
    assert "unknown setting data.sice: did you mean data.size" in refused("inspect", "digits", "--set", "data.sice=4")
    assert "DATA is missing" in refused("inspect")


def test_labelled_data_and_shards_are_told_by_the_schema_too(tmp_path, json_of):
    assert "labels_sha256" in json_of("inspect", "inspect", "digits")["split"]["train"]
    assert main(["shard", "digits", "--out", str(tmp_path / "shards")]) == 0
    assert json_of("inspect", "inspect", tmp_path / "shards")["kind"] == "shards"
