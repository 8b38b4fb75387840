import pytest

from markovae.errors import UserError
from markovae.training.train_config import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"train\.steps=0 must lie in 1"),
        ({"steps": -5}, r"train\.steps=-5"),
        ({"minutes": -1.0}, r"train\.minutes=-1 must be above 0"),
        ({"minutes": 0.0}, r"train\.minutes=0 must be above 0"),
        ({"steps": 3, "minutes": 1.0}, "both given: name one"),
        ({"batch": 4, "accumulate": 5}, r"accumulate=5 must lie in 1…4"),
        ({"seed": -1}, r"seed=-1"),
        ({"optimizer": "adam"}, "did you mean adamw"),
        ({"lr": 0.0}, r"train\.lr=0 must be above 0"),
        ({"beta1": 1.0}, r"beta1=1 must lie in \[0, 1\)"),
        ({"decay_start": 1.5}, r"decay_start=1\.5 must lie in 0…1"),
        ({"ema_horizon": 0.5}, "at least 1"),
        ({"clip": 0.0}, "above 0"),
        ({"weighting": "velocit"}, "did you mean velocity"),
        ({"draw": "rao-blackwell"}, "did you mean rao_blackwell"),
        ({"label_dropout": 1.1}, "share of the labels"),
        ({"level_sampling": "table"}, "level_sampling=table with 0 level_logsnr and 0 level_density"),
        ({"level_sampling": "table", "level_logsnr": (1.0, 1.0), "level_density": (1.0, 1.0)}, "must rise"),
        ({"level_logsnr": (1.0,), "level_density": (1.0,)}, "anything else none"),
        ({"keep": 0}, "the last checkpoint must stay"),
        ({"eval_images": 0}, r"train\.evaluations=0"),
        ({"evaluations": -1}, "0 means none"),
    ],
)
def test_values_out_of_range_are_told_with_value_and_limit(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_no_budget_is_five_minutes():
    assert TrainConfig().seconds == 300
    assert TrainConfig(minutes=0.5).seconds == 30
    assert TrainConfig(steps=5).seconds is None
