"""Linear observations: transposes, and what each leaves of an image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.randomness import generator
from markovae.sampling.inverse import Blur, BoxDown, Grey, Known

OPERATORS = {
    "known": Known(torch.rand(8, 12, generator=generator(0, "mask")) < 0.4),
    "box 2": BoxDown(2),
    "box 4": BoxDown(4),
    "blur": Blur(8, 12, 1.3),
    "wide blur": Blur(8, 12, 6.0),
    "grey": Grey(),
}


@pytest.mark.parametrize("name", OPERATORS)
@given(seed=st.integers(0, 2**31))
def test_the_transpose_is_the_transpose(name, seed):
    operator, source = OPERATORS[name], generator(seed)
    x = torch.randn(2, 3, 8, 12, generator=source, dtype=torch.float64)
    image = operator.apply(x)
    y = torch.randn(image.shape, generator=source, dtype=torch.float64)
    back = operator.transpose(y)
    assert back.shape == x.shape
    torch.testing.assert_close((image * y).sum(), (x * back).sum())


def test_boxes_are_means_of_squares():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert BoxDown(2).apply(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


def test_a_blur_keeps_constants_and_spreads_a_point():
    operator = Blur(9, 9, 1.0)
    torch.testing.assert_close(operator.apply(torch.full((1, 1, 9, 9), 0.3)), torch.full((1, 1, 9, 9), 0.3))
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    spread = operator.apply(point)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-3)
    assert float(spread[4, 5] / spread[4, 4]) == pytest.approx(float(torch.exp(torch.tensor(-0.5))))


def test_grey_of_a_grey_image_is_itself():
    grey = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    torch.testing.assert_close(Grey().apply(grey.expand(1, 3, 4, 4)), grey)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: BoxDown(1), "factor=1"),
        (lambda: BoxDown(4).apply(torch.zeros(1, 1, 6, 8)), "6x8 does not divide into squares of 4"),
        (lambda: Blur(4, 4, 0.0), "std=0"),
        (lambda: Grey().apply(torch.zeros(1, 1, 4, 4)), "no color"),
    ],
)
def test_bad_operators_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
