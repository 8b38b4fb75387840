import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data import cache, folder
from markovae.data.data_config import DataConfig
from markovae.data.folder import classes_of, read_folder
from markovae.data.image_files import header_of
from markovae.data.loading import load_data, read_source, splits_of
from markovae.errors import UserError

RNG = np.random.default_rng(7)


def fill(place: Path, count: int = 6, side: int = 8, channels: int = 3) -> list[np.ndarray]:
    """`count` PNG files of noise; their pixels as (C, H, W)."""
    place.mkdir(parents=True, exist_ok=True)
    made = []
    for n in range(count):
        pixels = RNG.integers(0, 256, (side, side, channels), dtype=np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(place / f"{n:02}.png")
        made.append(np.moveaxis(pixels, -1, 0))
    return made


def config(place: Path, **options) -> DataConfig:
    return DataConfig(str(place), **options)


def test_a_common_small_size_is_kept_pixel_for_pixel(tmp_path: Path):
    made = fill(tmp_path)
    reading = read_folder(config(tmp_path))
    assert np.array_equal(reading.data.images, np.stack(made))
    assert reading.data.labels is None
    assert "size 8x8 (height x width), common to all images" in reading.summary.notes
    assert reading.summary.sizes == {"8x8": 6}
    assert reading.summary.formats == {"PNG": 6}
    assert reading.data.files == tuple(f"{n:02}.png" for n in range(6))
    parts = splits_of(reading)
    for part in (parts.train, parts.validation, parts.test):
        assert [made[int(name[:2])].tolist() for name in part.files] == np.asarray(part.images).tolist()


def test_height_and_width_may_differ(tmp_path: Path):
    for n in range(3):
        Image.new("L", (12, 4), 50 * n).save(tmp_path / f"{n}.png")
    assert read_folder(config(tmp_path)).data.shape == (1, 4, 12)
    assert read_folder(config(tmp_path, size=8, width=4, enlarge=True)).data.shape == (1, 8, 4)


def test_mixed_sizes_come_to_thirty_two_and_say_so(tmp_path: Path):
    fill(tmp_path, 3, side=40)
    fill(tmp_path / "more", 3, side=16)
    reading = read_folder(config(tmp_path))
    assert reading.data.shape == (3, 32, 32)
    notes = " ".join(reading.summary.notes)
    assert "size 32x32 by default" in notes
    assert "6 of 6 images scaled and cropped to 32x32 (data.fit = 'crop')" in notes
    assert (
        "3 of 6 images are smaller than 32x32 and are enlarged, which adds no detail: data.size=16 is the largest that "
        "all have" in notes
    )


def test_grey_stays_one_channel_unless_asked(tmp_path: Path):
    made = fill(tmp_path, channels=1)
    assert np.array_equal(read_folder(config(tmp_path)).data.images, np.stack(made))
    rgb = read_folder(config(tmp_path, channels="rgb")).data.images
    assert np.array_equal(rgb, np.repeat(np.stack(made), 3, axis=1))


def test_grey_beside_colour_becomes_rgb_and_is_said(tmp_path: Path):
    fill(tmp_path, 2)
    grey = fill(tmp_path / "grey", 2, channels=1)
    reading = read_folder(config(tmp_path))
    assert reading.data.shape == (3, 8, 8)
    assert np.array_equal(reading.data.images[2], np.repeat(grey[0], 3, axis=0))
    assert "2 grey images beside 2 in color: all become rgb" in reading.summary.notes
    assert reading.summary.modes == {"RGB": 2, "L": 2}
    assert read_folder(config(tmp_path, channels="grey")).data.shape == (1, 8, 8)


def test_sub_folders_are_classes(tmp_path: Path):
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "dog" / "deep", 3)
    data = read_folder(config(tmp_path)).data
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1, 1]


def test_loose_images_beside_folders_mean_no_classes():
    labels, names, notes = classes_of(["a/x.png", "b/x.png", "x.png"])
    assert (labels, names) == (None, ())
    assert "1 image lies beside the sub-folders" in notes[0]
    assert classes_of(["a/x.png", "a/y.png"]) == (None, (), ())


def test_the_parts_that_people_made_are_respected(tmp_path: Path):
    place = tmp_path / "set"
    for part, name, count in (("Train", "cat", 4), ("Train", "dog", 3), ("val", "dog", 2), ("test", "cat", 2)):
        fill(place / part / name, count)
    fill(place / "extra", 2)
    fill(place, 1)
    reading = read_folder(config(place))
    assert reading.data.class_names == ("cat", "dog")
    assert [len(part) for part in (reading.split.train, reading.split.validation, reading.split.test)] == [7, 2, 2]
    assert "train from Train, validation from val, test from test" in reading.summary.notes[0]
    assert "3 images lie in no part and are left out (00.png, extra/00.png, extra/01.png)" in reading.summary.notes
    assert reading.split.method == "the source's own validation and test parts"
    tested = {image.tobytes() for image in splits_of(reading).test.images}
    assert tested == {
        np.moveaxis(np.asarray(Image.open(f)), -1, 0).tobytes() for f in (place / "test" / "cat").iterdir()
    }
    joined = read_folder(config(place, split="content"))
    assert (joined.data.class_names, len(joined.data), joined.split.left_out) == ((), 14, 0)
    assert any("lies beside the sub-folders" in note for note in joined.summary.notes)
    assert read_folder(config(place / "Train")).data.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "counts", "classes"),
    [
        ("train2017 val2017", (2, 2, 1), ()),
        ("training_set/x training_set/y test_set/x", (3, 1, 2), ("x", "y")),
        ("trainA trainB testA testB", (3, 1, 4), ("A", "B")),
        ("train holdout", (1, 1, 2), ()),
        ("train dev eval", (1, 4, 1), ()),
        ("train valid unlabeled", (1, 2, 1), ()),
        ("around/train around/validation around/testing", (2, 2, 2), ()),
        ("cat/train cat/test dog/train dog/test", (3, 1, 4), ("cat", "dog")),
        ("images_train images_val", (1, 2, 1), ()),
    ],
)
def test_parts_by_every_name_that_people_give_them(
    tmp_path: Path, names: str, counts: tuple[int, int, int], classes: tuple[str, ...]
):
    for name in names.split():
        fill(tmp_path / name, 3 if name == "train2017" else 2)
    reading = read_folder(config(tmp_path))
    split = reading.split
    assert (len(split.train), len(split.validation), len(split.test)) == counts
    assert reading.data.class_names == classes
    assert "the folders are the parts of a data set" in reading.summary.notes[0]


def test_folders_may_be_called_so_and_be_classes(tmp_path: Path):
    for name in ("train", "bus", "car"):
        fill(tmp_path / name, 2)
    assert read_folder(config(tmp_path)).data.class_names == ("bus", "car", "train")
    fill(tmp_path / "test", 2)
    assert read_folder(config(tmp_path, split="folders")).data.class_names == ("bus", "car", "test", "train")
    named = read_folder(config(tmp_path, split="train:bus+car, test:test"))
    assert (len(named.split.train), len(named.split.validation), len(named.split.test)) == (3, 1, 2)
    assert "2 images lie in no part and are left out (train/00.png, train/01.png)" in named.summary.notes
    with pytest.raises(UserError, match=r"data.split names the folder lorry, and .* has no images there"):
        read_folder(config(tmp_path, split="train:bus,test:lorry"))
    with pytest.raises(UserError, match="has no training part"):
        config(tmp_path, split="test:bus")


def test_held_out_parts_alone_are_refused(tmp_path: Path):
    fill(tmp_path / "test", 2)
    fill(tmp_path / "val", 2)
    with pytest.raises(UserError, match=r"holds test, val, held-out parts .* none that trains"):
        read_folder(config(tmp_path))


def test_copies_of_held_out_images_do_not_train(tmp_path: Path):
    fill(tmp_path / "train", 4)
    fill(tmp_path / "test", 1)
    (tmp_path / "train" / "copy.png").write_bytes((tmp_path / "test" / "00.png").read_bytes())
    reading = read_folder(config(tmp_path))
    assert (len(reading.split.train), len(reading.split.validation), len(reading.split.test)) == (3, 1, 1)
    note = "1 image is left out of training or validation, as copies of held-out images"
    assert note in reading.summary.notes


def test_prefixes_of_names_are_classes_where_asked_and_are_told_where_not(tmp_path: Path):
    for n in range(3):
        for name in (f"cat.{n}.png", f"dog_{n}.png"):
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    plain = read_folder(config(tmp_path))
    assert plain.data.labels is None
    assert (
        "the names begin with cat (3), dog (3): set data.classes=prefix to take these as classes" in plain.summary.notes
    )
    asked = read_folder(config(tmp_path, classes="prefix")).data
    assert asked.class_names == ("cat", "dog")
    assert asked.labels is not None
    assert asked.labels.tolist() == [0, 0, 0, 1, 1, 1]
    Image.new("RGB", (8, 8)).save(tmp_path / "7.png")
    with pytest.raises(UserError, match=r"1 have no such prefix \(7.png\)"):
        load_data(config(tmp_path, classes="prefix"))
    other = read_source(config(tmp_path, classes="prefix").for_images_like((3, 8, 8), str(tmp_path)))
    assert other.data.labels is None  # images to measure need none
    assert any("no classes: data.classes=prefix" in note for note in other.summary.notes)


def test_every_file_is_accounted_for(tmp_path: Path):
    fill(tmp_path / "cat", 3)
    fill(tmp_path / "dog", 3)
    (tmp_path / "cow").mkdir()
    for name in (
        "cow/a.heic",
        "cow/b.HEIC",
        "film.mp4",
        "boxes.json",
        "cat/Thumbs.db",
        ".x.png",
        "cat/00.txt",
        "LICENSE",
    ):
        (tmp_path / name).write_bytes(b"1")
    summary = read_folder(config(tmp_path)).summary
    assert [name for name, _ in summary.unreadable] == ["cow/a.heic", "cow/b.HEIC"]
    assert "HEIC is not read: save it as PNG or JPEG" in dict(summary.unreadable).values()
    for note in (
        "1 sub-folder holds no readable image and is not a class (cow)",
        "3 other files are not read (no ending 1, .json 1, .mp4 1; LICENSE, boxes.json, film.mp4)",
        "1 hidden or special files or folders skipped (.x.png)",
    ):
        assert note in summary.notes


def test_kinds_that_are_not_read_count_towards_the_limit(tmp_path: Path):
    fill(tmp_path, 20)
    for n in range(11):
        (tmp_path / f"{n}.heic").write_bytes(b"1")
    with pytest.raises(UserError, match=r"11 of 31 files are unreadable \(0.heic: HEIC is not read"):
        load_data(config(tmp_path))


def test_one_folder_around_the_classes_is_told(tmp_path: Path):
    fill(tmp_path / "all" / "cat", 2)
    fill(tmp_path / "all" / "dog", 2)
    reading = read_folder(config(tmp_path))
    assert reading.data.labels is None
    assert any("all images lie in the folder all, so there are no classes" in note for note in reading.summary.notes)


@pytest.mark.parametrize("name", ["decode", "read_header"])
def test_what_the_machine_failed_at_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    made = fill(tmp_path, 4)
    (tmp_path / "broken.png").write_bytes(b"no image")
    real = getattr(folder, name)

    def failing(*arguments, **options):
        if "02" in Path(arguments[0 if name == "decode" else 1]).name:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        if name == "decode":
            patch.setattr(folder, name, failing)
        else:
            patch.setattr("markovae.data.image_files.header_of", lambda path, own: failing(path, own))
            real = header_of
        reading = read_folder(config(tmp_path))
    assert dict(reading.summary.unreadable)["02.png"] == "Input/output error"
    assert len(reading.data) == 3
    whole = read_folder(config(tmp_path))
    assert [name for name, _ in whole.summary.unreadable] == ["broken.png"]
    assert np.array_equal(whole.data.images, np.stack(made))


def test_unreadable_files_are_listed_with_reasons_and_the_rest_is_read(tmp_path: Path):
    made = fill(tmp_path, 5)
    whole = (tmp_path / "02.png").read_bytes()
    (tmp_path / "02.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.JPG").write_bytes(b"")
    (tmp_path / "text.webp").write_text("hello")
    os.mkfifo(tmp_path / "pipe.gif")
    reading = read_folder(config(tmp_path))
    assert np.array_equal(reading.data.images, np.stack(made)[[0, 1, 3, 4]])
    reasons = dict(reading.summary.unreadable)
    assert set(reasons) == {"02.png", "empty.JPG", "text.webp", "pipe.gif"}
    assert "truncated" in reasons["02.png"]
    assert reasons["empty.JPG"] == "the file is empty"
    assert reading.summary.modes == {"RGB": 4}


def test_captions_follow_their_images(tmp_path: Path):
    fill(tmp_path, 3)
    (tmp_path / "captions.csv").write_text("file_name,text\n02.png,last\n00.png,first\n")
    reading = read_folder(config(tmp_path))
    assert reading.data.captions == ("first", "", "last")
    (tmp_path / "captions.csv").write_text("file_name,text\n00.png,other\n")
    assert read_folder(config(tmp_path)).data.captions == ("other", "", "")


def test_the_cache_is_used_until_a_file_or_an_option_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = fill(tmp_path, 4)
    first = read_folder(config(tmp_path)).data
    with monkeypatch.context() as patch:
        patch.setattr(folder, "map_in_processes", None)
        again = read_folder(config(tmp_path, split_seed=3)).data
        assert np.array_equal(first.images, again.images)
    Image.fromarray(np.moveaxis(255 - made[1], 0, -1)).save(tmp_path / "01.png")
    os.utime(tmp_path / "01.png", ns=(1, 1))
    assert np.array_equal(read_folder(config(tmp_path)).data.images[1], 255 - made[1])
    assert read_folder(config(tmp_path, size=16, enlarge=True)).data.shape == (3, 16, 16)


def test_worker_processes_decode_the_same(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    made = fill(tmp_path, 20)
    (tmp_path / "99.png").write_bytes(b"damaged")
    monkeypatch.setattr(folder, "SERIAL_HEADERS", 1)
    monkeypatch.setattr(folder, "SERIAL_IMAGES", 1)
    monkeypatch.setattr("markovae.data.workers.worker_count", lambda: 2)
    reading = read_folder(config(tmp_path))
    assert np.array_equal(reading.data.images, np.stack(made))
    assert [path for path, _ in reading.summary.unreadable] == ["99.png"]


def test_large_sets_stay_on_disk_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = np.stack(fill(tmp_path, 10))
    small = splits_of(read_folder(config(tmp_path)))
    monkeypatch.setattr(cache, "LARGE_BYTES", 100)
    reading = read_folder(config(tmp_path))
    assert isinstance(reading.data.images, np.memmap)
    assert np.array_equal(reading.data.images, made)
    large = splits_of(reading)
    assert isinstance(large.train.images, np.memmap)
    assert np.shares_memory(large.train.images, large.train.images.base)
    assert large.record() == small.record()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({}, r"holds no images \(0 other files\)"),
        ({"notes.txt": b"x"}, r"holds no images \(1 other files\)"),
        ({"a.png": b"", "b.jpg": b"x"}, r"all 2 image files .* are unreadable \(a.png: the file is empty\)"),
    ],
)
def test_nothing_to_read_is_one_sentence(tmp_path: Path, names: dict[str, bytes], sentence: str, own_cache: Path):
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_folder(config(tmp_path))
    assert list(own_cache.iterdir()) == []


def test_one_image_is_too_few(tmp_path: Path):
    fill(tmp_path, 1)
    reading = read_folder(config(tmp_path))
    assert len(reading.data) == len(reading.split.train) == 1
    with pytest.raises(UserError, match="holds 1 image, 1 of them different: at least 3"):
        splits_of(reading)


def table(place: Path, header: str, rows: list[str]) -> Path:
    (place / "metadata.csv").write_text("\n".join([header, *rows]))
    return place


def test_columns_of_a_folder_follow_their_images(tmp_path: Path):
    fill(tmp_path, 12)
    rows = [f"{n:02},{n},{'ab'[n % 2]}" for n in range(12) if n != 3]
    reading = read_folder(config(table(tmp_path, "image_id,age,group", rows)))
    data = reading.data
    assert data.columns["age"] == tuple(None if n == 3 else str(n) for n in range(12))
    assert data.take([5, 3]).columns == {"age": ("5", None), "group": ("b", None)}
    parts = splits_of(reading)
    assert [int(name[:2]) for name in parts.test.files or ()] == [int(cell or 3) for cell in parts.test.columns["age"]]


@pytest.mark.parametrize(
    ("cells", "names", "note"),
    [
        ("cat dog cat dog cat dog", ("cat", "dog"), "classes from the column label"),
        ("10 9 10 9 10 9", ("9", "10"), "classes from the column label"),
        ("cat dog cat dog cat ", (), "the column label is not read as classes: 1 images have none"),
        ("a b c d e f", (), "the column label is not read as classes: it has 6 different values"),
    ],
)
def test_a_column_of_labels_names_the_classes(tmp_path: Path, cells: str, names: tuple[str, ...], note: str):
    fill(tmp_path)
    rows = [f"{n:02}.png,{cell}" for n, cell in enumerate(cells.split(" "))]
    reading = read_folder(config(table(tmp_path, "file_name,label", rows)))
    assert reading.data.class_names == names
    assert any(one.startswith(note) for one in reading.summary.notes)
    if names:
        assert [names[label] for label in reading.data.labels.tolist()] == cells.split(" ")
    assert read_folder(config(tmp_path, classes="none")).data.labels is None


def test_folders_come_before_a_column_of_labels(tmp_path: Path):
    fill(tmp_path / "x", 3)
    fill(tmp_path / "y", 3)
    rows = [f"{folder}/{n:02}.png,{n}" for folder in "xy" for n in (0, 1, 2)]
    reading = read_folder(config(table(tmp_path, "file_name,label", rows)))
    assert reading.data.class_names == ("x", "y")


def test_another_table_says_what_it_should_be_called(tmp_path: Path):
    fill(tmp_path, 3)
    (tmp_path / "labels.csv").write_text("id,breed\n00,pug\n")
    notes = read_folder(config(tmp_path)).summary.notes
    assert any("called metadata.csv or metadata.jsonl" in note and "(labels.csv is not)" in note for note in notes)


def test_nothing_is_enlarged_unless_asked(tmp_path: Path):
    fill(tmp_path, 4, side=16)
    fill(tmp_path / "x", 2, side=40)
    with pytest.raises(
        UserError, match=r"4 of 6 images are smaller than 32x32 .* data.size=16 is the largest that all"
    ):
        read_folder(config(tmp_path, size=32))
    reading = read_folder(config(tmp_path, size=32, enlarge=True))
    assert reading.data.shape == (3, 32, 32)
    assert any(note.startswith("4 of 6 images are smaller than 32x32") for note in reading.summary.notes)
    assert read_folder(config(tmp_path, size=16)).data.shape == (3, 16, 16)


def test_json_files_beside_images_are_read_as_in_tars(tmp_path: Path):
    fill(tmp_path, 6)
    for n in range(5):
        (tmp_path / f"{n:02}.json").write_text(f'{{"caption": "number {n}", "age": {n}, "box": [1, 2]}}')
    (tmp_path / "02.txt").write_text("beside")
    (tmp_path / "other.json").write_text("{}")
    reading = read_folder(config(tmp_path))
    assert reading.data.captions == ("number 0", "number 1", "beside", "number 3", "number 4", "")
    assert reading.data.columns == {"age": ("0", "1", "2", "3", "4", None)}
    notes = reading.summary.notes
    assert any("5 .json files beside images are read, as captions and columns" in note for note in notes)
    assert any("1 other file is not read (.json 1; other.json)" in note for note in notes)


def test_the_classes_of_a_dataset_json_come_before_numbered_folders(tmp_path: Path):
    """StyleGAN's and EDM's folders: 00000/img00000000.png, whose folders are no classes."""
    fill(tmp_path / "00000", 3)
    fill(tmp_path / "00001", 3)
    names = [f"0000{place}/{n:02}.png" for place in (0, 1) for n in range(3)]
    rows = ", ".join(f'["{name}", {number % 2 + 7}]' for number, name in enumerate(names))
    (tmp_path / "dataset.json").write_text(f'{{"labels": [{rows}]}}')
    data = read_folder(config(tmp_path)).data
    assert data.class_names == ("7", "8")
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    reading = read_folder(config(tmp_path))
    assert reading.data.labels is None
    assert any("says that there are no classes" in note for note in reading.summary.notes)
    (tmp_path / "dataset.json").write_text('{"something": "else"}')
    assert read_folder(config(tmp_path)).data.class_names == ("00000", "00001")


@pytest.mark.parametrize("flat", [True, False])
def test_several_labels_of_a_dataset_json_are_columns_and_a_single_one_a_class(tmp_path: Path, flat: bool):
    """stylegan2-ada-pytorch issue 165: young, happy, man; seen: the folders of numbers became the classes."""
    fill(tmp_path / "00000", 3)
    fill(tmp_path / "00001", 3)
    names = [f"0000{place}/{n:02}.png" for place in (0, 1) for n in range(3)]

    def write(each: list[list[float]]) -> None:
        rows = [[name, *values] if flat else [name, values] for name, values in zip(names, each, strict=True)]
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": [*rows, ["lost.png", *each[0]]]}))

    write([[1, 0, 0.5], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]])
    reading = read_folder(config(tmp_path))
    assert reading.data.labels is None
    assert reading.data.columns["label.1"] == ("0", "1", "1", "0", "0", "0")
    assert reading.data.columns["label.2"][0] == "0.5"
    assert any("gives each image 3 labels" in note for note in reading.summary.notes)
    assert any("1 row names a file that is not a readable image (lost.png)" in note for note in reading.summary.notes)
    write([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    data = read_folder(config(tmp_path)).data
    assert data.class_names == ("0", "1")
    assert data.labels.tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("rows", ['[["00/00.png", "cat"]]', '[["00/00.png"]]', '[["a", 1], ["b", [1, 2]]]', '{"a": 1}'])
def test_a_dataset_json_that_says_something_else_is_refused_by_its_row(tmp_path: Path, rows: str):
    fill(tmp_path / "00", 6)
    (tmp_path / "dataset.json").write_text(f'{{"labels": {rows}}}')
    with pytest.raises(UserError, match=r"dataset.json has labels\[\d\]=.* must be \[image, class\]"):
        read_folder(config(tmp_path))


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path):
    """ImageNetV2 issue 10: the folder 100 got the label 2; a number in Python means the class of that number."""
    labels, names, _ = classes_of([f"{number}/{n}.png" for number in range(12) for n in range(2)])
    assert names == tuple(map(str, range(12)))
    assert labels is not None
    assert labels.tolist() == [number for number in range(12) for _ in range(2)]
    assert classes_of(["10/a.png", "9b/a.png"])[1] == ("10", "9b")


def test_archives_are_named_with_what_to_do(tmp_path: Path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"archives \(images.zip\): unpack them"):
        read_folder(config(tmp_path))
    fill(tmp_path)
    assert any(
        "nothing is read from archives (images.zip)" in note for note in read_folder(config(tmp_path)).summary.notes
    )


@pytest.mark.parametrize(
    ("channels", "note"),
    [("grey", "6 of 8 images are in color and become grey"), ("rgb", "2 of 8 images are grey and become rgb")],
)
def test_colors_that_are_lost_or_made_are_told(tmp_path: Path, channels: str, note: str):
    fill(tmp_path)
    fill(tmp_path / "grey", 2, channels=1)
    notes = read_folder(config(tmp_path, channels=channels)).summary.notes
    assert any(note in one for one in notes)
    np.savez(tmp_path / "x.npz", images=np.stack(fill(tmp_path / "more", 8, channels=3 if channels == "grey" else 1)))
    reading = read_source(DataConfig(str(tmp_path / "x.npz"), channels=channels))
    assert any(note[-20:] in one for one in reading.summary.notes)


def test_images_called_like_masks_of_others_are_told(tmp_path: Path):
    fill(tmp_path, 4)
    fill(tmp_path / "more", 2)
    for name in ("00_mask.png", "more/01-masklabel.png", "my_mask.png"):
        (tmp_path / name).write_bytes((tmp_path / "03.png").read_bytes())
    notes = read_folder(config(tmp_path)).summary.notes
    told = next(note for note in notes if "mask or map of another" in note)
    assert told.startswith("2 images are called like")
    assert "my_mask" not in told


def test_rows_of_one_image_that_differ_are_told(tmp_path: Path):
    fill(tmp_path, 4)
    rows = ["00.png,1,a", "01.png,2,b", "02.png,3,c", "03.png,4,d", "00.png,9,e", "01.png,2,f"]
    reading = read_folder(config(table(tmp_path, "file_name,age,text", rows)))
    assert reading.data.columns == {"age": ("1", "2", "3", "4")}
    assert reading.data.captions == ("a\ne", "b\nf", "c", "d")
    told = "different values in the column age: the first counts (line 6 is another)"
    assert any(told in note for note in reading.summary.notes)


def test_repeats_of_other_trainers_are_told(tmp_path: Path):
    fill(tmp_path / "10_dog", 3)
    fill(tmp_path / "3_cat", 3)
    reading = read_folder(config(tmp_path))
    assert reading.data.class_names == ("10_dog", "3_cat")
    assert any("a number before _ repeats no image here" in note for note in reading.summary.notes)


def test_a_dataset_json_that_is_no_json_is_refused(tmp_path: Path):
    """stylegan2-ada-pytorch issue 126: a comma behind the last row; seen: the folders became the classes."""
    fill(tmp_path / "00", 6)
    (tmp_path / "dataset.json").write_text('{"labels": [["00/00.png", 1],]}')
    with pytest.raises(UserError, match=r"dataset.json is not JSON: .*: correct it, or remove the file"):
        read_folder(config(tmp_path))


def test_an_image_in_several_rows_of_a_dataset_json_has_all_their_classes(tmp_path: Path):
    """stylegan2-ada-pytorch issue 147; seen: the last row counted, and a class was gone."""
    fill(tmp_path / "00", 6)
    rows = [[f"00/{n:02}.png", place] for n in range(6) for place in ((0, 2) if n == 0 else (n % 2,))]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    reading = read_folder(config(tmp_path))
    assert reading.data.columns["label"] == (("0", "2"), "1", "0", "1", "0", "1")
    assert reading.data.labels is None
    assert any("1 images have several (condition.columns=[label] may use it)" in n for n in reading.summary.notes)
    rows = [["00/00.png", 1, 0], ["00/00.png", 0, 1], *([f"00/{n:02}.png", 1, 1] for n in range(1, 6))]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    notes = read_folder(config(tmp_path)).summary.notes
    assert "1 image in several rows of dataset.json (00/00.png): the first counts" in notes
