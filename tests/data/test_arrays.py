import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from markovae.data import cache
from markovae.data.arrays import holds_idx_files, read_array_file, read_idx, read_idx_folder
from markovae.data.data_config import DataConfig
from markovae.data.inspecting import inspect
from markovae.data.loading import load_data, read_source, splits_of
from markovae.errors import UserError

RNG = np.random.default_rng(3)
GREYS = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def test_npy_of_greys(tmp_path: Path):
    np.save(tmp_path / "x.npy", GREYS)
    data = read_array_file(DataConfig(str(tmp_path / "x.npy"))).data
    assert np.array_equal(data.images[:, 0], GREYS)
    assert (data.labels, data.bins) == (None, 256)


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("arr_0", "arr_1"), ("x", "y")])
def test_npz_names(tmp_path: Path, images: str, labels: str):
    rgb = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", **{images: rgb, labels: np.array([5, 5, 2, 2, 9, 9])})
    data = read_array_file(DataConfig(str(tmp_path / "x.npz"))).data
    assert np.array_equal(data.images, np.moveaxis(rgb, -1, 1))
    assert data.class_names == ("2", "5", "9")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 1, 0, 0, 2, 2]


def test_idx_files_pair_up_and_gz_reads_the_same(tmp_path: Path):
    labels = np.arange(12) % 3
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(GREYS))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels), mtime=0))
    data = read_array_file(DataConfig(str(tmp_path / "train-images-idx3-ubyte"))).data
    assert np.array_equal(data.images[:, 0], GREYS)
    assert data.labels is not None
    assert data.labels.tolist() == labels.tolist()
    (tmp_path / "z.gz").write_bytes(gzip.compress(idx_bytes(GREYS), mtime=0))
    assert np.array_equal(read_idx(tmp_path / "z.gz"), GREYS)
    assert np.array_equal(read_array_file(DataConfig(str(tmp_path / "z.gz"))).data.images[:, 0], GREYS)


def test_an_idx_folder_keeps_its_test_part_and_drops_copies_from_training(tmp_path: Path):
    tested = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
    tested[0] = GREYS[2]
    for part, images in (("train", GREYS), ("t10k", tested)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(len(images)) % 4))
    assert holds_idx_files(tmp_path)
    reading = read_idx_folder(DataConfig(str(tmp_path)))
    splits = splits_of(reading)
    assert np.array_equal(splits.test.images[:, 0], tested)
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == [0, 1, 2, 3]
    assert (len(splits.train), len(splits.validation), splits.left_out) == (10, 1, 1)
    assert not set(splits.train.content_hashes()) & set(splits.test.content_hashes())
    assert "1 image is left out of training or validation, as copies of held-out images" in reading.summary.notes


def test_an_idx_folder_without_test_files_is_split_by_content(tmp_path: Path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(GREYS))
    splits = splits_of(read_idx_folder(DataConfig(str(tmp_path))))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [10, 1, 1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\0\0\x08\x03", "should hold 0 bytes|claims|it is empty"),
        (idx_bytes(GREYS)[:-1], "should hold 360 bytes after its header and holds 359"),
        (idx_bytes(GREYS) + b"x", "holds more"),
        (b"\0\0\x0d\x01" + b"\0\0\0\x01" + b"1234", "idx type 0x0d"),
        (b"hello idx", "does not begin with the magic number"),
        (b"\0\0\x08\x04" + b"\xff" * 16, "its header is damaged"),
        (idx_bytes(np.arange(9)), "holds 9 labels"),
    ],
)
def test_damaged_idx_files_are_one_sentence(tmp_path: Path, content: bytes, sentence: str):
    (tmp_path / "x-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_array_file(DataConfig(str(tmp_path / "x-idx3-ubyte")))


def test_a_cut_off_gz_is_one_sentence(tmp_path: Path):
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(GREYS), mtime=0)[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read_array_file(DataConfig(str(tmp_path / "x-idx3-ubyte.gz")))


def test_large_npy_is_mapped_and_arranged_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rgb = RNG.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", rgb)
    small = splits_of(read_array_file(DataConfig(str(tmp_path / "x.npy"))))
    monkeypatch.setattr(cache, "LARGE_BYTES", 100)
    reading = read_array_file(DataConfig(str(tmp_path / "x.npy")))
    assert isinstance(reading.data.images, np.memmap)
    large = splits_of(reading)
    assert isinstance(large.test.images, np.memmap)
    assert large.record() == small.record()


def test_arrays_can_be_scaled(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.uint8).reshape(3, 1, 1) * np.ones((1, 28, 28), np.uint8))
    config = DataConfig("x", size=32, fit="pad", background="black", enlarge=True)
    data = read_array_file(replace(config, source=str(tmp_path / "x.npy"))).data
    assert data.shape == (1, 32, 32)
    assert data.images[2].max() == 2


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("x.npy", lambda path: path.write_bytes(b"junk"), "not a readable .npy"),
        ("x.npy", lambda path: np.save(path, np.array([{}], dtype=object)), "not a readable .npy"),
        ("x.npz", lambda path: path.write_bytes(b"junk"), "not a readable .npz"),
        ("x.npz", lambda path: np.savez(path, a=GREYS, b=GREYS), "holds a, b: call the images `images`"),
        ("x.npz", lambda path: np.savez(path, mu=GREYS, sigma=GREYS), "statistics of features"),
        ("x.npz", lambda path: np.savez(path, images=GREYS, labels=np.arange(3)), "one each is needed"),
        ("x.png", lambda path: path.write_bytes(b""), "is a single image"),
        ("x.zip", lambda path: path.write_bytes(b"PK"), "packed archive"),
        ("x.dat", lambda path: path.write_bytes(b"PK"), "not an array file"),
    ],
)
def test_other_files_are_one_sentence(tmp_path: Path, name: str, write, sentence: str):
    write(tmp_path / name)
    with pytest.raises(UserError, match=sentence):
        read_array_file(DataConfig(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x-idx3-ubyte", "x-idx3-ubyte.gz"])
def test_every_flipped_byte_is_read_or_one_sentence(tmp_path: Path, name: str):
    path = tmp_path / name
    if "idx" in name:
        path.write_bytes(gzip.compress(idx_bytes(GREYS), mtime=0) if name.endswith("gz") else idx_bytes(GREYS))
    elif name.endswith("npy"):
        np.save(path, GREYS)
    else:
        np.savez_compressed(path, images=GREYS, labels=np.arange(12))
    content = path.read_bytes()
    refused = []
    for place in [
        *range(min(200, len(content))),
        *range(200, len(content), 7),
        *range(len(content) - 90, len(content)),
    ]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            read_array_file(DataConfig(str(path)))
        except UserError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in sentence for sentence in refused)


def test_parts_by_the_names_of_their_arrays(tmp_path: Path):
    """Keras' mnist.npz, and MedMNIST's."""
    train, val, test = (RNG.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (9, 2, 3))
    np.savez(tmp_path / "k.npz", x_train=train, y_train=np.arange(9) % 3, x_test=test, y_test=np.arange(3))
    reading = read_array_file(DataConfig(str(tmp_path / "k.npz")))
    assert (len(reading.split.train), len(reading.split.validation), len(reading.split.test)) == (8, 1, 3)
    assert np.array_equal(reading.data.images[reading.split.test][:, 0], test)
    assert reading.data.class_names == ("0", "1", "2")
    np.savez(tmp_path / "m.npz", train_images=train, val_images=val, test_images=test, extra=np.arange(3))
    reading = read_array_file(DataConfig(str(tmp_path / "m.npz")))
    assert (len(reading.split.train), len(reading.split.validation), len(reading.split.test)) == (9, 2, 3)
    assert "1 other arrays are not used (extra)" in reading.summary.notes


def test_alpha_of_arrays_is_laid_on_the_background(tmp_path: Path):
    pixels = RNG.integers(0, 256, (5, 6, 6, 4), dtype=np.uint8)
    pixels[0, 0, 0] = [10, 20, 30, 0]
    pixels[0, 0, 1] = [10, 20, 30, 51]
    np.save(tmp_path / "x.npy", pixels)
    reading = read_array_file(DataConfig(str(tmp_path / "x.npy"), background="#0064c8"))
    assert reading.data.images[0, :, 0, :2].T.tolist() == [[0, 100, 200], [2, 84, 166]]
    assert "5 images with transparency, laid on the background" in reading.summary.notes


def test_a_range_that_looks_unused_is_a_warning(tmp_path: Path):
    np.save(tmp_path / "x.npy", RNG.integers(0, 16, (9, 6, 6), dtype=np.uint8))
    notes = load_data(str(tmp_path / "x.npy")).notes
    assert "warning: all pixels lie in 0…15 of 0…255: if their scale is another, save them on it" in notes
    assert any("0…15 of 0…255" in note for note in inspect(tmp_path / "x.npy").notes)


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz", "x.7z"])
def test_packed_archives_are_named(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match="packed archive: unpack it"):
        load_data(str(tmp_path / name))


def test_idx_files_by_other_names(tmp_path: Path):
    """EMNIST's prefixes, Kaggle's dots."""
    for part, count in (("train", 9), ("test", 3)):
        images = RNG.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        (tmp_path / f"emnist-letters-{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"emnist-letters-{part}-labels.idx1-ubyte").write_bytes(idx_bytes(np.arange(count) % 2))
    (tmp_path / "mapping.txt").write_text("1 a")
    reading = read_source(DataConfig(str(tmp_path)))
    assert (len(reading.split.train), len(reading.split.validation), len(reading.split.test)) == (8, 1, 3)
    assert reading.data.class_names == ("0", "1")
    assert "1 other files are not read (.txt 1; mapping.txt)" in reading.summary.notes
    (tmp_path / "emnist-digits-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(UserError, match="idx files of 2 sets"):
        read_source(DataConfig(str(tmp_path)))


def test_other_arrays_of_an_npz_are_columns(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    attributes = np.arange(24.0).reshape(12, 2) / 4
    extra = {"age": np.arange(12), "name": np.array(["a", "b"] * 6), "attributes": attributes}
    np.savez(tmp_path / "x.npz", images=images, features=np.zeros((12, 65)), other=np.zeros(3), **extra)
    reading = read_array_file(DataConfig(str(tmp_path / "x.npz")))
    assert reading.data.columns == {
        "age": tuple(map(str, range(12))),
        "name": ("a", "b") * 6,
        "attributes.0": tuple(map(repr, attributes[:, 0].tolist())),
        "attributes.1": tuple(map(repr, attributes[:, 1].tolist())),
    }
    assert "2 other arrays are not used (features, other)" in reading.summary.notes


@pytest.mark.parametrize("name", ["metadata.jsonl", "labels.csv", "0.txt"])
def test_a_table_in_the_place_of_its_folder_is_told(tmp_path, name):
    """datasets issue 7005; seen: "is not an array file"."""
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=rf"{name} says something of images and holds none: give the folder"):
        load_data(str(tmp_path / name))
