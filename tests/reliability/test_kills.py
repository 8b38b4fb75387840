"""Kills: whatever the moment, the run that is resumed ends bit by bit as the one that was left alone."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.reliability import trainers
from tests.reliability.conftest import folder_in_memory, many
from tests.reliability.forkserver import ForkServer
from tests.reliability.kills import Campaign, Reference, Tally


@pytest.fixture(scope="module")
def campaigns(forkserver: ForkServer) -> Iterator[Callable[[int], Campaign]]:
    """`campaigns(seed)`; what was left alone is the same run for all of them."""
    references: dict[str, Reference] = {}
    with folder_in_memory() as folder:
        trainers.write_images(folder / "images.npz")
        yield lambda seed: Campaign(forkserver, folder, seed, references)


def kill_at_random(campaign: Campaign, kills: int) -> Tally:
    for number, kind in zip(itertools.count(), itertools.cycle(trainers.LONG)):
        if campaign.tally.kills >= kills:
            return campaign.tally
        assert number < 4 * kills, "kills come too late to hit"
        campaign.kill_at_random(number, kind)
    raise AssertionError


def test_random_kills(campaigns):
    tally = kill_at_random(campaigns(1), 3)
    assert tally.different == []
    assert tally.most_lost <= 1


@pytest.mark.parametrize("calls", [range(1, 34, 5), range(116, 150, 6)], ids=["first save", "last save"])
def test_kills_pinned_between_the_calls_that_write(campaigns, calls: range):
    campaign = campaigns(2)
    for call in calls:
        if not campaign.kill_at_call(call, "short"):
            break
    assert campaign.tally.different == []
    assert campaign.tally.kills > 4


@pytest.mark.slow
def test_many_random_kills(campaigns, tell):
    tally = kill_at_random(campaigns(3), many(2000))
    assert tally.different == []
    assert tally.most_lost <= 1
    tell(
        3,
        "random SIGKILLs: resumed runs end bitwise as the uninterrupted ones; steps lost",
        f"{tally.kills:,} kills of {tally.runs:,} forked trainers, once or twice a run, at moments drawn from the "
        "whole run; five kinds (Muon; AdamW and accumulation; bfloat16 and flips; dropout and a normal law of levels; "
        "saves every fifth step); weights, average, optimizer, state and held-out figures compared",
        f"{tally.runs - len(tally.different):,} of {tally.runs:,} runs bitwise equal; at most {tally.most_lost:g} "
        f"intervals between saves lost; {tally.early:,} kills came before the first checkpoint, where the run starts "
        "anew",
        kills=tally.kills,
        different=len(tally.different),
        most_lost=tally.most_lost,
    )


@pytest.mark.slow
def test_kills_between_all_calls_that_write(campaigns, tell):
    campaign = campaigns(4)
    call = 1
    stride = round(1 / min(1.0, many(1000) / 1000))
    while campaign.kill_at_call(call, "short"):
        call += stride
    tally = campaign.tally
    assert tally.different == []
    assert tally.kills > 100 / stride
    tell(
        3,
        "kills pinned between write, fsync, rename and prune",
        "a run of 3 steps, each saved, older checkpoints pruned, killed right before "
        f"{'each call' if stride == 1 else f'every {stride}th call'} that opens, writes, flushes, renames or deletes",
        f"{tally.runs - len(tally.different)} of {tally.runs} runs bitwise equal to the uninterrupted one",
        kills=tally.kills,
        different=len(tally.different),
    )


def stop_at_random(campaign: Campaign, count: int) -> tuple[Tally, list[float]]:
    seconds = []
    for number, kind in zip(range(count), itertools.cycle(trainers.LONG)):
        took, _ = campaign.stop_at_random(number, kind, (signal.SIGINT, signal.SIGTERM)[number % 2])
        seconds.append(took)
    return campaign.tally, seconds


def test_signals_at_random_moments_save_the_present_step(campaigns):
    tally, seconds = stop_at_random(campaigns(5), len(trainers.LONG))
    assert tally.different == []
    assert tally.kills > 1
    assert statistics.median(seconds) < 10  # the longest is the soak's to look at, on a machine left alone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_save_that_takes_long(forkserver: ForkServer, memory: Path, number: int):
    """The disk takes a minute over each flush; the first signal waits for it, the second does not."""
    trainers.write_images(memory / "images.npz")
    out, marker = memory / "run", memory / "flushing"
    words = trainers.words(str(memory / "images.npz"), str(out), "rare", "train.steps=100000", "train.evaluations=0")
    child = forkserver.start("dawdling", memory / "said", arguments=words, marker=str(marker))
    wait_for(out / "checkpoints" / "step-00000005")
    (memory / "flushing.stop").touch()
    wait_for(marker)
    os.kill(child, number)
    time.sleep(0.5)
    assert alive(child), "the first signal waits for the save"
    began = time.monotonic()
    os.kill(child, number)
    assert forkserver.wait(child) == 128 + number
    assert time.monotonic() - began < 2
    (memory / "flushing.stop").unlink()
    again = ["train", "--resume", "--out", str(out), "--steps", "40", "--no-report"]
    assert forkserver.run("command", memory / "said", arguments=again) == 0


def alive(child: int) -> bool:
    """Whether a process is there and has not ended: one that nobody waited for yet is a zombie."""
    stat = Path(f"/proc/{child}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def wait_for(path: Path, limit: float = 60.0) -> None:
    until = time.monotonic() + limit
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.01)


@pytest.mark.slow
def test_many_signals(campaigns, tell):
    count = many(200)
    tally, seconds = stop_at_random(campaigns(6), count)
    assert tally.different == []
    assert max(seconds) < 10
    tell(
        3,
        "Ctrl-C and SIGTERM at random moments: exit code, the present step saved, the resumed run",
        f"{count} forked trainers of the five kinds, half with each signal, at moments drawn from the whole run "
        "(start, warm-up, evaluation, sampling, saving)",
        f"{count} of {count} ended with 130 or 143 (or were done before), {tally.kills} of them while training, each "
        f"with the last step taken in its checkpoint; {tally.runs - len(tally.different)} of {tally.runs} resumed "
        f"bitwise; at most {max(seconds):.1f} s from signal to end",
        signals=count,
        longest=max(seconds),
    )
