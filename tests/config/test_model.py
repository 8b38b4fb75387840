import pytest

from markovae.config import Config
from markovae.diffusion.schedule_config import ScheduleConfig
from markovae.diffusion.target_config import TargetConfig
from markovae.errors import UserError
from markovae.networks.network_config import DDPMConfig, DiTConfig, NetworkConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "constnat"}, "did you mean constant"),
        ({"num_levels": 1}, r"num_levels=1 must lie in 2"),
        ({"start": -10.0, "end": -10.0}, "must exceed"),
        ({"kind": "cosine", "start": 9.0}, "belong to kind=logsnr_linear or learned, not to kind=cosine"),
        ({"kind": "learned", "start": -1.0, "end": 1.0}, "must exceed"),
        ({"kind": "leraned"}, "did you mean learned"),
        ({"sigma": 0.1}, "belongs to kind=constant"),
        ({"kind": "constant"}, r"needs schedule\.sigma or schedule\.delta"),
        ({"kind": "constant", "delta": 1.2}, r"delta=1\.2 must lie between 0 and 1"),
        ({"kind": "constant", "delta": 0.1, "sigma": 0.1, "num_levels": 9}, "name two"),
        ({"kind": "linear", "beta_start": 1e-4}, "come together"),
        ({"kind": "cosine", "beta_start": 1e-4, "beta_end": 0.02}, "belong to kind=linear or scaled_linear"),
        ({"kind": "scaled_linear"}, r"needs schedule\.beta_start"),
        ({"kind": "linear", "beta_start": 0.1, "beta_end": 1.0}, "1 does not"),
        ({"kind": "betas"}, r"schedule\.betas belong to kind=betas, which needs them"),
        ({"betas": (0.1, 0.2)}, "the kind is logsnr_linear"),
        ({"kind": "betas", "betas": (0.1,)}, "at least 2"),
        ({"kind": "betas", "betas": (0.1, 0.2), "num_levels": 3}, r"leave schedule\.num_levels out"),
        ({"kind": "constant", "delta": 0.1, "zero_terminal": True}, "not to kind=constant"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        ScheduleConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, r"network\.width=0 must be at least 1"),
        ({"multipliers": ()}, "must name a factor"),
        ({"multipliers": (1, 2), "attention": (2,)}, r"attention=\[2\] must name levels 0…1"),
        ({"dropout": 1.0}, r"dropout=1 must lie in \[0, 1\)"),
        ({"kind": "dddpm"}, "did you mean ddpm"),
        ({"ddpm": DDPMConfig()}, r"belongs to network\.kind=ddpm"),
        ({"kind": "ddpm", "patch": 1}, r"network\.patch belongs to network\.kind=unet"),
        ({"dit": DiTConfig()}, r"\[network\.dit\] belongs to network\.kind=dit"),
        ({"kind": "dit", "ddpm": DDPMConfig()}, r"\[network\.ddpm\] belongs to network\.kind=ddpm"),
        ({"kind": "dit", "width": 32}, r"network\.width belongs .*the settings of kind=dit are in \[network\.dit\]"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        NetworkConfig(**settings)


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [
        ((8, 8), (1, 2), (1,)),
        ((28, 28), (1, 2), (1,)),
        ((32, 32), (1, 2), (1,)),
        ((36, 36), (1, 2, 2), (2,)),  # padded to 40
        ((250, 150), (1, 2, 2, 2, 2), (4,)),
        ((200, 8), (1, 2, 2), (2,)),  # no position larger than the image
        ((1, 3), (1,), (0,)),
        ((64, 64), (1, 2, 2), (2,)),
        ((64, 128), (1, 2, 2, 2), (3,)),
        ((256, 256), (1, 2, 2, 2, 2), (4,)),
    ],
)
def test_larger_images_get_more_levels(size: tuple[int, int], multipliers: tuple, attention: tuple):
    assert NetworkConfig().levels(size) == (multipliers, attention)
    assert NetworkConfig(attention=(0,)).levels(size) == (multipliers, (0,))


def test_attention_at_a_level_that_the_images_do_not_get_is_refused():
    with pytest.raises(UserError, match=r"network\.attention=\[2\] must name levels 0…1"):
        NetworkConfig(attention=(2,)).levels((32, 32))


@pytest.mark.parametrize(
    ("name", "value", "near"), [("reverse", "isotropc", "isotropic"), ("decoder", "soft_max", "softmax")]
)
def test_the_nearest_word_is_named(name: str, value: str, near: str):
    with pytest.raises(UserError, match=rf"target\.{name}='{value}' must be one of .*; did you mean {near}\?"):
        TargetConfig(**{name: value})


@pytest.mark.parametrize("name", ["name", "reverse", "decoder", "pixels"])
def test_a_target_word_is_checked(name: str):
    with pytest.raises(UserError, match=rf"target\.{name}='velocty' must be one of"):
        TargetConfig(**{name: "velocty"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, "at least one channel a level"),
        ({"blocks": 0}, r"network\.ddpm\.blocks=0 must be at least 1"),
        ({"head_dim": -1}, "0 is allowed"),
        ({"embedding": 0}, "at least 1"),
        ({"middle_groups": -1}, "0 means no normalization"),
        ({"eps": 0.0}, "above 0"),
        ({"padding": 2}, "lie in 0…1"),
        ({"dropout": -0.1}, r"\[0, 1\)"),
        ({"attention_up": (4,)}, r"attention_up=\[4\] must name levels 0…3"),
        ({"widths": (64, 80)}, "a width of 80 does not split into groups=32"),
        ({"head_dim": 3}, "a width of 256 does not split into heads of head_dim=3"),
        ({"middle_groups": 5}, "a width of 256 does not split into middle_groups=5"),
        ({"shift": 64}, "shift=64 leaves no frequency"),
    ],
)
def test_a_network_of_the_ddpm_family_that_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        DDPMConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, r"network\.dit\.depth=0 must be at least 1"),
        ({"octaves": 9}, r"network\.dit\.octaves=9 must lie in 0…8"),
        ({"head_dim": 48}, r"network\.dit\.head_dim=48 must be a multiple of 4 that divides network\.dit\.width=256"),
        ({"head_dim": 2}, "a multiple of 4"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        DiTConfig(**settings)


def test_a_section_within_a_section_survives_toml_and_settings():
    config = Config().with_settings(
        ["network.kind=ddpm", "network.ddpm.widths=[32, 64]", "network.ddpm.attention_up=[]", "target.clip=1"]
    )
    assert config.network.ddpm == DDPMConfig(widths=(32, 64), attention_up=())
    assert Config.parse(config.to_toml().encode()) == config
    assert "ddpm]" not in Config().to_toml()
    with pytest.raises(UserError, match=r"unknown setting network\.ddpm\.width: did you mean network\.ddpm\.widths"):
        Config.parse(b"[network]\nkind = 'ddpm'\n[network.ddpm]\nwidth = 3\n")
    with pytest.raises(UserError, match=r"clip=0 must be at least 1e-06"):
        TargetConfig(clip=0.0)
