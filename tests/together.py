"""Several processes forked from this one, as torchrun would start them: torch is imported once."""

import faulthandler
import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.distributed as dist

from markovae.system.distributed import exit_code

STUCK = signal.SIGUSR2
Together = Callable[..., "list[Ended]"]


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Args:
        value: what its work returned, by way of JSON.   said: its error, or where it stood when its time was over.
    """

    code: int
    value: Any
    said: str
    seconds: float


def forked(
    work: Callable[[], Any],
    folder: Path,
    size: int = 2,
    limit: float = 60.0,
    between: Callable[[list[int]], None] | None = None,
) -> list[Ended]:
    """Run `work` in `size` processes; each finds its place in the environment, and none outlives `limit` seconds.

    Args:
        folder: for their results.   between: called once with the process ids, after all were started.
    """
    for name in ("torch._dynamo", "torch.distributed.fsdp"):
        import_module(name)  # here, once: the first step loads them, and each child would for itself

    started = time.monotonic()
    children = {}
    heard, port = os.pipe()
    for rank in range(size):
        place = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        children[_fork(work, folder / f"rank-{rank}.json", place, heard)] = rank
    # As torchrun's agent does, this process keeps the store, which outlives every rank. It comes after the forks: a
    # child that is forked while the store's thread holds a lock finds it held for ever.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(port, f"{store.port:5}".encode() * size)
    os.close(port)
    os.close(heard)
    if between is not None:
        between(list(children))
    ends: dict[int, Ended] = {}
    while len(ends) < size:
        for pid, rank in children.items():
            if rank in ends:
                continue
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                ends[rank] = _ended(folder / f"rank-{rank}.json", code, time.monotonic() - started)
            elif time.monotonic() - started > limit:
                os.kill(pid, STUCK)
                time.sleep(0.2)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [ends[rank] for rank in range(size)]


def _fork(work: Callable[[], Any], result: Path, place: Mapping[str, object], heard: int) -> int:
    """The process id of a child that reads the store's port from `heard`, does `work` and leaves its `result`."""
    for path in (result, result.with_suffix(".stack")):
        path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forking a process with threads: these children use none of them
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        faulthandler.register(STUCK, result.with_suffix(".stack").open("w"), all_threads=True)
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", MASTER_PORT=os.read(heard, 5).decode().strip())
        os.environ.setdefault("TORCHELASTIC_RESTART_COUNT", "0")
        record: dict[str, Any] = {"value": None, "said": ""}
        try:
            record["value"] = work()
            code = 0
        except BaseException as error:
            code = exit_code(error)
            record["said"] = str(error) if code in (2, 3) else traceback.format_exc()
        result.write_text(json.dumps(record))
    finally:
        os._exit(code)


def _ended(result: Path, code: int, seconds: float) -> Ended:
    stack = result.with_suffix(".stack")
    where = "\n".join(stack.read_text().splitlines()[:20]) if stack.exists() else ""
    record = json.loads(result.read_text()) if result.exists() else {"value": None, "said": where}
    return Ended(code, record["value"], record["said"], seconds)
