from __future__ import annotations

from math import ceil

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asgi_analytics.decide import window
from asgi_analytics.facts import Window

LIMITS = st.integers(1, 200)
SIZES = st.sampled_from([1.0, 60.0, 900.0, 86400.0])


def take(counter: Window, size: float, limit: int, now: float) -> bool:
    """Charge one unit where it fits."""
    fits = window.remaining(counter, size, limit, now) > 0
    if fits:
        window.charge(counter, size, now)
    return fits


@pytest.mark.parametrize("load", [0.5, 0.9, 1.0, 1.5, 3.0, 10.0])
@pytest.mark.parametrize("limit", [1, 7, 100, 1500])
@pytest.mark.parametrize("offset", [0.0, 0.37])
def test_a_steady_stream_gets_the_limit_within_two_per_cent_or_one_unit(load: float, limit: int, offset: float) -> None:
    counter, size, windows, admitted = Window(), 60.0, 22, 0
    offered = round(limit * load * windows)
    for n in range(offered):
        now = (1000 + offset + n * windows / offered) * size
        fits = take(counter, size, limit, now)
        admitted += fits and 1002 <= now / size < 1022  # the first windows find nothing before them
    assert admitted / 20 == pytest.approx(min(1.0, load) * limit, rel=0.02, abs=1 if limit < 50 else 0)


@given(LIMITS, SIZES, st.lists(st.floats(0, 0.3), max_size=400))
def test_a_window_of_the_clock_never_holds_more_than_the_limit(limit: int, size: float, gaps: list[float]) -> None:
    counter, now, admitted = Window(), 1e6, dict[float, int]()
    for gap in gaps:
        now += gap * size / 10
        admitted[now // size] = admitted.get(now // size, 0) + take(counter, size, limit, now)
    assert max(admitted.values(), default=0) <= limit


@given(st.integers(1, 20), st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 25)), max_size=40))
def test_a_jumping_clock_gives_no_burst_above_the_limit(limit: int, moves: list[tuple[float, int]]) -> None:
    counter, now, forward, admitted = Window(), 1e6, 0.0, 0
    for windows, requests in moves:
        now += windows * 60
        forward += max(0.0, windows)
        admitted += sum(take(counter, 60.0, limit, now) for _ in range(requests))
    assert admitted <= limit * (1 + forward) + len(moves)


def test_a_clock_trembling_over_a_boundary_frees_nothing() -> None:
    counter = Window()
    admitted = sum(take(counter, 60.0, 10, 1_000_020.0 + (0.01 if n % 2 else -0.01)) for n in range(1000))
    assert admitted <= 11


def test_a_clock_set_back_does_not_lock_out_for_longer_than_two_windows() -> None:
    counter = Window()
    for _ in range(10):
        take(counter, 60.0, 10, 1e6)
    assert not take(counter, 60.0, 10, 1e6 - 36_000)
    assert take(counter, 60.0, 10, 1e6 - 36_000 + 120)


def test_a_forward_jump_forgets_everything_but_grants_one_limit_only() -> None:
    counter = Window()
    for _ in range(10):
        take(counter, 60.0, 10, 1e6)
    assert sum(take(counter, 60.0, 10, 1e6 + 28_800) for _ in range(100)) == 10


@given(LIMITS, SIZES, st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.999))
def test_one_unit_fits_after_the_wait_and_not_before(
    limit: int, size: float, previous: int, count: int, part: float
) -> None:
    now = (1000 + part) * size
    seconds = window.wait(Window(1001 * size, count, previous), size, limit, now)
    counter = Window(1001 * size, count, previous)
    if seconds > 2e-6 * size:
        assert window.estimate(counter, size, now + seconds - 1e-6 * size) >= limit
    assert window.estimate(counter, size, now + seconds + 1e-6 * size) < limit


@given(LIMITS, SIZES, st.floats(0, 1e9), st.integers(0, 300), st.integers(0, 300))
def test_remaining_units_are_those_that_fit(limit: int, size: float, now: float, count: int, previous: int) -> None:
    counter = Window((now // size + 1) * size, count, previous)
    used = window.estimate(counter, size, now)
    assume(used == round(used) or abs(used - round(used)) > 1e-9)  # next to a whole number, adding units rounds to it
    left = window.remaining(counter, size, limit, now)
    assert left >= 0
    assert [take(counter, size, limit, now) for _ in range(left + 2)] == [True] * left + [False] * 2


def test_units_of_the_window_before_fade_over_this_one() -> None:
    counter = Window(120.0, 0, 40)
    assert [window.estimate(counter, 60.0, now) for now in (60.0, 75.0, 90.0, 119.0)] == pytest.approx(
        [40, 30, 20, 40 / 60]
    )


@given(SIZES, st.floats(0, 1e9))
def test_a_reset_is_the_rest_of_the_window_in_whole_seconds(size: float, now: float) -> None:
    seconds = window.reset(Window(), size, now)
    assert 1 <= seconds <= size
    assert seconds == ceil((now // size + 1) * size - now)
