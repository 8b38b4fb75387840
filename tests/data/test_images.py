import hashlib

import numpy as np
import pytest

from markovae.data.images import ImageData, fingerprint

FILES = ("a/0.png", "b/1.png", "a/2.png", "b/3.png")


def some(count: int = 4, dtype: type = np.uint8, bins: int = 256) -> ImageData:
    images = np.arange(count * 6, dtype=dtype).reshape(count, 1, 2, 3)
    labels = np.arange(count, dtype=np.int64) % 2
    return ImageData(
        images, labels, ("a", "b"), tuple(f"c{i}" for i in range(count)), bins, "some", files=FILES[:count]
    )


def test_take_keeps_every_column_together():
    taken = some().take([3, 1])
    assert taken.images[:, 0, 0, 0].tolist() == [18, 6]
    assert taken.labels is not None
    assert taken.labels.tolist() == [1, 1]
    assert taken.captions == ("c3", "c1")
    assert taken.files == ("b/3.png", "b/1.png")
    assert some().take(slice(1, 3)).captions == ("c1", "c2")
    assert some().take(slice(1, 3)).files == ("b/1.png", "a/2.png")


def test_content_hash_is_sha256_of_the_pixel_bytes():
    data = some()
    assert data.content_hashes()[1] == hashlib.sha256(bytes(range(6, 12))).digest()


def test_sixteen_bit_hashes_do_not_depend_on_the_byte_order_in_memory():
    little = np.array([1, 256], dtype="<u2").reshape(1, 1, 1, 2)
    expected = hashlib.sha256(b"\x01\x00\x00\x01").digest()
    assert ImageData(little, bins=65536).content_hashes() == (expected,)
    assert ImageData(little.astype(np.uint16)[:, :, :, ::1], bins=65536).content_hashes() == (expected,)


def test_hash_ignores_how_the_array_lies_in_memory():
    rgb = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    view = ImageData(np.moveaxis(rgb, -1, 1))
    copy = ImageData(np.ascontiguousarray(np.moveaxis(rgb, -1, 1)))
    assert view.content_hashes() == copy.content_hashes()


def test_fingerprint_depends_on_order():
    first, second = some().content_hashes()[:2]
    assert fingerprint([first, second]) != fingerprint([second, first])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": np.zeros((2, 2, 3, 3), np.uint8)}, "C = 1 or 3"),
        ({"images": np.zeros((2, 3, 3), np.uint8)}, "must be"),
        ({"images": np.zeros((2, 1, 3, 3), np.float32)}, "float32"),
        ({"images": np.zeros((2, 1, 3, 3), np.uint8), "bins": 300}, "uint16"),
        ({"captions": ("one",)}, "1 captions for 2 images"),
        ({"labels": np.zeros(2, np.int64)}, "go together"),
        ({"labels": np.array([0, 2]), "class_names": ("a", "b")}, r"0…2 must lie in 0…1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], sentence: str):
    options: dict[str, object] = {"images": np.zeros((2, 1, 3, 3), np.uint8), **change}
    with pytest.raises(ValueError, match=sentence):
        ImageData(**options)  # type: ignore[arg-type]
