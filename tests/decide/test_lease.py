from __future__ import annotations

import pytest

from asgi_analytics.decide import lease
from asgi_analytics.decide.lease import Leases, name_of, shared_from
from asgi_analytics.facts import Actor, Window
from asgi_analytics.protocols import Exchanged, Grant

from .leases import KEYS, leases_of, lent, opened, use
from .visits import START

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
    monkeypatch.setattr(lease, "MAX_ACTORS", 1)
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


def test_while_nothing_can_be_exchanged_its_part_is_what_is_shown_and_waited_for() -> None:
    leases = leases_of(4)
    actor = lent(leases, 20, 40)
    leases.cut_off()
    for minute in range(5):
        now = START + 60.0 * minute
        use(leases, actor, 10, now=now)
        assert leases.shown(actor, [(60.0, 100)], now) == leases.left(actor, [(60.0, 100)], now) != [0]
    use(leases, actor, 15, now=now)
    assert leases.left(actor, [(60.0, 100)], now) == [0]
    assert leases.waits(actor, [(60.0, 100)], now) == [pytest.approx(20.0, abs=6.0)]


def test_of_what_found_no_room_its_part_is_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MAX_ACTORS", 0)
    leases = leases_of(4)
    actor = opened(leases, 100)
    for minute in range(8):
        now = START + 60.0 * minute
        use(leases, actor, 10, now=now)
        assert leases.shown(actor, [(60.0, 100)], now) == leases.left(actor, [(60.0, 100)], now) != [0]


def test_a_quota_is_shared_from_the_same_unit_on_where_another_is_shared_already() -> None:
    leases = leases_of(2)
    actor = Actor([Window()], key=KEYS[0])
    for units, shared in ((shared_from(100, 2), False), (1, True)):
        use(leases, actor, units)
        assert (actor.loans is not None) is shared
    assert (actor.loans or [])[0].used == shared_from(100, 2) + 1
    alone, lonely = Leases(), Actor([Window()], key=KEYS[1])
    use(alone, lonely, 100)
    assert lonely.loans is None


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


def test_the_loans_of_an_actor_are_closed_together() -> None:
    leases = leases_of(2)
    actor = Actor([Window(), Window()], key=KEYS[0])
    leases.open(actor, [(1.0, 100), (60.0, 100)], START)
    for after, kept in ((100.0, 1), (126.0, 0)):
        leases.take_in(Exchanged(2, 1, {}, []), START + after, START + after)
        assert (leases.count(), actor.loans is not None) == (kept, bool(kept))


# What is opened, and for whom


@pytest.mark.parametrize(("limit", "workers", "units"), [(100, 1, 100), (100, 2, 6), (1000, 4, 31)])
def test_quotas_are_shared_early_and_not_before_they_are_used_up_by_who_is_alone(
    limit: int, workers: int, units: int
) -> None:
    assert shared_from(limit, workers) == units


def test_who_asks_not_to_be_told_apart_is_told_to_nobody() -> None:
    leases = leases_of(2)
    actor = opened(leases, key=b"")
    assert (actor.loans, leases.count(), leases.asks(START)) == (None, 0, [])


def test_an_actor_that_was_forgotten_goes_on_with_the_loans_that_it_had() -> None:
    leases = leases_of(2)
    before = lent(leases, 20, 40)
    use(leases, before, 5)
    again = opened(leases)
    assert (before.loans, leases.count(), leases.left(again, [(60.0, 100)], START)) == (None, 1, [15])
    (ask,) = leases.asks(START + 2.0)
    assert ask.used == 5


def test_who_has_had_company_leaves_others_their_part_of_what_it_opens() -> None:
    leases = leases_of(2)
    leases.take_in(Exchanged(1, 1, {}, []), START, START)
    assert leases.left(opened(leases), [(60.0, 100)], START) == [25]


@pytest.mark.parametrize(("is_network", "allowed"), [(False, 3), (True, 31)])
def test_what_others_have_made_scarce_is_opened_as_it_is_met_and_as_it_is_learned(
    is_network: bool, allowed: int
) -> None:
    """With an eighth of what may be admitted unasked, of 100 units or of 1000."""
    here = Actor([Window()], key=KEYS[0])
    leases = Leases([(60.0, 100)], [(60.0, 1000)], find=lambda key: (here, is_network) if key == KEYS[0] else None)
    scarce = {name_of(key, 60.0): 1 for key in KEYS}
    leases.take_in(Exchanged(2, 1, scarce, []), START, START)
    met = Actor([Window()], key=KEYS[1])
    leases.meet(met, is_network, START)
    for actor in (here, met):
        assert actor.loans is not None
        assert [(loan.limit, loan.allowed) for loan in actor.loans] == [(1000 if is_network else 100, allowed)]


@pytest.mark.parametrize(("size", "seconds"), [(60.0, 125.0), (1.0, 9.0)])  # two windows or announcements, and a life
@pytest.mark.parametrize("after", [-0.1, 0.0])
def test_what_is_scarce_is_believed_until_it_would_have_been_told_again(
    size: float, seconds: float, after: float
) -> None:
    leases = Leases([(size, 100)])
    leases.take_in(Exchanged(2, 1, {name_of(KEYS[0], size): 1}, []), START, START)
    actor = Actor([Window()], key=KEYS[0])
    leases.meet(actor, False, START + seconds + after)
    assert (actor.loans is None) is (after == 0.0)


def test_more_that_is_scarce_is_remembered_when_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MAX_SCARCE", 1)
    leases = Leases([(60.0, 100)])

    def known(now: float, *told: bytes) -> list[bool]:
        leases.take_in(Exchanged(2, 1, {name_of(key, 60.0): 1 for key in told}, []), now, now)
        actors = [Actor([Window()], key=key) for key in KEYS]
        for actor in actors:
            leases.meet(actor, False, now)
        return [actor.loans is not None for actor in actors]

    first, second = KEYS
    assert known(START, first, second) == [True, False]
    assert known(START + 100.0, first) == [True, False], "what is known is told again"
    assert known(START + 200.0, second) == [True, False]
    assert known(START + 226.0) == [False, False]
    assert known(START + 226.0, second) == [False, True]


# What is told, and what may be admitted meanwhile


def test_what_is_not_kept_may_not_be_admitted_while_it_is_given_back() -> None:
    leases = leases_of(2)
    actor = lent(leases, 40, 40)
    (ask,) = leases.asks(START + 2.0)
    assert leases.left(actor, [(60.0, 100)], START) == [ask.keep] == [10]


def test_what_is_used_while_an_exchange_is_on_its_way_is_of_what_it_brings() -> None:
    leases = leases_of(2)
    actor = lent(leases, 40, 100)
    use(leases, actor, 5)
    (ask,) = leases.asks(START + 2.0)
    use(leases, actor, 3)
    leases.take_in(Exchanged(2, 1, {}, [Grant(ask.counter, 20, 60, 0.0)]), START + 2.0, START + 2.1)
    assert leases.left(actor, [(60.0, 100)], START) == [17]
    assert leases.shown(actor, [(60.0, 100)], START) == [57]
    (ask,) = leases.asks(START + 4.0)
    assert ask.used == 3


def test_what_was_used_on_its_own_leaves_nothing_to_keep() -> None:
    leases = leases_of(2)
    actor = lent(leases, 5, 40)
    leases.cut_off()
    use(leases, actor, 8)
    (ask,) = leases.asks(START + 2.0)
    assert (ask.used, ask.keep) == (8, 0)


def test_at_another_level_the_limit_that_is_told_is_that_of_the_level() -> None:
    leases = leases_of(2)
    actor = lent(leases, 20, 40)
    leases.left(actor, [(60.0, 50)], START)
    (ask,) = leases.asks(START + 2.0)
    assert (ask.limit, ask.share) == (50, 12)


def test_who_gives_all_back_admits_nothing_on_loan_and_knows_of_nothing_scarce_any_more() -> None:
    leases = leases_of(2)
    actor = lent(leases, 20, 40)
    use(leases, actor, 5)
    (told,) = leases.returns(START + 0.1)
    assert (told.used, told.keep, told.wanted) == (5, 0, 0)
    assert (leases.connected, leases.revision) == (False, 0)
    leases.take_in(Exchanged(2, 1, {}, []), START + 0.2, START + 0.2)  # in a child of this process
    assert leases.left(actor, [(60.0, 100)], START) == [0]
    (ask,) = leases.asks(START + 2.0)
    assert ask.used == 0


@pytest.mark.parametrize(("after", "wait"), [(0.5, 9.5), (4.0, 6.0), (11.0, 0.0)])
def test_who_is_refused_waits_from_when_the_others_were_asked(after: float, wait: float) -> None:
    leases = leases_of(2)
    actor = opened(leases)
    (ask,) = leases.asks(START)
    leases.take_in(Exchanged(2, 1, {}, [Grant(ask.counter, 0, 0, 10.0)]), START, START + 0.4)
    assert leases.waits(actor, [(60.0, 100)], START + after) == [wait]


# What is exchanged soon


def test_the_exchange_is_woken_once_until_it_has_come() -> None:
    woken = list[str]()
    leases = Leases(wake=lambda: woken.append("woken"))
    leases.take_in(Exchanged(2, 1, {}, []), START, START)
    counts = []
    for key in KEYS:
        opened(leases, key=key)
        counts.append(len(woken))
    leases.asks(START)
    opened(leases, key=b"c" * 16)
    assert [*counts, len(woken)] == [1, 1, 2]


@pytest.mark.parametrize(("units", "used", "woken"), [(40, 19, 0), (40, 20, 1), (26, 13, 1), (25, 13, 0), (20, 15, 0)])
def test_it_is_woken_with_half_of_a_loan_left_unless_the_last_exchange_brought_nothing(
    units: int, used: int, woken: int
) -> None:
    calls = list[str]()
    leases = Leases(wake=lambda: calls.append("woken"))
    leases.take_in(Exchanged(2, 1, {}, []), START, START)
    actor = lent(leases, units, units)
    calls.clear()
    use(leases, actor, used)
    assert len(calls) == woken


@pytest.mark.parametrize(("units", "left", "woken"), [(40, 1, 0), (40, 0, 1), (26, 0, 1), (25, 0, 0), (20, 0, 0)])
def test_who_misses_units_wakes_it_unless_the_last_exchange_brought_nothing(units: int, left: int, woken: int) -> None:
    calls = list[str]()
    leases = Leases(wake=lambda: calls.append("woken"))
    leases.take_in(Exchanged(2, 1, {}, []), START, START)
    actor = lent(leases, units, units)
    calls.clear()
    leases.miss(actor, [left])
    assert len(calls) == woken
