"""Loans that nobody has used for long, that an outage or midnight came between: they are given back, and told anew."""

from __future__ import annotations

import pytest

from asgi_analytics.decide import lease
from asgi_analytics.decide.lease import Leases, name_of
from asgi_analytics.facts import Actor
from asgi_analytics.protocols import Exchanged, Grant

from .leases import KEYS, leases_of, lent, opened, use
from .visits import START


def rested(used: int, limit: int = 1000, size: float = 3600.0, left: int = 600) -> tuple[Leases, Actor, float]:
    """An actor of an hour's quota whose loan was told of all that was used, and not used for eleven minutes since."""
    leases = leases_of(2)
    actor = lent(leases, 400, left, limit, size)
    use(leases, actor, used, limit, size)
    (ask,) = leases.asks(START + 2.0)
    leases.take_in(Exchanged(2, 1, {}, [Grant(ask.counter, 300, left - used, 0.0)]), START + 2.0, START + 2.0)
    later = START + 660.0
    loan = (actor.loans or [])[0]
    loan.asked_at = later - 1.0  # as it was asked for every second
    return leases, actor, later


def test_what_nobody_used_for_long_is_given_back_before_it_rests() -> None:
    leases, actor, later = rested(100)
    (ask,) = leases.asks(later)
    assert (ask.used, ask.keep, ask.wanted) == (0, 0, 0)
    assert (leases.count(), leases.asks(later)) == (0, [])
    assert leases.left(actor, [(3600.0, 1000)], later) == [250], "it is taken up with what may be admitted unasked"


def test_what_holds_units_rests_when_they_can_be_given_back() -> None:
    """Between an exchange that is on its way and its answer, they would stay lent and count as used."""
    leases, actor, later = rested(100)
    leases.take_in(Exchanged(2, 1, {}, []), later, later)
    assert (leases.count(), len(leases.asks(later)), leases.count()) == (1, 1, 0)
    assert leases.left(actor, [(3600.0, 1000)], later) == [250]


def test_what_others_know_of_is_not_told_again_after_a_rest() -> None:
    """While its window lasts; else whoever comes every eleven minutes uses up an hour's quota with a few requests."""
    leases, actor, later = rested(100)
    leases.asks(later)
    leases.left(actor, [(3600.0, 1000)], later)
    use(leases, actor, 3, 1000, 3600.0, later)
    (ask,) = leases.asks(later)
    assert ask.used == 3


def test_a_rest_frees_no_unit_of_what_is_used_up() -> None:
    leases, actor, later = rested(100, left=100)
    leases.asks(later)
    assert leases.left(actor, [(3600.0, 1000)], later) == [0]


def test_what_found_no_room_is_shared_when_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MAX_ACTORS", 1)
    leases = leases_of(4)
    opened(leases, 1000, key=KEYS[0])
    second = opened(leases, 1000, key=KEYS[1])
    use(leases, second, 90, 1000)
    assert leases.left(second, [(60.0, 1000)], START) == [160], "its part, of 250"
    leases.take_in(Exchanged(4, 1, {}, []), START + 126.0, START + 126.0)
    leases.take(second, [(60.0, 1000)], START + 126.0)
    assert leases.left(second, [(60.0, 1000)], START + 126.0) == [124]
    (ask,) = leases.asks(START + 126.0)
    assert ask.used == 1, "the rest is of two minutes before"


def test_after_an_outage_the_use_of_the_last_window_is_told() -> None:
    leases = leases_of(2)
    actor = lent(leases, 40, 100)
    leases.cut_off()
    for minute in range(5):
        use(leases, actor, 40, now=START + 60.0 * minute)
    (ask,) = leases.asks(START + 240.0)
    assert 40 <= ask.used <= 80
    (ask,) = leases.asks(START + 600.0)
    assert ask.used == 0


def test_of_a_quota_without_measure_no_more_is_asked_for_than_any_server_takes() -> None:
    leases = leases_of(2)
    actor = lent(leases, 10**14, 10**15, 10**15)
    use(leases, actor, 5, 10**15)
    (ask,) = leases.asks(START + 2.0)
    assert (ask.used, ask.keep, ask.wanted) == (5, lease.MAX_UNITS, lease.MAX_UNITS)


# Midnight


def test_at_midnight_what_was_used_here_is_told_under_the_new_name() -> None:
    leases = leases_of(2)
    actor = lent(leases, 40, 100)
    use(leases, actor, 10)
    actor.next_key = KEYS[1]
    assert leases.left(actor, [(60.0, 100)], START) == [15], "of 25 that it may admit unasked"
    assert (actor.key, actor.next_key, leases.count()) == (KEYS[1], b"", 1)
    (ask,) = leases.asks(START)
    assert (ask.counter, ask.used) == (name_of(KEYS[1], 60.0), 10)


def test_who_is_not_seen_after_midnight_has_the_new_name_when_its_loans_are_closed() -> None:
    leases = leases_of(2)
    actor = lent(leases, 20, 100)
    actor.next_key = KEYS[1]
    leases.asks(START + 126.0)
    assert (actor.loans, actor.key, actor.next_key) == (None, KEYS[1], b"")
