"""The rule by which units are lent, on values; tests/shared/test_back_ends.py holds every server to it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from asgi_analytics.decide.lending import LIFE, Counter, announce, lend, unasked, unasked_at
from asgi_analytics.protocols import Ask, Grant

ME, OTHER = b"m" * 16, b"o" * 16
MINUTE = 60.0
NOW = 600_000.0  # a window begins
TWO = {ME: 0, OTHER: 0}


def ask(used: int = 0, keep: int = 0, wanted: int = 0, limit: int = 100, share: int = 10, size: float = MINUTE) -> Ask:
    return Ask(b"counter", size, limit, share, used, keep, wanted)


def counted(units: int = 0, before: int = 0, stage: int = 0, loans: Mapping[bytes, tuple[int, float]] = {}) -> Counter:
    """A counter in the window that begins at NOW."""
    return Counter(int(NOW / MINUTE), units, before, stage, loans=dict(loans))


def granted(counter: Counter, asked: Ask, now: float = NOW, heeded: Mapping[bytes, int] = TWO) -> Grant:
    return lend(counter, asked, ME, heeded, now)[0]


@pytest.mark.parametrize(
    ("limit", "workers", "units"),
    [(100, 1, 100), (100, 2, 25), (100, 4, 12), (100, 64, 8), (1000, 64, 8), (40, 64, 5), (1, 2, 1)],
)
def test_workers_may_admit_a_part_unasked_and_who_is_alone_all(limit: int, workers: int, units: int) -> None:
    assert unasked(limit, workers) == units


@pytest.mark.parametrize(("share", "stages"), [(80, (80, 10, 0)), (7, (7, 1, 0)), (1, (1, 1, 0))])
def test_what_may_be_admitted_unasked_falls_to_one_and_to_nothing(share: int, stages: tuple[int, int, int]) -> None:
    assert tuple(unasked_at(share, stage) for stage in range(3)) == stages


@pytest.mark.parametrize(("until", "left"), [(NOW + 0.1, 100), (NOW, 70), (NOW - 0.1, 70)])
def test_a_loan_counts_as_used_from_its_end_on(until: float, left: int) -> None:
    assert granted(counted(loans={OTHER: (30, until)}), ask()).left == left


@pytest.mark.parametrize(("later", "left"), [(LIFE - 0.1, 100), (LIFE, 70)])
def test_a_loan_is_believed_in_for_its_life(later: float, left: int) -> None:
    counter = counted()
    assert granted(counter, ask(wanted=30)).units == 30
    assert lend(counter, ask(), OTHER, TWO, NOW + later)[0].left == left


@pytest.mark.parametrize(
    ("later", "left", "stage"),
    [(-MINUTE, 0, 1), (0.0, 0, 1), (MINUTE, 20, 1), (1.5 * MINUTE, 60, 1), (2 * MINUTE, 100, 0)],
    ids=["a clock that went back", "at once", "the next window", "half of the next window", "the window after that"],
)
def test_units_fade_in_the_window_after_theirs_and_their_stage_after_that(later: float, left: int, stage: int) -> None:
    counter = counted(80, 20, stage=1)
    counter.told_at = NOW + later  # it is not told again
    assert granted(counter, ask(), NOW + later, {ME: 0}).left == left
    assert counter.stage == stage


def test_what_a_clock_that_went_back_counts_is_in_the_same_window_when_it_is_right_again() -> None:
    counter = counted(80)
    granted(counter, ask(used=5), NOW - 5 * MINUTE)
    assert granted(counter, ask()).left == 15


@pytest.mark.parametrize(("workers", "units"), [(2, 90), (5, 60), (6, 50), (40, 50)])
def test_for_those_that_ask_for_nothing_half_of_the_limit_is_kept_at_most(workers: int, units: int) -> None:
    heeded = {ME: 0} | {bytes([number]) * 16: 0 for number in range(workers - 1)}
    assert granted(counted(), ask(wanted=100), heeded=heeded).units == units


@pytest.mark.parametrize(
    ("heeded", "units", "told"),
    [(TWO, 77, False), (TWO, 78, True), ({ME: 0}, 90, False)],
    ids=["13 are free", "12 are free", "alone"],
)
def test_a_counter_is_scarce_with_an_eighth_left_where_others_must_know(
    heeded: Mapping[bytes, int], units: int, told: bool
) -> None:
    counter = counted(units)
    assert lend(counter, ask(), ME, heeded, NOW)[1] is told
    assert counter.stage == told


@pytest.mark.parametrize(
    ("size", "later", "told"), [(1.0, 1.9, False), (1.0, 2.0, True), (MINUTE, 59.0, False), (MINUTE, 60.0, True)]
)
def test_a_stage_is_told_again_after_a_window_and_two_seconds_at_least(size: float, later: float, told: bool) -> None:
    counter = Counter(int((NOW + later) / size), 100, stage=2, told_at=NOW)
    assert lend(counter, ask(size=size), ME, TWO, NOW + later)[1] is told


def test_a_stage_that_is_told_again_counts_from_when_it_was_told_first() -> None:
    counter = counted(100)
    assert lend(counter, ask(), ME, TWO, NOW)[1]
    for revision in (7, 9):
        announce(counter, revision)
    assert (counter.raised, counter.revision) == (7, 9)


@pytest.mark.parametrize(
    ("units", "before", "later", "wait"),
    [(50, 100, 0.0, 30.0), (50, 100, 12.0, 18.0), (90, 40, 0.0, 45.0), (100, 0, 0.0, 60.0), (200, 0, 0.0, 90.0)],
)
def test_who_is_refused_waits_until_the_window_has_moved_on_far_enough(
    units: int, before: int, later: float, wait: float
) -> None:
    assert granted(counted(units, before), ask(), NOW + later).wait == pytest.approx(wait)
