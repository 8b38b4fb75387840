"""Folders that are no model of diffusers, or none that can be read: one sentence, and nothing written."""

import json
import math
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.interop.pipelines import SCHEDULER, UNET, write_pipeline

import markovae as mv
from markovae.errors import UserError
from markovae.interop.diffusers_folder import read_folder
from markovae.interop.diffusers_scheduler import rules_from
from markovae.interop.diffusers_unet import config_from
from markovae.interop.importing import import_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "theirs")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_run(folder, folder.parent / "run")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["theirs"]


def test_both_layouts_are_read(folder: Path) -> None:
    import_run(folder, folder.parent / "run")
    flat = folder.parent / "flat"
    flat.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            shutil.copy(path, flat)
    assert read_folder(flat).shape == read_folder(folder).shape
    import_run(flat, folder.parent / "other")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: shutil.rmtree(p / "unet"), r"neither unet/config\.json nor config\.json"),
        (lambda p: (p / "unet" / "config.json").unlink(), r"neither unet/config\.json"),
        (lambda p: shutil.rmtree(p / "scheduler"), "holds no scheduler"),
        (lambda p: (p / "unet" / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda p: (p / "unet" / "config.json").write_text("[]"), "is not a JSON object"),
        (lambda p: (p / "unet" / "config.json").write_text("[" * 100_000), "is not JSON"),
        (lambda p: (p / "unet" / "config.json").write_bytes(b" " * (1 << 20) + b"{}"), "at most 1,048,576 bytes"),
        (lambda p: (p / "unet" / "config.json").write_bytes(b"\xff\xfe{"), "is not JSON"),
        (lambda p: weights(p).write_bytes(b"no tensors"), "cannot be read as safetensors"),
        (lambda p: weights(p).write_bytes(weights(p).read_bytes()[:-9]), "cannot be read as safetensors"),
        (lambda p: weights(p).unlink(), r"diffusion_pytorch_model\.safetensors is missing"),
        (lambda p: weights(p).rename(p / "unet" / "diffusion_pytorch_model.bin"), "is no zip-format file of torch"),
        (
            lambda p: weights(p).rename(p / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors"),
            "split over 2 files, and not all of them are there",
        ),
    ],
)
def test_a_folder_with_a_part_missing_or_broken(folder: Path, break_it, message: str) -> None:
    break_it(folder)
    refused(folder, message)


def rename(folder: Path, name: str) -> None:
    weights(folder).rename(folder / "unet" / name)


def split(folder: Path) -> None:
    state = safetensors.torch.load_file(weights(folder))
    names = sorted(state)
    for number, part in enumerate((names[:9], names[9:]), 1):
        path = folder / "unet" / f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: state[name] for name in part}, path)
    weights(folder).unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": {"x": "/etc/x"}}')


def pickled(folder: Path) -> None:
    torch.save(safetensors.torch.load_file(weights(folder)), folder / "unet" / "diffusion_pytorch_model.bin")
    weights(folder).unlink()


def with_average(folder: Path) -> None:
    shutil.copytree(folder / "unet", folder / "unet_ema")
    rename(folder, "diffusion_pytorch_model.non_ema.safetensors")
    table = json.loads((folder / "unet" / "config.json").read_text())
    table |= {"decay": 0.9999, "power": 0.75, "inv_gamma": 1.0, "optimization_step": 9, "update_after_step": 0}
    (folder / "unet_ema" / "config.json").write_text(json.dumps(table | {"use_ema_warmup": True, "min_decay": 0.0}))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: rename(p, "diffusion_pytorch_model.fp16.safetensors"),
        lambda p: rename(p, "diffusion_pytorch_model.bf16.safetensors"),
        split,
        pickled,
        with_average,
    ],
    ids=["fp16", "bf16", "split", "pickled", "average"],
)
def test_weights_as_diffusers_leaves_them(folder: Path, change, tmp_path: Path, capsys) -> None:
    expected = import_run(folder, tmp_path / "whole").network.state_dict()
    change(folder)
    found = import_run(folder, tmp_path / "run").network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    if (folder / "unet_ema").is_dir():
        assert f"import {folder / 'unet_ema'} to take that one" in capsys.readouterr().err
        average = import_run(folder / "unet_ema", tmp_path / "average").network.state_dict()
        assert all(torch.equal(average[name], value) for name, value in expected.items())


def weights(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("part", ["vae", "vqvae"])
def test_a_pipeline_of_latents_is_none_of_pixels(folder: Path, part: str) -> None:
    index = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], part: ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    refused(folder, f"a pipeline with a part '{part}'")
    (folder / "model_index.json").write_text(json.dumps({**index, part: [None, None], "requires_safety": False}))
    import_run(folder, folder.parent / "run")
    (folder / part).mkdir()
    with pytest.raises(UserError, match=f"a pipeline with a part '{part}'"):
        read_folder(folder)


def test_a_thousand_trained_betas_come_back_from_the_disk(folder: Path) -> None:
    betas = [1e-4 * 1.004**k for k in range(1000)]
    said = {**SCHEDULER, "num_train_timesteps": 1000, "trained_betas": betas}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    made = import_run(folder, folder.parent / "run")
    assert mv.load(folder.parent / "run").schedule.logsnr.equal(made.schedule.logsnr)


def test_numbers_too_large_for_float32_are_told(folder: Path) -> None:
    tensors = {key: value.double() for key, value in safetensors.torch.load_file(weights(folder)).items()}
    next(iter(tensors.values()))[0] = 1e39
    safetensors.torch.save_file(tensors, weights(folder))
    refused(folder, "not finite in float32")


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        import_run(tmp_path / "nowhere", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "'UNet2DConditionModel': UNet2DModel can be read"),
        ({"_class_name": None}, "None: UNet2DModel can be read"),
        ({"down_block_types": ["DownBlock2D", "AttnSkipDownBlock2D"]}, "the block 'AttnSkipDownBlock2D'"),
        ({"up_block_types": ["UpBlock2D"]}, "a list of 2 words"),
        ({"block_out_channels": [8]}, "a list of 1 words"),
        ({"block_out_channels": [8, 10**9]}, "from 1 to 16,384"),
        ({"block_out_channels": "many"}, "a list of whole numbers"),
        ({"block_out_channels": [8] * 13}, "13 levels: at most 12"),
        ({"layers_per_block": 10**9}, "layers_per_block=1000000000: a whole number from 1 to 32"),
        ({"layers_per_block": True}, "layers_per_block=True"),
        ({"norm_num_groups": 5}, "does not split into groups=5"),
        ({"attention_head_dim": 7}, "heads of head_dim=7"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"center_input_sample": True}, "center_input_sample=True"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift='spatial'"),
        ({"sample_size": None}, "sample_size=None, which does not say how large"),
        ({"sample_size": 9}, r"9x9 pixels do not fit the network"),
        ({"sample_size": 10**9}, "does not say how large"),
        ({"dropout": float("nan")}, "dropout=nan"),
        ({"norm_eps": "x"}, "norm_eps='x'"),
        ({"own_invention": 3}, "own_invention=3, which is not known here"),
        ({"out_channels": 5}, "3 channels in and 5 out, and the scheduler asks for 3 out"),
        ({"block_out_channels": [8, 32]}, "where the unet's config.json makes it"),
        ({"layers_per_block": 2}, r"the weights lack '.*', which the unet's config\.json asks for"),
        ({"down_block_types": ["DownBlock2D", "DownBlock2D"]}, "the weights have '.*', which .* has no place for"),
    ],
)
def test_a_unet_that_cannot_be_read(folder: Path, change: dict, message: str) -> None:
    (folder / "unet" / "config.json").write_text(json.dumps({**UNET, **change}))
    refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "'EulerDiscreteScheduler': DDPMScheduler and DDIMScheduler"),
        ({"beta_schedule": []}, r"beta_schedule=\[\]"),
        ({"variance_type": {}}, "variance_type={}"),
        ({"trained_betas": [10**400] * 30}, "trained_betas=|more than 64 bits"),
        ({"beta_start": 10**400}, "more than 64 bits"),
        ({"new_rule": 0}, "new_rule=0, which is not known here"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid': linear, scaled_linear, squaredcos_cap_v2"),
        ({"prediction_type": "flow"}, "prediction_type='flow'"),
        ({"variance_type": "fixed_large_log"}, "the root of a negative number"),
        ({"variance_type": "learned"}, "variance_type='learned'"),
        ({"variance_type": "learned_range"}, "the scheduler asks for 6 out"),
        ({"thresholding": True}, "thresholding=True"),
        ({"trained_betas": [0.1, 0.2]}, "2 trained_betas and num_train_timesteps=30"),
        ({"trained_betas": [0.1] * 29 + [float("inf")]}, "trained_betas=|more than 64 bits"),
        ({"trained_betas": [0.1] * 29 + [-1.0]}, "betas must lie"),
        ({"num_train_timesteps": 1}, "num_train_timesteps=1"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps=1000000000"),
        ({"beta_start": 0}, "must lie between 0 and 1: 0 does not"),
        ({"beta_end": "x"}, "beta_end='x'"),
        ({"rescale_betas_zero_snr": True}, "cannot be used with a schedule that ends without signal"),
        ({"clip_sample": "yes"}, "clip_sample='yes'"),
        ({"new_rule": 1}, "new_rule=1, which is not known here"),
    ],
)
def test_a_scheduler_that_cannot_be_read(folder: Path, change: dict, message: str) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**SCHEDULER, **change}))
    refused(folder, message)


def test_a_deterministic_scheduler_and_former_words_are_read() -> None:
    rules = rules_from({"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False})
    assert (rules.target.reverse, rules.target.clip) == ("posterior", None)
    assert rules_from({"_class_name": "DDPMScheduler", "predict_epsilon": False}).target.name == "data"
    assert rules_from({"_class_name": "DDPMScheduler"}).target.clip == 1.0


def test_what_another_scheduler_left_behind_is_not_read(folder: Path) -> None:
    left = {"solver_order": 2, "algorithm_type": "dpmsolver++", "lambda_min_clipped": -math.inf, "use_lu_lambdas": True}
    plain = rules_from(SCHEDULER)
    assert rules_from({**SCHEDULER, **left}) == plain
    converted = {**SCHEDULER, "_class_name": "DDIMScheduler", "variance_type": "fixed_large"}
    assert rules_from(converted) == plain
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**SCHEDULER, **left}))
    import_run(folder, folder.parent / "run")
    mv.load(folder.parent / "run")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_stands_in_a_field_it_is_read_or_refused(data) -> None:
    for table, read in ((UNET, config_from), (SCHEDULER, rules_from)):
        names = [
            *table,
            "dropout",
            "attention_head_dim",
            "freq_shift",
            "trained_betas",
            "prediction_type",
            "clip_sample",
            "beta_schedule",
            "variance_type",
            "down_block_types",
            "norm_eps",
        ]
        changed = {**table, data.draw(st.sampled_from(names)): data.draw(JUNK)}
        with suppress(UserError):
            read(changed)
