import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from markovae.data.workers import map_in_processes, worker_count


def process_and_square(n: int) -> tuple[int, int]:
    return os.getpid(), n * n


@pytest.fixture(autouse=True)
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("markovae.data.workers.worker_count", lambda: 2)


def test_results_come_in_order_from_other_processes():
    results = list(map_in_processes(process_and_square, range(50), 3, serial_below=1))
    assert [square for _, square in results] == [n * n for n in range(50)]
    assert os.getpid() not in {process for process, _ in results}


def test_little_work_stays_here():
    results = list(map_in_processes(process_and_square, range(5), 3, serial_below=6))
    assert {process for process, _ in results} == {os.getpid()}


def test_nothing_to_do():
    assert list(map_in_processes(process_and_square, [], 3, serial_below=0)) == []


def test_the_worker_count_is_what_this_process_may_use():
    assert 1 <= worker_count() <= 32


def script(folder: Path, guarded: bool, seconds: float = 0) -> Path:
    body = f"""
        import time
        import markovae.data.workers as workers

        workers.worker_count = lambda: 2

        def slow(n):
            time.sleep({seconds})
            return -n

        def main():
            print("working", flush=True)
            results = workers.map_in_processes(slow, range(40), 2, serial_below=1)
            print(sum(results), flush=True)

    """
    end = 'if __name__ == "__main__":\n    main()\n' if guarded else "main()\n"
    path = folder / "script.py"
    path.write_text(textwrap.dedent(body) + end)
    return path


def test_a_script_without_a_guard_still_gets_its_results(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(script(tmp_path, guarded=False))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    # A child that begins the script again is ended anywhere in its first line.
    assert done.stdout.endswith("-780\n")
    assert "Traceback" not in done.stderr
    assert "needs the guard" in done.stderr


def test_ctrl_c_ends_every_process(tmp_path: Path):
    path = script(tmp_path, guarded=True, seconds=0.3)
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a shell inherits an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    # The pipes end when the last process that holds them has ended: the workers hold them too.
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt") == 1


def test_a_script_from_standard_input_works_alone_and_says_nothing():
    code = """
import os
import markovae.data.workers as workers
workers.worker_count = lambda: 2
print(len(list(workers.map_in_processes(abs, range(40), 2, serial_below=1))))
"""
    ran = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("40", "")


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path):
    path = script(tmp_path, guarded=True, seconds=0.3)
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        time.sleep(1.5)
        process.kill()
        # The pipe ends when the last process that holds it has ended.
        process.communicate(timeout=20)
