import pytest

from markovae.config import NetworkConfig, ScheduleConfig, TargetConfig
from markovae.errors import UserError


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
    ],
)
def test_a_network_that_cannot_be_is_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        NetworkConfig(**settings)


@pytest.mark.parametrize(
    ("size", "multipliers", "attention"),
    [
        ((8, 8), (1, 2), ()),
        ((28, 28), (1, 2), ()),
        ((32, 32), (1, 2), ()),
        ((36, 36), (1, 2), ()),  # 36 cannot be halved three times, patch included
        ((64, 64), (1, 2, 2), (2,)),
        ((64, 128), (1, 2, 2, 2), (3,)),
        ((256, 256), (1, 2, 2, 2, 2), (4,)),
    ],
)
def test_larger_images_get_more_levels(size: tuple[int, int], multipliers: tuple, attention: tuple):
    assert NetworkConfig().levels(*size) == (multipliers, attention)
    assert NetworkConfig(attention=(0,)).levels(*size) == (multipliers, (0,))


def test_attention_at_a_level_that_the_images_do_not_get_is_refused():
    with pytest.raises(UserError, match=r"network\.attention=\[2\] must name levels 0…1"):
        NetworkConfig(attention=(2,)).levels(32, 32)


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
