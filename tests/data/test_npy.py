"""Arrays whose headers claim more than is there: refused before anything is allocated."""

import gzip
import io
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from markovae.data.arrays import read_array_file
from markovae.data.data_config import DataConfig
from markovae.data.npy import read_npy, read_npz
from markovae.errors import UserError

GREYS = np.arange(360, dtype=np.uint8).reshape(12, 6, 5)
HUGE = 1 << 40


def npy(array: np.ndarray, *, claiming: tuple[int, ...] | None = None, descr: object = None) -> bytes:
    """A .npy file whose header may claim another shape and type."""
    buffer = io.BytesIO()
    header = {"descr": descr or array.dtype.str, "fortran_order": False, "shape": claiming or array.shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


def npz(content: bytes, packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        archive.writestr("images.npy", content)
    return buffer.getvalue()


def idx(*sizes: int) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + b"".join(n.to_bytes(4, "big") for n in sizes)


LONG_HEADER = b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + bytes(100)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.npy", npy(GREYS, claiming=(HUGE, 6, 5)), "claims 32,985,348,833,280 bytes of numbers and 360 are there"),
        ("x.npy", npy(GREYS, claiming=(2**70, 2**70, 2)), "bytes of numbers and 360 are there"),
        ("x.npy", npy(GREYS, claiming=(-12, -6, 5)), "its header does not describe"),
        ("x.npy", npy(GREYS, descr="|O"), r"elements of type '\|O'"),
        ("x.npy", npy(GREYS, descr=[("a", "<f8")]), "its header does not describe"),
        ("x.npy", npy(GREYS, descr="|V0"), "elements of type"),
        ("x.npy", LONG_HEADER, "its header claims 2,147,483,648 bytes, at most 10,000"),
        ("x.npy", b"\x93NUMPY\x01\x00" + (9999).to_bytes(2, "little") + b"(" * 9999, "not a readable .npy"),
        ("x.npz", npz(npy(GREYS, claiming=(HUGE, 6, 5))), "claims 32,985,348,833,280 bytes"),
        ("x.npz", npz(npy(GREYS), zipfile.ZIP_LZMA), "is packed in another way"),
        ("x.npz", npz(npy(GREYS), zipfile.ZIP_BZIP2), "is packed in another way"),
        ("x.npz", npz(LONG_HEADER), "its header claims 2,147,483,648 bytes"),
        ("x-idx3-ubyte", idx(60_000, 1000, 1000) + bytes(100), "should hold 60000000000 bytes .* holds 100"),
        ("x-idx3-ubyte.gz", gzip.compress(idx(60_000, 1000, 1000) + bytes(100), mtime=0), "unpack to 60,000,000,000"),
        ("x-idx3-ubyte.gz", gzip.compress(idx(1000, 1000, 1000) + bytes(100), mtime=0), "should hold 1000000000 bytes"),
        ("x-idx3-ubyte", idx(1 << 31, 1 << 31, 1 << 31), "its header is damaged"),
    ],
)
def test_claims_are_held_against_the_bytes_that_are_there(tmp_path: Path, name: str, content: bytes, sentence: str):
    (tmp_path / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=sentence):
        read_array_file(DataConfig(str(tmp_path / name)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path):
    """The sizes in its directory are enough."""
    content = npz(npy(GREYS))
    place = content.index(b"PK\x01\x02") + 24  # the unpacked size in the central directory
    content = content[:place] + (2**31 + 5).to_bytes(4, "little") + content[place + 4 :]
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(
        UserError, match=r"unpack to 2,147,483,653, more than 100 times as many: save the array as .npy"
    ):
        read_array_file(DataConfig(str(tmp_path / "x.npz")))


def test_objects_beside_the_images_of_an_archive_are_left_alone(tmp_path: Path):
    np.savez(tmp_path / "x.npz", images=GREYS, notes=np.array([{}], dtype=object))
    assert len(read_array_file(DataConfig(str(tmp_path / "x.npz"))).data) == 12
    with pytest.raises(ValueError, match=r"elements of type '\|O'"):
        read_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("order", [np.asfortranarray, np.ascontiguousarray])
@pytest.mark.parametrize("kind", ["|u1", ">u2", "<i8", "|b1", "<f4", "<f2", "<U3"])
@pytest.mark.parametrize("above", [0, 10**6])
def test_whole_arrays_are_read_as_numpy_reads_them(tmp_path: Path, order: Callable, kind: str, above: int):
    array = order(GREYS.astype(kind))
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", a=array, b=array[:3])
    read = read_npy(tmp_path / "x.npy", above)
    assert np.array_equal(read, array)
    assert (read.dtype, isinstance(read, np.memmap)) == (array.dtype, above == 0)
    stored = read_npz(tmp_path / "x.npz")
    assert np.array_equal(stored["a"], array)
    assert np.array_equal(stored["b"], array[:3])
