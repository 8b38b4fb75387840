import dataclasses
import math

import numpy as np
import pytest
import torch

from markovae.build import create, create_schedule
from markovae.config import Config
from markovae.diffusion import target as targets
from markovae.diffusion.model import load_weights
from markovae.diffusion.pixels import Pixels
from markovae.diffusion.reverse import FullVariance, IsotropicVariance, LearnedVariance
from markovae.diffusion.schedule import ConstantSigma, endpoint_levels
from markovae.diffusion.schedule_config import ScheduleConfig
from markovae.errors import UserError
from markovae.networks.ddpm import DDPMUNet
from markovae.networks.dit import DiT
from markovae.networks.network_config import DDPMConfig, NetworkConfig
from markovae.sampling.generation import sample
from markovae.training.losses import create_objective
from markovae.training.train_config import TrainConfig


def test_the_first_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone(tiny_config: Config):
    before = torch.random.get_rng_state()
    first, again = (create(tiny_config, (1, 4, 4)) for _ in range(2))
    other = create(tiny_config.with_settings(["train.seed=1"]), (1, 4, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


DECODERS = ["step", "ho_small", "ho_large", "softmax"]


@pytest.mark.parametrize(
    ("name", "decoder"),
    [(target.name, DECODERS[i % len(DECODERS)]) for i, target in enumerate(targets.TARGETS)],
)
def test_every_target_and_decoder_gives_a_finite_bound(tiny_config: Config, name: str, decoder: str):
    config = tiny_config.with_settings(
        [f"target.name={name}", f"target.decoder={decoder}", "target.pixels=centres", "schedule.num_levels=20"]
    )
    model = create(config, (1, 4, 4), bins=17)
    bound = model.bound(torch.randint(0, 17, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0)))
    assert model.target.name == name
    assert model.pixels.bins == 17
    assert model.pixels.centred
    assert bool(bound.total.isfinite().all())


@pytest.mark.parametrize(
    ("word", "kind"), [("learned", LearnedVariance), ("full", FullVariance), ("isotropic", IsotropicVariance)]
)
def test_a_learned_variance_doubles_the_outputs_and_no_other_does(tiny_config: Config, word: str, kind: type):
    model = create(tiny_config.with_settings([f"target.reverse={word}"]), (3, 4, 4))
    assert isinstance(model.reverse, kind)
    assert model.network.data.out_channels == (6 if word == "learned" else 3)
    assert model.denoise(torch.zeros(2, 3, 4, 4), torch.zeros(2)).shape == (2, 3, 4, 4)


def test_a_full_covariance_of_large_images_is_refused(tiny_config: Config):
    full = tiny_config.with_settings(["target.reverse=full"])
    with pytest.raises(UserError, match="these images have 3,072: 1,024 is the limit; take smaller images, or"):
        create(full, (3, 32, 32))
    assert create(full, (1, 32, 32)).dims == 1024


def test_a_learned_schedule_begins_where_the_default_lies(tiny_config: Config):
    config = ScheduleConfig("learned", num_levels=50, end=-8.0)
    with torch.no_grad():
        logsnr = create_schedule(config, Pixels(256)).logsnr
    assert float(logsnr[1]) == pytest.approx(13.3, abs=1e-9)
    assert float(logsnr[-1]) == pytest.approx(-8, abs=1e-9)
    learned = create(tiny_config.with_settings(["schedule.kind=learned"]), (1, 4, 4))
    assert {name for name, _ in learned.named_parameters() if name.startswith("schedule.")} == {
        f"schedule.{part}" for part in ("start", "log_span", "slope", "weight", "steepness", "centre")
    }


def test_constant_sigma_takes_two_of_three():
    alone = create_schedule(ScheduleConfig("constant", delta=0.01), Pixels(256))
    assert isinstance(alone, ConstantSigma)
    assert alone.num_levels == 1000
    assert endpoint_levels(alone.sigma, 0.01) == 1000
    pair = create_schedule(ScheduleConfig("constant", sigma=0.2, delta=0.05), Pixels(256))
    assert pair.num_levels == endpoint_levels(0.2, 0.05)
    assert create_schedule(ScheduleConfig("constant", sigma=0.2, num_levels=70), Pixels(256)).num_levels == 70


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScheduleConfig("constant", sigma=1e-7, delta=0.01), "schedule: .*more than 1000000 levels"),
        (ScheduleConfig("linear", num_levels=10), "schedule: .*use more than 20 levels"),
        (ScheduleConfig("constant", sigma=0.9, delta=0.9), "schedule: .*one level"),
    ],
)
def test_a_schedule_that_does_not_exist_is_told_as_bad_input(config: ScheduleConfig, message: str):
    with pytest.raises(UserError, match=message):
        create_schedule(config, Pixels(256))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 4), "5x4 pixels do not fit the network, whose stride is 2: .*heights 4 or 6 and widths 4"),
        ((1, 5, 7), "are 4x6 or 6x8"),
        ((1, 1, 4), "heights 2 and widths 4|2x4"),
    ],
)
def test_sizes_off_the_stride_of_a_ddpm_name_the_nearest_that_fit(tiny_config: Config, shape: tuple, message: str):
    family = NetworkConfig("ddpm", ddpm=DDPMConfig(widths=(32, 32)))
    with pytest.raises(UserError, match=f"{message}.*network.kind=unet, which pads"):
        create(dataclasses.replace(tiny_config, network=family), shape)


@pytest.mark.parametrize("size", [(5, 4), (50, 50), (90, 60), (150, 151), (250, 1), (63, 64), (1, 1)])
def test_every_size_has_a_network_of_all_levels(size: tuple[int, int]):
    """Never fewer levels than the next larger power of two has, unless a position would be larger than the image."""
    model = create(Config(network=NetworkConfig(width=8, head_dim=8)), (1, *size))
    whole = 2 ** math.ceil(math.log2(max(size)))
    known = NetworkConfig().levels((whole, whole))[0]
    assert len(model.network.config.levels(size)[0]) == len(known) or model.network.stride * 2 > min(size)
    with torch.no_grad():
        assert model.network(torch.zeros(1, 1, *size), torch.zeros(1)).shape == (1, 1, *size)


def test_a_stride_beyond_the_image_is_refused(tiny_config: Config):
    with pytest.raises(UserError, match="4x4 pixels are smaller than the network's stride of 8: lower network"):
        create(tiny_config.with_settings(["network.patch=8"]), (1, 4, 4))


def test_labels_are_taken_unless_the_configuration_says_no(tiny_config: Config):
    assert create(tiny_config, (1, 4, 4), num_classes=3).network.data.num_classes == 3
    without = tiny_config.with_settings(["network.classes=false"])
    assert create(without, (1, 4, 4), num_classes=3).network.data.num_classes == 0


@pytest.mark.parametrize("weighting", ["own", "noise", "data", "nats"])
@pytest.mark.parametrize("level_sampling", ["uniform", "normal", "middle"])
def test_the_mean_weight_under_the_law_is_one(weighting: str, level_sampling: str):
    schedule = create_schedule(ScheduleConfig(num_levels=200), Pixels(256))
    objective = create_objective(
        TrainConfig(weighting=weighting, level_sampling=level_sampling), targets.VELOCITY, schedule
    )
    assert float((objective.probability * objective.weight).sum()) == pytest.approx(1, abs=1e-12)


def test_the_normal_law_has_the_normal_moments():
    schedule = create_schedule(ScheduleConfig(num_levels=2000, start=30.0, end=-30.0), Pixels(256))
    level_sampling = create_objective(
        TrainConfig(level_sampling="normal", level_center=2.0, level_width=3.0), targets.NOISE, schedule
    )
    mean = float((level_sampling.probability * schedule.logsnr[1:]).sum())
    spread = float((level_sampling.probability * (schedule.logsnr[1:] - mean) ** 2).sum()) ** 0.5
    assert mean == pytest.approx(2, abs=1e-3)
    assert spread == pytest.approx(3, abs=1e-3)


def test_the_middle_law_is_half_uniform_and_half_normal():
    schedule = create_schedule(ScheduleConfig(num_levels=300), Pixels(256))
    drawn = {
        level_sampling: create_objective(
            TrainConfig(level_sampling=level_sampling), targets.VELOCITY, schedule
        ).probability
        for level_sampling in ("middle", "uniform", "normal")
    }
    torch.testing.assert_close(drawn["middle"], (drawn["uniform"] + drawn["normal"]) / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("objective", "level_sampling"), [("weighted", "middle"), ("bound", "uniform")])
def test_the_law_of_levels_follows_the_objective_where_it_is_left_out(objective: str, level_sampling: str):
    schedule = create_schedule(ScheduleConfig(num_levels=50), Pixels(256))
    left_out, named = (
        create_objective(TrainConfig(objective=objective, level_sampling=name), targets.VELOCITY, schedule).probability
        for name in ("auto", level_sampling)
    )
    assert torch.equal(left_out, named)


def test_a_table_law_is_linear_between_its_points():
    schedule = create_schedule(ScheduleConfig(num_levels=1001, start=10.0, end=-10.0), Pixels(256))
    config = TrainConfig(level_sampling="table", level_logsnr=(-10.0, 0.0, 10.0), level_density=(1.0, 3.0, 0.0))
    level_sampling = create_objective(config, targets.NOISE, schedule).probability
    inner = level_sampling[1:-1] / level_sampling[500]
    expected = torch.where(
        schedule.logsnr[2:-1] < 0, 1 + 2 * (schedule.logsnr[2:-1] + 10) / 10, 0.3 * (10 - schedule.logsnr[2:-1])
    )
    torch.testing.assert_close(inner, expected / 3, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_table_law_ends_with_its_points_and_only_its_shape_counts(scale: float):
    schedule = create_schedule(ScheduleConfig(num_levels=101, start=10.0, end=-10.0), Pixels(256))
    config = TrainConfig(level_sampling="table", level_logsnr=(-2.0, 2.0), level_density=(scale, scale))
    level_sampling = create_objective(config, targets.NOISE, schedule).probability
    inside = schedule.logsnr[1:].abs() <= 2
    assert not level_sampling[~inside].any()
    torch.testing.assert_close(
        level_sampling[inside], torch.full_like(level_sampling[inside], 1 / int(inside.sum())), rtol=1e-9, atol=0
    )


def test_a_schedule_that_goes_on_below_all_signal_is_refused():
    with pytest.raises(
        UserError, match=r"its last level has log-SNR -1022, and below -100 no signal .* lower num_levels"
    ):
        create_schedule(ScheduleConfig("constant", sigma=0.8), Pixels(256))


def test_classes_left_out_need_something_that_stands_for_none():
    said = ["network.kind=ddpm", "network.ddpm.widths=[8, 8]", "network.ddpm.groups=4", "network.ddpm.null_class=false"]
    config = Config().with_settings(said)
    with pytest.raises(UserError, match=r"label_dropout=0\.1 needs network\.ddpm\.null_class=true"):
        create(config, (1, 8, 8), num_classes=3)
    create(config.with_settings(["train.label_dropout=0"]), (1, 8, 8), num_classes=3)
    create(config, (1, 8, 8))


def test_a_law_beside_the_schedule_is_refused():
    schedule = create_schedule(ScheduleConfig(), Pixels(256))
    with pytest.raises(UserError, match=r"misses the schedule, whose log-SNR runs from 13\.3 to -10\.0"):
        create_objective(
            TrainConfig(level_sampling="normal", level_center=60.0, level_width=1.0), targets.NOISE, schedule
        )


def test_load_weights_takes_every_weight_and_no_other(tiny_config: Config):
    model = create(tiny_config, (1, 4, 4))
    weights = {name: value.detach().clone() + 1 for name, value in model.named_parameters()}
    name = next(iter(weights))
    before = [value.detach().clone() for value in model.parameters()]
    for broken, message in (
        ({k: v for k, v in weights.items() if k != name}, "missing"),
        ({**weights, "more": torch.zeros(1)}, "none of this model"),
        ({**weights, name: torch.zeros(3, 3)}, r"shape \(3, 3\) where this model takes"),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(model, broken)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    load_weights(model, weights)
    assert all(torch.equal(weights[n], value) for n, value in model.named_parameters())


@pytest.mark.parametrize("bins", [2, 17, 256, 65536])
def test_the_default_schedule_starts_at_a_sixth_of_a_grey_value(bins):
    pixels = Pixels(bins)
    first = create_schedule(ScheduleConfig(), pixels).logsnr[1]
    noise = float(torch.exp(-first / 2)) / (2 * pixels.half_width)
    assert noise == pytest.approx(1 / 6, rel=0.02)


DDPM = ["network.kind=ddpm", "network.ddpm.widths=[8, 16]", "network.ddpm.groups=4", "network.ddpm.blocks=1"]


def test_a_network_of_the_ddpm_family_counts_the_steps_of_its_schedule() -> None:
    config = Config().with_settings([*DDPM, "schedule.kind=linear", "schedule.num_levels=40", "target.reverse=learned"])
    model = create(config, (1, 8, 8), num_classes=3)
    network = model.network
    assert isinstance(network, DDPMUNet)
    assert (network.data.in_channels, network.data.out_channels, network.num_classes) == (1, 2, 3)
    assert (network.config.time_dim, network.config.middle_norm_groups, network.config.up_attention) == (32, 4, (1,))
    assert network.step(model.schedule.logsnr[1:]).tolist() == list(range(40))
    assert bool(model.bound(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).total.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.ddpm.groups=3"], "network.ddpm: a width of 8 does not split into groups=3"),
        (["schedule.kind=learned"], "counts the steps of a fixed grid"),
        (["schedule.kind=linear", "schedule.zero_terminal=true", "target.name=noise"], "ends without signal"),
        (["schedule.kind=betas", "schedule.betas=[0.1, 1.0]", "target.name=score"], "ends without signal"),
    ],
)
def test_sections_that_do_not_go_together_are_refused(settings: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(Config().with_settings([*DDPM, *settings]), (1, 8, 8))
    with pytest.raises(UserError, match=r"9x8 pixels .* shorten network\.ddpm\.widths"):
        create(Config().with_settings(DDPM), (1, 9, 8))


DIT = ["network.kind=dit", "network.dit.width=16", "network.dit.depth=1", "network.dit.head_dim=8"]


@pytest.mark.parametrize("settings", [[], ["schedule.kind=learned", "train.objective=bound"], ["target.name=noise"]])
def test_a_transformer_is_a_model_like_any_other(settings: list) -> None:
    config = Config().with_settings([*DIT, "schedule.num_levels=40", *settings])
    model = create(config, (1, 8, 12), bins=17, num_classes=3)
    network = model.network
    assert isinstance(network, DiT)
    assert (network.data.in_channels, network.data.out_channels, network.num_classes) == (1, 1, 3)
    assert network.data.frequency == 8
    assert bool(model.bound(torch.zeros(2, 1, 8, 12, dtype=torch.uint8)).total.isfinite().all())
    bare = create(config.with_settings(["network.dit.detail=false", "target.reverse=learned"]), (1, 8, 12))
    assert (bare.network.data.out_channels, bare.network.detail.channels) == (2, 1)
    with pytest.raises(UserError, match=r"9x8 pixels .* lower network\.dit\.patch"):
        create(config.with_settings(["network.dit.patch=16"]), (1, 9, 8))


@pytest.mark.parametrize(
    ("kind", "target"), [("linear", "velocity"), ("scaled_linear", "data"), ("cosine", "data"), ("betas", "velocity")]
)
def test_a_schedule_that_ends_without_signal_has_a_finite_bound(tiny_config: Config, kind: str, target: str) -> None:
    settings = {
        "linear": ["schedule.beta_start=1e-4", "schedule.beta_end=0.2"],
        "scaled_linear": ["schedule.beta_start=1e-4", "schedule.beta_end=0.2"],
        "cosine": [],
        "betas": ["schedule.betas=[1e-4, 0.02, 0.3, 0.7, 1.0]", "schedule.num_levels=none"],
    }[kind]
    settings += ["schedule.zero_terminal=true"] if kind != "betas" else []
    model = create(tiny_config.with_settings([f"schedule.kind={kind}", f"target.name={target}", *settings]), (1, 4, 4))
    bound = model.bound(torch.full((2, 1, 4, 4), 7))
    assert bool(bound.total.isfinite().all())
    assert float(bound.prior.abs().max()) < 1e-12
    assert np.isfinite(sample(model, 2, steps=4, raw=True)).all()
    assert np.isfinite(sample(model, 2, sampler="ancestral", raw=True)).all()


def test_a_clipped_model_clips_its_guess_and_costs_no_more(tiny_config: Config) -> None:
    plain = create(tiny_config.with_settings(["target.name=noise"]), (1, 4, 4))
    clipped = create(tiny_config.with_settings(["target.name=noise", "target.clip=1"]), (1, 4, 4))
    images = torch.randint(0, 256, (4, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    z = 3 * torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    level = torch.full((4,), -3.0, dtype=torch.float64)
    assert torch.equal(clipped.denoise(z, level), plain.denoise(z, level).clamp(-1, 1))
    assert bool((clipped.bound(images).levels <= plain.bound(images).levels + 1e-9).all())
    assert clipped.on_grid(clipped.schedule.subgrid(5)).clip == 1


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_network_of_captions_reads_tokens_and_their_mean(tiny_config: Config, kind: str):
    small = ["network.kind=dit"] if kind == "dit" else []
    config = (Config() if small else tiny_config).with_settings([*small, "condition.kind=text"])
    model = create(config, (1, 4, 4), num_classes=3)
    sizes = model.network.condition
    assert (sizes.num_classes, sizes.token_dim, sizes.vector_dim) == (0, 384, 384)
    assert model.text_conditioner is not None
    assert create(tiny_config, (1, 4, 4), num_classes=3).text_conditioner is None


def test_networks_and_encoders_that_captions_do_not_go_with(tiny_config: Config):
    with pytest.raises(UserError, match=r"network\.kind=ddpm reads no captions"):
        create(Config().with_settings(["network.kind=ddpm", "condition.kind=text"]), (1, 32, 32))
    with pytest.raises(UserError, match="text encoder 'clip' not found"):
        create(tiny_config.with_settings(["condition.kind=text", "condition.encoder=clip"]), (1, 4, 4))
    with pytest.raises(
        UserError, match=r"condition\.kind='txt' must be one of auto, class, text, none; did you mean text"
    ):
        tiny_config.with_settings(["condition.kind=txt"])
    none = create(tiny_config.with_settings(["condition.kind=none"]), (1, 4, 4), num_classes=3)
    assert none.network.num_classes == 0
