import pytest

from markovae.config import Config
from markovae.errors import UserError
from markovae.tables import RENAMED, names_of


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_setting_of_another_name_is_told_the_new_one(old: str, new: str):
    assert new in names_of(Config)
    with pytest.raises(UserError, match=f"unknown setting {old}: it is {new}"):
        Config().with_settings([f"{old}=1"])
