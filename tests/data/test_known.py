from dataclasses import replace
from pathlib import Path

import pytest

from markovae.data.images import ImageData, captions_digest, count_uncaptioned
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.text.conditioner import attach_conditioning


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


def captioned(data: ImageData) -> ImageData:
    return replace(data, captions=tuple("" if i % 5 == 0 else f"image {i}" for i in range(len(data))))


def test_a_model_of_captions_is_told_them_and_no_labels(text_model: Diffusion, tiny_data: ImageData):
    known = attach_conditioning(text_model, captioned(tiny_data))
    assert known.labels is None
    assert len(known.known) == len(tiny_data)
    assert known.take([1, 5]).known.condition().keep.tolist() == [True, False]
    assert count_uncaptioned(known) == 4


def test_a_model_of_classes_is_told_labels_alone(tiny_model: Diffusion, tiny_data: ImageData):
    assert attach_conditioning(tiny_model, captioned(tiny_data)).known is tiny_data.labels


def test_a_model_of_nothing_is_told_nothing(tiny_config, tiny_data: ImageData):
    from markovae.build import create

    plain = create(tiny_config.with_settings(["condition.kind=none"]), tiny_data.shape, num_classes=2)
    known = attach_conditioning(plain, captioned(tiny_data))
    assert known.known is None
    assert known.class_names == ()
    assert known.images is tiny_data.images


@pytest.mark.parametrize("captions", [None, ("",) * 20])
def test_no_captions_are_one_sentence(text_model: Diffusion, tiny_data: ImageData, captions):
    with pytest.raises(UserError, match=r"images has no captions.*captions.csv or metadata.jsonl.*\.txt beside"):
        attach_conditioning(text_model, replace(tiny_data, captions=captions))


def test_a_digest_tells_captions_apart(tiny_data: ImageData):
    one, other = captioned(tiny_data), replace(captioned(tiny_data), captions=("x",) * 20)
    assert captions_digest(one) == captions_digest(captioned(tiny_data)) != captions_digest(other)
