"""Threads are timed: on a busy machine fewer are faster, and it changes while a run goes on."""

from pathlib import Path

import pytest
import torch

from markovae.config import Config
from markovae.data.images import ImageData
from markovae.system import cores
from markovae.system.cores import usable_cores
from markovae.system.threads import LATE_STEPS, SOON, USUAL_STEPS, Threads, fastest, seconds_of_work, time_threads
from markovae.training.trainer import Training


def group(root: Path, path: str, name: str, content: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def own_group(root: Path, line: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line + "\n")


def test_a_process_may_use_the_cores_of_its_mask_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert usable_cores(tmp_path) == 16
    own_group(tmp_path, "0::/jobs/mine")
    group(tmp_path, "jobs/mine", "cpu.max", "max 100000\n")
    assert usable_cores(tmp_path) == 16
    group(tmp_path, "jobs", "cpu.max", "350000 100000\n")  # of a group around this one
    assert usable_cores(tmp_path) == 4
    group(tmp_path, "jobs/mine", "cpu.max", "50000 100000\n")
    assert usable_cores(tmp_path) == 1
    group(tmp_path, "jobs/mine", "cpu.max", "nonsense")
    assert usable_cores(tmp_path) == 4


def test_quotas_of_the_first_version_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    own_group(tmp_path, "4:cpu,cpuacct:/box")
    group(tmp_path, "cpu,cpuacct/box", "cpu.cfs_period_us", "100000")
    group(tmp_path, "cpu,cpuacct/box", "cpu.cfs_quota_us", "-1")
    assert usable_cores(tmp_path) == 8
    group(tmp_path, "cpu,cpuacct/box", "cpu.cfs_quota_us", "150000")
    assert usable_cores(tmp_path) == 2


def test_the_fastest_number_is_taken_where_it_is_worth_a_change():
    assert fastest({1: 1.0, 2: 0.6}, 1) == 2
    assert fastest({1: 1.0, 2: 0.9}, 1) == 1
    assert fastest({1: 1.0, 2: 1.1}, 2) == 2
    assert fastest({1: 1.0, 2: 20.0}, 2) == 1
    assert fastest({1: 1.0, 2: 0.5, 4: 0.3}, 4) == 4


def test_a_hopeless_number_is_not_timed_to_the_end():
    asked: list[int] = []

    def work(count: int) -> float:
        asked.append(count)
        return 1.0 if count == 1 else 20.0

    assert time_threads(6, work) == {1: 1.0, 2: 20.0, 4: 20.0, 6: 20.0}
    assert [asked.count(count) for count in (1, 2, 4, 6)] == [4, 2, 2, 2]


def test_the_work_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    assert seconds_of_work(2) > 0
    assert torch.get_num_threads() == before


class Machine:
    """Two cores, of which a neighbor may take one; a clock that its work moves."""

    def __init__(self) -> None:
        self.now, self.busy = 0.0, False

    def work(self, count: int) -> float:
        took = 0.1 if count == 1 else 1.0 if self.busy else 0.06
        self.now += took
        return took


def test_threads_follow_a_neighbor_that_comes_and_goes(capsys: pytest.CaptureFixture[str]):
    machine = Machine()
    threads = Threads(clock=lambda: machine.now, work=machine.work, most=2)
    with threads.kept():
        threads.choose()
        assert threads.count == torch.get_num_threads() == 2
        assert "2 of 2 threads: the same work takes 100 ms with 1, 60 ms with 2" in threads.reason
        for _ in range(USUAL_STEPS):
            threads.note(0.1)
        machine.busy = True
        for _ in range(LATE_STEPS):
            assert threads.count == 2
            threads.note(1.0)
        assert threads.count == torch.get_num_threads() == 1
        assert "from here on 1 of 2 threads" in capsys.readouterr().err
        machine.busy = False
        threads.note(0.2)
        assert threads.count == 1
        machine.now += 1000
        threads.note(0.2)
        assert threads.count == 2
    assert torch.get_num_threads() == 1


def test_a_steady_machine_is_timed_for_a_small_share_of_the_time():
    machine = Machine()
    threads = Threads(clock=lambda: machine.now, work=machine.work, most=2)
    with threads.kept():
        threads.choose()
        timed, steps = machine.now, 0.0
        while machine.now < 300:
            before = machine.now
            threads.note(0.1)
            timed += machine.now - before
            machine.now += 0.1
            steps += 0.1
    assert timed < 0.03 * steps


def test_a_run_continues_with_its_threads(tiny_config: Config, tiny_data: ImageData, tiny_model):
    run = Training(tiny_model, tiny_data, tiny_config.train)
    run.advance()
    assert run.capture()[1]["threads"] == torch.get_num_threads() == 1
    machine = Machine()
    threads = Threads(clock=lambda: machine.now, work=machine.work, most=2)
    with threads.kept():
        threads.restore(1)
        assert threads.count == torch.get_num_threads() == 1
        machine.now += SOON + 1
        threads.note(0.2)
        assert threads.count == 2
        threads.restore(64)
        assert threads.count == 2


def test_what_is_not_timed_stays_as_it_is():
    for timed, most in ((False, 4), (True, 1)):
        threads = Threads(timed, most=most, work=lambda count: 1 / 0)
        threads.choose()
        threads.note(1.0)
        threads.restore(2)
        assert torch.get_num_threads() == 1
