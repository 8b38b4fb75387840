import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from markovae.diffusion.pixels import MAX_BINS, Pixels
from markovae.networks.conditioning import as_tensor

kinds = st.builds(Pixels, st.integers(2, MAX_BINS), st.booleans())


@given(kinds, st.randoms())
def test_digits_come_back(pixels: Pixels, random) -> None:
    digits = torch.tensor([0, pixels.bins - 1, *(random.randrange(pixels.bins) for _ in range(50))])
    x = pixels.to_x(digits)
    assert torch.equal(pixels.to_pixel_values(x), digits)
    assert torch.equal(pixels.to_pixel_values(x + 0.999 * pixels.half_width), digits)
    assert torch.equal(pixels.to_pixel_values(x - 0.999 * pixels.half_width), digits)
    assert torch.equal(pixels.to_pixel_values(pixels.to_x(digits, torch.float32)), digits)


def test_the_two_conventions_of_the_literature() -> None:
    digits = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(Pixels().to_x(digits), digits.double() / 127.5 - 1, rtol=0, atol=1e-15)
    assert Pixels().half_width == 1 / 255
    centred = Pixels(centred=True)
    torch.testing.assert_close(centred.to_x(digits), (2 * digits.double() + 1) / 256 - 1, rtol=0, atol=1e-15)
    assert centred.half_width == 1 / 256


def test_numbers_beyond_the_ends_belong_to_the_end_digits() -> None:
    assert Pixels(17).to_pixel_values(torch.tensor([-3.0, -1.0, 1.0, 9.0])).tolist() == [0, 0, 16, 16]


def test_what_is_no_digit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0…16: the model declares 17 bins"):
        Pixels(17).to_x(torch.tensor([0, 17]))
    with pytest.raises(ValueError, match="must lie in"):
        Pixels().to_x(torch.tensor([-1]))
    with pytest.raises(ValueError, match="must be integers"):
        Pixels().to_x(torch.tensor([0.5]))
    for bins in (1, 0, MAX_BINS + 1):
        with pytest.raises(ValueError, match=f"bins={bins} must lie in"):
            Pixels(bins)


def test_no_digits_at_all_are_no_error() -> None:
    assert Pixels().to_x(torch.zeros(0, 3, dtype=torch.uint8)).shape == (0, 3)


def test_arrays_of_any_layout_are_taken() -> None:
    plain = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for array in (plain, plain.astype(">u2"), plain.astype(np.uint32), plain.astype(np.uint64), plain.tolist()):
        assert as_tensor(array).tolist() == plain.tolist()
    assert as_tensor(plain[:, :, ::-1]).tolist() == plain[:, :, ::-1].tolist()
    assert as_tensor(torch.tensor([70_000], dtype=torch.uint32)).tolist() == [70_000]
    assert as_tensor(np.ones(2, ">f8")).dtype == torch.float64
