import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.data.data_config import DataConfig
from markovae.data.images import ImageData
from markovae.data.inspecting import inspect
from markovae.data.loading import load_data, read_source, reopen, splits_of
from markovae.data.shard_format import INDEX, RECORD, write_shards
from markovae.data.shard_store import ShardStore
from markovae.data.shards import StoredImages
from markovae.errors import StoppedRun, UserError
from markovae.locations import SCHEMES

PARTS = ("train", "validation", "test")


def folder_of(path: Path, count: int = 40, side: int = 8, captions: bool = False) -> Path:
    """Images of two classes, with copies and perhaps captions."""
    rng = np.random.default_rng(3)
    for number in range(count):
        place = path / ("cats", "dogs")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(place / f"{number:03}.png")
    Image.open(path / "cats" / "000.png").save(path / "dogs" / "copy.png")
    if captions:
        lines = ["file_name,text", *(f"{('cats', 'dogs')[n % 2]}/{n:03}.png,number {n} é" for n in range(count))]
        (path / "captions.csv").write_text("\n".join(lines), encoding="utf-8")
    return path


def shards_of(source: Path | str, out: Path, per_shard: int = 10, **options) -> Path:
    write_shards(read_source(DataConfig(str(source), **options)), out, per_shard)
    return out


def foreign(path: Path, files: list[tuple[str, bytes]], shards: int = 2) -> Path:
    """Tars in the WebDataset layout that someone else wrote."""
    path.mkdir(exist_ok=True)
    for shard in range(shards):
        with tarfile.open(path / f"part-{shard:03}.tar", "w") as tar:
            for name, content in files[shard::shards]:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("captions", [False, True])
def test_shards_hold_the_very_images_parts_classes_and_captions(tmp_path: Path, captions: bool):
    folder = folder_of(tmp_path / "folder", captions=captions)
    plain = load_data(DataConfig(str(folder)))
    sharded = load_data(DataConfig(str(shards_of(folder, tmp_path / "shards"))))
    for name in PARTS:
        one, other = getattr(plain, name), getattr(sharded, name)
        assert isinstance(other.images, StoredImages)
        place = {digest: row for row, digest in enumerate(one.content_hashes())}
        rows = [place[digest] for digest in other.content_hashes()]
        assert len(one) == len(other)
        assert np.array_equal(np.asarray(other.images), one.images[rows])
        assert other.class_names == one.class_names == ("cats", "dogs")
        assert other.captions is None or {*other.captions} == {*one.captions}
        assert (other.captions is None) != captions
    assert sharded.seed == plain.seed
    assert sharded.method == plain.method


def test_a_shard_is_a_fair_sample_and_equal_sources_give_equal_bytes(tmp_path: Path):
    folder = folder_of(tmp_path / "folder")
    one, two = (shards_of(folder, tmp_path / name) for name in ("one", "two"))
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    assert all((one / p.name).read_bytes() == p.read_bytes() for p in two.iterdir())
    names = sorted(p.name for p in one.glob("*.tar"))
    assert names == ["test-000000.tar", *(f"train-{n:06}.tar" for n in range(4)), "validation-000000.tar"]
    train = load_data(DataConfig(str(one))).train
    assert [stop - start for start, stop in train.runs] == [10, 10, 10, 3]
    assert 2 <= int(train.labels[:10].sum()) <= 8, "the classes are mixed, though the folder holds one after the other"


def test_any_webdataset_reader_can_read_them(tmp_path: Path):
    out = shards_of(folder_of(tmp_path / "folder", captions=True), tmp_path / "shards")
    with tarfile.open(out / "train-000000.tar") as tar:
        names = [entry.name for entry in tar]
        assert names[:3] == ["000000000.png", "000000000.cls", "000000000.txt"]
        with Image.open(tar.extractfile(names[0])) as image:
            assert image.size == (8, 8)


def test_rows_are_read_in_any_order_by_number_list_and_slice(tmp_path: Path):
    data = load_data(DataConfig(str(shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")))).train
    images = data.images
    whole = np.asarray(images)
    assert (images.shape, images.ndim, images.dtype, images.nbytes) == (whole.shape, 4, np.uint8, whole.nbytes)
    rows = np.random.default_rng(0).integers(0, len(data), 50)
    assert np.array_equal(images[rows], whole[rows])
    assert np.array_equal(images[5:20:3], whole[5:20:3])
    assert np.array_equal(images[np.int64(7)], whole[7])
    assert np.array_equal(np.stack(list(images)), whole)
    taken = data.take(rows)
    assert isinstance(taken.images, StoredImages)
    assert np.array_equal(np.asarray(taken.images), whole[rows])
    assert taken.labels.tolist() == data.labels[rows].tolist()
    assert (
        taken.content_hashes() == tuple(np.array(data.content_hashes())[rows].tolist())
        or [taken.content_hashes()[i] == data.content_hashes()[r] for i, r in enumerate(rows)] == [True] * 50
    )
    assert images[[]].shape == (0, 3, 8, 8)


def test_a_run_knows_its_shards_again(tmp_path: Path):
    config = DataConfig(str(shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")))
    record = load_data(config).record()
    assert reopen(config, record).record() == record
    other = shards_of(folder_of(tmp_path / "other", count=42), tmp_path / "others")
    with pytest.raises(UserError, match="images where the run had"):
        reopen(DataConfig(str(other)), record)


def test_shards_can_be_brought_to_another_size_and_sharded_again(tmp_path: Path):
    folder = folder_of(tmp_path / "folder", side=16)
    shards = shards_of(folder, tmp_path / "shards")
    small = load_data(DataConfig(str(shards), size=8, channels="grey"))
    assert small.train.shape == (1, 8, 8)
    assert any(
        "their parts were made at 16x16: images alike at 8x8 alone may be in two" in note for note in small.notes
    )
    assert not any("may be in two" in note for note in load_data(DataConfig(str(shards))).notes)
    again = load_data(DataConfig(str(shards_of(shards, tmp_path / "again", size=8, channels="grey"))))
    assert again.train.shape == (1, 8, 8)
    plain = load_data(DataConfig(str(folder), size=8, channels="grey"))
    known = {image.tobytes() for part in PARTS for image in getattr(plain, part).images}
    assert {image.tobytes() for image in again.train.images} <= known


def test_digits_of_few_grey_values_are_kept(tmp_path: Path):
    out = shards_of("digits", tmp_path / "shards", per_shard=1000)
    data = load_data(DataConfig(str(out)))
    assert data.train.bins == 17
    assert int(np.asarray(data.test.images).max()) <= 16
    assert data.record()["train"]["count"] == load_data("digits").record()["train"]["count"]
    with pytest.raises(UserError, match="17 grey values"):
        load_data(DataConfig(str(out), size=16))


def test_sixteen_bits_are_refused(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(10 * 16, dtype=np.uint16).reshape(10, 4, 4) * 300)
    with pytest.raises(UserError, match="65536 values per pixel: shards hold images of at most 256"):
        shards_of(tmp_path / "a.npy", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_anyones_shards_are_read_in_place_with_the_bad_ones_named(tmp_path: Path):
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(24)]
    files = []
    for number, pixels in enumerate(pictures):
        form = ("PNG", "JPEG", "WEBP")[number % 3]
        key = f"some/where/{number:04}"
        files += [(f"{key}.{form.lower()}", encoded(pixels, form)), (f"{key}.cls", str(10 + number % 2).encode())]
    by_shard = foreign(tmp_path / "theirs", files, shards=1)
    with tarfile.open(by_shard / "part-001.tar", "w") as tar:
        for name, content in (("bad/a.png", b"no image"), ("bad/b.jpg", b""), ("bad/c.png", files[0][1][:60])):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    config = DataConfig(str(by_shard), size=8)
    reading = read_source(config)
    assert reading.data.shape == (3, 8, 8)
    assert reading.data.class_names == ("10", "11")
    assert all(name.startswith(("part-000.tar/", "part-001.tar/")) for name in reading.data.files)
    assert len(reading.data) == 24
    assert reading.summary.formats == {"PNG": 9, "JPEG": 8, "WEBP": 8}, "c.png has a sound header"
    bad = dict(reading.summary.unreadable)
    assert set(bad) == {"part-001.tar/bad/a.png", "part-001.tar/bad/b.jpg", "part-001.tar/bad/c.png"}
    assert "the file is empty" in bad["part-001.tar/bad/b.jpg"]
    splits = splits_of(reading)
    assert sum(len(getattr(splits, part)) for part in PARTS) == 24
    assert inspect(config).kind == "shards"
    assert np.array_equal(np.asarray(read_source(config).data.images), np.asarray(reading.data.images)), (
        "from the cache"
    )


def test_a_caption_a_line_and_images_that_are_not_taken(tmp_path: Path):
    rng = np.random.default_rng(1)
    files = []
    for n in range(12):
        files += [(f"{n}.a.png", encoded(rng.integers(0, 256, (8, 8), dtype=np.uint8)))]
        files += [(f"{n}.a.txt", f"one  {n}\n\n two\n".encode())]
    files.append(("11.b.png", files[0][1]))
    reading = read_source(DataConfig(str(foreign(tmp_path / "theirs", files, shards=1))))
    assert reading.data.captions is not None
    assert reading.data.captions[3] == "one 3\ntwo"
    reason = "its name agrees with 11.a.png to the first dot, and a sample has one image: rename it"
    assert reading.summary.unreadable == (("part-000.tar/11.b.png", reason),)


def test_a_name_that_occurs_twice_in_a_shard_is_told(tmp_path: Path):
    """webdataset issue 286; a name in two shards is no news (issue 157)."""
    rng = np.random.default_rng(0)
    files = [(f"{n:02}.png", encoded(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))) for n in range(6)]
    again = ("02.png", encoded(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)))
    source = foreign(tmp_path / "in", [*files, again], shards=1)
    reading = read_source(DataConfig(str(source)))
    assert len(reading.data) == 7
    assert any("1 name occurs more than once in a shard" in note and "02.png" in note for note in reading.summary.notes)


@pytest.mark.parametrize("at", [0, 15])
def test_a_network_that_fails_says_nothing_of_an_image(tmp_path: Path, monkeypatch, at: int):
    """In the pass over the headers as in the one over the pixels: it stops, and nothing is kept in mind."""
    rng = np.random.default_rng(1)
    files = [(f"{n}.png", encoded(rng.integers(0, 256, (8, 8), dtype=np.uint8))) for n in range(12)]
    path = foreign(tmp_path / "theirs", files)
    real, calls = ShardStore.read, []

    def broken(self, shard, offset, size):
        calls.append(shard)
        if len(calls) > at:
            raise StoppedRun("could not be fetched")
        return real(self, shard, offset, size)

    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "read", broken)
        with pytest.raises(StoppedRun, match="could not be fetched"):
            read_source(DataConfig(str(path)))
    assert len(read_source(DataConfig(str(path))).data) == 12


@pytest.fixture
def memory(monkeypatch):
    """A file system elsewhere, which only tests may name."""
    monkeypatch.setattr("markovae.locations.SCHEMES", (*SCHEMES, "memory"))
    return pytest.importorskip("fsspec").filesystem("memory")


def test_a_record_that_cannot_be_asked_for_is_not_taken_as_missing(tmp_path: Path, monkeypatch, memory):
    for path in shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards").iterdir():
        memory.pipe(f"/asked/{path.name}", path.read_bytes())

    def broken(self, path, **options):
        raise OSError("connection reset")

    monkeypatch.setattr(type(memory), "cat_file", broken)
    with pytest.raises(UserError, match=r"memory://asked/shards\.json cannot be read \(connection reset\)"):
        read_source(DataConfig("memory://asked"))


def test_a_damaged_tar_gives_what_stands_before_the_damage(tmp_path: Path):
    rng = np.random.default_rng(1)
    files = [(f"{n}.png", encoded(rng.integers(0, 256, (8, 8), dtype=np.uint8))) for n in range(12)]
    path = foreign(tmp_path / "theirs", files)
    tar = path / "part-001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    reading = read_source(DataConfig(str(path)))
    assert 6 < len(reading.data) < 12
    assert [name for name, _ in reading.summary.unreadable] == ["part-001.tar"]
    assert reading.summary.unreadable[0][1].endswith("images before it are read, and none after it")
    assert f"{len(reading.data) - 6:,} images before it" in reading.summary.unreadable[0][1]


def test_what_changes_after_the_indexing_stops_the_run_by_name(tmp_path: Path):
    out = shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")
    data = load_data(DataConfig(str(out))).train
    path = out / "train-000001.tar"
    content = bytearray(path.read_bytes())
    with Image.open(io.BytesIO(bytes(content[512:]))) as image:
        pixels = 255 - np.asarray(image)
    first = encoded(pixels)
    for new, words in (
        (first, "holds other pixels than when it was indexed"),
        (b"\0" * len(first), "cannot be decoded"),
    ):
        content[512 : 512 + len(new)] = new
        path.write_bytes(content)
        with pytest.raises(StoppedRun, match=rf"byte 512 of .*train-000001.tar {words}"):
            data.images[10]
    assert data.images[9].shape == (3, 8, 8)
    path.unlink()
    with pytest.raises(UserError, match=r"train-000001.tar cannot be read \(No such file"):
        load_data(DataConfig(str(out)))


def rewritten(out: Path, change) -> None:
    """Change the table of shards.json and the columns of its index, digests made to fit."""
    table = json.loads((out / RECORD).read_text())
    with np.load(out / INDEX) as stored:
        columns = {name: stored[name].copy() for name in stored.files}
    change(table, columns)
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    (out / INDEX).write_bytes(buffer.getvalue())
    (out / RECORD).write_text(json.dumps({**table, "index_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}))


DAMAGE = {
    "classes out of range": lambda t, c: c["label"].__setitem__(3, 2),
    "classes below 0": lambda t, c: c["label"].__setitem__(3, -1),
    "classes of floats": lambda t, c: c.update(label=c["label"].astype(np.float64)),
    "classes of words": lambda t, c: c.update(label=c["label"].astype(str)),
    "fewer classes than images": lambda t, c: c.update(label=c["label"][:-1]),
    "no classes though named": lambda t, c: c.pop("label"),
    "shape of two": lambda t, c: t.update(shape=[8, 8]),
    "shape of floats": lambda t, c: t.update(shape=[3, 8.0, 8]),
    "shape of none": lambda t, c: t.update(shape=[3, 0, 8]),
    "two channels": lambda t, c: t.update(shape=[2, 8, 8]),
    "a huge shape": lambda t, c: t.update(shape=[3, 2**40, 2**40]),
    "bins of none": lambda t, c: t.update(bins=0),
    "too many bins": lambda t, c: t.update(bins=65536),
    "bins of a float": lambda t, c: t.update(bins=float("inf")),
    "a name with NUL": lambda t, c: t["shards"][0].update(name="train-000000\0.tar"),
    "a name with NUL at its end": lambda t, c: t["shards"][0].update(name="train-000000.tar\0"),
    "a name of a chain": lambda t, c: t["shards"][0].update(name="x::reference.tar"),
    "a name of Windows": lambda t, c: t["shards"][0].update(name="CON.tar"),
    "a name twice": lambda t, c: t["shards"][0].update(name=t["shards"][1]["name"]),
    "no name": lambda t, c: t["shards"][0].update(name=7),
    "bytes of a float": lambda t, c: t["shards"][0].update(bytes=1e300),
    "bytes below 0": lambda t, c: t["shards"][0].update(bytes=-1),
    "another count": lambda t, c: t.update(count=40),
    "another count of a shard": lambda t, c: (t["shards"][0].update(count=9), t["shards"][1].update(count=11)),
    "a sum that overflows": lambda t, c: (c["offset"].__setitem__(0, 2**63 - 1), c["size"].__setitem__(0, 2**63 - 1)),
    "an offset beyond the end": lambda t, c: c["offset"].__setitem__(0, 10**9),
    "a huge image": lambda t, c: (t["shards"][0].update(bytes=2**60), c["size"].__setitem__(0, 2**40)),
    "a shard that is not there": lambda t, c: c["shard"].__setitem__(0, 99),
    "a fourth part": lambda t, c: c["part"].__setitem__(0, 3),
    "a part that overflows": lambda t, c: c["part"].__setitem__(0, 2**63 - 1),
    "a part of much memory": lambda t, c: c["part"].__setitem__(0, 10**12),
    "an empty part": lambda t, c: c["part"].__setitem__(slice(None), 0),
    "digests of another length": lambda t, c: c.update(digest=c["digest"][:, :31]),
    "a scalar": lambda t, c: c.update(offset=np.int64(3)),
    "class names that are none": lambda t, c: t.update(class_names=[1, 2]),
    "half a character": lambda t, c: t.update(class_names=["\ud800", "b"]),
    "a seed of words": lambda t, c: t["split"].update(seed="seven"),
    "a huge number left out": lambda t, c: t["split"].update(left_out=10**4000),
    "no split": lambda t, c: t.pop("split"),
    "a list": lambda t, c: t.update(shards=[[]]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return shards_of(folder_of(tmp_path_factory.mktemp("sound") / "folder"), tmp_path_factory.mktemp("s") / "shards")


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_every_field_of_a_record_is_checked(tmp_path: Path, sound: Path, change):
    out = shutil.copytree(sound, tmp_path / "shards")
    rewritten(out, change)
    with pytest.raises(UserError, match=r"shards\.json is damaged \(.*\): shard the images again"):
        load_data(DataConfig(str(out)))


def test_an_index_that_claims_more_than_it_holds_allocates_nothing(tmp_path: Path, sound: Path):
    out = shutil.copytree(sound, tmp_path / "shards")
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as file:
            for name in ("shard", "offset", "size", "part", "digest", "label"):
                member = io.BytesIO()
                described = {"descr": "<i8", "fortran_order": False, "shape": (2**50,)}
                np.lib.format.write_array_header_1_0(member, described)
                file.writestr(f"{name}.npy", member.getvalue() + bytes(1 << 20 if kind else 8))
        (out / INDEX).write_bytes(buffer.getvalue())
        table = json.loads((out / RECORD).read_text())
        table["index_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        (out / RECORD).write_text(json.dumps(table))
        with pytest.raises(UserError, match="the column 'shard' is"):
            load_data(DataConfig(str(out)))


def test_captions_of_more_bytes_than_their_images_may_have_are_not_read(tmp_path: Path, sound: Path):
    out = shutil.copytree(sound, tmp_path / "shards")
    rewritten(out, lambda table, columns: table.update(captions_sha256="0" * 64))
    with (out / "captions.jsonl").open("wb") as file:
        file.truncate(1 << 34)  # which takes no room on the disk
    with pytest.raises(UserError, match=r"captions\.jsonl has 17,179,869,184 bytes, at most 21,495,808 are read"):
        load_data(DataConfig(str(out)))


def test_what_a_cut_or_missing_shard_costs_is_said(tmp_path: Path, sound: Path):
    out = shutil.copytree(sound, tmp_path / "shards")
    path = out / "train-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"cut or changed: restore it \([1-9] of its 10 images are missing, of 41 in all"
    ):
        load_data(DataConfig(str(out)))
    path.unlink()
    with pytest.raises(UserError, match=r"No such file.*\(10 of its 10 images are missing, of 41 in all"):
        load_data(DataConfig(str(out)))
    __import__("os").mkfifo(path)
    with pytest.raises(UserError, match="is not a regular file"):
        load_data(DataConfig(str(out)))


def test_pixels_beyond_the_grey_values_of_the_record_stop_the_run(tmp_path: Path, sound: Path):
    out = shutil.copytree(sound, tmp_path / "shards")
    rewritten(out, lambda table, columns: table.update(bins=17))
    data = load_data(DataConfig(str(out))).train
    with pytest.raises(StoppedRun, match=r"has pixels of .* where its record says below 17"):
        data.images[0]


def test_classes_of_many_digits_count_as_words_or_as_none(tmp_path: Path):
    rng = np.random.default_rng(1)
    files = []
    for n in range(12):
        files += [(f"{n}.png", encoded(rng.integers(0, 256, (8, 8), dtype=np.uint8)))]
        files += [(f"{n}.cls", (b"9" * 900, b"5")[n % 2])]
    assert read_source(DataConfig(str(foreign(tmp_path / "words", files, 1)))).data.class_names == ("5", "9" * 900)
    files[1] = ("0.cls", b"9" * 60_000)
    reading = read_source(DataConfig(str(foreign(tmp_path / "long", files, 1))))
    assert reading.data.labels is None
    assert any("0.cls is of 60,000 bytes, at most 1,024 are read" in note for note in reading.summary.notes)
    assert any("1 of 12 images have no .cls" in note for note in reading.summary.notes)


@pytest.mark.parametrize("what", ["record", "index", "size", "name", "format", "captions"])
def test_a_damaged_record_is_told(tmp_path: Path, what: str):
    out = shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")
    record = json.loads((out / RECORD).read_text())
    words = "is damaged"
    if what == "index":
        (out / "index.npz").write_bytes(b"PK")
    elif what == "size":
        (out / "train-000000.tar").write_bytes(b"short")
        words = "5 bytes where its record says"
    elif what == "name":
        record["shards"][0]["name"] = "../../etc/passwd.tar"
    elif what == "format":
        record["format"] = 2
        words = "has format 2 and this version reads 1"
    elif what == "captions":
        record["captions_sha256"] = "0" * 64
    if what not in ("index", "size"):
        (out / RECORD).write_text(json.dumps(record) if what != "record" else json.dumps(record)[:-9])
    with pytest.raises(UserError, match=words):
        load_data(DataConfig(str(out)))


def test_urls_patterns_and_single_tars(tmp_path: Path, monkeypatch):
    out = shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")
    here = load_data(DataConfig(str(out))).record()
    there = load_data(DataConfig(f"file://{out}"))
    assert there.record()["train"] == here["train"]
    assert np.array_equal(np.asarray(there.test.images), np.asarray(load_data(DataConfig(str(out))).test.images))
    some = read_source(DataConfig(f"{out}/train-{{000000..000002}}.tar"))
    assert len(some.data) == 30
    assert len(read_source(DataConfig(f"{out}/train-000001.tar")).data) == 10
    with pytest.raises(UserError, match=r"train-7\.tar cannot be read"):
        read_source(DataConfig(f"{out}/train-{{7..8}}.tar"))
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UserError, match=r"needs fsspec, which is not installed: pip install 'markovae\[remote\]'"):
        load_data(DataConfig("s3://bucket/shards"))


def test_shards_elsewhere_come_one_by_one_and_a_few_stay(tmp_path: Path, monkeypatch, own_cache: Path, memory):
    monkeypatch.setattr("markovae.data.shard_store.FETCHED", 2)
    out = shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")
    for path in out.iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    data = load_data(DataConfig("memory://bucket")).train
    assert np.array_equal(np.asarray(data.images), np.asarray(load_data(DataConfig(str(out))).train.images))
    assert len(list((own_cache / "fetched").glob("*.tar"))) == 2
    with pytest.raises(UserError, match=r"memory://nothing holds no \.tar files"):
        load_data(DataConfig("memory://nothing"))


@pytest.mark.parametrize("damage", ["cut", "link", "folder"])
def test_a_fetched_shard_that_was_damaged_is_fetched_anew(damage: str, tmp_path: Path, own_cache: Path, capsys, memory):
    out = shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")
    for path in out.iterdir():
        memory.pipe(f"/damaged/{path.name}", path.read_bytes())
    whole = np.asarray(read_source(DataConfig("memory://damaged")).data.images)
    fetched = next((own_cache / "fetched").glob("*.tar"))
    content = fetched.read_bytes()
    (tmp_path / "victim").write_bytes(content[:100])
    fetched.unlink()
    if damage == "cut":
        fetched.write_bytes(content[:-1])
    elif damage == "link":
        fetched.symlink_to(tmp_path / "victim")
    else:
        fetched.mkdir()
    assert np.array_equal(np.asarray(read_source(DataConfig("memory://damaged")).data.images), whole)
    assert "it is fetched again" in capsys.readouterr().err
    assert fetched.read_bytes() == content
    assert (tmp_path / "victim").read_bytes() == content[:100]


def test_a_shard_that_cannot_be_fetched_stops_the_run(tmp_path: Path, monkeypatch, memory):
    monkeypatch.setattr("markovae.data.shard_store.time.sleep", lambda seconds: None)
    out = shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")
    for path in out.iterdir():
        memory.pipe(f"/flaky/{path.name}", path.read_bytes())
    data = load_data(DataConfig("memory://flaky")).train
    calls = []

    def broken(self, path, mode="rb", **options):
        calls.append(path)
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "open", broken)
        with pytest.raises(StoppedRun, match=r"could not be fetched in 4 attempts \(connection reset\)"):
            data.images[0]
    assert len(calls) == 4
    assert data.images[0].shape == (3, 8, 8), "and goes on once it can"


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("markovae.data.shard_store.OPEN_FILES", 3)
    data = load_data(DataConfig(str(shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards", per_shard=2)))).train
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    for _ in range(3):
        data.images[:]
    if before:
        assert len(list(handles.iterdir())) <= before + 3


def test_memory_is_that_of_the_index(tmp_path: Path):
    """What is taken of stored images, and what is asked about them, reads none."""
    data: ImageData = load_data(DataConfig(str(shards_of(folder_of(tmp_path / "folder"), tmp_path / "shards")))).train

    def refuse(*args):
        raise AssertionError("an image was read")

    data.images.shards.read = refuse
    part = data.take(np.arange(5)).take(slice(0, 3))
    assert (len(part), part.shape, part.runs) == (3, (3, 8, 8), ((0, 3),))
    assert len(part.content_hashes()) == 3


def test_captions_that_cannot_be_read_are_told_and_marks_are_none_of_the_text(tmp_path: Path):
    rng = np.random.default_rng(1)
    texts = {0: "\ufeffa hat".encode(), 1: "caf\xe9".encode("latin-1"), 2: b"long " * 20_000}
    files = []
    for n in range(12):
        files += [(f"{n:02d}.png", encoded(rng.integers(0, 256, (8, 8), dtype=np.uint8)))]
        files += [(f"{n:02d}.txt", texts.get(n, b"a beard"))]
    reading = read_source(DataConfig(str(foreign(tmp_path / "theirs", files, shards=1))))
    assert reading.data.captions is not None
    assert reading.data.captions[:4] == ("a hat", "", "", "a beard")
    assert reading.summary.unreadable == ()
    assert reading.summary.notes[-1] == (
        "a class or caption could not be read and is left empty: part-000.tar/01.txt is not UTF-8 text: save it as "
        "UTF-8, and 1 more"
    )


def tar_with(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_member_is_accounted_for(tmp_path: Path):
    table = json.dumps({"caption": "from a table", "label": "cat", "url": "x"}).encode()
    path = tar_with(
        tmp_path / "x.tar",
        *((f"{n}.png", picture(n)) for n in range(5)),
        *((f"{n}.json", table) for n in range(5)),
        ("0.txt", b"from a text"),
        ("7.txt", b"orphan"),
        ("8.heic", b"h"),
        ("1.mask.npy", b"m"),
    )
    reading = read_source(DataConfig(str(path)))
    assert reading.data.captions == ("from a text", *["from a table"] * 4)
    assert reading.data.class_names == ("cat",)
    assert reading.summary.unreadable == (("x.tar/8.heic", "HEIC is not read: save it as PNG or JPEG"),)
    assert "1 members belong to no image (.txt 1; x.tar/7.txt)" in reading.summary.notes
    assert "1 members beside images are not read (.npy 1; x.tar/1.mask.npy)" in reading.summary.notes


def test_folders_in_tars_are_classes_and_parts(tmp_path: Path):
    names = [
        f"{part}/{name}/{n}.png"
        for part, count in (("train", 3), ("val", 2))
        for name in ("cat", "dog")
        for n in range(count)
    ]
    path = tar_with(
        tmp_path / "x.tar", *((name, picture(n)) for n, name in enumerate(names)), ("more.png", picture(99))
    )
    reading = read_source(DataConfig(str(path)))
    split = reading.split
    assert reading.data.class_names == ("cat", "dog")
    assert (len(split.train), len(split.validation), len(split.test)) == (5, 4, 1)
    assert "1 images lie in no part and are left out (more.png)" in reading.summary.notes
    assert len(reading.data) == 10
    prefixed = tar_with(
        tmp_path / "p.tar", *((f"{name}_{n}.png", picture(n + len(name))) for name in ("a", "bird") for n in range(3))
    )
    assert read_source(DataConfig(str(prefixed), classes="prefix")).data.class_names == ("a", "bird")


def test_tars_called_train_and_val_are_parts(tmp_path: Path):
    for number, name in enumerate(("set-train-000", "set-train-001", "set-val-000", "set-test-000")):
        tar_with(tmp_path / f"{name}.tar", *((f"{n}.png", picture(10 * number + n)) for n in range(number + 2)))
    split = read_source(DataConfig(str(tmp_path))).split
    assert (len(split.train), len(split.validation), len(split.test)) == (5, 4, 5)
    split = read_source(DataConfig(str(tmp_path), split="content")).split
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 1, 1)


def pictures(count: int, **members: str) -> list[tuple[str, bytes]]:
    """Images 000.png, …, and beside each the members of these endings, {n} its number."""
    rng, files = np.random.default_rng(5), []
    for n in range(count):
        files.append((f"{n:03}.png", encoded(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))))
        files += [(f"{n:03}.{ending}", text.replace("NN", str(n)).encode()) for ending, text in members.items()]
    return files


def test_tables_and_json_members_in_tars_are_columns(tmp_path: Path):
    files = pictures(12, json='{"age": NN, "caption": "number NN", "tags": ["a", "bNN"], "box": [1, 2], "w": "x"}')
    rows = "\n".join(["file_name,label,w,text", *(f"{n:03}.png,{'ab'[n % 2]},y,not this" for n in range(12))])
    place = foreign(tmp_path / "tars", [*files, ("metadata.csv", rows.encode())], shards=1)
    reading = read_source(DataConfig(str(place)))
    data = reading.data
    order = [int(name[-7:-4]) for name in data.files or ()]
    assert data.columns["age"] == tuple(map(str, order))
    assert data.columns["tags"] == tuple(("a", f"b{n}") for n in order)
    assert set(data.columns["w"]) == {"x"}  # what an image brings itself comes first
    assert [data.class_names[label] for label in data.labels.tolist()] == ["ab"[n % 2] for n in order]
    assert data.captions == tuple(f"number {n}" for n in order)
    assert any("fields box of .json members are not used" in note for note in reading.summary.notes)
    assert read_source(DataConfig(str(place))).data.columns == data.columns  # from the cache


def test_a_table_in_a_tar_that_cannot_be_read_is_told(tmp_path: Path):
    place = foreign(tmp_path / "tars", [*pictures(12), ("metadata.csv", b"file_name,age\n000.png\n")], shards=1)
    reading = read_source(DataConfig(str(place)))
    assert len(reading.data) == 12
    assert any("metadata.csv is left out (" in note and "line 2 has 1 fields" in note for note in reading.summary.notes)


def test_columns_are_sharded_and_checked(tmp_path: Path):
    folder = folder_of(tmp_path / "folder")
    rows = [
        "file_name,age,tags",
        *(f"{('cats', 'dogs')[n % 2]}/{n:03}.png,{n},a;b" for n in range(39)),
        "dogs/copy.png,0,a;b",
    ]
    (folder / "metadata.csv").write_text("\n".join(rows))
    plain = load_data(DataConfig(str(folder))).train
    sharded = load_data(DataConfig(str(shards_of(folder, tmp_path / "shards")))).train
    own = dict(zip(plain.content_hashes(), plain.columns["age"], strict=True))
    assert sharded.columns["age"] == tuple(own[digest] for digest in sharded.content_hashes())
    (tmp_path / "shards" / "columns.json").write_text("{}")
    with pytest.raises(UserError, match=r"columns\.json has another SHA-256"):
        load_data(DataConfig(str(tmp_path / "shards")))


def test_a_tar_without_images_says_what_it_holds(tmp_path: Path):
    files = [(f"{n}.png.data", b"x") for n in range(3)]
    with pytest.raises(UserError, match=r"holds no readable image \(3 members: \.data 3; part-000\.tar/0\.png\.data"):
        load_data(DataConfig(str(foreign(tmp_path / "s", files, shards=1))))


def test_tables_beside_tars_are_joined_by_name(tmp_path: Path):
    """datasets issue 5761; seen: nothing was said of them, and the captions were lost."""
    place = foreign(tmp_path / "tars", pictures(12))
    rows = [f"{n:03}{('.png', '')[n % 2]},number {n},{n}" for n in range(12)]
    (place / "captions.csv").write_text("\n".join(["file_name,text,age", *rows]))
    (place / "000000_stats.txt").write_text("x")
    reading = read_source(DataConfig(str(place)))
    order = [int(name[-7:-4]) for name in reading.data.files or ()]
    assert reading.data.captions == tuple(f"number {n}" for n in order)
    assert reading.data.columns == {"age": tuple(map(str, order))}
    assert "1 other file beside the data is not read (.txt 1; 000000_stats.txt)" in reading.summary.notes
    alone = read_source(DataConfig(str(place / "part-000.tar")))
    assert alone.data.captions is None
    assert any("captions.csv beside the shards is not read: name their folder" in note for note in alone.summary.notes)
    (place / "captions.csv").write_text("file_name,text\nother.png,x\n")
    reading = read_source(DataConfig(str(place)))
    assert reading.data.captions is None
    assert any("the table captions.csv is left out: captions.csv matches no" in note for note in reading.summary.notes)
    (place / "captions.csv").unlink()
    (place / "dataset.json").write_text(json.dumps({"labels": [[f"{n:03}.png", n % 2] for n in range(12)]}))
    assert read_source(DataConfig(str(place))).data.class_names == ("0", "1")


def test_members_of_one_name_in_two_tars_are_told_apart_by_the_tar(tmp_path: Path):
    place = tmp_path / "tars"
    foreign(place, pictures(12), shards=1)
    (place / "part-000.tar").rename(place / "x.tar")
    foreign(place, pictures(12), shards=1)
    rows = [f"{tar}/{n:03}.png,{tar[0]} {n}" for tar in ("x", "part-000.tar") for n in range(12)]
    (place / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    data = read_source(DataConfig(str(place))).data
    assert data.captions == tuple(f"{file[0]} {int(file[-7:-4])}" for file in data.files or ())
    (place / "metadata.csv").write_text("file_name,text\n000.png,one\n")
    notes = read_source(DataConfig(str(place))).summary.notes
    assert any("may mean 2 images (part-000.tar/000.png, x.tar/000.png)" in note for note in notes)


def test_a_dataset_json_and_every_text_in_a_tar_are_read(tmp_path: Path):
    labels = json.dumps({"labels": [[f"{n:03}.png", n % 2] for n in range(12)]}).encode()
    files = [*pictures(12, txt="tags NN", caption="sentence NN"), ("dataset.json", labels)]
    data = read_source(DataConfig(str(foreign(tmp_path / "tars", files, shards=1)))).data
    order = [int(name[-7:-4]) for name in data.files or ()]
    assert data.class_names == ("0", "1")
    assert data.labels is not None
    assert data.labels.tolist() == [n % 2 for n in order]
    assert data.captions == tuple(f"tags {n}\nsentence {n}" for n in order)


def test_a_file_beside_shards_of_ours_is_told(tmp_path: Path, sound: Path):
    own = shutil.copytree(sound, tmp_path / "shards")
    (own / "captions.csv").write_text("file_name,text\na.png,x\n")
    notes = read_source(DataConfig(str(own))).summary.notes
    assert "1 other file beside the data is not read (.csv 1; captions.csv)" in notes
