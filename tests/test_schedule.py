from __future__ import annotations

from asgi_analytics.schedule import Schedule
from asgi_analytics.testing import FakeClock


def test_a_name_has_its_turn_at_once_and_again_after_its_interval() -> None:
    clock = FakeClock()
    schedule = Schedule(clock)
    assert [schedule.take_turn(name, 10.0) for name in ("one", "one", "other")] == [True, False, True]
    clock.advance(9.9)
    assert not schedule.take_turn("one", 10.0)
    clock.advance(0.1)
    assert schedule.take_turn("one", 10.0)
    schedule.clear()
    assert schedule.take_turn("one", 10.0)
