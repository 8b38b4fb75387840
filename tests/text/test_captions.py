from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from markovae.text.conditioner import CaptionTokens, encode_captions


class Counting:
    """Stands in for an encoder: a token a word, its features the word's length and place."""

    width = 4

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        self.asked += captions
        words = [["[CLS]", *caption.split()] for caption in captions]
        longest = max(map(len, words))
        features, mask = torch.zeros(len(words), longest, self.width), torch.zeros(len(words), longest).bool()
        for row, found in enumerate(words):
            for place, word in enumerate(found):
                features[row, place] = torch.tensor([len(word), place, 0.5, -2.0])
                mask[row, place] = True
        return features, mask


CAPTIONS = ["red hair", "a beard", "red hair", "", "a very long caption about glasses"]


def test_every_caption_gets_its_own_tokens_in_any_order(tmp_path: Path):
    encoder = Counting()
    tokens = encode_captions(CAPTIONS, lambda: encoder, "one", tmp_path)
    assert (len(tokens), tokens.width) == (5, 4)
    features, mask = tokens.take([4, 0, 3])
    expected, wanted = Counting()([CAPTIONS[4], CAPTIONS[0], CAPTIONS[3]])
    assert torch.equal(mask, wanted)
    assert torch.equal(features, expected)  # small whole numbers and halves are exact in bfloat16


def test_a_caption_that_comes_twice_is_encoded_once(tmp_path: Path):
    encoder = Counting()
    tokens = encode_captions(CAPTIONS, lambda: encoder, "one", tmp_path)
    assert sorted(encoder.asked) == sorted(set(CAPTIONS))
    assert torch.equal(tokens.take([0])[0], tokens.take([2])[0])


def test_what_was_encoded_is_read_again_and_another_encoder_is_not_mistaken_for_it(tmp_path: Path):
    first = encode_captions(CAPTIONS, Counting, "one", tmp_path)

    def never() -> Counting:
        raise AssertionError("nothing is to be encoded")

    again = encode_captions(CAPTIONS, never, "one", tmp_path)
    assert torch.equal(first.take(range(5))[0], again.take(range(5))[0])
    other = Counting()
    encode_captions(CAPTIONS, lambda: other, "two", tmp_path)
    assert other.asked


def test_no_captions(tmp_path: Path):
    tokens = encode_captions([], Counting, "one", tmp_path)
    assert len(tokens) == 0
    assert tokens.take([])[0].shape == (0, 0, 4)


@pytest.mark.parametrize(("edges", "order"), [([0, 2], [0]), ([0, 3], [1]), ([0, 3, 3], [0])])
def test_parts_that_do_not_fit_are_refused(edges: list[int], order: list[int]):
    with pytest.raises(ValueError, match=r"edges must rise to 3|order must name entries"):
        CaptionTokens(np.zeros((3, 2), np.uint16), np.array(edges), np.array(order))
