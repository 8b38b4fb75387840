import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.together import Together

from markovae.run.signals import Interrupted, Interrupts


@pytest.fixture
def terminal() -> Iterator[None]:
    """SIGHUP as it is in a terminal, whoever started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_the_work_goes_on(number: int, terminal: None, capfd: pytest.CaptureFixture[str]):
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.caught == number
    assert signal.getsignal(number) is before
    assert "stopping: saving the present step" in capfd.readouterr().err


def test_interruptible_work_is_cut_short():
    reached = []

    def work(interrupts: Interrupts, interrupted: bool) -> None:
        with interrupts.interruptible():
            if interrupted:
                os.kill(os.getpid(), signal.SIGINT)
            reached.append("past the signal")

    with Interrupts() as interrupts:
        with pytest.raises(Interrupted):
            work(interrupts, interrupted=True)
        with pytest.raises(Interrupted):
            work(interrupts, interrupted=False)
    assert reached == []


def test_another_thread_leaves_the_handlers_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_second_signal_ends_the_process_at_once(together: Together, tmp_path: Path):
    def work() -> None:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            (tmp_path / "still here").touch()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    (ended,) = together(work, size=1, limit=50)
    assert ended.code == 130
    assert (tmp_path / "still here").exists()


def test_under_nohup_a_closed_terminal_stops_nothing(terminal: None):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.caught is None


@pytest.fixture
def unread() -> Iterator[None]:
    """A stderr whose reader has gone."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    yield
    os.dup2(kept, 2)
    os.close(kept)


def test_a_signal_is_noted_where_nobody_reads_the_word(unread: None):
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.caught == signal.SIGTERM
