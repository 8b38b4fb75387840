"""The door *encoder folder*: what its config.json says, and which files are read, before transformers sees it."""

import json
import random
from pathlib import Path

from tests.fuzz.conftest import Fuzzer

from markovae.text.encoders import encoder_hash, token_width

ODD = (-5, 0, 1, 512, 2**31, 2**62, 10**400, 1e308, float("nan"), None, True, "x", "\ud800", [], {}, [[[]]])
NAMES = ("model_type", "hidden_size", "d_model", "text_config", "max_position_embeddings", "auto_map", "_name_or_path")


def test_folders_of_any_content(fuzzer: Fuzzer, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")

    def make(chance: random.Random) -> str:
        table = {"model_type": chance.choice(("clip", "clip_text_model", "t5", "mt5")), "text_config": {}}
        for place in (table, table["text_config"]):
            if chance.random() < 0.6:
                place[chance.choice(NAMES)] = chance.choice(ODD)
        text = chance.choice((*[json.dumps(table)] * 4, "[" * 50_000, "9" * 4301, '{"a":' * 5000))
        (tmp_path / "config.json").write_text(text)
        return text[:200]

    found = fuzzer(
        "encoder folder", lambda _: (token_width(str(tmp_path)), encoder_hash(str(tmp_path))), make, readable=[tmp_path]
    )
    assert found.refused > 0
    assert found.accepted > 0
