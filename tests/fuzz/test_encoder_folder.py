"""The door *encoder folder*: a CLIP or T5 of a stranger's, opened as a run opens it, and asked about a caption."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.conftest import Fuzzer, cleared
from tests.fuzz.sandbox import CANARY
from tests.text.encoder_folders import KINDS, write_encoder

from markovae.text.encoders import encoder_hash, load_encoder, token_width

ODD: tuple[Any, ...] = (
    *(-5, -1, 0, 1, 2, 3, 512, 1 << 20, 1 << 31, 1 << 62, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")),
    *(None, True, False, "", "x", "<s>", "a", "\ud800", "\0", "\x1b[2J", "é" * 1000, "9" * 5000, "(a*)*b", "["),
    *([], {}, [[[]]], [1], ["a", "b"], [["a", 0]], {"a": {"b": {}}}, [0.5] * 200, CANARY, f"{{{{{CANARY}}}}}"),
    *("/etc/passwd", "../../secret.json", "https://localhost/x", "somebody/model", "float16", "mps", "eager", "gelu"),
)
DEEP = ("[" * 50_000, '{"a":' * 5000, "9" * 4301, "", "[]", "null", '{"a": 1, "a": 2}', "\ufeff{}")
OUTSIDE = ("/proc/self/environ", "/etc/passwd", "/dev/zero", "../outside.json", "nowhere", "config.json")
FETCHING = {
    "auto_map": {"AutoModel": f"{CANARY}.Evil", "AutoTokenizer": [f"{CANARY}.Evil", None]},
    "_name_or_path": "somebody/model",
    "_attn_implementation": "somebody/kernel",
    "quantization_config": {"quant_method": "bitsandbytes"},
    "tokenizer_class": f"{CANARY}Tokenizer",
    "processor_class": "CLIPProcessor",
    "chat_template": f"{{{{ {CANARY} }}}}",
    "tokenizer_file": "/etc/passwd",
    "model_max_length": 10**30,
    "torch_dtype": "float16",
    "dtype": "complex64",
    "architectures": ["LlamaForCausalLM"],
}
MODULES = [{"idx": 0, "name": "0", "path": "../..", "type": f"{CANARY}.models.Transformer"}]


def changed(chance: random.Random, value: Any) -> Any:
    """A copy with one place in it odd, left out, or added to."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        if chance.random() < 0.1:
            return {key: inside for key, inside in value.items() if key != name}
        return {**value, name: changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], changed(chance, value[place]), *value[place + 1 :]]
    if type(value) is int and chance.random() < 0.3:
        return value + chance.choice((-1, 1, 1 << 16))
    return chance.choice(ODD)


def spoilt_json(chance: random.Random, content: bytes) -> bytes:
    table = json.loads(content)
    if chance.random() < 0.1:
        return chance.choice(DEEP).encode()
    if chance.random() < 0.2:
        key = chance.choice(list(FETCHING))
        table = {**table, key: FETCHING[key]}
    for _ in range(chance.choice((1, 1, 2))):
        table = changed(chance, table)
    return json.dumps(table).encode("utf-8", "surrogatepass")


def spoilt_weights(chance: random.Random, content: bytes) -> bytes:
    """Another header before the same numbers, or bytes that were changed."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = content[8 : 8 + length], content[8 + length :]
    way = chance.randrange(5)
    if way == 0:
        return content[: chance.randrange(len(content))]
    if way == 1:
        place = chance.randrange(len(content))
        return content[:place] + chance.randbytes(4) + content[place + 4 :]
    if way == 2:
        return chance.choice((0, 1, 1 << 31, (1 << 64) - 1)).to_bytes(8, "little") + content[8:]
    table = json.loads(header)
    if way == 3:  # names and types that are others'
        name = chance.choice([name for name in table if name != "__metadata__"])
        entry = table.pop(name)
        table[chance.choice((name, f"{name}.x", "\x1b[2J", "x" * 10_000))] = {**entry, "dtype": chance.choice(TYPES)}
    else:
        table = changed(chance, table)
    made = json.dumps(table).encode("utf-8", "surrogatepass")
    return len(made).to_bytes(8, "little") + made + numbers


TYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "x")


OTHERS = (
    *("modules.json", "added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt", "spiece.model"),
    *("adapter_config.json", "generation_config.json", "model.safetensors.index.json", "other.safetensors"),
    *("preprocessor_config.json", "chat_template.jinja", f"{CANARY}.py", "pytorch_model.bin", "tokenizer.model"),
)


def added(chance: random.Random, folder: Path) -> None:
    """A file, a pipe, a folder or a link that no encoder of ours has."""
    path, way = cleared(folder / chance.choice(OTHERS)), chance.randrange(8)
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.mkdir()
    elif way == 2:
        path.symlink_to(chance.choice(OUTSIDE))
    elif way == 3:
        path.write_bytes(chance.choice((b"", b"\x80\x04N.", chance.randbytes(200), b"a b\n" * 50, b"#version: 0.2\n")))
    else:
        tables: list[Any] = [
            *(MODULES, {"weight_map": {"w": "../../other.safetensors"}}, {"weight_map": {"w": "other.safetensors"}}),
            *(FETCHING, {"red": 5}, {"red": 10**9}, {"unk_token": "x"}, {"bos_token": {"content": "<s>", "x": 1}}),
            *({"<extra>": 1 << 40}, {"weight_map": []}, [], {}, {"base_model_name_or_path": "somebody/model"}),
        ]
        path.write_text(json.dumps(chance.choice(tables)))


def linked(chance: random.Random, folder: Path) -> None:
    """One of the folder's own files that is a link or a pipe, or is not there."""
    path = cleared(folder / chance.choice(sorted(file.name for file in folder.iterdir())))
    way = chance.randrange(6)
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.mkdir()
    elif way < 5:
        path.symlink_to(chance.choice(OUTSIDE))


def test_a_folder_is_read_or_refused(fuzzer: Fuzzer, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    whole: dict[str, dict[str, bytes]] = {}
    for kind in KINDS:
        shutil.rmtree(folder, ignore_errors=True)
        write_encoder(folder, kind)
        whole[kind] = {file.name: file.read_bytes() for file in folder.iterdir()}
        ask(folder)
    (tmp_path / "outside.json").write_text("{}")
    ways: dict[str, Callable[[random.Random, bytes], bytes]] = {".json": spoilt_json, ".safetensors": spoilt_weights}

    def make(chance: random.Random) -> Path:
        shutil.rmtree(folder)
        folder.mkdir()
        kind = chance.choice(KINDS)
        for name, content in whole[kind].items():
            (folder / name).write_bytes(content)
        for _ in range(chance.choice((1, 1, 1, 2))):
            way = chance.randrange(10)
            if way == 0:
                linked(chance, folder)
            elif way < 3:
                added(chance, folder)
            else:
                name = chance.choice((*whole[kind], "tokenizer.json", "config.json"))
                cleared(folder / name).write_bytes(ways[Path(name).suffix](chance, whole[kind][name]))
        return folder

    found = fuzzer("encoder folder", ask, make, readable=[folder])
    assert found.refused > found.accepted > 0


def ask(folder: Path) -> None:
    """What training on captions does with an encoder."""
    encoder = load_encoder(str(folder))
    width = token_width(str(folder))
    encoder_hash(str(folder))
    features, mask = encoder(["a red barn", "", "snow in the <pad> \x00 é" * 20])
    assert features.shape == (3, mask.shape[1], width)
