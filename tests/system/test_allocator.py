"""Freed memory stays while it is wanted, then goes back: page faults and the resident set, in a fresh process."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from markovae.system.memory import kept_memory
import numpy

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def work():
    for _ in range(2):
        before = faults()
        step = [numpy.ones(5 * 2**20) for _ in range(8)]
        fresh = faults() - before
        del step
    return fresh

outside = work()
with kept_memory():
    with kept_memory():
        pass  # one that leaves first changes nothing
    inside, full = work(), resident()
print(outside, inside, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it speaks to glibc")
def test_memory_is_kept_inside_and_given_back_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    outside, inside, returned = map(int, done.stdout.split())
    assert outside > 100  # with huge pages 160 of them
    assert inside < outside / 3  # the blocks of a step are cut out of one hole, into which all but the last fit
    assert returned > 32 * 2**20


def test_on_another_c_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from markovae.system import memory as allocator

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    with allocator.kept_memory():
        pass


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it speaks to glibc")
def test_who_evaluates_keeps_memory_however_often_it_is_entered() -> None:
    from markovae.diffusion.markovian_vae import evaluating
    from markovae.system import memory as allocator

    before = allocator._ENTERED.times
    with evaluating(None), evaluating(None):
        assert allocator._ENTERED.times == before + 2
    assert allocator._ENTERED.times == before
