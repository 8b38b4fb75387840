import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.loading import read_source
from markovae.data.source import Source
from markovae.errors import UserError

NAMES = [f"{n:03}.png" for n in range(8)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    return tmp_path


def read(folder: Path, packed: bool) -> Source:
    """A folder, or the same as a tar made of it with `tar -C folder .`."""
    if not packed:
        return read_source(DataConfig(str(folder)))
    out = folder.with_name("packed.tar")
    with tarfile.open(out, "w") as tar:
        tar.add(folder, ".")
    return read_source(DataConfig(str(out)))


def coco(names: list[str], caption: str = "caption") -> str:
    images = [{"id": n + 7, "file_name": name, "height": 8} for n, name in enumerate(names)]
    said = [{"id": 0, "image_id": n + 7, caption: f"picture  {n}.{k}\n"} for n in range(len(names)) for k in range(2)]
    return json.dumps({"info": {"year": 2017}, "images": images, "annotations": said})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions_train2017.json", coco(NAMES), "picture 3.0\npicture 3.1"),
        ("captions.json", json.dumps({name: f"picture {name[:3]}" for name in NAMES}), "picture 003"),
        ("x/captions.json", json.dumps({name: [f"a {name[:3]}", "b"] for name in NAMES}), "a 003\nb"),
        (
            "meta_cap.json",
            json.dumps({f"C:\\me\\images\\{n[:3]}": {"caption": n, "tags": "a;b"} for n in NAMES}),
            "003.png",
        ),
        ("all.json", json.dumps([{"image": name, "caption": f"picture {name}"} for name in NAMES]), "picture 003.png"),
        ("metadata.json", "".join(json.dumps({"file_name": n, "text": n}) + "\n" for n in NAMES), "003.png"),
        ("all.json", json.dumps({"data": [{"file_name": f"images/{n}", "text": n} for n in NAMES]}), "003.png"),
        (
            "dataset_coco.json",
            json.dumps(
                {
                    "dataset": "coco",
                    "images": [
                        {
                            "filename": n,
                            "split": ("restval", "test")[n == NAMES[0]],
                            "sentences": [{"raw": n, "tokens": []}],
                        }
                        for n in NAMES
                    ],
                }
            ),
            "003.png",
        ),
    ],
)
def test_captions_in_json_are_read(images: Path, name: str, content: str, said: str, packed: bool):
    (images / name).parent.mkdir(exist_ok=True)
    (images / name).write_text(content)
    reading = read(images, packed)
    place = next(n for n, file in enumerate(reading.data.files or ()) if file.endswith("003.png"))
    assert reading.data.captions is not None
    assert reading.data.captions[place] == said
    if "dataset_coco" in name:
        assert [len(p) for p in (reading.split.train, reading.split.test)] == [6, 1]
    if "meta_cap" in name:
        assert reading.data.columns == {"tags": ("a;b",) * 8}


@pytest.mark.parametrize("packed", [False, True])
def test_classes_in_json_are_read(images: Path, packed: bool):
    (images / "labels.json").write_text(json.dumps({name: ["cat", "dog"][n % 2] for n, name in enumerate(NAMES)}))
    data = read(images, packed).data
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert sorted(data.labels.tolist()) == [0] * 4 + [1] * 4


def test_json_that_says_nothing_of_the_images_is_left_and_named(images: Path):
    (images / "config.json").write_text('{"lr": null, "x": [1, 2]}')
    (images / "broken.json").write_text("{")
    (images / "captions_val2017.json").write_text(coco(["elsewhere.jpg"]))
    (images / "instances_val2017.json").write_text(coco(NAMES, "bbox"))
    (images / "away.json").symlink_to("/etc/hostname")
    (images / "captions_train2017.json").write_text(coco(NAMES))
    reading = read(images, packed=False)
    assert reading.data.captions is not None
    notes = " ".join(reading.summary.notes)
    assert "5 other files are not read" in notes
    assert "objects, masks and poses of COCO are not used, only captions (instances_val2017.json)" in notes
    assert "captions from captions_train2017.json" in notes


def test_two_files_of_captions_of_different_images_are_both_read_and_of_the_same_are_refused(images: Path):
    (images / "captions_train2017.json").write_text(coco(NAMES[:5]))
    (images / "captions_val2017.json").write_text(coco(NAMES[5:]))
    assert all(read(images, packed=False).data.captions or ())
    (images / "captions_val2017.json").write_text(coco(NAMES[4:]))
    with pytest.raises(UserError, match=r"holds both captions_train2017\.json"):
        read(images, packed=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            json.dumps([{"image": NAMES[0], "caption": "a"}, {"caption": "b"}]),
            "all.json record 2 must have a file_name",
        ),
        (json.dumps({NAMES[0]: "a", NAMES[1]: None, NAMES[2]: [1]}), "all.json entry 3 must have"),
        (
            json.dumps(
                {"images": [{"id": 1, "file_name": NAMES[0]}], "annotations": [{"image_id": 2, "caption": "x"}]}
            ),
            r"annotations\[0\] of the image 2, which its images do not name",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_its_place(images: Path, content: str, said: str):
    (images / "all.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read(images, packed=False)


def test_celeba_and_a_column_split_are_read_in_tars(images: Path):
    rows = [f"{name} {'-1' if n % 2 else ' 1'}" for n, name in enumerate(NAMES)]
    (images / "list_attr_celeba.txt").write_text("\n".join(["8", "Smiling", *rows]))
    (images / "list_eval_partition.txt").write_text("".join(f"{n} {int(n > '003.png')}\n" for n in NAMES))
    reading = read(images, packed=True)
    assert sorted(reading.data.columns["Smiling"]) == ["-1"] * 4 + ["1"] * 4
    assert list(reading.data.columns) == ["Smiling"]
    assert len(reading.split.validation) == 4
    assert any("the parts are those of the column split" in note for note in reading.summary.notes)


def test_hidden_members_of_a_tar_are_said_and_litter_is_not(images: Path):
    (images / ".secret").mkdir()
    (images / ".secret" / "a.png").write_bytes(b"x")
    (images / ".DS_Store").write_bytes(b"x")
    notes = read(images, packed=True).summary.notes
    assert [note for note in notes if "no image" in note] == [
        "1 members belong to no image (.png 1; packed.tar/.secret/a.png)"
    ]


@pytest.mark.parametrize("name", ["metadata.json", "captions_all.json", "labels.json"])
def test_a_file_called_like_a_table_that_is_no_json_is_told(images: Path, name: str):
    """Seen: an unclosed list was passed over as some other file."""
    (images / name).write_text('[{"file_name": "000.png", "text": "red"},]')
    with pytest.raises(UserError, match=rf"{name} is not JSON: .*: correct it, or remove the file"):
        read(images, packed=False)
    assert any(f"{name} is left out" in note or name in note for note in read(images, packed=True).summary.notes)
    (images / name).rename(images / "settings.json")
    assert any("settings.json" in note for note in read(images, packed=False).summary.notes)
