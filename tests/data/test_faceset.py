import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from markovae.data import drawn_faces, faceset
from markovae.data.data_config import DataConfig
from markovae.data.faces import attributes, caption, short_caption, values
from markovae.data.faceset import render
from markovae.data.loading import splits_of
from markovae.errors import UserError

COUNTS = (20, 6, 5)


def test_parts_are_disjoint_by_pixels_and_in_order(own_cache: Path):
    splits = splits_of(faceset.read_faces(DataConfig("faces"), COUNTS))
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == list(COUNTS)
    digests = [digest for part in parts for digest in part.content_hashes()]
    assert len(set(digests)) == sum(COUNTS)
    assert np.array_equal(splits.train.images[3], render(3))
    assert np.array_equal(splits.test.images[0], render(26))
    assert splits.validation.captions is not None
    assert splits.validation.captions[0] == caption(attributes(20))
    assert json.dumps(splits.record())


def test_the_numbers_of_the_parts_say_what_their_images_show(own_cache: Path):
    splits = splits_of(faceset.read_faces(DataConfig("faces"), COUNTS))
    numbers = faceset.face_numbers(32, COUNTS)
    assert [len(part) for part in numbers] == list(COUNTS)
    whole = [tuple(caption(attributes(number)) for number in found) for found in numbers]
    short = [short_caption(number) for number in numbers[0]]
    assert splits.train.captions == tuple(map("\n".join, zip(whole[0], short, strict=True)))
    assert (splits.validation.captions, splits.test.captions) == (whole[1], whole[2])


def test_faces_with_a_combination_held_out_are_left_out_of_training_alone(own_cache: Path):
    whole = splits_of(faceset.read_faces(DataConfig("faces"), COUNTS))
    texts = ("skin=tan, beard=none", "headwear=turban, hair_colour=hidden")
    less = splits_of(faceset.read_faces(DataConfig("faces", hold_out=texts), COUNTS))

    def held(number: int) -> bool:
        face = attributes(number)
        return (face.skin, face.beard) == ("tan", "none") or face.headwear == "turban"

    numbers = [number for number in faceset.face_numbers(32, COUNTS)[0] if not held(number)]
    kept = [f"{caption(attributes(number))}\n{short_caption(number)}" for number in numbers]
    assert 0 < len(kept) < 20
    assert less.train.captions == tuple(kept)
    assert less.test.content_hashes() == whole.test.content_hashes()
    assert less.validation.content_hashes() == whole.validation.content_hashes()
    assert less.left_out == 20 - len(kept)
    assert f"; {20 - len(kept)} left out of training that show skin=tan, beard=none or headwear=turban" in less.method
    assert less.record()["method"] == less.method
    with pytest.raises(UserError, match="train part of faces has"):
        less.verify(whole.record())


def test_nobody_left_to_train_on_is_one_sentence(own_cache: Path):
    every = tuple(f"skin={skin}, headwear={worn}" for skin in values()["skin"] for worn in values()["headwear"])
    with pytest.raises(UserError, match="leaves no face to train on"):
        faceset.read_faces(DataConfig("faces", hold_out=every), COUNTS)


def test_the_second_call_reads_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = faceset.read_faces(DataConfig("faces"), COUNTS)
    monkeypatch.setattr(faceset, "draw_distinct", None)
    second = faceset.read_faces(DataConfig("faces"), COUNTS)
    assert first.data.content_hashes() == second.data.content_hashes()
    assert first.data.captions == second.data.captions
    assert [path.name.startswith("faces-32-") for path in own_cache.iterdir()] == [True]


def test_worker_processes_draw_the_same_bytes(monkeypatch: pytest.MonkeyPatch):
    serial, indices, _ = faceset.draw_distinct(32, 24)
    monkeypatch.setattr(faceset, "SERIAL_BELOW", 1)
    monkeypatch.setattr(faceset, "CHUNK", 5)
    monkeypatch.setattr("markovae.data.workers.worker_count", lambda: 2)
    parallel, same, _ = faceset.draw_distinct(32, 24)
    assert indices == same
    assert np.array_equal(serial, parallel)


def test_repeated_pixels_are_dropped_and_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(faceset, "render", _five_then_all_different)
    images, indices, dropped = faceset.draw_distinct(32, 9)
    assert indices == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    assert dropped == [[5, 0], [6, 1], [7, 2], [8, 3], [9, 4]]
    assert len({hashlib.sha256(x.tobytes()).digest() for x in images}) == 9


def _five_then_all_different(index: int, size: int) -> np.ndarray:
    return np.full((3, size, size), index % 5 if index < 10 else index, dtype=np.uint8)


def test_an_interrupted_drawing_leaves_no_entry(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(index: int, size: int) -> np.ndarray:
        if index == 7:
            raise KeyboardInterrupt
        return render(index, size)

    monkeypatch.setattr(faceset, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        faceset.read_faces(DataConfig("faces"), COUNTS)
    assert list(own_cache.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 300}, "32 to 256 pixels, not 300x300"),
        ({"size": 32, "width": 64}, "not 64x32"),
        ({"channels": "grey"}, "faces are rgb"),
    ],
)
def test_what_faces_cannot_be_is_one_sentence(options: dict[str, object], sentence: str):
    with pytest.raises(UserError, match=sentence):
        faceset.read_faces(DataConfig("faces", **options), COUNTS)  # type: ignore[arg-type]


def test_an_unwritable_cache_is_one_sentence(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(own_cache)
    own_cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written.*set MARKOVAE_CACHE"):
        faceset.read_faces(DataConfig("faces"), COUNTS)


def test_larger_faces_are_drawn_when_they_are_read(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawn_faces, "BLOCK", 8)
    drawn: list[int] = []

    def draw(index: int, size: int) -> np.ndarray:
        drawn.append(index)
        return render(index, size)

    monkeypatch.setattr(faceset, "render", draw)
    reading = faceset.read_faces(DataConfig("faces", size=72), COUNTS)
    splits = splits_of(reading)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == list(COUNTS)
    assert splits.train.shape == (3, 72, 72)
    assert (splits.train.runs, splits.validation.runs) == (((0, 8), (8, 16), (16, 20)), ((0, 4), (4, 6)))
    assert not drawn
    assert np.array_equal(splits.train.images[3], render(3, 72))
    assert drawn == list(range(8))
    assert np.array_equal(np.asarray(splits.test.images[[4, 0]]), np.stack([render(30, 72), render(26, 72)]))
    assert drawn == [*range(8), *range(24, 31)]
    again = splits_of(faceset.read_faces(DataConfig("faces", size=72), COUNTS))
    assert np.array_equal(again.train.images[:8], splits.train.images[:8])
    assert len(drawn) == 15
    assert again.record() == splits.record()
    small = splits_of(faceset.read_faces(DataConfig("faces"), COUNTS))
    assert again.train.captions == small.train.captions


@pytest.mark.parametrize(("size", "width"), [(16, 0), (257, 0), (128, 64)])
def test_faces_of_other_sizes_are_one_sentence(own_cache: Path, size: int, width: int):
    with pytest.raises(UserError, match=r"faces are squares of 32 to 256 pixels"):
        faceset.read_faces(DataConfig("faces", size=size, width=width), COUNTS)
