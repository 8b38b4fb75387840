"""Files of torch.save read without their pickle being executed: what is read, and what is refused by its name."""

import argparse
import collections
import io
import pickle
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from markovae.errors import UserError
from markovae.interop.torch_file import MAX_ENTRIES, TorchFile, _flat, _interpreted


def shelf(path: Path, value: object, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol)
    return path


def packed(path: Path, program: bytes, **members: bytes) -> Path:
    """A zip of torch.save's layout with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        for name, content in members.items():
            file.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_of_a_checkpoint_is_read_as_torch_reads_it(protocol: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wide = torch.arange(12.0).reshape(3, 4)
    saved = {
        "model": model.state_dict(),
        "optimizer": {"state": {0: {"exp_avg": wide}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.999), "on": True}]},
        "step": 3,
        "turned": wide.t(),
        "cut": wide[1:, 2:],
        "half": wide.half(),
        "brief": wide.bfloat16(),
        "whole": torch.tensor(2**40),
        "none": torch.zeros(0, 3),
        "own": nn.Parameter(wide),
    }
    with closing(TorchFile(shelf(tmp_path / "all.pt", saved, protocol))) as file:
        for name in ("turned", "cut", "half", "brief", "whole", "none", "own"):
            assert torch.equal(file.read(name), saved[name])
            assert file.read(name).dtype == saved[name].dtype
        assert torch.equal(file.read("optimizer.state.0.exp_avg"), wide)
        for name, value in model.state_dict().items():
            assert torch.equal(file.read(f"model.{name}"), value)
            assert file.shapes[f"model.{name}"] == tuple(value.shape)


class Runs:
    """A pickle of it runs a program."""

    def __reduce__(self):
        return (exec, ("executed_by_markovae = 1",))


HOSTILE = {
    "a call": (Runs(), "asks for '__builtin__.exec'|asks for 'builtins.exec'"),
    "a module": (nn.Linear(2, 2), "asks for 'torch.nn.modules.linear.Linear'"),
    "arguments": ({"args": argparse.Namespace(a=1)}, "asks for 'argparse.Namespace'"),
    "numpy": ({"best": np.float64(2.0)}, "asks for 'numpy.*scalar'"),
    "a set": ({"a": {1, 2}}, "asks for '__builtin__.set'|asks for 'builtins.set'"),
    "a counter": (collections.Counter("aab"), "asks for 'collections.Counter'"),
    "nothing": ({"a": 1}, "holds no tensors by name"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_weight_is_refused_by_its_name_and_nothing_runs(name: str, tmp_path: Path) -> None:
    value, said = HOSTILE[name]
    path = shelf(tmp_path / "hostile.pt", value)
    events = []
    watching = [True]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("exec", "compile", "import", "os.system", "subprocess.Popen", "pickle.find_class"):
            events.append((event, arguments[0]))

    sys.addaudithook(hook)
    with pytest.raises(UserError, match=said):
        TorchFile(path)
    watching.clear()
    assert not events


PROGRAMS = {
    "opcode": (b"\x80\x02(i__main__\nRuns\n.", "uses pickle opcode INST"),
    "extension": (b"\x80\x02\x82\x01.", "uses pickle opcode EXT1"),
    "object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "uses pickle opcode NEWOBJ"),
    "by name": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "asks for 'os.system'"),
    "nested": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "asks for"),
    "call of a call": (b"\x80\x02}(K\x01K\x02uR.", "is damaged"),
    "state": (b"\x80\x02}}b.", "a state of its own"),
    "no end": (b"\x80\x02}", "is damaged"),
    "nothing": (b"", "is damaged"),
    "empty stack": (b"\x80\x02.", "is damaged"),
    "two": (b"\x80\x02}}.", "is damaged"),
    "memo": (b"\x80\x02h\x05.", "is damaged"),
    "unhashable": (b"\x80\x02}]K\x01s.", "is damaged"),
    "odd items": (b"\x80\x02}(K\x01u.", "is damaged"),
    "arguments": (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "with arguments that cannot make a tensor"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_written_by_hand_are_refused(name: str, tmp_path: Path) -> None:
    program, said = PROGRAMS[name]
    with pytest.raises(UserError, match=said):
        TorchFile(packed(tmp_path / "hand.pt", program))


def tensor(count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], name: str = "0") -> bytes:
    """The pickle of {"w": a tensor}."""

    class Odd(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    class Maker:
        def __reduce__(self):
            kind = ("storage", torch.FloatStorage, name, "cpu", count)
            return (torch._utils._rebuild_tensor_v2, (kind, offset, shape, stride, False, collections.OrderedDict()))

    buffer = io.BytesIO()
    Odd(buffer, 2).dump({"w": Maker()})
    return buffer.getvalue()


WRONG = [
    (4, 0, (5,), (1,), "larger than its storage"),
    (4, 2, (3,), (1,), "larger than its storage"),
    (4, 0, (2, 2), (3, 2), "larger than its storage"),
    (4, 0, (2**20, 2**20), (0, 0), "larger than its storage"),
    (4, -1, (2,), (1,), "names a tensor that is not valid"),
    (4, 0, (2,), (-1,), "names a tensor that is not valid"),
    (4, 0, (2, 2), (1,), "names a tensor that is not valid"),
    (-4, 0, (2,), (1,), "names a storage that is not valid"),
]


@pytest.mark.parametrize(("count", "offset", "shape", "stride", "said"), WRONG)
def test_tensors_beyond_their_storage_are_refused(count, offset, shape, stride, said, tmp_path: Path) -> None:
    path = packed(tmp_path / "wrong.pt", tensor(count, offset, shape, stride), **{"data/0": bytes(16)})
    with pytest.raises(UserError, match=said):
        TorchFile(path)


def test_a_zip_that_lies_before_its_own_beginning_is_damaged(tmp_path: Path) -> None:
    content = bytearray(packed(tmp_path / "a.pt", b"\x80\x02}.").read_bytes())
    content[-6:-2] = (2**31).to_bytes(4, "little")  # where its directory begins
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        TorchFile(tmp_path / "a.pt")


def test_numbers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    good = tensor(4, 0, (2, 2), (2, 1))
    for members, said in (
        ({}, "the numbers of 'w'"),
        ({"data/0": bytes(12)}, "12 bytes where 16 are declared"),
        ({"data/0": bytes(20)}, "has 20 bytes, more than 16"),
    ):
        with (
            closing(TorchFile(packed(tmp_path / "a.pt", good, **members))) as file,
            pytest.raises(UserError, match=said),
        ):
            file.read("w")
    with pytest.raises(UserError, match="names a storage that is not valid"):
        TorchFile(packed(tmp_path / "a.pt", tensor(4, 0, (4,), (1,), "../../etc/passwd"), **{"data/0": bytes(16)}))
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", good)
    with pytest.raises(UserError, match=r"is compressed, which torch\.save never does"):
        TorchFile(tmp_path / "a.pt")


def test_other_formats_are_told(tmp_path: Path) -> None:
    old = tmp_path / "old.pt"
    torch.save({"a": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"is no zip-format file of torch\.save: save it again"):
        TorchFile(old)
    with pytest.raises(UserError, match="cannot be read"):
        TorchFile(tmp_path / "none.pt")
    with pytest.raises(UserError, match="cannot be read"):
        TorchFile(tmp_path)
    with pytest.raises(UserError, match="big-endian"):
        TorchFile(packed(tmp_path / "big.pt", tensor(4, 0, (4,), (1,)), byteorder=b"big"))
    with pytest.raises(UserError, match="TorchScript program"):
        TorchFile(packed(tmp_path / "script.pt", b"\x80\x02}.", **{"constants.pkl": b""}))


def test_a_tree_that_contains_itself_or_is_endless_ends() -> None:
    tree = _interpreted(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    assert tree["a"] is tree
    assert _flat(tree) == {}
    wide: dict[str, object] = {}
    wide.update({str(k): wide for k in range(1000)})
    with pytest.raises(UserError, match=f"more than {MAX_ENTRIES:,} entries"):
        _flat(wide)


def test_names_are_taken_as_they_stand(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks for 'os.*Dpath.system', which is never imported"):  # no warning
        TorchFile(packed(tmp_path / "a.pt", b"\x80\x02cos\\Dpath\nsystem\nR."))
    for program in (b"\x80\x02cos\nsystem", b"\x80\x02c\xff\nsystem\nR."):
        with pytest.raises(UserError, match="is damaged"):
            TorchFile(packed(tmp_path / "a.pt", program))
    # Forty lists, each of the one before twice: spelled out they would fill any memory.
    doubled = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(40))
    with pytest.raises(UserError, match="is damaged: 'it names something by what is no string'"):
        TorchFile(packed(tmp_path / "a.pt", b"\x80\x02" + doubled + b"X\x01\x00\x00\x00a\x93."))
