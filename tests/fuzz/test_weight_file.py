"""The door *weight file*: what a stranger saved with torch, as `markovae import FILE` reads it."""

import io
import random
import zipfile
from contextlib import closing
from pathlib import Path

import torch
from tests.fuzz.conftest import Fuzzer

from markovae.interop.torch_file import TorchFile

CALLS = (
    *(b"cos\nsystem\n", b"cbuiltins\nexec\n", b"c__builtin__\neval\n", b"ctorch\nload\n", b"csubprocess\nPopen\n"),
    *(
        b"\x8c\x05posix\x8c\x06system\x93",
        b"(X\x02\x00\x00\x00lsios\nsystem\n",
        b"\x82\x01",
        b"\x81",
        b"\x92",
        b"R",
        b"b",
    ),
)
SCRIPT = b"X\x1c\x00\x00\x00executed_by_markovae = True\n"


def test_files_of_any_content(fuzzer: Fuzzer, tmp_path: Path):
    state = {name: value.detach() for name, value in torch.nn.Linear(4, 4).named_parameters()}
    torch.save({"model": state, "step": 3, "opt": {"lr": [0.1, (1, None)]}}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as file:
        members = {name: file.read(name) for name in file.namelist()}
    (program,) = (name for name in members if name.endswith("data.pkl"))
    whole = (tmp_path / "good.pt").read_bytes()

    def door(path: Path) -> None:
        with closing(TorchFile(path)) as file:
            for name in file.shapes:
                file.read(name)

    door(tmp_path / "good.pt")

    def make(chance: random.Random) -> Path:
        content, kind = dict(members), chance.random()
        code = content[program]
        place = chance.randrange(2, len(code) - 1)
        if kind < 0.35:
            code = code[:place] + chance.choice(CALLS) + SCRIPT + chance.choice((b"\x85R", b"")) + code[place:]
        elif kind < 0.6:
            code = code[:place] + chance.randbytes(chance.randrange(1, 9)) + code[place + chance.randrange(9) :]
        elif kind < 0.7:
            code = b"\x80\x02" + chance.choice(CALLS) + SCRIPT + b"\x85R."
        elif kind < 0.8:
            name = chance.choice([name for name in content if "/data/" in name])
            content[name] = chance.choice((content[name][:-4], content[name] * 2, b"\xff" * len(content[name]), b""))
        content[program] = code
        path = tmp_path / "case.pt"
        if kind > 0.9:
            place = chance.randrange(len(whole))
            path.write_bytes(whole[:place] + chance.randbytes(4) + whole[place + 4 :])
            return path
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, value in content.items():
                file.writestr(name, value)
        path.write_bytes(buffer.getvalue())
        return path

    found = fuzzer("weight file", door, make, writable=[tmp_path])
    assert found.refused > found.accepted > 0
