"""Compression: files decode to the same pixels, are as long as the bound, and are refused where anything differs."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.compression.conftest import pictures, with_header
from torch import Tensor, nn

import markovae as mv
from markovae.compression.bit_stack import BitStack
from markovae.compression.chain_coder import ChainCoder
from markovae.compression.codec import compress, decompress, describe, reveal
from markovae.compression.mvz_format import read_mvz
from markovae.diffusion.decoder import DensityDecoder
from markovae.diffusion.model import Diffusion
from markovae.errors import UserError
from markovae.networks.conditioning import Condition, TextConditioner

Model = Callable[..., Diffusion]


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {}),
        (3, {}),
        (1, {"batch": 4}),
        (1, {"group": 5}),
        (1, {"levels": None}),
        (1, {"portable": True}),
        (3, {"fit": 1}),
        (1, {"fit": 1, "grid": "optimal"}),
        (1, {"progressive": True}),
    ],
    ids=str,
)
def test_images_come_back_bit_for_bit(gaussian: Model, channels: int, options: dict[str, Any]):
    model, images = gaussian(channels, levels=20), pictures(12, channels)
    options = {"levels": 8} | options
    if "fit" in options:
        options["fit"] = pictures(64, channels, seed=1)
    data = compress(model, images, **options)
    assert np.array_equal(decompress(model, data), images)
    facts = describe(data)
    assert facts["count"] == 12
    assert facts["bytes"] == len(data) == facts["header_bytes"] + sum(group["bytes"] for group in facts["groups"])
    assert any(group["plain_images"] < group["images"] for group in facts["groups"]), "the chain itself was used"
    parts = [images[at : at + facts["group"]] for at in range(0, 12, facts["group"])]
    hashes = [hashlib.sha256(part.tobytes()).digest()[:16] for part in parts]
    assert [group["sha256"] for group in facts["groups"]] == [found.hex() for found in hashes]
    assert facts["pixels"] == hashlib.sha256(b"".join(hashes)).hexdigest()[:16]


@pytest.mark.parametrize("decoder", ["softmax", "ho_small"])
@pytest.mark.parametrize("portable", [False, True])
def test_every_decoder_of_pixels_codes(gaussian: Model, decoder: str, portable: bool):
    model, images = gaussian(decoder=decoder), pictures(6)
    assert np.array_equal(decompress(model, compress(model, images, levels=6, portable=portable)), images)


def test_every_variance_codes(gaussian: Model, model_of: Model):
    images, diagonal = pictures(6), mv.with_reverse(gaussian(), "diagonal", pictures(200, seed=1))
    for model, options in (
        (gaussian(reverse="step"), {}),
        (diagonal, {"batch": 4}),
        (diagonal, {"portable": True}),
        (model_of(target__reverse="learned", target__decoder="learned"), {}),
    ):
        assert np.array_equal(decompress(model, compress(model, images, levels=4, **options)), images)


def test_images_that_no_model_expects_code(gaussian: Model):
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.int64)
    model = gaussian()
    data = decompress(model, compress(model, images.astype(">i8"), levels=6))
    assert data.dtype == np.int64
    assert np.array_equal(data, images)


def test_classes_and_single_groups(model_of: Model):
    model, images, labels = model_of(num_classes=3), pictures(12), np.arange(12) % 3
    data = compress(model, images, labels, levels=3, group=6)
    assert describe(data)["side_information"] == ["labels"]
    assert np.array_equal(decompress(model, data), images)
    assert np.array_equal(decompress(model, data, groups=[1]), images[6:])
    with pytest.raises(UserError, match="group 2 is not in the file"):
        decompress(model, data, groups=[2])
    bare = compress(model, images, levels=3)  # under the learned null
    assert np.array_equal(decompress(model, bare), images)
    for wrong, said in (
        (labels + 1, "has 3 classes"),
        (labels[:2], "2 labels for 12 images"),
        (["a"] * 12, "takes no captions"),
    ):
        with pytest.raises(UserError, match=said):
            compress(model, images, wrong, levels=3)


class Brightness(TextConditioner):
    """Of a caption it is read whether it says bright."""

    identity = {"encoder": "brightness", "sha256": ""}  # noqa: RUF012
    width = 1
    shift = 0.0

    def prompts(self, texts: Sequence[str]) -> Condition:
        return Condition(vector=torch.tensor([[float("bright" in text) + self.shift] for text in texts]))

    captions = prompts


def test_captions_are_coded_too_and_their_features_compared(gaussian: Model):
    class Told(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor, logsnr: Tensor, condition: Condition | None = None) -> Tensor:
            told = 0.0 if condition is None else 0.1 * condition.vector[:, :, None, None].to(z.dtype)
            return self.network(z, logsnr) + told

    model, images = gaussian(), pictures(7)
    model.network, model.text_conditioner = Told(model.network), Brightness()
    captions = ["bright", "", "dark", "a bright one", "", "", "é\u202e"]
    data = compress(model, images, captions, levels=6, group=4)
    assert describe(data)["side_information"] == ["captions"]
    assert read_mvz(data).record(1).captions == tuple(captions[4:])
    assert np.array_equal(decompress(model, data), images)
    model.text_conditioner.shift = 1e-3
    with pytest.raises(UserError, match="makes other features of the captions"):
        decompress(model, data)
    model.text_conditioner = None
    with pytest.raises(UserError, match="holds captions and this model takes none"):
        decompress(model, data)


@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.3], ids=["fitted", "too-narrow"])
def test_the_length_is_the_bound(gaussian: Model, share: float):
    """A variance that is too narrow leaves bits that do not look random: 2 % longer without the pseudo-random words."""
    images, model = pictures(360), mv.with_reverse(gaussian(), "isotropic", pictures(400, seed=2))
    model.reverse.errors.error.mul_(share)
    lengths = [
        len(compress(model, part, levels=12, group=None, batch=40, verify=False)) for part in (images[:80], images)
    ]
    grown = 8 * (lengths[1] - lengths[0]) / images[80:].size
    record = mv.measure(model, images[80:], levels=12, draws=None, replicates=2)
    assert grown == pytest.approx(record.bits_per_dim.value, rel=0.012)


def test_other_digits_batches_threads_and_orders_of_sums_decode_what_the_portable_mode_wrote(
    gaussian: Model, monkeypatch
):
    model, images = gaussian(), pictures(12)
    data = compress(model, images, levels=12, batch=3, portable=True)
    assert next(model.network.parameters()).dtype == torch.float32, "the caller's network stays as it was"
    exact, rng = Diffusion.predict, np.random.default_rng(5)

    def disturbed(self, z, logsnr, condition=None):
        x_hat, head = exact(self, z, logsnr, condition)
        return x_hat * (1 + 1e-11 * torch.from_numpy(rng.standard_normal(x_hat.shape))), head

    def singly(self, z, logsnr, condition=None):
        return torch.cat([exact(self, one[None], logsnr, condition)[0] for one in z]), None

    def reordered(self, z, logsnr, condition=None):
        x_hat = exact(self, z.flip(0), logsnr, condition)[0].flip(0)
        return (x_hat[None] * torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).view(-1, 1, 1, 1, 1)).sum(0), None

    for other in (disturbed, singly, reordered):
        monkeypatch.setattr(Diffusion, "predict", other)
        assert np.array_equal(decompress(model, data), images), other.__name__
    monkeypatch.setattr(Diffusion, "predict", exact)
    before = torch.get_num_threads()
    torch.set_num_threads(before % 2 + 1)
    try:
        assert np.array_equal(decompress(model, data), images)
    finally:
        torch.set_num_threads(before)


def test_corrections_are_what_makes_that_so(gaussian: Model, monkeypatch):
    """With a guard as wide as every rounding step all numbers are corrected, and noise as large as that decodes."""
    monkeypatch.setattr("markovae.compression.stage_coder.GUARD", 1e-6)
    monkeypatch.setattr(ChainCoder, "probe", lambda self: "0" * 16)
    model, images, exact = gaussian(), pictures(4), Diffusion.predict
    data = compress(model, images, levels=6, portable=True)
    rng = np.random.default_rng(5)

    def disturbed(self, z, logsnr, condition=None):
        x_hat, head = exact(self, z, logsnr, condition)
        return x_hat + 5e-7 * torch.from_numpy(rng.uniform(-1, 1, x_hat.shape)), head

    monkeypatch.setattr(Diffusion, "predict", disturbed)
    assert np.array_equal(decompress(model, data), images)
    monkeypatch.setattr(BitStack, "pop_corrections", lambda *_: (np.zeros(0, np.int64), np.zeros(0, np.int64)))
    with pytest.raises(UserError):
        decompress(model, data)


def test_a_file_is_decoded_with_the_threads_that_wrote_it(gaussian: Model):
    before = torch.get_num_threads()
    model, images, seen = gaussian(), pictures(4), []
    torch.set_num_threads(2)
    try:
        data = compress(model, images, levels=4)
    finally:
        torch.set_num_threads(before)
    model.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    assert np.array_equal(decompress(model, data), images)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_a_progressive_image_shows_more_with_each_level(gaussian: Model):
    model, images = gaussian(), pictures(2)
    data = compress(model, images, levels=16, progressive=True)
    for number in (0, 1):
        views = list(reveal(model, data, number))
        assert [view.level for view in views] == [*range(16, 0, -1), 0]
        words = [view.words for view in views]
        assert words == sorted(words)
        errors = [float(np.square(view.images[0] - images[number].astype(float)).mean()) for view in views]
        assert errors[9:] == sorted(errors[9:], reverse=True)
        assert errors[-1] == 0
        half = list(reveal(model, data, number, stop_after=words[8]))
        assert len(half) >= 9
        assert np.array_equal(half[8].images, views[8].images)
        assert len(half) < len(views)
    assert not list(reveal(model, data, stop_after=1))
    with pytest.raises(UserError, match="not progressive"):
        next(reveal(model, compress(model, images, levels=4)))


def test_what_differs_is_refused_before_anything_is_decoded(gaussian: Model, monkeypatch):
    model, images = gaussian(), pictures(6)
    data = compress(model, images, levels=8)
    monkeypatch.setattr(ChainCoder, "decode", lambda *_: pytest.fail("it was decoded"))
    for at in (0, 3, 5, 12, 30, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(UserError):
            decompress(model, bytes(damaged))
    for cut in (3, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(UserError):
            decompress(model, data[:cut])
    with pytest.raises(UserError, match="1 bytes beyond its last group"):
        decompress(model, data + b"\0")
    with pytest.raises(UserError, match="compressed with another model"):
        decompress(gaussian(levels=20), data)
    model.precision = torch.float64
    with pytest.raises(UserError, match="written in float32 and this model is in float64"):
        decompress(model, data)
    model.precision = torch.float32
    monkeypatch.setattr(ChainCoder, "probe", lambda self: "0" * 16)
    with pytest.raises(UserError, match="differ from the encoder's in their last bits"):
        decompress(model, data)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    with pytest.raises(UserError, match="3 threads and this machine has 1"):
        decompress(model, with_header(data, threads=3))


def test_groups_of_two_files_do_not_mix(gaussian: Model):
    """Nor those of one file: a checksum is of the header and the group's number too."""
    model = gaussian()
    files = [compress(model, pictures(8, seed=seed), levels=3, group=4) for seed in (0, 1)]
    one, other = map(read_mvz, files)
    parts = [files[0][a:b] for a, b in zip((0, *one.edges), one.edges, strict=False)]
    for mixed in (files[0][: one.edges[1]] + files[1][other.edges[1] :], parts[0] + parts[2] + parts[1]):
        with pytest.raises(UserError, match=r"group [01] of the file is damaged"):
            decompress(model, mixed)
    with pytest.raises(UserError, match=r"cut short|beyond its last group"):
        decompress(model, files[0][: one.edges[1]])


def test_another_groups_words_do_not_pass_for_these(gaussian: Model):
    """Behind checksums that are right: what is decoded is compared by the pixels' own SHA-256."""
    from dataclasses import replace

    model = gaussian()
    file = read_mvz(compress(model, pictures(8), levels=3, group=4))
    record = file.record(0)
    for words in (record.words ^ np.uint32(1 << 8), record.words[::-1]):
        content = replace(record, words=words).to_bytes(file.header.check, 0)
        rest = file.content[file.edges[1] :]
        with pytest.raises(UserError, match=r"group 0 did not decode|does not decode with this model|damaged"):
            decompress(model, file.header.to_bytes() + content + rest, groups=[0])


def test_the_header_is_small(gaussian: Model):
    model, sizes = gaussian(levels=1000), []
    for levels in (8, 32, 256):
        facts = describe(compress(model, pictures(2), levels=levels, fit=pictures(50, seed=1), verify=False))
        sizes.append(facts["header_bytes"])
        assert len(facts["levels"]) == levels
    assert sizes[1] < 220
    assert sizes[2] < 480


def test_sums_that_are_not_repeatable_are_found_while_encoding(gaussian: Model, monkeypatch):
    model, exact, rng = gaussian(), Diffusion.predict, np.random.default_rng(5)

    def unsteady(self, z, logsnr, condition=None):
        x_hat, head = exact(self, z, logsnr, condition)
        return x_hat + float(rng.normal(0, 0.3)), head

    monkeypatch.setattr(Diffusion, "predict", unsteady)
    with pytest.raises(UserError, match="did not round-trip"):
        compress(model, pictures(6), levels=6)
    assert compress(model, pictures(6), levels=6, verify=False)


def test_what_cannot_be_compressed_is_one_sentence(gaussian: Model, model_of: Model):
    model = gaussian()
    for images, said in (
        (pictures(2).astype(np.float32), "must be integers"),
        (pictures(2)[:, :, :4], "do not fit the model"),
        (pictures(2).astype(np.int32) * 9, "must lie in 0…255"),
        (pictures(2)[:0], "give one or more"),
    ):
        with pytest.raises(UserError, match=said):
            compress(model, images, levels=4)
    for options, said in (
        ({"names": ["a"]}, "1 names for 2 images"),
        ({"levels": 1}, "levels=1 must be at least 2"),
        ({"group": 0}, "group=0 must be at least 1"),
        ({"batch": 1000}, "batch=1000 must be 1…256"),
        ({"grid": "odd"}, "grid='odd' must be one of even, optimal"),
        ({"grid": "optimal"}, "fitted to images"),
    ):
        with pytest.raises(UserError, match=said):
            compress(model, pictures(2), **options)
    with pytest.raises(UserError, match="no network output sets"):
        compress(model_of(target__reverse="learned"), pictures(2), portable=True)
    with pytest.raises(UserError, match="has one level"):
        compress(gaussian(levels=1), pictures(2))
    model.decoder = DensityDecoder()
    with pytest.raises(UserError, match="no decoder for pixels"):
        compress(model, pictures(2))
    damaged = gaussian()
    damaged.network.mean.data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or Inf"):
        compress(damaged, pictures(2), levels=4)
