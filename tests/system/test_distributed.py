import os
import signal
import sys
import time

import pytest
import torch

from markovae.errors import StoppedRun, UserError
from markovae.system import distributed as module
from markovae.system.distributed import LostRankError, Ranks, joined, watched
from markovae.system.processes import current_rank

CPU = torch.device("cpu")


def test_one_process_needs_no_other():
    with joined(5.0, CPU) as ranks:
        assert (ranks.first, ranks.alone, ranks.size) == (True, True, 1)
        table = torch.arange(3.0)
        assert ranks.sum(table) is table
        assert ranks.gather_rows(table, 3) is table
        assert ranks.highest(2.0, -3.0) == (2.0, -3.0)
        assert ranks.firsts(7.0) == (7.0,)
        assert ranks.in_turn(lambda: "read") == "read"
        layer = torch.nn.Linear(2, 2)
        assert ranks.wrapped(layer) is layer
        with pytest.raises(UserError, match="the folder"):
            ranks.first_does(lambda: (_ for _ in ()).throw(UserError("the folder")))


def test_three_processes_exchange_exactly(together):
    numbers = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers[3, 1], numbers[5, 0] = float("nan"), float("-inf")

    def work():
        with joined(20.0, CPU) as ranks:
            rank = ranks.here.rank
            start, stop = ranks.here.share(8)
            whole = ranks.gather_rows(numbers[start:stop].clone(), 8)
            turns = ranks.in_turn(lambda: time.monotonic())
            done = []
            ranks.first_does(lambda: done.append(rank))
            return {
                "sum": ranks.sum(torch.tensor([1.0, rank])).tolist(),
                "whole": bool(torch.equal(whole.isnan(), numbers.isnan()))
                and bool(torch.equal(whole.nan_to_num(1.5), numbers.nan_to_num(1.5))),
                "highest": ranks.highest(rank, -rank),
                "firsts": ranks.firsts(10 + rank, 0.1),
                "turn": turns,
                "done": done,
            }

    ended = together(work, size=3)
    assert [end.code for end in ended] == [0, 0, 0], [end.said for end in ended]
    for rank, end in enumerate(ended):
        assert end.value["sum"] == [3.0, 3.0]
        assert end.value["whole"]
        assert end.value["highest"] == [2, 0]
        assert end.value["firsts"] == [10, 0.1]
        assert end.value["done"] == ([0] if rank == 0 else [])
    assert ended[0].value["turn"] < min(end.value["turn"] for end in ended[1:])


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("bad"), 2), (StoppedRun("full"), 3), (ValueError("bug"), 1), (SystemExit(143), 143)]
)
def test_where_the_first_fails_the_others_leave_with_its_code(together, error: BaseException, code: int):
    def work():
        def fail() -> None:
            raise error

        with joined(20.0, CPU) as ranks:
            ranks.first_does(fail)

    ended = together(work)
    assert [end.code for end in ended] == [code, code]
    assert str(error) in ended[0].said
    assert "bad" not in ended[1].said


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_by_the_others_at_once(together, victim: int):
    def work():
        with joined(60.0, CPU) as ranks:
            ranks.highest(0.0)
            if ranks.here.rank == victim:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.highest(0.0)

    ended = together(work, size=3)
    assert ended[victim].code == -signal.SIGKILL
    for rank in {0, 1, 2} - {victim}:
        assert ended[rank].code == 3
        assert ended[rank].said == f"rank {victim} ended: rank {rank} stops too"
        assert ended[rank].seconds < 10


def test_ranks_end_while_gloos_threads_still_hold_a_tensor(together):
    def work():
        with joined(30.0, CPU) as ranks:
            network = ranks.wrapped(torch.nn.Linear(8, 8))
            sys.setswitchinterval(20.0)  # their threads wait for the interpreter's lock until this one lets go of it
            network(torch.ones(4, 8)).sum().backward()

    for _ in range(6):
        for end in together(work, limit=20.0):
            assert end.code == 0, end.said


def test_a_frozen_rank_is_named_after_the_timeout(together):
    def work():
        with joined(2.0, CPU) as ranks:
            ranks.highest(0.0)
            if ranks.here.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            ranks.highest(0.0)

    ended = together(work, limit=40.0)
    assert [end.code for end in ended] == [3, 3], "the one that was stopped is continued, and finds the other gone"
    assert ended[0].said == "rank 1 did not answer for 2 s: rank 0 stops too"


def test_a_stopped_rank_is_named_and_ends_when_a_signal_comes(together, tmp_path, monkeypatch, capfd):
    """torchrun sends each rank a signal and waits for half a minute; the one that is stopped never hears it."""
    monkeypatch.setattr(module, "watched", lambda: watched(0.5))

    def work():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        with joined(60.0, CPU) as ranks:
            ranks.highest(0.0)
            (tmp_path / f"joined-{ranks.here.rank}").touch()
            if ranks.here.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            while True:
                ranks.highest(0.0)

    def tell(pids: list[int]) -> None:
        while not all((tmp_path / f"joined-{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        time.sleep(0.2)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    ended = together(work, limit=40.0, between=tell)
    assert ended[0].code == 143, ended[0]
    assert ended[1].code in (3, 143), ended[1]  # continued, not killed
    assert "stopping: rank 1 did not answer\n" in capfd.readouterr().err


def test_a_rank_that_never_comes_is_named(together):
    def work():
        if os.environ["RANK"] == "1":
            return
        with joined(2.0, CPU):
            pass

    first, _ = together(work, limit=20.0)
    assert first.code == 3
    assert first.said.startswith("rank 0 did not find rank 1 within 2 s (")


def test_ranks_that_are_stuck_hear_a_signal_all_the_same(together, tmp_path, monkeypatch):
    """Rank 0 waits inside a collective operation for one that will not come, where Python's handlers do not run.

    Nobody reads stderr any more: the word that cannot be said stops nothing.
    """
    monkeypatch.setattr(module, "watched", lambda: watched(0.5))

    def work():
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 2)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        with joined(60.0, CPU) as ranks:
            if ranks.first:
                (tmp_path / "waiting").touch()
                ranks.highest(0.0)
            time.sleep(30)

    def tell(pids: list[int]) -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    ended = together(work, limit=20.0, between=tell)
    assert [end.code for end in ended] == [143, 143]
    assert all(end.seconds < 10 for end in ended)


def test_a_signal_that_was_settled_ends_nothing(together, monkeypatch):
    monkeypatch.setattr(module, "watched", lambda: watched(0.3))

    def work():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        with joined(20.0, CPU) as ranks:
            os.kill(os.getpid(), signal.SIGTERM)
            ranks.settled()
            time.sleep(1.0)
            return ranks.highest(1.0)

    assert [end.code for end in together(work)] == [0, 0]


def test_errors_of_the_code_are_not_taken_for_lost_processes(together):
    def work():
        with joined(20.0, CPU) as ranks, ranks.guarded():
            torch.ones(2) @ torch.ones(3)

    ended = together(work)
    assert [end.code for end in ended] == [1, 1]
    assert "RuntimeError" in ended[0].said


def test_processes_that_do_not_find_each_other_say_so(monkeypatch):
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", "9")
    assert current_rank().rank == 1
    with pytest.raises(LostRankError, match=r"rank 1 did not find the other 1 within 1 s"), joined(1.0, CPU):
        pass


def test_alone_by_default():
    assert Ranks().alone
