import subprocess
import sys

import pytest

from markovae.data.data_config import DataConfig, background_rgb
from markovae.errors import UserError


def test_defaults_ask_for_faces_at_their_own_size():
    config = DataConfig()
    assert (config.source, config.shape, config.flip) == ("faces", None, False)


def test_width_defaults_to_size():
    assert DataConfig(size=64).shape == (64, 64)
    assert DataConfig(size=64, width=96).shape == (64, 96)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source": " "}, "data.source is empty"),
        ({"channels": "gray"}, r"'gray' must be one of auto, grey, rgb; did you mean grey\?"),
        ({"fit": "crops"}, r"did you mean crop\?"),
        ({"layout": "hwc"}, "data.layout"),
        ({"size": -1}, r"data.size=-1 must lie in 0…4096"),
        ({"size": 5000}, "data.size=5000"),
        ({"width": 32}, "needs data.size"),
        ({"split_seed": -1}, "data.split_seed=-1"),
        ({"test_fraction": 0.0}, "data.test_fraction=0.0"),
        ({"validation_fraction": float("nan")}, "data.validation_fraction=nan"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"background": "whit"}, r"did you mean white\?"),
        ({"background": "#ffffff80"}, "itself transparent"),
    ],
)
def test_values_out_of_range_are_told_in_one_sentence(options: dict[str, object], sentence: str):
    with pytest.raises(UserError, match=sentence) as caught:
        DataConfig(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_background_colours():
    assert background_rgb("white") == (255, 255, 255)
    assert background_rgb("#102030") == (16, 32, 48)


def test_reading_a_configuration_loads_neither_numpy_nor_torch():
    code = (
        "import sys; from markovae.data.data_config import DataConfig; DataConfig(); "
        "print([m for m in ('numpy', 'torch', 'rich', 'dicebear') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (("hair=curly",), "must name at least two attributes"),
        (("hair=curly, hair=afro",), "must name at least two attributes"),
        (("hair=curli, glasses=round",), r"names 'hair=curli': .* did you mean curly\?"),
        (("hare=curly, glasses=round",), r"did you mean hair\?"),
        (("glasses",), "names 'glasses'"),
    ],
)
def test_combinations_that_faces_do_not_have_are_refused(texts: tuple[str, ...], sentence: str):
    with pytest.raises(UserError, match=sentence):
        DataConfig(hold_out=texts)


def test_only_faces_have_attributes_to_hold_out():
    with pytest.raises(UserError, match=r"data\.source='digits' has none"):
        DataConfig("digits", hold_out=("hair=curly, glasses=round",))
    assert DataConfig(hold_out=("hair colour=red, glasses=round",)).hold_out == ("hair colour=red, glasses=round",)
