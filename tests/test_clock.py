"""The calendar: which steps of the wall clock the day follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.clock import BELIEVED_AFTER, Calendar

DAY = 86_400
START = 4_102_444_800


def told(calendar: Calendar, now: float, wall: float) -> float:
    return calendar.wall(now, round(wall * 1e9)) / 1e9


@pytest.mark.parametrize("step", [-DAY, -3600, -1, 0, 1, 3600, 8 * 3600, DAY])
def test_steps_of_a_day_at_most_are_followed_at_once(step: int) -> None:
    calendar = Calendar()
    told(calendar, 1000.0, START)
    assert told(calendar, 1010.0, START + 10 + step) == START + 10 + step
    assert calendar.jump_ns == 0


@pytest.mark.parametrize("leap", [-130 * 365 * DAY, 2 * DAY, 100 * 365 * DAY])
def test_a_longer_leap_is_followed_when_it_has_lasted(leap: float) -> None:
    calendar = Calendar()
    told(calendar, 1000.0, START)
    assert told(calendar, 1010.0, START + 10 + leap) == START + 10
    assert calendar.jump_ns == round(leap * 1e9)
    assert told(calendar, 1010.0 + BELIEVED_AFTER - 1, START + leap + 3609) == START + 3609
    assert told(calendar, 1010.0 + BELIEVED_AFTER, START + leap + 3610) == START + leap + 3610
    assert calendar.jump_ns == 0


def test_a_leap_and_back_leaves_no_trace() -> None:
    calendar = Calendar()
    told(calendar, 1000.0, START)
    told(calendar, 1000.0, 0)
    assert told(calendar, 9000.0, START + 8000) == START + 8000
    assert told(calendar, 9000.0, 0) == START + 8000, "the patience begins anew"


@given(st.lists(st.floats(-1, 1), max_size=50))
def test_slews_add_up_without_bound(slews: list[float]) -> None:
    calendar, now, wall = Calendar(), 0.0, float(START)
    for slew in slews:
        now, wall = now + DAY, wall + DAY + slew * DAY
        assert told(calendar, now, wall) == pytest.approx(wall)
