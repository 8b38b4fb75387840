import pytest

from markovae.config import PRESETS, Config, preset_settings


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("schedule", ["logsnr_linear", "learned"])
def test_every_preset_is_a_configuration(name: str, schedule: str):
    config = Config().with_settings([*preset_settings(name, schedule), f"schedule.kind={schedule}"])
    assert config.train.objective == ("bound" if name == "bound" else "weighted")


def test_the_bound_is_drawn_by_importance_unless_the_schedule_is_the_law():
    laws = {
        kind: Config().with_settings(preset_settings("bound", kind)).train.level_sampling
        for kind in ("cosine", "learned")
    }
    assert laws == {"cosine": "importance", "learned": "uniform"}
    assert Config().with_settings(preset_settings("bound", "cosine")).target.reverse == "isotropic"


def test_simple_is_the_squared_error_of_the_noise():
    train = Config().with_settings(preset_settings("simple", "linear")).train
    assert (train.objective, train.level_sampling, train.weighting) == ("weighted", "uniform", "noise")
