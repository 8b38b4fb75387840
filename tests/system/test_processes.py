import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae import log as console
from markovae.errors import UserError
from markovae.system.processes import Rank, current_rank

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


def test_a_process_that_was_told_nothing_is_alone():
    assert current_rank({}) == Rank(0, 1, 0, 0)
    assert current_rank({"WORLD_SIZE": "1", "RANK": "0"}).alone
    assert current_rank({"WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "2"}).restarts == 2


def test_torchrun_tells_rank_size_and_restarts():
    here = current_rank({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert here == Rank(3, 8, 1, 2)
    assert not here.first
    assert not here.alone
    assert current_rank({**TORCHRUN, "RANK": "0"}).first


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RANK": None}, "8 processes were announced without RANK: start them with torchrun"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "without MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "8"}, r"RANK=8 must lie in 0…7"),
        ({"RANK": "two"}, "RANK='two' must be a whole number"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE='-1' must be a whole number"),
        ({"WORLD_SIZE": "0"}, r"RANK=3 must lie in 0…-1"),
    ],
)
def test_half_an_environment_is_told(changed: dict[str, str | None], words: str):
    told = {name: value for name, value in {**TORCHRUN, **changed}.items() if value is not None}
    with pytest.raises(UserError, match=words):
        current_rank(told)


@given(st.integers(0, 1000), st.integers(1, 40))
def test_shares_cover_everything_once_and_differ_by_one(count: int, size: int):
    shares = [Rank(rank, size).share(count) for rank in range(size)]
    assert [i for start, stop in shares for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for rank, said in (("0", "hello\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        console.log("hello")
        assert capsys.readouterr().err == said
    monkeypatch.delenv("WORLD_SIZE")
    console.log("alone")
    assert capsys.readouterr().err == "alone\n"
