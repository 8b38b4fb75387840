"""Names in a pipeline's files are compared and never imported, opened or fetched."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from tests.fuzz.sandbox import CANARY, Sandbox
from tests.interop.pipelines import write_pipeline

from markovae.errors import UserError
from markovae.interop.diffusers_folder import read_folder

NAMES = (
    *("os:system", "../../secret", "/etc/passwd", f"{CANARY}:Class", f"__import__('os').system('{CANARY}')", "a\0b"),
    *(
        "hf://someone/model",
        "https://localhost/x.py",
        "reference://::data:,x",
        "someone/model",
        {"auto": "map"},
        7,
        None,
    ),
)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_of_classes_and_places_do_nothing(tmp_path: Path, name: object) -> None:
    folder = write_pipeline(tmp_path / "theirs")
    (tmp_path / "secret").write_text("{}")
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": name, "_module": name, "unet": [name, name], "scheduler": [name, name]})
    )
    read_folder(folder)
    for file in ("unet/config.json", "scheduler/scheduler_config.json"):
        table = json.loads((folder / file).read_text())
        for key in ("_class_name", "_name_or_path", "_diffusers_version", "auto_map", "trained_betas", "block_out"):
            (folder / file).write_text(json.dumps({**table, key: name}))
            with Sandbox(readable=[folder]) as box, suppress(UserError):
                read_folder(folder)
            assert not box.violations
        (folder / file).write_text(json.dumps(table))
