import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae import log as console


def test_track_yields_every_item_in_order_and_is_silent_for_short_work(capsys: pytest.CaptureFixture[str]):
    assert list(console.track(range(1000), "counting")) == list(range(1000))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize("total", [12_345, None])
def test_long_plain_work_prints_few_lines_on_stderr_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None
):
    clock = iter(range(10**7))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    assert sum(1 for _ in console.track((n for n in range(12_345)), "drawing", total)) == 12_345
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert 2 <= len(lines) <= 12
    assert "12,345 done" in lines[-1]
    assert all(line.startswith("drawing: ") for line in lines)


def test_a_failing_item_is_raised_through_track():
    def broken():
        yield 1
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        list(console.track(broken(), "working"))


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert list(console.track([3, 1, 2], "sorting")) == [3, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "sorting" in captured.err
    assert "3/3" in captured.err


def test_say_writes_to_stderr(capsys: pytest.CaptureFixture[str]):
    console.log("where files go")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "where files go\n")


HOSTILE = "a\x1b[2Jb\u202ec\udce9d\x9be\x00\r\x7f"
SPELLED = "a\\x1b[2Jb\\u202ec\\udce9d\\x9be\\x00\\r\\x7f"


@pytest.mark.parametrize("way", [console.show, console.tell, console.log])
def test_whatever_leaves_can_be_printed(capsys: pytest.CaptureFixture[str], way: Callable[[str], None]):
    way(f"{HOSTILE}\nλ = ½, 猫 é")
    assert "".join(capsys.readouterr()) == f"{SPELLED}\nλ = ½, 猫 é\n"


@given(st.text(st.characters()))
def test_a_printable_text_is_printed_as_it_is_and_any_other_becomes_one(text: str):
    shown = console.printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert (shown == text) == text.isprintable()


def test_json_is_ascii_without_control_characters_and_says_the_same(capsys: pytest.CaptureFixture[str]):
    console.show_json({HOSTILE: [HOSTILE, 1.5, None]})
    out = capsys.readouterr().out
    assert json.loads(out) == {HOSTILE: [HOSTILE, 1.5, None]}
    assert all(" " <= c <= "~" or c == "\n" for c in out)
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.show_json({"nan": float("nan")})


def test_a_bar_takes_its_label_for_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(console.track([1], "[/red] \x1b]0;title\x07")) == [1]
    told = capsys.readouterr().err
    assert "[/red]" in told
    assert "\\x1b]0;title\\x07" in told
    assert "\x07" not in told


def test_rich_is_not_imported_until_a_bar_is_shown():
    code = "import sys, markovae.log; list(markovae.log.track([1], 'x')); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("stream", ["/dev/full", "broken pipe"])
def test_nothing_stops_where_nobody_can_listen(stream: str):
    """Python flushes stderr once more at its end, and that must not change the exit code either."""
    code = "from markovae.log import log\nfor _ in range(3):\n    log('x' * 100)\n"
    if stream == "/dev/full":
        with Path(stream).open("w") as full:
            done = subprocess.run([sys.executable, "-c", code], stderr=full, check=False)
    else:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([sys.executable, "-c", code], stderr=write, check=False)
        os.close(write)
    assert done.returncode == 0


def test_items_inside_groups_are_counted_and_groups_stay_apart(monkeypatch, capsys):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    groups = [iter(range(3)), iter(range(3, 6))]
    assert [list(group) for group in console.track_inside(groups, "walking", 6)] == [[0, 1, 2], [3, 4, 5]]
    told = capsys.readouterr().err
    assert "walking: 3 of 6" in told
    assert "walking: 6 done" in told
