import pytest

from markovae.config import Config
from markovae.errors import UserError
from markovae.tables import from_table, names_of, parse_setting, to_table
from markovae.training.train_config import TrainConfig


def test_every_setting_is_named_once_with_its_section():
    names = names_of(Config)
    assert len(names) == len(set(names))
    assert {"data.flip", "schedule.delta", "network.width", "target.name", "train.lr"} <= set(names)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"train": {"bach": 3}}, r"unknown setting train\.bach: did you mean train\.batch\?"),
        ({"trian": {}}, r"unknown setting trian: did you mean train"),
        ({"batch": 3}, r"unknown setting batch: did you mean train\.batch\?"),
        ({"train": 3}, r"train=3 must be a section"),
        ({"train": {"batch": "x"}}, r"train\.batch='x' must be a whole number \(the default is 32\)"),
        ({"train": {"batch": 6.0}}, r"train\.batch=6\.0 must be a whole number"),
        ({"train": {"batch": True}}, r"train\.batch=True must be a whole number"),
        ({"train": {"lr": "fast"}}, r"train\.lr='fast' must be a number"),
        ({"train": {"lr": float("nan")}}, r"train\.lr=nan must be a finite number"),
        ({"train": {"lr": float("inf")}}, r"train\.lr=inf must be a finite number"),
        ({"train": {"minutes": "x"}}, r"train\.minutes='x' must be a number"),
        ({"data": {"flip": 1}}, r"data\.flip=1 must be true or false"),
        ({"data": {"source": 3}}, r"data\.source=3 must be a text"),
        ({"network": {"multipliers": 2}}, r"network\.multipliers=2 must be a list, for instance \[1\]"),
        ({"network": {"multipliers": [1, "b"]}}, r"network\.multipliers\[1\]='b' must be a whole number"),
    ],
)
def test_a_wrong_table_is_told_in_one_sentence(table: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        from_table(Config, table)
    assert "\n" not in str(caught.value)


def test_whole_numbers_serve_as_numbers_and_none_is_left_out():
    config = from_table(TrainConfig, {"lr": 1, "minutes": 2}, "train")
    assert (config.lr, config.minutes) == (1.0, 2.0)
    assert isinstance(config.lr, float)
    assert "steps" not in to_table(config)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.batch=32", ["train", "batch"], 32),
        ("train.lr = 1e-3", ["train", "lr"], 1e-3),
        ("data.source=faces", ["data", "source"], "faces"),
        ("data.source=2024", ["data", "source"], "2024"),
        ("data.source='a=b'", ["data", "source"], "a=b"),
        ("data.source=/tmp/a=b", ["data", "source"], "/tmp/a=b"),
        ("data.flip=true", ["data", "flip"], True),
        ("network.attention=[0, 1]", ["network", "attention"], [0, 1]),
        ("network.attention=1", ["network", "attention"], [1]),
        ("train.minutes=none", ["train", "minutes"], None),
        ("schedule.kind=constant", ["schedule", "kind"], "constant"),
    ],
)
def test_settings_are_read_by_their_declared_type(text: str, path: list[str], value: object):
    assert parse_setting(text, Config) == (path, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.batch", r"write it as section\.name=value, for instance train\.batch="),
        ("train.steps_=3", r"unknown setting train\.steps_: did you mean train\.steps\?"),
        ("lerning_rate=3", r"the learning rates are train\.lr"),
        ("train=3", r"unknown setting train"),
    ],
)
def test_a_wrong_setting_names_the_nearest(text: str, message: str):
    with pytest.raises(UserError, match=message):
        parse_setting(text, Config)
