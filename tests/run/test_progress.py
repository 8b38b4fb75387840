import pytest

from markovae.log import duration
from markovae.run import progress
from markovae.training.train_step import TrainStep


def step(index: int, total: int | None) -> TrainStep:
    return TrainStep(index, total, 8 * index, 0.5, 3.0, 1e-3, 0.1, 1.0, 100.0)


def test_plain_progress_is_a_dozen_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(0, 1000) as shown:
        for index in range(1, 1001):
            now[0] = index * 0.5
            shown.show(step(index, 1000))
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[5] == "step 500 of 1,000, loss 0.5000, 100 images/s, about 4 min 10 s left"
    assert lines[-1].startswith("step 1,000 of 1,000")


def test_nothing_is_promised_before_the_length_is_known(capsys: pytest.CaptureFixture[str]):
    with progress.Progress(0, None) as shown:
        shown.show(step(1, None))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(45.2, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (59.7, "1 min 0 s")]
)
def test_durations_in_words(seconds: float, words: str):
    assert duration(seconds) == words
