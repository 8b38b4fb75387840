"""The door of the page: whatever a browser, or no browser, posts to `markovae serve`."""

import base64
import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.conftest import Fuzzer
from tests.fuzz.conftest import fuzzer as fuzzer  # a fixture
from tests.fuzz.sandbox import CANARY
from tests.web.conftest import served_run as served_run  # a fixture
from tests.web.conftest import studio as studio

from markovae.errors import UserError
from markovae.web.studio import Studio

VALUES: list[Any] = [None, True, False, -1, 0, 1, 2, 3, 64, 65, 2**53, 10**18, 0.5, -0.0, 1e308, "none", "all", "0", ""]
VALUES += ["x" * 501, "\x1b]0;t\x07", "../../etc/passwd", "file:///etc/passwd", f"__import__('os').{CANARY}", [], {}]
FIELDS = ("label", "prompt", "guidance", "image", "mask", "to", "way", "level", "seed", "sampler")
SMALL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEUlEQVR42mNgGAWjYBQMJQAAAkgAAbTQ0EcAAAAASUVORK5CYII="
)


@pytest.fixture
def jobs(studio: Studio) -> Iterator[Studio]:
    for job in (studio.sample, studio.edit, studio.measure):  # what Python imports lazily is no affair of the cases
        with contextlib.suppress(UserError):
            list(job({"n": 1, "steps": 2, "image": _uri(SMALL), "replicates": 2}))
    return studio


def _uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def _image(chance: random.Random) -> str:
    content = bytearray(SMALL)
    for _ in range(chance.choice([0, 0, 1, 3, 20])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    content = content[: chance.choice([len(content), len(content), chance.randrange(len(content))])]
    text = _uri(bytes(content), chance.choice(["png", "svg+xml", "../png", "x" * 200]))
    return chance.choice([text, text, text, text[5:], text.replace(",", ";"), text + "=", text[:-3]])


def test_a_request_is_answered_or_refused(jobs: Studio, fuzzer: Fuzzer, tmp_path: Path) -> None:
    def make(chance: random.Random) -> tuple[str, bytes]:
        asked: dict[str, Any] = {name: chance.choice(VALUES) for name in chance.sample(FIELDS, chance.randint(0, 5))}
        asked |= {"n": chance.choice([1, 2, 2, 2, *VALUES]), "steps": chance.choice([2, 2, 2, 3])}
        asked["replicates"] = 2
        for name in ("image", "mask", "to"):
            if chance.random() < 0.7:
                asked[name] = _image(chance)
        return chance.choice(["sample", "measure", "edit"]), json.dumps(asked).encode()

    def door(case: tuple[str, bytes]) -> None:
        name, body = case
        *_, last = getattr(jobs, name)(json.loads(body))
        json.dumps(last, allow_nan=False)

    fuzzer("page", door, make, writable=[tmp_path])
