"""The door of shards.json and index.npz: what `markovae shard` wrote, with anything changed, digests made to fit."""

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture
from tests.fuzz.sandbox import CANARY

from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.loading import read_source, splits_of
from markovae.data.shard_format import CAPTIONS, INDEX, RECORD, write_shards

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 17, 255, 256, 257, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400),
    *(0.5, -0.0, float("nan"), float("inf"), 1e308, "", "x", "0", "\0", "a\0b", "\ud800", "\x1b[2J", "ü" * 20_000),
    *([], [[]], [1], ["a", "a"], [None], {}, {"name": "x"}, {"bytes": []}),
    *("../../etc/passwd", "/etc/passwd", "/proc/self/environ", "train-000000.tar\0", "..\\train-000000.tar", "CON.tar"),
    *(f"reference://::data:,{CANARY}", "https://localhost/x.tar", "s3://bucket/x.tar", f"{{{{{CANARY}}}}}"),
)
TYPES = ("<i8", ">i8", "<i4", "<u8", "<f8", "<f2", "|u1", "|b1", "<U3", "|S8", "|V8", "<c16", "<M8[s]")


def shards(path: Path) -> Path:
    """Thirty images of two classes, with captions."""
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 4), dtype=np.uint8)
    labels, captions = np.arange(30) % 2, tuple(f"caption {number}" for number in range(30))
    np.savez(path.with_suffix(".npz"), images=images, labels=labels)
    reading = read_source(DataConfig(str(path.with_suffix(".npz"))))
    data = reading.data
    named = ImageData(data.images, data.labels, data.class_names, captions, name="thirty")
    write_shards(type(reading)(named, reading.split, reading.summary), path, 10)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a table."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def with_odd_value(table: dict[str, Any], chance: random.Random) -> Any:
    *above, last = chance.choice(places(table)[1:])
    inside: Any = table
    for key in above:
        inside = inside[key]
    change = chance.randrange(4)
    if change == 0 and isinstance(inside, dict):
        del inside[last]
    elif change == 1 and isinstance(inside, list):
        inside.insert(last, inside[last])
    elif change == 2 and isinstance(inside[last], int):
        inside[last] += chance.choice([-1, 1, 512, 2**62, -(2**62)])
    else:
        inside[last] = chance.choice(ODD)
    return table


def odd_column(array: np.ndarray[Any, Any], chance: random.Random) -> np.ndarray[Any, Any]:
    change = chance.randrange(6)
    if change == 0:
        with np.errstate(all="ignore"):
            return array.astype(chance.choice(TYPES[:8]))
    if change == 1:
        return np.zeros(array.shape, dtype=chance.choice(TYPES))
    if change == 2:
        return array[: chance.randrange(len(array))]
    if change == 3:
        return np.concatenate([array, array[: chance.randrange(1, 5)]])
    if change == 4:
        return array.reshape(chance.choice([(1, *array.shape), (-1, 2), (-1, 1), (*array.shape, 1)]))
    array = array.copy()
    edges = [-1, 0, 1, 2, 3, 512, 10**9, 2**62, 2**63 - 512, 2**63 - 1, -(2**63)]
    flat = array.reshape(-1)
    for _ in range(chance.randrange(1, 4)):
        flat[chance.randrange(flat.size)] = chance.choice(edges) if array.dtype == np.int64 else chance.randrange(256)
    return array


def odd_index(content: bytes, chance: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as stored:
        columns = {name: stored[name] for name in stored.files}
    change = chance.randrange(8)
    name = chance.choice(sorted(columns))
    if change == 0:
        del columns[name]
    elif change == 1:
        columns[chance.choice(["label", "extra", "../../x", CANARY])] = columns[name]
    elif change < 5:
        columns[name] = odd_column(columns[name], chance)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice([0, 0, 0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])) as file:
        for key, column in columns.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, column, allow_pickle=False)
            whole = bytearray(member.getvalue())
            if change == 5 and key == name:  # a header that lies, or is code
                count = chance.choice([2**40, 2**62, -1, 10**30])
                header = chance.choice(
                    [
                        f"{{'descr':'<i8','fortran_order':False,'shape':({count},)}}",
                        "{'descr':'|O','fortran_order':False,'shape':(30,)}",
                        f"__import__('os').system('{CANARY}')",
                        "(" * 5000,
                        "{" * 300,
                        "[" * 100 + "]" * 100,
                    ]
                ).encode()
                whole = bytearray(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header) + whole[128:]
            file.writestr(f"{key}.npy", bytes(whole))
    content = buffer.getvalue()
    if change == 6:
        damaged = bytearray(content)
        for _ in range(chance.randrange(1, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        return bytes(damaged)
    return content[: chance.randrange(len(content))] if change == 7 else content


def odd_captions(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines()
    line = chance.randrange(len(lines))
    lines[line] = chance.choice(
        [b"", b"[]", b"null", b"[" * 50_000, b"9" * 5000, b'"\\ud800"', b'"a\\u0000"', b"\xff", b'{"a":1}', b'"x"\n"y"']
    )
    return b"\n".join(lines)


def odd_record(text: str, chance: random.Random) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    change = chance.randrange(4)
    if change == 0:
        return content[: chance.randrange(len(content))]
    if change == 1:
        return chance.choice(
            [b"", b"null", b"[]", b"[" * 200_000, b'{"a":' * 50_000, b"9" * 10_000, b"\xff\xfe", b"1e999"]
        )
    place = chance.randrange(len(content))
    return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]


def test_an_index_is_read_or_refused(fuzzer: Fuzzer, tmp_path: Path) -> None:
    good = shards(tmp_path / "good")
    secret = tmp_path / "secret.json"
    secret.write_text('{"secret": 1}')
    case = tmp_path / "case"

    def make(chance: random.Random) -> Path:
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(good, case)
        table = json.loads((case / RECORD).read_bytes())
        what = chance.randrange(10)
        if what < 3:
            (case / INDEX).write_bytes(odd_index((case / INDEX).read_bytes(), chance))
        elif what == 3:
            (case / CAPTIONS).write_bytes(odd_captions((case / CAPTIONS).read_bytes(), chance))
        elif what == 4:
            name = chance.choice([tar["name"] for tar in table["shards"]] + [INDEX, CAPTIONS])
            (case / name).unlink()
            change = chance.randrange(5)
            if change == 0:
                (case / name).symlink_to(chance.choice(["/dev/zero", "/nowhere", name]))
            elif change == 1:
                os.mkfifo(case / name)
            elif change == 2:
                (case / name).mkdir()
            elif change == 3:
                (case / name).write_bytes(chance.randbytes(chance.choice([0, 100, 5000])))
        if chance.random() < 0.9:  # whoever damages an index can also write its sum
            for key, name in (("index_sha256", INDEX), ("captions_sha256", CAPTIONS)):
                if (case / name).is_file():
                    table[key] = hashlib.sha256((case / name).read_bytes()).hexdigest()
        if what > 4:
            for _ in range(chance.choice([1, 1, 1, 3])):
                with_odd_value(table, chance)
        text = json.dumps(table)
        (case / RECORD).write_bytes(odd_record(text, chance) if what == 9 else text.encode())
        return case

    def door(path: Path) -> object:
        splits = splits_of(read_source(DataConfig(str(path))))
        splits.record()
        for part in (splits.train, splits.validation, splits.test):
            assert part.images[:3].max() < part.bins
        return len(splits.train)

    door(good)
    found = fuzzer("index", door, make, writable=[tmp_path])
    assert found.accepted > 0
    assert found.refused > found.accepted
