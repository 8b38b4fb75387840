"""Where text leaves: results on stdout, remarks and progress on stderr. Nothing else in the package prints.

Names and texts come from files that anyone may have written, so all of it is `printable` on its way out.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from typing import Any, TypeVar

from markovae.locations import without_secrets

Item = TypeVar("Item")

# Plain output (a log file, a pipe) tells of the first ten seconds nothing, then at most ten lines.
QUIET_SECONDS = 10.0
PLAIN_LINES = 10
BESIDE_BAR, SHORTEST_BAR = 68, 8  # columns of the terminal


def printable(name: str) -> str:
    """A name or text in one line, whatever could command a terminal or has no character spelled out, as in \\x1b.

    That is every control character, what changes the direction of text, and bytes of a file's name that are no UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def show(text: str) -> None:
    """Print a result, of one line or several, on stdout."""
    print(_shown(text), flush=True)


def show_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object, in ASCII, on stdout; NaN and Inf must be None by now."""
    print(json.dumps(record, indent=1, allow_nan=False).replace("\x7f", "\\u007f"), flush=True)


def tell(text: str) -> None:
    """Print on stderr, whichever process this is.

    A reader that has gone, or a log file on a full disk, stops nothing.
    """
    with suppress(OSError):
        if sys.stderr is not None:  # else print would take stdout
            print(_shown(text), file=sys.stderr, flush=True)


def speaks() -> bool:
    """Whether this process tells of progress: of several, rank 0 alone does."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def log(text: str) -> None:
    """Print one remark on stderr; of several processes, the first alone does."""
    if speaks():
        tell(text)


def warn(text: str) -> None:
    """`log` a warning: something works otherwise than a person may think."""
    log(f"warning: {text}")


def _shown(text: str) -> str:
    return "\n".join(map(printable, without_secrets(text).split("\n")))


def tell_at_once(text: str) -> None:
    """Write a remark on stderr past Python's buffers: for a signal's handler, and for a process about to end.

    As with `log`, a reader that has gone stops nothing: an error raised here would surface anywhere.
    """
    if sys.stderr is not None:  # else 2 may be any file's number
        with suppress(OSError):
            os.write(2, _shown(text).encode())


def track(iterable: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable` while telling on stderr how far it is.

    On a terminal: a bar with count, rate (items/s) and the time left. Elsewhere: nothing for work that ends
    within ten seconds, otherwise at most ten plain lines and one at the end.

    Args:
        iterable: what to go through.
        label: what is done, in a few words ("drawing faces").
        total: number of items; None takes len(iterable) where it has one.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr is not None and sys.stderr.isatty() and speaks():
        yield from _bar(iterable, label, total)
    else:
        yield from _plain(iterable, label, total)


def track_inside(groups: Iterable[Iterable[Item]], label: str, total: int) -> Iterator[Iterator[Item]]:
    """Yield the groups, telling on stderr of each item inside them as it is yielded.

    Args:
        total: number of items of all groups.   Others as for `track`.
    """
    clock = iter(track(range(total), label, total))
    for group in groups:
        yield (item for item, _ in zip(group, clock, strict=False))
    for _ in clock:
        pass


def bar(note: bool = False) -> Any:
    """A progress display on the terminal: what, a bar where there is room for one, how far, how fast, the time left.

    Args:
        note: whether each task says in `note` what stands in the place of its items per second.
    Returns: rich's `Progress`.
    """
    # rich takes 0.1 s to import, so only where a bar is shown.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items per second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s")

    class Left(Remaining):
        """The time left, called so."""

        def render(self, task: Task) -> Text:
            return super().render(task) + Text(" left", style="progress.remaining")

    console = Console(file=sys.stderr)
    room = min(40, console.width - BESIDE_BAR)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    columns += [BarColumn(room)] if room >= SHORTEST_BAR else []
    columns += [MofNCompleteColumn(), TextColumn("{task.fields[note]}", markup=False) if note else Rate(), Left()]
    return Progress(*columns, console=console)


def _bar(iterable: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    with bar() as progress:
        yield from progress.track(iterable, total=total, description=printable(label))


def _plain(iterable: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    started = time.monotonic()
    # Counted work speaks at each tenth; uncounted work at doubling times, so that both stay short.
    next_share, next_time, told, count = 1, QUIET_SECONDS, False, 0
    for count, item in enumerate(iterable, start=1):
        yield item
        seconds = time.monotonic() - started
        if seconds < next_time:
            continue
        if total:
            if count >= total or count * PLAIN_LINES < next_share * total:
                continue
            next_share = count * PLAIN_LINES // total + 1
            left = seconds / count * (total - count)
            log(f"{label}: {count:,} of {total:,}, {_rate(count, seconds)}, about {left:.0f} s left")
        else:
            next_time = 2 * seconds
            log(f"{label}: {count:,}, {_rate(count, seconds)}")
        told = True
    seconds = time.monotonic() - started
    if told or seconds >= QUIET_SECONDS:
        log(f"{label}: {count:,} done in {seconds:.0f} s ({_rate(count, seconds)})")


def _rate(count: int, seconds: float) -> str:
    speed = count / max(seconds, 1e-9)
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2f}/s"


def counted(number: int, what: str) -> str:
    """A number of things in words: 1 image, 2 images."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def plus_minus(found: Mapping[str, Any], digits: int) -> str:
    """mean ± stderr of a record, in so many decimals; the mean alone where a single value has no error."""
    error = "" if found["stderr"] is None else f" ± {found['stderr']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{error}"


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
