import numpy as np
import pytest

from markovae.data.data_config import DataConfig
from markovae.data.digits import digits, read_digits
from markovae.data.loading import splits_of
from markovae.errors import UserError


def test_the_digits_are_those_of_the_source():
    data = digits()
    assert (len(data), data.shape, data.bins) == (1797, (1, 8, 8), 17)
    assert data.images.max() == 16
    assert data.labels is not None
    assert data.class_names == tuple("0123456789")
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first image of the set, a zero.
    assert data.images[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert data.labels[0] == 0


def test_they_are_split_by_content_with_every_class_in_every_part():
    splits = splits_of(read_digits(DataConfig("digits")))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1437, 180, 180]
    for part in (splits.train, splits.validation, splits.test):
        assert part.labels is not None
        assert set(part.labels.tolist()) == set(range(10))


def test_channels_and_sizes():
    assert read_digits(DataConfig("digits", channels="rgb", size=8)).data.shape == (3, 8, 8)
    with pytest.raises(UserError, match="8 x 8 pixels, not 32"):
        read_digits(DataConfig("digits", size=32))
