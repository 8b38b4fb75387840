"""Several processes through torch.distributed: what they exchange, how they notice that one is gone."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from markovae.errors import StoppedRun, UserError
from markovae.log import tell_at_once
from markovae.system.processes import Rank, current_rank

# No deferred annotations in this file: DistributedDataParallel looks at those of its hook.


def summed(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel's own reduction without its division by the number of processes."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


ROLL_CALL = 1.5  # seconds in which the processes that are left say so


@final
class RollCall:
    """The processes of a job, each known by its machine and number there.

    Args:
        own: rank of this process.
        store: what they meet in.
    """

    def __init__(self, own: Rank, store: dist.Store) -> None:
        self._own, self._store = own, store

    def register(self) -> None:
        """Register this process, and where it runs."""
        self._store.set(f"process/{self._own.rank}", json.dumps([socket.gethostname(), os.getpid()]))

    def answer(self) -> None:
        """Answer that this process is still there."""
        self._store.set(f"here/{self._own.rank}", "yes")

    def absent(self) -> list[int]:
        """The ranks that never came."""
        return self._without("process")

    def missing(self) -> list[int]:
        """The ranks that do not say that they are still there; none where whoever kept the store is gone as well.

        One stopped (SIGSTOP) on this machine is continued (SIGCONT), so that it finds the others gone and ends
        too: whoever started it would wait for it in vain.
        """
        try:
            self.answer()
            until = time.monotonic() + ROLL_CALL
            while (missing := self._without("here")) and time.monotonic() < until:
                time.sleep(0.05)
            for rank in missing:
                self._continue(rank)
        except (RuntimeError, OSError):
            return []
        return missing

    def _without(self, what: str) -> list[int]:
        return [rank for rank in range(self._own.size) if not self._store.check([f"{what}/{rank}"])]

    def _continue(self, rank: int) -> None:
        machine, process = json.loads(self._store.get(f"process/{rank}"))
        if machine == socket.gethostname() and hasattr(signal, "SIGCONT"):
            with suppress(OSError):  # it has ended
                os.kill(process, signal.SIGCONT)


def rank_names(ranks: Sequence[int]) -> str:
    """The ranks in words: rank 1; ranks 1, 2 and 5 more."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:8]))}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


Result = TypeVar("Result")
GRACE = 8.0
LONGEST = 25.0  # torchrun waits for 30 seconds
ENDING = (signal.SIGINT, signal.SIGTERM)


@final
class Watchdog:
    """A thread that reads the signals as they come in, and ends the process where nothing continues after one.

    Python's handlers run between two steps of the interpreter, which a thread that waits inside a collective
    operation never takes; the byte that the system writes for each signal is read all the same.

    Args:
        end: where the bytes arrive.
        grace: seconds without a sign of life that are waited after a signal; three
            times the last time between two signs where that is longer.
    """

    def __init__(self, end: int, grace: float) -> None:
        self._end, self._grace = end, grace
        self.roll: RollCall | None = None
        self._settled = threading.Event()
        self._beats, self._last, self._gap = 0, time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._read, name="watch", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Note that the processes have just exchanged something."""
        now = time.monotonic()
        self._gap, self._last = now - self._last, now
        self._beats += 1

    def settled(self) -> None:
        """Note that the signal was heard: the process ends by itself."""
        self._settled.set()

    def _read(self) -> None:
        while received := os.read(self._end, 1):
            if received[0] in ENDING:
                self._await(received[0])
        os.close(self._end)

    def _await(self, number: int) -> None:
        # Now: the others may ask before this one has waited for its part.
        self._asked(RollCall.answer)
        while True:
            seen = self._beats
            if self._settled.wait(max(self._grace, min(3 * self._gap, LONGEST))):
                return
            if self._beats == seen:
                missing = self._asked(RollCall.missing)
                who = f"{rank_names(missing)} did not answer" if missing else "the other processes do not answer"
                tell_at_once(f"stopping: {who}\n")
                os._exit(128 + number)

    def _asked(self, question: Callable[[RollCall], Result]) -> Result | None:
        """What the roll call says, or None where it says nothing in time: the store may not answer either."""
        if (roll := self.roll) is None:
            return None
        answers: list[Result] = []

        def ask() -> None:
            with suppress(RuntimeError, OSError):
                answers.append(question(roll))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(2 * ROLL_CALL)
        return answers[0] if answers else None


@contextmanager
def watched(grace: float = GRACE) -> Iterator[Watchdog | None]:
    """While entered, SIGTERM and SIGINT end the process after `grace` seconds unless `settled` is called before.

    Only in the main thread, which alone may ask for it; elsewhere nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    end, start = os.pipe()
    os.set_blocking(start, False)
    before = signal.set_wakeup_fd(start, warn_on_full_buffer=False)
    watch = Watchdog(end, grace)
    try:
        yield watch
    finally:
        signal.set_wakeup_fd(before)
        watch.settled()
        os.close(start)  # ends the thread


TIMEOUT = 600.0


class LostRankError(StoppedRun):
    """A process of the job ended or stopped answering; the others stop too."""


@final
class Ranks:
    """The processes that train together, through torch.distributed; one process alone needs none of it.

    What a collective call here is given lives on the CPU and goes through gloo, so a process that dies is noticed at
    once, also where gradients go through NCCL.

    Args:
        here: rank of this process.
        roll: of the processes that are there; None for one alone.
        timeout: seconds after which a process that does not answer counts as lost.
    """

    def __init__(
        self,
        here: Rank | None = None,
        roll: RollCall | None = None,
        timeout: float = TIMEOUT,
        watch: Watchdog | None = None,
    ) -> None:
        self.here = Rank() if here is None else here
        self._roll, self._timeout, self._watch = roll, timeout, watch
        self._asks: tuple[float, ...] = ()
        self.asked: tuple[float, ...] = ()

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes and logs."""
        return self.here.first

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.here.alone

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.here.size

    def require_work(self, batch: int) -> None:
        """Every rank must have an image of each batch.

        Raises:
            UserError: with more ranks than images.
        """
        if batch < self.size:
            raise UserError(
                f"train.batch={batch} cannot be shared by {self.size} processes: set it to {self.size} or more"
            )

    def require_same(self, number: float, otherwise: str) -> None:
        """Every rank must have the same number.

        Raises:
            UserError: with the words `otherwise`.
        """
        low, high = self.highest(-number, number)
        if -low != high:
            raise UserError(f"{otherwise}: give all processes one file system")

    def owner(self, row: int, count: int) -> int:
        """The rank whose share of `count` rows this row is in."""
        return next(r for r in range(self.size) if Rank(r, self.size).share(count)[1] > row)

    # -- what is exchanged --------------------------------------------------------------------------------------

    def sum(self, table: Tensor) -> Tensor:
        """The sum of every rank's table, the same bits on each; the tables lie on the CPU and have one shape."""
        return self._reduced(table, dist.ReduceOp.SUM)

    def ask(self, *numbers: float) -> None:
        """Let these travel with the next `gather_rows`, after which `asked` holds each one's sum over the ranks."""
        self._asks = tuple(float(number) for number in numbers)

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """The rows of all ranks, (count, …), from each rank's share of them (see `Rank.share`); exact.

        Every rank's rows are added to zeros, and x + 0 is x, NaN and Inf included.
        """
        if self.alone:
            self.asked = self._asks
            return rows
        start, stop = self.here.share(count)
        table = rows.new_zeros(count, *rows.shape[1:])
        table[start:stop] = rows
        sent = torch.cat([table.flatten(), rows.new_tensor(self._asks)])
        self.sum(sent)
        self.asked = tuple(sent[table.numel() :].tolist())
        return sent[: table.numel()].reshape(table.shape)

    def highest(self, *values: float) -> tuple[float, ...]:
        """The greatest of each value over the ranks."""
        return self._numbers(values, dist.ReduceOp.MAX)

    def firsts(self, *values: float) -> tuple[float, ...]:
        """Rank 0's values."""
        return self._numbers(values if self.first else [0.0] * len(values), dist.ReduceOp.SUM)

    def first_does(self, work: Callable[[], None]) -> None:
        """Rank 0 does `work` while the others wait; where it fails they leave with its exit code, in silence."""
        self._attempt(work if self.first else None)

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Every rank does `work`, the first of each machine before the others (it may leave files for them)."""
        if self.alone:
            return work()
        before = self._attempt(work if self.here.local == 0 else None)
        after = self._attempt(work if self.here.local != 0 else None)
        return (before + after)[0]

    def _attempt(self, work: Callable[[], Result] | None) -> list[Result]:
        made, failure = [], None
        try:
            if work is not None:
                made.append(work())
        except BaseException as raised:
            failure = raised
        if failure is not None and (self.alone or isinstance(failure, LostRankError)):
            raise failure
        (code,) = self.highest(0 if failure is None else exit_code(failure))
        if failure is not None:
            raise failure
        if code:
            raise SystemExit(int(code))
        return made

    # -- gradients ----------------------------------------------------------------------------------------------

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with gradients summed over the ranks in its backward pass (DistributedDataParallel).

        Raises:
            LostRankError: when another process is gone.
        """
        if self.alone:
            return module
        with self.guarded():
            made = DistributedDataParallel(module)
            made.register_comm_hook(None, summed)
            # Whoever lets go of the group last waits for gloo's threads, which may want the interpreter's lock to give
            # a tensor back. The module's C++ part would wait with the lock held, for ever; a Python reference releases
            # it first. Attributes go in the order in which they came: this one last.
            vars(made)["outlives"] = dist.group.WORLD
        return made

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Sum over the ranks the gradients of weights that no wrapped module has; where a rank has none, it has 0."""
        if self.alone or not weights:
            return
        with self.guarded():
            for weight in weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                dist.all_reduce(weight.grad)

    def gathering(self, module: nn.Module) -> AbstractContextManager[None]:
        """While entered, backward passes add to the gradients of this rank alone."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Report whatever goes wrong between the processes inside as the loss of one.

        Raises:
            LostRankError: naming the ranks that are gone or do not answer.
        """
        try:
            yield
        except RuntimeError as error:
            if self.alone or not _between_processes(error):
                raise
            raise self._lost(error) from error

    def settled(self) -> None:
        """Note that a signal was heard and that the ranks agreed what to do about it."""
        if self._watch is not None:
            self._watch.settled()

    # -- the parts ----------------------------------------------------------------------------------------------

    def _numbers(self, values: Any, operation: Any) -> tuple[float, ...]:
        if self.alone:
            return tuple(values)
        return tuple(self._reduced(torch.tensor(values, dtype=torch.float64), operation).tolist())

    def _reduced(self, table: Tensor, operation: Any) -> Tensor:
        if not self.alone:
            with self.guarded():
                dist.all_reduce(table, operation)
            if self._watch is not None:
                self._watch.beat()
        return table

    def _lost(self, error: RuntimeError) -> LostRankError:
        """Who of the others does not say that it is still there, which those who are left do."""
        late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
        what = f"did not answer for {self._timeout:g} s" if late else "ended"
        missing = [] if self._roll is None else self._roll.missing()
        who = rank_names(missing) if missing else "a process of the job"
        return LostRankError(f"{who} {what}: rank {self.here.rank} stops too")


@contextmanager
def joined(timeout: float, device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started, while the block runs; one alone where it started none.

    Args:
        timeout: seconds after which a process that does not answer counts as lost.
        device: of this process: gradients go through NCCL on CUDA, through gloo elsewhere.
    Raises:
        UserError: for half an environment, or a torch without torch.distributed.
        LostRankError: where the processes do not find each other.
    """
    here = current_rank()
    if here.alone:
        yield Ranks(here)
        return
    if not dist.is_available():
        raise UserError("this torch was built without torch.distributed: start one process, without torchrun")
    with watched() as watch:
        limit, roll = timedelta(seconds=timeout), None
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=limit))
            store.set_timeout(limit)
            # torchrun keeps one store for all its attempts: the addresses of one that ended lead nowhere.
            store = dist.PrefixStore(f"markovae/{here.restarts}", store)
            roll = RollCall(here, store)
            roll.register()
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=limit, store=store, rank=here.rank, world_size=here.size)
        except (RuntimeError, ValueError) as error:
            absent = [] if roll is None else roll.absent()
            raise LostRankError(
                f"rank {here.rank} did not find {rank_names(absent) if absent else f'the other {here.size - 1}'} "
                f"within {timeout:g} s "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        if watch is not None:
            watch.roll = roll
        yield Ranks(here, roll, timeout, watch)
        # Only after a good end: a lost process would be waited for here.
        dist.destroy_process_group()


def exit_code(failure: BaseException) -> int:
    """The exit code that this failure ends the command with."""
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 1
    if isinstance(failure, KeyboardInterrupt):
        return 130
    return 2 if isinstance(failure, UserError) else 3 if isinstance(failure, StoppedRun) else 1


def _between_processes(error: RuntimeError) -> bool:
    """Whether an error comes from torch.distributed; gloo's are plain RuntimeErrors that name its files."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "process group"))
