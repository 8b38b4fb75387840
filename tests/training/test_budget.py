import pytest
from hypothesis import given
from hypothesis import strategies as st

from markovae.training.budget import Budget, rate_factor


def test_the_rate_rises_stays_and_falls_to_the_last_step():
    rates = [rate_factor(step, 100, 10, 0.5) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:51] == [1.0] * 41
    assert rates[50:] == pytest.approx([(100 - step) / 50 for step in range(50, 101)])
    assert rates[100] == 0


def test_before_the_length_is_known_only_the_warmup_counts():
    assert [rate_factor(step, None, 4, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_warmup_takes_at_most_a_fifth():
    assert rate_factor(1, 10, 50, 1.0) == 1.0
    assert rate_factor(0, 10, 50, 1.0) == 0.5
    assert rate_factor(0, 10, 50, 1.0, pretrained=True) == 1 / 50


@given(st.integers(1, 10_000), st.integers(0, 500), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_is_positive_within_the_run_and_never_above_its_peak(total, warmup, decay_start, share):
    step = min(int(share * total), total - 1)
    assert 0 < rate_factor(step, total, warmup, decay_start) <= 1


def clocked(seconds: float, pace: float, reserve: float = 0.0, first: float = 0.0) -> tuple[int, int]:
    """(steps taken when the length was fixed, the length) where every step takes `pace` seconds."""
    budget, elapsed = Budget(None, seconds, reserve), 0.0
    for step in range(1, 10_000):
        took = pace + (first if step == 1 else 0.0)
        elapsed += took
        budget.note(step, took, elapsed)
        if budget.total is not None:
            return step, budget.total
    raise AssertionError("never fixed")


def test_minutes_become_the_steps_that_fit():
    assert clocked(60, 0.1) == (76, 600)  # an eighth of the budget is timed
    assert clocked(600, 0.5) == (50, 1200)  # enough after fifty steps and fifteen seconds


def test_a_slow_first_step_is_not_taken_for_the_pace():
    assert clocked(600, 0.5, first=5.0)[1] == 1190


def test_slow_first_steps_of_a_short_budget_are_not_taken_for_the_pace_either():
    budget, elapsed = Budget(None, 40.0), 0.0
    for step in range(1, 100):
        elapsed += (took := 0.6 if step < 4 else 0.2)
        budget.note(step, took, elapsed)
    assert budget.total == 194  # 1.2 seconds were lost


def test_of_a_longer_budget_the_time_that_is_left_counts():
    """A run of 1,800 s that gets 180 s more: an eighth of those is timed, not of the whole."""
    budget, elapsed = Budget(None, 1980.0, guess=550, spent=1800.0), 1800.0
    assert budget.expected == 550
    for step in range(501, 700):
        elapsed += 3.6
        budget.note(step, 3.6, elapsed)
        if budget.total is not None:
            break
    assert step == 507
    assert budget.expected == budget.total == 550


def test_what_the_caller_reserves_is_left():
    assert clocked(60, 0.1, reserve=15)[1] == 450


def test_a_budget_shorter_than_its_first_steps_ends_at_once():
    assert clocked(1, 3.0) == (1, 1)


def test_a_fixed_length_is_never_changed_by_timing():
    budget = Budget(7, 10.0)
    for step in range(1, 50):
        budget.note(step, 5.0, 5.0 * step)
    assert budget.total == 7


def driven(seconds: float, pace, reserve: float = 0.0) -> tuple[float, list[int]]:
    """(seconds at the end, the totals in turn) where a step takes pace(elapsed) seconds and five looks the reserve."""
    budget, elapsed, totals = Budget(None, seconds, reserve), 0.0, []
    for step in range(1, 1_000_000):
        took = pace(elapsed)
        elapsed += took
        budget.note(step, took, elapsed)
        if budget.total is not None and budget.total not in totals[-1:]:
            totals.append(budget.total)
        if budget.due(5, step):
            elapsed += reserve / 5
        if budget.total is not None and step >= budget.total:
            return elapsed, totals
    raise AssertionError("never ended")


@given(st.lists(st.floats(0.3, 4.0), min_size=1, max_size=6), st.floats(60, 3600), st.floats(0, 0.3))
def test_a_budget_is_kept_within_a_tenth_whatever_the_pace_becomes(factors, seconds, reserve):
    """The pace changes at even shares of the time, by up to thirteen times."""

    def pace(elapsed: float) -> float:
        return 0.2 * factors[min(int(elapsed / seconds * len(factors)), len(factors) - 1)]

    ended, _ = driven(seconds, pace, reserve * seconds)
    assert 0.9 * seconds <= ended <= 1.1 * seconds


def test_a_steady_pace_changes_no_plan():
    ended, totals = driven(600, lambda elapsed: 0.5 + 0.01 * (int(elapsed) % 2))
    assert len(totals) == 1
    assert ended == pytest.approx(600, rel=0.03)


def test_a_run_that_continues_keeps_its_length():
    budget = Budget(None, 60.0)
    budget.restore({"total_steps": 100})
    for step in range(50, 99):
        budget.note(step, 100.0, 100.0 * step)
    assert budget.total == 100


def test_the_pace_of_a_number_of_steps_is_timed_once_and_not_where_a_run_continues():
    budget, resumed = Budget(400), Budget(400)
    resumed.restore({"total_steps": 400})
    for step in range(1, 100):
        for each in (budget, resumed):
            each.note(step, 9.0 if step < 20 else 0.5 if step < 51 else 7.0, 1.0 * step)
    assert (budget.pace, resumed.pace, budget.total) == (0.5, 0.0, 400)
    short = Budget(4)
    short.note(1, 3.0, 3.0)
    assert not short.pace
    short.note(2, 1.0, 4.0)
    assert short.pace == 1.0
