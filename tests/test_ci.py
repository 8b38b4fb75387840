"""What `.ci/run` installs before the tests: a browser where it can be had, and nothing that stops the run."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "browser"


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def prepared(folder: Path, *, user: int = 0, apt: str | None = "exit 0") -> subprocess.CompletedProcess[str]:
    """The script where only these tools are on the PATH; apt-get keeps its calls in the file `calls`."""
    tool(folder, "id", f"echo {user}")
    tool(folder, "timeout", 'shift 3; exec "$@"')
    if apt is not None:
        tool(folder, "apt-get", f'echo "$DEBIAN_FRONTEND $*" >> {folder}/calls; {apt}')
    environment = {"PATH": str(folder), "HOME": os.devnull}
    return subprocess.run(
        ["/bin/bash", SCRIPT], env=environment, capture_output=True, text=True, timeout=20, check=False
    )


def test_a_browser_that_is_there_is_left_alone(tmp_path: Path):
    for name in ("chromium", "chromedriver"):
        tool(tmp_path, name, "exit 9")
    done = prepared(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "calls").exists()


def test_it_is_fetched_before_it_is_installed_and_never_asks(tmp_path: Path):
    done = prepared(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    update, fetch, install = (tmp_path / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert "--download-only" in fetch
    assert "--no-download" in install
    assert all(line.startswith("noninteractive -qq") for line in (update, fetch, install))
    assert all("-y install chromium chromium-driver" in line for line in (fetch, install))


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"apt": None}, "this system has no apt-get"),
        ({"user": 1000}, "apt-get needs root"),
        ({"apt": "echo noise; exit 100"}, "could not fetch"),
        ({"apt": 'case "$*" in *--no-download*) exit 100;; esac'}, "could not install"),
    ],
)
def test_what_fails_is_told_and_stops_nothing(tmp_path: Path, machine: dict, reason: str):
    done = prepared(tmp_path, **machine)
    assert (done.returncode, done.stdout) == (0, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert "will be skipped" in done.stderr
