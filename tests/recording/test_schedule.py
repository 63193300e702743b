from __future__ import annotations

import pytest

from ics.errors import UsageError
from ics.recording.schedule import as_schedule, at, every, log_spaced, parse_schedule


def due(schedule, steps):
    return [step for step in range(steps) if schedule.due(step)]


def test_every_is_due_at_start_and_then_every_nth_step():
    assert due(every(3), 10) == [0, 3, 6, 9]
    assert due(every(3, start=4), 12) == [4, 7, 10]


def test_log_spaced_has_equal_ratios_where_steps_are_large_enough_to_be_rounded_well():
    steps = sorted(log_spaced(4, until=1000).steps)
    assert steps == [0, 1, 10, 100, 1000]
    assert due(log_spaced(1), 5) == [0, 1]


def test_at_is_due_at_the_steps_listed_only():
    assert due(at([7, 2]), 10) == [2, 7]
    assert due(at([]), 10) == []


@pytest.mark.parametrize("schedule", [every(5), every(5, start=2), log_spaced(7, until=300), at([1, 4])])
def test_a_schedule_prints_as_what_makes_it(schedule):
    assert parse_schedule(str(schedule)) == schedule
    assert as_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    "make",
    [
        lambda: every(0),
        lambda: every(2.5),
        lambda: every(True),
        lambda: every(2, start=-1),
        lambda: log_spaced(0),
        lambda: log_spaced(5, until=0),
        lambda: at([-1]),
        lambda: parse_schedule("each(5)"),
        lambda: parse_schedule("every(5, until=3)"),
        lambda: as_schedule(None),
    ],
)
def test_a_mistake_gets_one_sentence_that_says_what_was_expected(make):
    with pytest.raises(UsageError, match=r"expect|written"):
        make()
