from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.config import Config
from markovae.data.data_config import DataConfig
from markovae.diffusion.schedule_config import ScheduleConfig
from markovae.diffusion.target_config import DECODERS, PIXELS, REVERSES, TARGET_NAMES, TargetConfig
from markovae.errors import UserError
from markovae.networks.network_config import NetworkConfig
from markovae.training.train_config import WEIGHTINGS, TrainConfig

RATES = st.floats(1e-9, 1e3)
BUDGETS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"steps": st.integers(1, 10**9)}),
    st.fixed_dictionaries({"minutes": st.floats(1e-3, 1e5)}),
)


ALONE = tuple(name for name in DECODERS if name != "learned")  # which goes with reverse=learned


@st.composite
def configs(draw: st.DrawFn) -> Config:
    levels = draw(st.integers(1, 4))
    constant = draw(st.booleans())
    return Config(
        data=DataConfig(
            source=draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)),
            flip=draw(st.booleans()),
        ),
        schedule=ScheduleConfig("constant", delta=draw(st.floats(1e-4, 0.99)))
        if constant
        else ScheduleConfig(num_levels=draw(st.none() | st.integers(2, 5000)), start=draw(st.floats(0, 100))),
        network=NetworkConfig(
            width=draw(st.integers(1, 512)),
            multipliers=tuple(draw(st.lists(st.integers(1, 8), min_size=levels, max_size=levels))),
            attention=tuple(draw(st.lists(st.integers(0, levels - 1), max_size=levels, unique=True))),
        ),
        target=TargetConfig(*(draw(st.sampled_from(words)) for words in (TARGET_NAMES, REVERSES, ALONE, PIXELS))),
        train=TrainConfig(
            seed=draw(st.integers(0, 2**63 - 1)),
            lr=draw(RATES),
            weighting=draw(st.sampled_from(WEIGHTINGS)),
            **draw(BUDGETS),
        ),
    )


@given(configs())
def test_a_configuration_survives_toml(config: Config):
    again = Config.parse(config.to_toml().encode())
    assert again == config
    assert again.hash() == config.hash()


def test_the_hash_tells_every_setting_apart():
    config = Config()
    changed = [config.with_settings([s]) for s in ("train.lr=1", "data.flip=true", "network.width=48", "train.steps=1")]
    assert len({c.hash() for c in (config, *changed)}) == 5
    assert len(config.hash()) == 16


def test_settings_apply_in_order_and_a_budget_replaces_the_other():
    config = Config().with_settings(["train.steps=5", "train.minutes=2", "train.batch=3", "train.batch=4"])
    assert (config.train.steps, config.train.minutes, config.train.batch) == (None, 2.0, 4)
    assert config.train.seconds == 120
    assert config.with_settings(["train.steps=7"]).train.seconds is None
    assert config.with_settings(["train.minutes=none"]).train.seconds == 300


def test_settings_are_checked_together_not_one_by_one():
    config = Config().with_settings(["schedule.delta=0.01", "schedule.kind=constant"])
    assert (config.schedule.kind, config.schedule.delta) == ("constant", 0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[train]\nbatch = ", "no TOML"),
        (b"\xff\xfe", "no TOML"),
        (b"[train]\nbatsh = 3", r"c\.toml: unknown setting train\.batsh: did you mean train\.batch"),
        (b"[train]\nbatch = -3", r"c\.toml: train\.batch=-3 must be at least 1"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Config.from_toml(path)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        Config.from_toml(tmp_path / "none.toml")
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (2 << 20))
    with pytest.raises(UserError, match="larger than"):
        Config.from_toml(huge)
