"""The networks of the DDPM family are diffusers' UNet2DModel: the same weights give the same outputs."""

import json

import pytest
import torch

from markovae.diffusion.schedule import linear
from markovae.errors import UserError
from markovae.interop.diffusers_unet import config_from, config_to
from markovae.interop.weights import their_names, to_ours, to_theirs
from markovae.networks.conditioning import Condition
from markovae.networks.ddpm import DDPMUNet

GRID = linear().logsnr[1:]
STEPS = torch.tensor([0, 3, 700, 999])
SMALL = {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
PLAIN = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
RESIDUAL = {
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
CIFAR = {
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CELEBA = {
    **CIFAR,
    "sample_size": 32,  # the network of 256 pixels a side, at a size that costs little
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
CASES = {
    "plain": {**SMALL, **PLAIN},
    "scale and shift": {**SMALL, **PLAIN, "resnet_time_scale_shift": "scale_shift", "out_channels": 6},
    "shift, own groups": {**SMALL, **PLAIN, "attn_norm_num_groups": 8, "attention_head_dim": 4},
    "scale and shift, own groups": {
        **SMALL,
        **PLAIN,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 2,
        "attention_head_dim": None,
    },
    "residual": {**SMALL, **RESIDUAL, "block_out_channels": [8, 16, 16], "resnet_time_scale_shift": "scale_shift"},
    "heads that split the widths with attention alone": {
        **SMALL,
        **PLAIN,
        "block_out_channels": [12, 24],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "attention_head_dim": 8,
    },
    "no attention": {
        **SMALL,
        "add_attention": False,
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
    },
    "one channel, odd settings": {
        **SMALL,
        **PLAIN,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 2,
        "sample_size": [8, 12],
        "time_embedding_dim": 24,
        "mid_block_scale_factor": 1.7,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-3,
    },
    "classes": {**SMALL, **PLAIN, "num_class_embeds": 5},
    "names before the turn of the blocks": {
        **SMALL,
        "down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"],
        "up_block_types": ["UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
    },
    "CIFAR-10, 35.7 M": CIFAR,
    "CelebA-HQ-256, 113.7 M": CELEBA,
}
WEIGHTS = {"CIFAR-10, 35.7 M": 35_746_307, "CelebA-HQ-256, 113.7 M": 113_673_219}


def ours(config: dict) -> tuple[DDPMUNet, tuple[int, int]]:
    shape = config_from({"_class_name": "UNet2DModel", **config})
    return DDPMUNet(shape.options, shape.data, GRID).eval(), shape.data.size


def drawn(diffusers, config: dict) -> torch.nn.Module:
    """diffusers' network with weights drawn once and cheaply."""
    with torch.device("meta"):
        theirs = diffusers.UNet2DModel(**config)
    theirs = theirs.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            reach = (3 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.3
            weight.uniform_(-reach, reach, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight += 1
    return theirs


@pytest.mark.parametrize("name", CASES)
def test_the_outputs_are_those_of_diffusers(diffusers, name: str) -> None:
    theirs = drawn(diffusers, CASES[name])
    with torch.device("meta"):
        network, (height, width) = ours(CASES[name])
    network.load_state_dict(to_ours(network, theirs.state_dict()), assign=True)
    assert sum(weight.numel() for weight in network.parameters()) == WEIGHTS.get(
        name, sum(weight.numel() for weight in theirs.parameters())
    )
    large = name in WEIGHTS
    steps = STEPS[2:3] if large else STEPS
    shape = (len(steps), theirs.config.in_channels, height, width)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 2, 4]) if "num_class_embeds" in CASES[name] else None
    with torch.no_grad():
        expected = theirs(z, steps, class_labels=label).sample
        found = network(z, GRID[steps], None if label is None else Condition(label=label))
    assert float(expected.abs().max()) > 0.1
    assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", [name for name in CASES if name not in WEIGHTS])
def test_weights_and_configuration_go_there_and_back_unchanged(diffusers, name: str) -> None:
    theirs = diffusers.UNet2DModel(**CASES[name])
    network, _ = ours(CASES[name])
    state = theirs.state_dict()
    back = to_theirs(network, to_ours(network, state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    told = config_to(network.config, network.data)
    assert config_from(told) == config_from({"_class_name": "UNet2DModel", **CASES[name]})
    again = diffusers.UNet2DModel.from_config(json.loads(json.dumps(told)))
    again.load_state_dict(back)
    written = json.loads(theirs.to_json_string())
    for key in set(written) - {"_diffusers_version", "_use_default_values"}:
        value = written[key]
        if key.endswith("_block_types"):
            value = [name.removeprefix("UNetRes") for name in value]
        assert value == told[key] or key in ("time_embedding_dim", "attn_norm_num_groups"), key


def test_attention_under_its_former_names_is_read(diffusers) -> None:
    network, _ = ours(CASES["plain"])
    state = diffusers.UNet2DModel(**CASES["plain"]).state_dict()
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for present, name in former.items():
            key = key.replace(f".{present}.", f".{name}.")
        renamed[key] = value
    assert renamed.keys() != state.keys()
    for a, b in zip(to_ours(network, renamed).values(), to_ours(network, state).values(), strict=True):
        assert torch.equal(a, b)


def test_every_parameter_has_names_of_its_own() -> None:
    for name in CASES:
        if name not in WEIGHTS:
            names = [key for keys in their_names(ours(CASES[name])[0]).values() for key in keys]
            assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv_in.weight"), r"lack 'conv_in\.weight', which the unet's config\.json asks for"),
        (lambda s: s.update(extra=torch.zeros(1)), r"have 'extra', which .* has no place for"),
        (lambda s: s.update({"conv_in.bias": torch.zeros(9)}), r"'conv_in\.bias' has shape \(9,\) where .* \(8,\)"),
        (lambda s: s["conv_in.bias"].fill_(torch.nan), r"'conv_in\.bias' holds values that are not finite"),
        (lambda s: s.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)}), "not finite in float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message: str) -> None:
    network, _ = ours(CASES["plain"])
    state = {key: value.detach().clone() for key, value in to_theirs(network, dict(network.named_parameters())).items()}
    change(state)
    with pytest.raises(UserError, match=message):
        to_ours(network, state)
