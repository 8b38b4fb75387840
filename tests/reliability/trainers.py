"""What the children of the fork server do: tiny runs, with or without a disk that turns on them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.reliability.disks import Killing, WatchedDisk

from markovae.cli.entry import main
from markovae.config import Config
from markovae.run.start import resume_run, train_run
from markovae.run.surroundings import Surroundings
from markovae.system.files import SYSTEM
from markovae.training.trainer import Training

TINY = (
    "network.width=8",
    "network.multipliers=[1]",
    "network.blocks=1",
    "network.attention=[]",
    "network.embedding=8",
    "network.patch=1",
    "network.detail=false",
    "network.radius=0",
    "network.octaves=0",
    "schedule.num_levels=8",
    "train.batch=8",
    "train.steps=24",
    "train.warmup_steps=3",
    "train.precision=float32",
    "train.eval_images=4",
    "train.eval_draws=2",
    "train.evaluations=2",
    "train.grids=1",
    "train.save_minutes=1e-9",
)
# Each has its own way of keeping state between steps.
KINDS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "accumulate": ("train.accumulate=3", "train.optimizer=adamw", "train.weight_decay=0.1"),
    "bfloat16": ("train.precision=bfloat16", "data.flip=true"),
    "dropout": ("network.dropout=0.3", "train.label_dropout=0.3", "train.level_sampling=normal"),
    "rare": ("train.save_minutes=1e9", "train.keep_every=5"),
    "short": ("train.steps=3", "train.keep=1", "train.evaluations=1", "train.warmup_steps=0"),
}
LONG = ("plain", "accumulate", "bfloat16", "dropout", "rare")


def write_images(path: Path) -> None:
    """Forty labelled images of 4x4: their classes are in the npz beside them."""
    rng = np.random.default_rng(0)
    np.savez(path, images=rng.integers(0, 256, (40, 4, 4)).astype(np.uint8), labels=np.arange(40) % 2)


def words(data: str, out: str, kind: str, *more: str) -> list[str]:
    """The command line of a new run."""
    settings = [word for setting in (*TINY, *KINDS[kind], *more) for word in ("--set", setting)]
    return ["train", data, "--out", out, "--no-report", *settings]


def nothing() -> int:
    """End at once."""
    return 0


def command(arguments: list[str], steps: str | None = None) -> int:
    """`markovae` with these arguments; the number of every step taken is appended to the file `steps`."""
    if steps is not None:
        _tell_steps(steps)
    return main(arguments)


def pinned(data: str, out: str, kind: str, kill: int = 0, resume: bool = False) -> int:
    """A run that is killed right before its disk's `kill`-th call (0: never); 0 at its end, 9 when not killed."""
    disk = WatchedDisk(Killing(kill)) if kill else SYSTEM
    if resume:
        resume_run(out, Surroundings(disk=disk))
    else:
        train_run(config(data, kind), out, Surroundings(disk=disk))
    return 0


def config(data: str, kind: str, *more: str) -> Config:
    """The configuration of `words`."""
    return Config().with_settings([f"data.source={data}", *TINY, *KINDS[kind], *more])


def _tell_steps(path: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    advance = Training.advance

    def told(self: Training) -> Any:
        step = advance(self)
        os.write(handle, b"%d\n" % step.index)
        return step

    Training.advance = told  # type: ignore[method-assign]


def limited(arguments: list[str], limit: int) -> int:
    """`markovae` where no file may grow beyond `limit` bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(arguments)


def dawdling(arguments: list[str], marker: str) -> int:
    """`markovae` on a disk whose flushes take a minute once `marker`.stop is there; `marker` tells of the first."""
    from markovae.system.files import SystemDisk

    def slow(self: SystemDisk, handle: int) -> None:
        if os.path.exists(marker + ".stop"):  # noqa: PTH110
            Path(marker).touch()
            time.sleep(60)
        os.fsync(handle)

    SystemDisk.sync = slow  # type: ignore[method-assign]
    return main(arguments)
