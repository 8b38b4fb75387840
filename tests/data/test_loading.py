import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import markovae as mv
from markovae.columns import Column, understand
from markovae.data import cache
from markovae.data.data_config import DataConfig
from markovae.data.file_names import text_of_name
from markovae.data.loading import load_data, read_source, reopen
from markovae.data.shard_format import write_shards
from markovae.errors import UserError


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    path = tmp_path / "greys.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8))
    return path


def test_the_same_call_gives_the_same_parts(greys: Path):
    first, second = load_data(str(greys)), load_data(DataConfig(str(greys)))
    assert first.record() == second.record()
    assert np.array_equal(first.train.images, second.train.images)
    assert mv.load_data is load_data


def test_a_stored_record_reopens_and_changed_data_are_told(greys: Path):
    config = DataConfig(str(greys))
    record = load_data(config).record()
    assert reopen(config, record).record() == record
    with pytest.raises(UserError, match="other pixels than when the run was made"):
        reopen(DataConfig(str(greys), split_seed=1), record)
    images = np.load(greys)
    images[0] ^= 255
    np.save(greys, images)
    with pytest.raises(UserError, match=r"greys\.npy"):
        reopen(config, record)


def test_built_in_sources():
    assert load_data("digits").train.name == "digits"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("face", r"'face'.* did you mean faces\?"),
        ("digit", r"did you mean digits\?"),
        ("~/no/such/place", r"there is no data source, folder or file '~/no/such/place'"),
    ],
)
def test_unknown_sources_name_the_nearest(source: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        load_data(source)


def test_a_misspelt_neighbour_is_named(greys: Path):
    with pytest.raises(UserError, match=r"did you mean .*greys\.npy\?"):
        load_data(str(greys.with_name("grey.npy")))


def test_a_pipe_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="neither a folder nor a regular file"):
        load_data(str(tmp_path / "pipe"))


def test_a_folder_goes_by_what_it_holds(tmp_path: Path):
    with pytest.raises(UserError, match="holds no images"):
        load_data(str(tmp_path))
    pixels = np.arange(40, dtype=np.uint8)
    content = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10, 2, 2)) + pixels.tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    assert load_data(str(tmp_path)).train.shape == (1, 2, 2)


def test_a_full_disk_is_told_before_writing(greys: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path):
    monkeypatch.setattr(cache, "LARGE_BYTES", 100)
    monkeypatch.setattr(cache, "free_bytes", lambda _: 10)
    with pytest.raises(UserError, match="set MARKOVAE_CACHE to a larger disk"):
        load_data(str(greys))
    assert list(own_cache.iterdir()) == []


def test_a_home_folder_of_nobody_is_told():
    with pytest.raises(UserError, match="unknown user in path"):
        load_data("~nobody-of-this-name/photos")


def test_a_mapped_array_has_its_room_beforehand(tmp_path: Path):
    """Blocks on the disk, which a sparse file would only take as pixels are written: then a full disk kills."""
    made = cache.new_array(tmp_path / "x.npy", np.dtype(np.uint8), (100, 3, 32, 32))
    assert made.shape == (100, 3, 32, 32)
    if hasattr(os, "posix_fallocate"):
        assert (tmp_path / "x.npy").stat().st_blocks * 512 >= made.size


def test_a_tar_beside_images_is_not_read_in_their_place(tmp_path: Path):
    for number in range(6):
        pixels = np.full((8, 8), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "photos.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"beside photos\.tar: name the tar itself"):
        load_data(str(tmp_path))


def test_a_source_is_a_path_or_text_with_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (9, 6, 6), dtype=np.uint8))
    for source in (tmp_path / "x.npy", str(tmp_path / "x.npy"), "~/x.npy", Path("~/x.npy")):
        assert len(load_data(source).train) == 7
    with pytest.raises(UserError, match="a source of type ndarray names no images on disk"):
        load_data(np.zeros((3, 8, 8), np.uint8))  # type: ignore[arg-type]


def test_settings_of_names_are_refused_where_there_are_none_and_classes_can_be_left_out(greys: Path):
    for options, sentence in (
        ({"split": "train:a"}, "data.split=train:a"),
        ({"classes": "prefix"}, "data.classes=prefix"),
        ({"captions": "names"}, "data.captions=names"),
    ):
        with pytest.raises(UserError, match=f"{sentence} is read from the names of folders and files"):
            load_data(DataConfig(str(greys), **options))
    assert load_data(DataConfig("digits", classes="none")).train.labels is None
    assert len(load_data(DataConfig("digits")).train.class_names) == 10


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a red house_12.png", "a red house"),
        ("photo of a dog (3).jpg", "photo of a dog"),
        ("a_blue_circle-004.png", "a blue circle"),
        ("sub/a-green-square.png", "a green square"),
        ("a well-lit room.png", "a well-lit room"),
        ("a model of 1.5.png", "a model of 1.5"),
        ("a jet b52.png", "a jet b52"),
        ("cafe\u0301 au lait.png", "caf\xe9 au lait"),
        ("0001.png", ""),
        ("IMG_1234.JPG", ""),
        ("(3).png", ""),
    ],
)
def test_the_text_of_a_name(name: str, text: str):
    assert text_of_name(name) == text


def pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(folder / name)
    return folder


def test_names_are_captions_where_asked_and_are_told_where_not(tmp_path: Path):
    folder = pictures(
        tmp_path / "a", [*(f"a {color} house_{n}.png" for n in range(4) for color in ("red", "blue")), "1.png"]
    )
    (folder / "1.txt").write_text("of its own")
    assert mv.inspect(str(folder)).captions == 1
    beside = mv.inspect(DataConfig(str(folder), captions="names"))
    assert any("such as 'a blue house', and not the texts beside them" in note for note in beside.notes)
    (folder / "1.txt").unlink()
    told = mv.inspect(str(folder))
    assert told.captions == 0
    assert any("the names read like captions (a blue house_0.png" in note for note in told.notes)
    asked = mv.inspect(DataConfig(str(folder), captions="names"))
    assert asked.captions == 8
    assert "captions are the names of files, such as 'a blue house'; 1 name without a word (data.captions=names)" in (
        asked.notes
    )
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for file in folder.iterdir():
            tar.add(file, file.name)
    assert mv.inspect(DataConfig(str(tmp_path / "a.tar"), captions="names")).captions == 8
    assert not any("read like captions" in note for note in mv.inspect(str(pictures(tmp_path / "b", NUMBERED))).notes)


NUMBERED = [f"{number}.png" for number in range(9)]


def test_names_without_words_are_no_captions_to_train_on_and_images_to_measure_need_none(tmp_path: Path):
    config = DataConfig(str(pictures(tmp_path / "b", NUMBERED)), captions="names")
    with pytest.raises(UserError, match=r"no file of .* is called by words \(0.png, 1.png, 2.png, …\)"):
        load_data(config)
    assert read_source(config.for_images_like((1, 8, 8), config.source)).data.captions is None


def test_shards_that_keep_no_names_keep_the_classes_and_captions_that_names_gave(tmp_path: Path):
    folder = pictures(tmp_path / "a", [f"a {color} house_{n}.png" for n in range(4) for color in ("red", "blue")])
    asked = {"classes": "prefix", "captions": "names"}
    write_shards(read_source(DataConfig(str(folder), **asked)), tmp_path / "named", 100)
    write_shards(read_source(DataConfig(str(folder))), tmp_path / "bare", 100)
    kept = load_data(DataConfig(str(tmp_path / "named"), **asked)).train
    assert kept.class_names == ("a blue house", "a red house")
    assert set(kept.captions or ()) == set(kept.class_names)
    for one in asked:
        with pytest.raises(UserError, match=f"data.{one}={asked[one]} reads names, and .* keeps none: shard again"):
            load_data(DataConfig(str(tmp_path / "bare"), **{one: asked[one]}))


def test_a_column_that_names_images_is_no_condition(tmp_path: Path):
    folder = pictures(tmp_path / "a", NUMBERED)
    pictures(folder / "edges", NUMBERED)
    rows = [f"{name},edges/{name},{name},{number % 2}" for number, name in enumerate(NUMBERED)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,conditioning,origin,kind", *rows]))
    for asked in (folder, tmp_path / "a.tar"):
        found = read_source(DataConfig(str(asked)))
        assert list(found.data.columns) == ["kind"]
        assert (
            "the column conditioning names images (edges/0.png, edges/1.png, edges/2.png, …), which are no conditions "
            "here; 9 images named there are trained on as any: move them away"
        ) in found.summary.notes
        if asked == folder:
            with tarfile.open(tmp_path / "a.tar", "w") as tar:
                tar.add(folder, ".")


def test_a_table_may_call_the_column_of_its_images_as_it_likes(tmp_path: Path):
    """The table of a collection of X-rays: labels between bars, no column called file_name."""
    folder = pictures(tmp_path / "a", NUMBERED)
    rows = [f"{number % 3},{name},{'Mass|Edema' if number % 2 else 'Edema'}" for number, name in enumerate(NUMBERED)]
    (folder / "metadata.csv").write_text("\n".join(["Follow-up,Image Index,Finding Labels", *rows]))
    found = read_source(DataConfig(str(folder))).data
    assert list(found.columns) == ["Follow-up", "Finding Labels"]
    column = understand("Finding Labels", found.columns["Finding Labels"])
    assert isinstance(column, Column)
    assert (column.kind, column.values) == ("labels", ("Edema", "Mass"))
    (folder / "metadata.csv").write_text("\n".join(["number,kind", *(f"{n + 100},{n % 2}" for n in range(9))]))
    notes = read_source(DataConfig(str(folder))).summary.notes
    assert (
        "the columns number, kind of metadata.csv are not used: none of them names an image; call that column file_name"
    ) in notes


def test_files_that_use_few_of_their_values_are_told_so(tmp_path: Path):
    for number in range(4):
        Image.fromarray(np.full((8, 8), 10 * number, np.uint16)).save(tmp_path / f"{number}.tif")
    with pytest.raises(UserError, match=r"1 of them different.*\. All their pixels are 0: files that use few of the"):
        load_data(DataConfig(str(tmp_path)))


def test_a_folder_of_arrays_leads_to_one_array(tmp_path: Path):
    np.save(tmp_path / "0.npy", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"\.bmp files, or one array of all: \.npy, .* or \.npz with images and labels"):
        load_data(DataConfig(str(tmp_path)))


def test_a_title_is_a_caption_where_there_is_no_other(tmp_path: Path):
    folder = pictures(tmp_path / "a", NUMBERED)
    (folder / "metadata.csv").write_text("\n".join(["filepath\ttitle", *(f"/x/a/{n}\ta {n}" for n in NUMBERED)]))
    assert (read_source(DataConfig(str(folder))).data.captions or ())[1] == "a 1.png"
    (folder / "metadata.csv").unlink()
    for name in NUMBERED:
        (folder / f"{name}.json").write_text('{"caption": "a cat", "title": "Cats"}')
    data = read_source(DataConfig(str(folder))).data
    assert (set(data.captions or ()), data.columns) == ({"a cat"}, {"title": ("Cats",) * 9})


def test_texts_that_are_called_otherwise_than_their_images_are_told_how(tmp_path: Path):
    folder = pictures(tmp_path / "a", [f"img{number}.png" for number in range(9)])
    for number in range(9):
        (folder / f"caption{number}.txt").write_text("a cat")
    note = "(caption0.txt, caption1.txt, caption2.txt, …): a text is called as its image, x.txt beside x.png"
    assert f"9 text files belong to no readable image {note}" in read_source(DataConfig(str(folder))).summary.notes
