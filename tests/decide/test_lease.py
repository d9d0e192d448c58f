from __future__ import annotations

import pytest

from asgi_analytics.decide import lease
from asgi_analytics.decide.lease import Leases
from asgi_analytics.facts import Actor, Window
from asgi_analytics.protocols import Exchanged, Grant

from .visits import START

KEYS = (b"a" * 16, b"b" * 16)


def leases_of(workers: int) -> Leases:
    leases = Leases()
    leases.take_in(Exchanged(workers, 1, {}, []), START, START)
    return leases


def opened(leases: Leases, limit: int = 100, size: float = 60.0, key: bytes = KEYS[0]) -> Actor:
    """An actor with one quota whose loan is open."""
    actor = Actor([Window()], key=key)
    leases.open(actor, [(size, limit)], START)
    return actor


def lent(leases: Leases, units: int, left: int, limit: int = 100, size: float = 60.0) -> Actor:
    """An actor whose loan was exchanged at START, with nothing used so far."""
    actor = opened(leases, limit, size)
    (ask,) = leases.asks(START)
    leases.take_in(Exchanged(leases.workers, 1, {}, [Grant(ask.counter, units, left, 0.0)]), START, START)
    return actor


def use(leases: Leases, actor: Actor, units: int, limit: int = 100, size: float = 60.0, now: float = START) -> None:
    for _ in range(units):
        leases.take(actor, [(size, limit)], now)


# What may be admitted without asking


@pytest.mark.parametrize(
    ("workers", "limit", "used", "left"),
    [(1, 10, 4, 6), (4, 10, 0, 2), (4, 10, 1, 1), (4, 10, 2, 0), (4, 3, 0, 1), (4, 3, 1, 0)],
)
def test_cut_off_a_worker_keeps_to_its_part_of_the_limit(workers: int, limit: int, used: int, left: int) -> None:
    leases = leases_of(workers)
    actor = opened(leases, limit)
    use(leases, actor, used, limit)
    leases.cut_off()
    assert leases.left(actor, [(60.0, limit)], START) == [left]


def test_a_quota_that_nobody_else_was_told_of_is_whole() -> None:
    leases = leases_of(4)
    leases.cut_off()
    assert leases.left(Actor([Window()], key=KEYS[0]), [(60.0, 10)], START) == [10]


def test_one_more_than_can_be_exchanged_keeps_to_its_part_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MOST_ACTORS", 1)
    leases = leases_of(4)
    first, second = (opened(leases, 1000, key=key) for key in KEYS)
    # Of 1000, four workers may admit 125 each unasked.
    assert [leases.left(actor, [(60.0, 1000)], START) for actor in (first, second)] == [[125], [250]]
    assert (leases.count(), len(leases.asks(START))) == (1, 1)


@pytest.mark.parametrize(
    ("used", "others", "left"),
    [(0, 0, 40), (15, 0, 25), (15, 90, 10), (45, 0, 0)],
)
def test_what_is_shown_is_left_to_all_as_far_as_is_known(used: int, others: int, left: int) -> None:
    """Of 100, others have used 60 when it is told; `others`: what this worker was told apart from that."""
    leases = leases_of(2)
    actor = lent(leases, 20, 40)
    if others:
        actor.windows[0].count = others - used
        actor.windows[0].ends_at = START + 20.0
    use(leases, actor, used)
    assert leases.shown(actor, [(60.0, 100)], START) == [left]


# When and what it asks


@pytest.mark.parametrize(
    ("size", "used", "after", "due"),
    [
        (60.0, 0, 1.0, False),
        (60.0, 0, 1.01, True),
        (2.0, 0, 0.5, False),
        (2.0, 0, 0.51, True),
        (60.0, 1, 0.19, False),
        (60.0, 1, 0.21, True),
        (1.0, 1, 0.09, False),
        (1.0, 1, 0.11, True),
        (60.0, 19, 0.0, False),
        (60.0, 20, 0.0, True),
    ],
)
def test_a_loan_is_exchanged_when_it_is_old_used_or_half_gone(size: float, used: int, after: float, due: bool) -> None:
    leases = leases_of(2)
    actor = lent(leases, 40, 100, size=size)
    use(leases, actor, used, size=size)
    assert bool(leases.asks(START + after)) is due


def test_where_the_last_exchange_brought_nothing_the_next_one_waits() -> None:
    leases = leases_of(2)
    actor = lent(leases, 20, 20)  # no more than it may admit unasked
    use(leases, actor, 15)
    assert [bool(leases.asks(START + after)) for after in (0.0, 0.21)] == [False, True]


def test_what_was_missed_is_asked_for_at_once() -> None:
    leases = leases_of(2)
    actor = lent(leases, 0, 0)
    assert leases.asks(START) == []
    leases.miss(actor, [0])
    (ask,) = leases.asks(START)
    assert (ask.used, ask.keep, ask.wanted) == (0, 0, 1)


@pytest.mark.parametrize(
    ("units", "left", "used", "told"),
    [
        (20, 40, 0, (0, 10, 10)),  # a quarter of what two workers have left
        (20, 40, 5, (5, 10, 20)),
        (20, 40, 15, (15, 5, 60)),
        (5, 2, 0, (0, 1, 1)),
        (5, 1, 0, (0, 0, 0)),
    ],
)
def test_it_keeps_and_wants_as_much_as_others_can_have_too(
    units: int, left: int, used: int, told: tuple[int, int, int]
) -> None:
    leases = leases_of(2)
    actor = lent(leases, units, left)
    use(leases, actor, used)
    (ask,) = leases.asks(START + 2.0)
    assert (ask.used, ask.keep, ask.wanted) == told


@pytest.mark.parametrize(
    ("size", "used", "after", "kept"),
    [
        (60.0, 0, 125.0, 1),
        (60.0, 0, 125.1, 0),
        (3600.0, 0, 605.0, 1),
        (3600.0, 0, 605.1, 0),
        (60.0, 1, 1000.0, 1),  # yet to be told
    ],
)
def test_a_loan_that_nobody_used_for_two_windows_is_closed(size: float, used: int, after: float, kept: int) -> None:
    leases = leases_of(2)
    actor = lent(leases, 20, 100, size=size)
    use(leases, actor, used, size=size)
    leases.take_in(Exchanged(2, 1, {}, []), START + after, START + after)
    assert (leases.count(), actor.loans is not None) == (kept, bool(kept))
