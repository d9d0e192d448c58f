"""What workers agree on through the store: when it is asked, what it is told, and what is taken from it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import inf

import pytest

from asgi_analytics.clock import Calendar
from asgi_analytics.model import Ruling
from asgi_analytics.protocols import Salt
from asgi_analytics.record.agreement import SALTS_INTERVAL, Agreement
from asgi_analytics.schedule import Schedule
from asgi_analytics.testing import FakeClock, MemoryState, MemoryStore

START = FakeClock().monotonic()
NOON = int(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp())
DAYS = ["2026-03-09", "2026-03-10", "2026-03-11"]


class Told(MemoryStore):
    """A store that keeps what it was told and answers as it is set, else as others do."""

    def __init__(self) -> None:
        super().__init__()
        self.connect()
        self.known: list[list[str]] = []
        self.periods: list[list[str]] = []
        self.answer: list[Salt] | None = None
        self.asked: list[int] = []

    def exchange_salts(self, known: Sequence[Salt], periods: Sequence[str]) -> list[Salt]:
        self.known.append([salt.period for salt in known])
        self.periods.append(list(periods))
        if self.answer is not None:
            return self.answer
        return super().exchange_salts(known, periods)

    def rulings(self, since: int) -> list[Ruling]:
        self.asked.append(since)
        return super().rulings(since)


class Known(MemoryState):
    """Keeps what it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[list[Salt]] = []
        self.changes: list[tuple[list[int], float]] = []

    def learn_salts(self, salts: Sequence[Salt]) -> None:
        self.learned.append(list(salts))

    def learn_rulings(self, rulings: Sequence[Ruling], now: float) -> None:
        self.changes.append(([ruling.revision for ruling in rulings], now))


def ruling(revision: int) -> Ruling:
    return Ruling(revision.to_bytes(16, "big"), revision, "ban", "", "operator", 0.0, inf, b"f" * 16)


def agreement(clock: FakeClock, known: Known) -> Agreement:
    return Agreement(known, known, clock, Calendar(), Schedule(clock))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON * 1_000_000_000)


@pytest.fixture(params=["UTC", "Pacific/Kiritimati"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone in which it is tomorrow already."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_the_salts_of_yesterday_today_and_tomorrow_are_learned_in_their_order(clock: FakeClock) -> None:
    store, known = Told(), Known()
    store.answer = [Salt(day, day.encode() * 4) for day in reversed(DAYS)]
    agreement(clock, known).exchange_salts(store)
    assert store.periods == [DAYS]
    assert [[salt.period for salt in salts] for salts in known.learned] == [DAYS]


def test_salts_are_asked_for_when_they_are_due_on_another_day_and_over_another_connection(clock: FakeClock) -> None:
    store, known = Told(), Known()
    agreed = agreement(clock, known)
    assert not agreed.is_reached

    def asks(seconds: float) -> int:
        before = len(store.known)
        clock.advance(seconds)
        agreed.exchange_salts(store)
        assert agreed.is_reached
        return len(store.known) - before

    assert [asks(seconds) for seconds in (0, 0, 0, SALTS_INTERVAL - 1, 1, 1)] == [1, 1, 0, 0, 1, 0]
    agreed.is_reached = False
    assert asks(0) == 1
    clock.advance(12 * 3600)
    assert [asks(0), asks(0)] == [1, 1], "it is another day, and due"
    assert asks(1) == 0
    assert SALTS_INTERVAL == 600.0


def test_a_worker_offers_what_it_knows_of_these_days_and_takes_what_the_others_have(clock: FakeClock) -> None:
    store, known = Told(), Known()
    agreed = agreement(clock, known)
    agreed.exchange_salts(store)
    clock.advance(24 * 3600)
    store.answer = [Salt(DAYS[1], b"theirs".ljust(32)), Salt("2026-03-12", b"new".ljust(32))]
    agreed.exchange_salts(store)
    assert store.known == [[], DAYS[1:]]
    assert [salt.period for salt in known.learned[1]] == [*DAYS[1:], "2026-03-12"]
    theirs, ours, new = known.learned[1]
    assert (theirs.key, new.key) == (b"theirs".ljust(32), b"new".ljust(32))
    assert ours == known.learned[0][2], "a store that has forgotten it takes it from nobody"


def test_rulings_that_changed_are_learned_now_and_then(clock: FakeClock) -> None:
    store, known = Told(), Known()
    agreed = agreement(clock, known)
    for revisions, seconds in (((), 0.0), ((3, 7), 0.25), ((), 0.25), ((5,), 0.5), ((8,), 0.5)):
        store.ruled += [ruling(one) for one in revisions]
        clock.advance(seconds)
        agreed.learn_rulings(store, 0.5)
    assert store.asked == [-1, 0, 7, 7]
    assert known.changes == [([3, 7], START + 0.5), ([8], START + 1.5)]


def test_after_a_backup_was_restored_rulings_with_lower_revisions_are_learned_once(clock: FakeClock) -> None:
    """Or the database made anew: its revisions begin at 1."""
    store, known = Told(), Known()
    agreed = agreement(clock, known)
    for revisions, is_new in (((3, 7), True), ((2, 5), True), ((6,), False), ((), True), ((), False)):
        store.ruled = [*store.ruled, *map(ruling, revisions)] if revisions != (2, 5) else [ruling(2), ruling(5)]
        agreed.is_new = agreed.is_new or is_new
        agreed.learn_rulings(store, 0.5)
        clock.advance(0.5)
    assert [revisions for revisions, _ in known.changes] == [[3, 7], [2, 5], [6], [2, 5, 6]]
    assert store.asked == [-1, 0, 5, 0, 6]


def test_after_a_backup_was_restored_rulings_with_lower_and_higher_revisions_are_learned(clock: FakeClock) -> None:
    """Of those made since, before a worker is back, some have revisions that it knew as others."""
    store, known = Told(), Known()
    agreed = agreement(clock, known)
    for revisions, expected in (((3, 7), [3, 7]), ((3, 5, 8), [3, 5, 8]), ((3, 5, 8, 9), [3, 5, 8, 9])):
        store.ruled = list(map(ruling, revisions))
        agreed.is_new = True
        agreed.learn_rulings(store, 0.5)
        clock.advance(0.5)
        assert known.changes[-1][0] == expected
