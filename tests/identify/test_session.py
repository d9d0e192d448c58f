from __future__ import annotations

import pytest

from asgi_analytics.identify.session import LONGEST, begin, goes_on
from asgi_analytics.model import Session

TIMEOUT = 1800.0


@pytest.mark.parametrize(
    ("started", "seen", "now", "expected"),
    [
        (0.0, 0.0, 1800.0, True),
        (0.0, 0.0, 1800.1, False),
        (0.0, LONGEST - 10.0, LONGEST - 0.1, True),
        (0.0, LONGEST - 10.0, LONGEST, False),
        (5000.0, 5000.0, 10.0, True),  # the clock went back
    ],
)
def test_a_session_has_gaps_up_to_the_timeout_and_a_day_at_most(
    started: float, seen: float, now: float, expected: bool
) -> None:
    assert goes_on(Session(b"s" * 16, started, seen, 1), now, TIMEOUT) is expected


@pytest.mark.parametrize("period", [1_800_000_000.0, -1_800_000_000.0], ids=["now", "a clock before 1970"])
def test_workers_that_see_it_begin_in_the_same_half_hour_give_a_session_the_same_id(period: float) -> None:
    ids = [begin(b"f" * 16, 1.0, period + shift, TIMEOUT).id for shift in (0.0, 1799.9, 1800.0)]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 16
    assert begin(b"g" * 16, 1.0, period, TIMEOUT).id not in ids
