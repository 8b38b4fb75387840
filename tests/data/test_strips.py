import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.folder import read_folder
from markovae.data.image_files import fit_image, strip_of, strip_shape
from markovae.data.loading import load_data, read_source, splits_of
from markovae.data.shard_format import write_shards
from markovae.data.strips import middle
from markovae.errors import StoppedRun, UserError


def fill(place: Path, sizes: list[tuple[int, int]]) -> None:
    """Images of noise, by height and width."""
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / f"{number:02}.png")


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 3)])
@pytest.mark.parametrize("size", [(8, 8), (9, 8), (8, 11), (31, 8), (8, 40), (5, 6), (100, 37)])
def test_the_middle_of_a_strip_is_what_is_measured(size: tuple[int, int], shape: tuple[int, int]):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    strip = np.asarray(strip_of(image, shape)).transpose(2, 0, 1)
    assert strip.shape[1:] == strip_shape(size, shape)
    assert strip.size <= 2 * 3 * shape[0] * shape[1]
    fitted = np.asarray(fit_image(image, shape, "crop", (0, 0, 0))).transpose(2, 0, 1)
    assert np.array_equal(middle(strip, shape), fitted)


def test_training_alone_sees_windows_and_everything_else_the_same_images(tmp_path: Path):
    fill(tmp_path, [(8, 8), (8, 20), (12, 8), (16, 24)] * 5)
    plain = load_data(DataConfig(str(tmp_path), size=8))
    reading = read_folder(DataConfig(str(tmp_path), size=8, random_crop=True))
    cut = load_data(DataConfig(str(tmp_path), size=8, random_crop=True))
    for one, other in ((plain.train, cut.train), (plain.validation, cut.validation), (plain.test, cut.test)):
        assert np.array_equal(one.images, other.images)
    assert any("15 of 20 images are longer than 8x8" in note for note in reading.summary.notes)
    strips = reading.data.strips
    assert strips is not None
    wide = next(row for row in range(len(strips)) if strips.size[row].tolist() == [8, 16])
    rows, ends = np.array([wide, wide, 0]), np.array([[0, 0], [0.999, 0.999], [0.5, 0.5]])
    left, right, whole = strips.windows(rows, ends)
    source = np.asarray(Image.open(tmp_path / reading.data.files[wide]))
    assert source.shape[:2] == (8, 20)
    assert np.array_equal(left, source[:, 2:10].transpose(2, 0, 1))  # half as long again at each end, and no more
    assert np.array_equal(right, source[:, 10:18].transpose(2, 0, 1))
    assert np.array_equal(whole, reading.data.images[0])
    assert np.array_equal(
        cut.train.take([3, 1]).strips.windows(np.array([1]), ends[:1]),
        cut.train.strips.windows(np.array([1]), ends[:1]),
    )


def packed(place: Path, out: Path, kind: str) -> Path:
    """The images of a folder as a tar, or a parquet file."""
    if kind == "tar":
        with tarfile.open(out / "all.tar", "w") as tar:
            tar.add(place, ".")
        return out / "all.tar"
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": file.read_bytes(), "path": file.name}} for file in sorted(place.iterdir())]
    parquet.write_table(arrow.Table.from_pylist(rows), out / "all.parquet")
    return out / "all.parquet"


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_windows_are_those_of_a_folder_wherever_the_images_are(tmp_path: Path, kind: str):
    (images := tmp_path / "images").mkdir()
    fill(images, [(8, 8), (8, 20), (12, 8), (16, 24)] * 5)
    folder = load_data(DataConfig(str(images), size=8, random_crop=True))
    reading = read_source(DataConfig(str(packed(images, tmp_path, kind)), size=8, random_crop=True))
    assert any("15 of 20 images are longer than 8x8" in note for note in reading.summary.notes)
    other = splits_of(reading)
    assert np.array_equal(np.asarray(other.train.images), folder.train.images)
    assert other.train.strips is not None
    assert folder.train.strips is not None
    rows = np.array([3, 0, 5, 1])
    places = np.random.default_rng(0).random((4, 2))
    found = other.train.strips.windows(rows, places)
    assert np.array_equal(found, folder.train.strips.windows(rows, places))
    assert not np.array_equal(found, np.asarray(other.train.images[rows]))


def test_shards_of_our_own_are_cut_where_their_images_are_longer_than_the_size(tmp_path: Path):
    (images := tmp_path / "images").mkdir()
    fill(images, [(8, 20)] * 12)
    write_shards(read_source(DataConfig(str(images), size=8, width=20)), tmp_path / "shards", 6)
    reading = read_source(DataConfig(str(tmp_path / "shards"), size=8, random_crop=True))
    assert any("12 of 12 images are longer than 8x8" in note for note in reading.summary.notes)
    assert reading.data.strips is not None
    left, right = reading.data.strips.windows(np.array([0, 0]), np.array([[0, 0], [0, 0.999]]))
    assert not np.array_equal(left, right)
    same = read_source(DataConfig(str(tmp_path / "shards"), random_crop=True))
    assert any("data.random_crop changes nothing" in note for note in same.summary.notes)


def test_a_strip_whose_middle_is_no_longer_what_was_indexed_stops_the_run(tmp_path: Path):
    (images := tmp_path / "images").mkdir()
    fill(images, [(8, 20)] * 6)
    tar = packed(images, tmp_path, "tar")
    strips = read_source(DataConfig(str(tar), size=8, random_crop=True)).data.strips
    assert strips is not None
    content = tar.read_bytes()
    Image.new("RGB", (20, 8)).save(tmp_path / "other.png")
    other = (tmp_path / "other.png").read_bytes()
    start = content.index(b"\x89PNG")
    tar.write_bytes(content[:start] + other + content[start + len(other) :])
    with pytest.raises(StoppedRun, match="holds other pixels than when it was indexed"):
        strips.windows(np.arange(6), np.zeros((6, 2)))


def test_images_without_room_and_sources_without_strips_are_told(tmp_path: Path):
    fill(tmp_path, [(8, 8)] * 6)
    notes = read_folder(DataConfig(str(tmp_path), size=8, random_crop=True)).summary.notes
    assert any("no image is longer than 8x8 once it is scaled: data.random_crop changes nothing" in n for n in notes)
    with pytest.raises(
        UserError, match=r"data\.random_crop cuts images of a folder, of shards or parquet files, and digits is digits"
    ):
        read_source(DataConfig("digits", random_crop=True))
    with pytest.raises(UserError, match=r"data\.random_crop goes with data.fit=crop, and data.fit=pad"):
        DataConfig(str(tmp_path), fit="pad", random_crop=True)
    np.save(tmp_path / "t10k-images-idx3-ubyte.npy", np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(UserError, match="of one shape: leave it out"):
        read_source(DataConfig(str(tmp_path / "t10k-images-idx3-ubyte.npy"), random_crop=True))
    assert not DataConfig(str(tmp_path), random_crop=True).for_images_like((3, 8, 8), "elsewhere").random_crop
