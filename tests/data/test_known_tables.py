from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.columns import Column, understand
from markovae.data.data_config import DataConfig
from markovae.data.folder import read_folder
from markovae.errors import UserError

NAMES = [f"{number:06}.jpg" for number in range(12)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images in a folder below, as these data sets have them."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    return tmp_path


def test_celeba_brings_its_attributes_and_its_parts(images: Path):
    rows = [f"{name} {'-1' if n % 2 else ' 1'}  1" for n, name in enumerate(NAMES)]
    (images / "list_attr_celeba.txt").write_text("\n".join(["12", "Smiling Young ", *rows]))
    parts = [0] * 8 + [1] * 2 + [2] * 2
    (images / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(NAMES, parts, strict=True)))
    reading = read_folder(DataConfig(str(images)))
    assert reading.data.columns == {"Smiling": ("1", "-1") * 6, "Young": ("1",) * 12}
    assert reading.split.train.tolist() == list(range(8))
    assert reading.split.test.tolist() == [10, 11]
    assert any("the parts are those of the column split" in note for note in reading.summary.notes)
    assert not any("belong" in note and "text file" in note for note in reading.summary.notes)
    again = read_folder(DataConfig(str(images), split="content"))
    assert again.split.test.tolist() != [10, 11] or again.split.train.tolist() != list(range(8))
    assert again.data.columns["split"] == ("train",) * 8 + ("validation",) * 2 + ("test",) * 2


@pytest.mark.parametrize(
    ("name", "head", "row"),
    [
        ("captions.txt", "image,caption", '{0},"a child, {1}"'),
        ("results.csv", "image_name| comment_number| comment", "{0}| {1}| a child, {1}"),
        ("results.token", None, "{0}#{1}\ta child, {1}"),
        ("Flickr8k.token.txt", None, "{0}#{1}\ta child, {1}"),
    ],
)
def test_the_captions_of_flickr_are_read(images: Path, name: str, head: str | None, row: str):
    rows = [row.format(image, number) for image in NAMES for number in range(2)]
    (images / name).write_text("\n".join([*([head] if head else []), *rows]))
    reading = read_folder(DataConfig(str(images)))
    assert reading.data.captions == ("a child, 0\na child, 1",) * 12
    assert any(f"captions from {name}" in note for note in reading.summary.notes)


def test_files_of_such_names_that_are_something_else_are_left_alone(images: Path):
    (images / "captions.txt").write_text("some words\n")
    (images / "results.csv").write_text("epoch,loss\n1,0.5\n")
    reading = read_folder(DataConfig(str(images)))
    assert reading.data.captions is None
    assert any("1 text file belongs to no readable image (captions.txt)" in note for note in reading.summary.notes)
    assert any("results.csv" in note for note in reading.summary.notes)


def test_a_row_that_is_cut_short_is_named_by_its_line(images: Path):
    (images / "list_attr_celeba.txt").write_text(f"12\nSmiling Young\n{NAMES[0]} 1 1\n{NAMES[1]} 1\n")
    with pytest.raises(UserError, match=r"list_attr_celeba\.txt line 4 has 1 values for 2 attributes"):
        read_folder(DataConfig(str(images)))


def test_a_column_split_of_anyone_says_the_parts_where_it_says_all(images: Path):
    words = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    rows = [f"{name},{word}" for name, word in zip(NAMES, words, strict=True)]
    (images / "metadata.csv").write_text("\n".join(["file_name,split", *rows]))
    assert read_folder(DataConfig(str(images))).split.test.tolist() == [10, 11]
    (images / "metadata.csv").write_text("\n".join(["file_name,split", *rows[:-1], f"{NAMES[-1]},"]))
    notes = read_folder(DataConfig(str(images))).summary.notes
    assert any("the column split is not read as parts: 1 image without train" in note for note in notes)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["3cm", "4cm", "10cm"], "its numbers have a unit (3cm): write 3"),
        (["1.5 kg", "2 kg", "2.5 kg"], "its numbers have a unit (1.5 kg): write 1.5"),
        (["$3", "$4.50", "$5"], "its numbers have a unit ($3): write 3"),
        (["10 %", "20 %", "30 %"], "its numbers have a unit (10 %): write 10"),
        (["2024-01-05", "2024-02-05", "2023-01-05"], "it holds dates (2024-01-05)"),
        (["5.1.2024", "6.1.2024", "7.2.2024"], "it holds dates (5.1.2024)"),
        (["2024-01-05 10:30:00", "2024-01-06 10:31", "2024-01-05T10:30Z"], "it holds dates"),
    ],
)
def test_units_and_dates_are_told_with_what_to_write(cells: list[str], why: str):
    found = understand("size", cells * 4)
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize("cells", [["2D", "3D"], ["a0", "a1", "a2"], ["3cm", "4kg", "5cm"], ["v1.2", "v1.3", "v1.4"]])
def test_categories_with_numbers_in_them_stay_categories(cells: list[str]):
    assert isinstance(understand("kind", cells * 4), Column)
