"""The door of captions: captions.csv, metadata.jsonl and .txt files with anything in them, links and pipes too."""

import csv
import io
import json
import os
import random
from pathlib import Path
from typing import Any

from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture
from tests.fuzz.sandbox import CANARY

from markovae.columns import understand
from markovae.data.captions import read_written
from markovae.data.image_files import find_files
from markovae.data.metadata import NAMES

PATHS = ("a.png", "b.png", "cats/c.png", "cats/d.e.png", "\udcff.png")
TEXTS: tuple[Any, ...] = (
    *(
        "a cat",
        "",
        " ",
        "two\nlines",
        "\x1b[2Jgone",
        "\0",
        "ü 中 🎈",
        "\u2028",
        "\ud800",
        '"',
        "a,b",
        "x" * 200_000,
        "\r",
    ),
    *(None, 1, 10**400, 1.5, float("nan"), True, [], ["a", "b"], ["a", 1], [["a"]], {}, {"text": "a"}, CANARY),
    *(f"{{{{{CANARY}}}}}", "https://localhost/x", "/etc/passwd"),
)
FILES: tuple[Any, ...] = (
    *PATHS,
    "./a.png",
    "cats\\c.png",
    "../a.png",
    "/etc/passwd",
    "",
    None,
    3,
    ["a.png"],
    "\0",
    "nan",
)
OUTSIDE = ("/proc/self/environ", "/etc/passwd", "/dev/zero", "/dev/stdin", "../outside.txt", "nowhere", "a.txt")


def table(chance: random.Random) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=chance.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    writer.writerow(
        chance.choice([["file_name", "text"]] * 6 + [["text"], [], ["file_name", "text", "text"], ["x"] * 99])
    )
    for _ in range(chance.randrange(6)):
        writer.writerow([chance.choice(FILES), chance.choice(TEXTS)][: chance.choice([2, 2, 2, 2, 1])])
    return _encoded(buffer.getvalue(), chance)


def lines(chance: random.Random) -> bytes:
    rows = []
    for _ in range(chance.randrange(1, 6)):
        row = {"file_name": chance.choice(FILES), "text": chance.choice(TEXTS)}
        kind = chance.randrange(12)
        if kind == 0:
            del row[chance.choice(list(row))]
        rows.append(json.dumps(row if kind else chance.choice([row, [row], 3, None, "x"])))
    odd = (
        "[" * 100_000,
        "{" * 9,
        '{"a":' * 50_000,
        "9" * 5000,
        '{"text": 1e999}',
        "nan",
        "",
        "{}",
        '{"file_name": "a.png",',
    )
    if chance.random() < 0.3:
        rows.insert(chance.randrange(len(rows)), chance.choice(odd))
    return _encoded("\n".join(rows), chance)


def _encoded(text: str, chance: random.Random) -> bytes:
    encoding = chance.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32-le", "latin-1"])
    content = bytearray(text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace"))
    way = chance.randrange(10)
    if way == 0 and content:
        del content[chance.randrange(len(content)) :]
    elif way == 1:
        for _ in range(min(5, len(content))):
            content[chance.randrange(len(content))] = chance.choice([0, 10, 13, 34, 44, 0x80, 0xFF])
    elif way == 2:
        content += chance.choice([b'"', b"\0" * 3_000_000, b"," * 3_000_000, b"x" * 3_000_000, b'"\n",' * 700_000])
    return bytes(content)


def test_captions_are_read_or_refused(fuzzer: Fuzzer, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "cats").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("not theirs")
    for path in PATHS:
        (folder / path).touch()
    makers = {name: lines if "json" in name else table for name in NAMES}
    names = (*NAMES, "a.txt", "b.txt", "cats/c.txt", "cats/d.e.txt", "\udcff.txt")

    def make(chance: random.Random) -> Path:
        for name in names:
            file = folder / name
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            file.unlink(missing_ok=True)
        chosen = [chance.choice(NAMES)] if chance.random() < 0.6 else chance.sample(names, chance.randint(1, 4))
        for name in chosen:
            file, kind = folder / name, chance.randrange(30)
            if kind == 0:
                os.mkfifo(file)
            elif kind == 1:
                file.mkdir()
            elif kind in (2, 3, 4):
                file.symlink_to(chance.choice(OUTSIDE))
            else:
                file.write_bytes(makers.get(name, table)(chance))
        return folder

    def door(case: Path) -> None:
        written = read_written(case, PATHS, find_files(case).others)
        assert written.captions is None or len(written.captions) == len(PATHS)
        assert all(len(cells) == len(PATHS) for cells in written.columns.values())
        for name, cells in written.columns.items():
            understand(name, cells)
        assert not any("\n" in note for note in written.notes)

    for name in NAMES:
        (folder / name).write_text(
            json.dumps({"file_name": "a.png", "text": "x"}) if "json" in name else "file_name,text\n"
        )
        door(folder)
        (folder / name).unlink()
    found = fuzzer("captions", door, make, readable=[folder])
    assert found.accepted
    assert found.refused
