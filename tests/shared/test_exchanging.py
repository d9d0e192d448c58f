"""One exchange after the other: when the next one comes, what is told of those that failed, and the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest

from asgi_analytics.clock import SystemClock
from asgi_analytics.decide.lease import Leases, name_of
from asgi_analytics.errors import SharedUnavailable
from asgi_analytics.facts import Actor, Window
from asgi_analytics.log import LOG_INTERVAL
from asgi_analytics.protocols import Ask, Exchanged
from asgi_analytics.shared import sharer
from asgi_analytics.shared.bounds import MAX_ASKS
from asgi_analytics.shared.sharer import SCHEMA_POLL, SHORTEST_INTERVAL, STUCK, Sharer
from asgi_analytics.testing import FakeClock, MemoryQuotas
from tests.waiting import wait_until

MINUTE = 60.0


class Quotas(MemoryQuotas):
    """Quotas of which one exchange takes so many seconds, and during which something happens."""

    def __init__(self, clock: FakeClock | SystemClock, seconds: float = 0.0) -> None:
        super().__init__(clock)
        self.meanwhile: Callable[[], None] = lambda: None
        self.calls: list[str] = []
        self._seconds = seconds

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        self.calls.append("exchange")
        if isinstance(self._clock, FakeClock):
            self._clock.advance(self._seconds)
        self.meanwhile()
        return super().exchange(worker, revision, asks)

    def leave(self, worker: bytes) -> None:
        self.calls.append("leave")
        super().leave(worker)

    def close(self) -> None:
        self.calls.append("close")

    def interrupt(self) -> None:
        self.calls.append("interrupt")


def sharing(quotas: Quotas, interval: float = 0.25, leases: Leases | None = None, **options: Any) -> Sharer:
    return Sharer(quotas, leases or Leases(), quotas._clock, interval, options.get("changed", lambda: None))


def use(leases: Leases, units: int, actors: int = 1) -> Actor:
    """Have as many actors use as many units each; the last of them."""
    for number in range(actors):
        actor = Actor([Window()], key=number.to_bytes(16, "big"))
        leases.open(actor, [(MINUTE, 100)], 1000.0)
        for _ in range(units):
            leases.take(actor, [(MINUTE, 100)], 1000.0)
    return actor


def no_schema(kind: type[psycopg.Error]) -> SharedUnavailable:
    error = SharedUnavailable("no schema")
    error.__cause__ = kind("no schema")
    return error


@pytest.mark.parametrize(("interval", "pause", "known"), [(0.05, 0.05, 0.1), (0.25, 0.2, 0.5), (60.0, 0.2, 1.0)])
def test_the_next_exchange_is_soon_however_long_the_interval(interval: float, pause: float, known: float) -> None:
    clock = FakeClock()
    quotas, began = Quotas(clock), clock.monotonic()
    quotas.exchange(b"o" * 16, 0, [])
    shared = sharing(quotas, interval)
    assert shared._exchange_once(began) == pause
    for seconds, is_set in ((known - 0.01, False), (known, True)):
        shared._exchange_once(began + seconds)
        assert shared.attempted.is_set() is is_set


def test_who_wakes_it_during_an_exchange_gets_another_and_who_did_before_does_not() -> None:
    quotas = Quotas(FakeClock())
    shared = sharing(quotas)
    shared.wake()
    shared._exchange_once(1000.0)
    assert not shared._wanted.is_set()
    quotas.meanwhile = shared.wake
    shared._exchange_once(1000.0)
    assert shared._wanted.is_set()


def test_what_an_exchange_takes_is_counted_and_no_part_of_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = FakeClock(), list[float]()
    quotas = Quotas(clock, 0.15)
    shared = sharing(quotas)

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 2:
            shared.request_stop()
        return True

    monkeypatch.setattr(shared._wanted, "wait", wait)
    shared._run()
    assert waits == pytest.approx([0.05, 0.05])
    assert shared.spent == pytest.approx(0.3)


def test_in_a_burst_of_wakes_the_server_is_spared() -> None:
    clock = SystemClock()
    shared = sharing(Quotas(clock))
    shared.start()
    began = clock.monotonic()
    while clock.monotonic() - began < 0.3:
        shared.wake()
    exchanges, passed = shared.exchanges, clock.monotonic() - began
    shared.stop(5.0)
    assert 1 <= exchanges <= passed / SHORTEST_INTERVAL + 2


def test_a_request_waits_from_when_the_exchange_was_sent() -> None:
    leases = Leases()
    actor = use(leases, 1)
    sharing(Quotas(FakeClock(), 2.0), leases=leases)._exchange_once(1000.0)
    assert actor.loans is not None
    assert actor.loans[0].asked_at == 1000.0


def test_it_is_told_when_workers_come_and_go() -> None:
    quotas, changes = Quotas(FakeClock()), list[str]()
    shared = sharing(quotas, changed=lambda: changes.append("changed"))
    counts = []
    for happens in (lambda: None, lambda: None, lambda: MemoryQuotas.exchange(quotas, b"o" * 16, 0, []), lambda: None):
        happens()
        shared._exchange_once(1000.0)
        counts.append(len(changes))
    assert counts == [1, 1, 2, 2]


@pytest.mark.parametrize(("actors", "seconds", "cuts"), [(1, STUCK, 0), (1, STUCK + 1, 1), (MAX_ASKS, STUCK + 1, 0)])
def test_an_exchange_is_cut_off_once_when_no_statement_of_it_can_take_as_long(
    actors: int, seconds: float, cuts: int
) -> None:
    leases, quotas = Leases(), Quotas(FakeClock(), seconds)
    use(leases, 1, actors)
    shared = sharing(quotas, leases=leases)

    def watch() -> None:
        shared.free_stuck()
        shared.free_stuck()

    quotas.meanwhile = watch
    shared._exchange_once(1000.0)
    assert quotas.calls.count("interrupt") == cuts


# What is told


def test_an_outage_and_its_end_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    quotas = Quotas(clock)
    shared = sharing(quotas)
    for error in (None, SharedUnavailable("lost\n  and " + 600 * "x"), LookupError("bug"), None, None):
        quotas.error = error
        shared._exchange_once(1000.0)
    clock.advance(LOG_INTERVAL)
    quotas.error = LookupError("bug")
    shared._exchange_once(1000.0)
    lost, again, bug = caplog.records
    assert lost.message == f"Quotas hold per worker until they can be shared again: lost and {491 * 'x'}"
    assert again.message == "Quotas are shared between workers again."
    assert [bool(one.exc_info) for one in (lost, bug)] == [False, True]


def test_of_a_server_that_is_there_on_and_off_the_log_says_so_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    quotas = Quotas(clock)
    shared = sharing(quotas)
    for number in range(40):
        quotas.error = SharedUnavailable("lost") if number % 2 else None
        shared._exchange_once(1000.0 + number)
        clock.advance(1.0)
    assert (shared.outages, len(caplog.records)) == (20, 4)
    shared._exchange_once(1040.0)
    clock.advance(LOG_INTERVAL)
    shared._exchange_once(1060.0)
    assert len(caplog.records) == 5
    assert caplog.records[-1].message.startswith("Quotas hold per worker")


@pytest.mark.parametrize(
    "kind", [psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction]
)
def test_a_schema_that_is_not_there_yet_is_no_failure_and_one_that_has_gone_is(kind: type[psycopg.Error]) -> None:
    quotas = Quotas(FakeClock())
    shared = sharing(quotas)
    quotas.error = no_schema(kind)
    assert (shared._exchange_once(1000.0), shared.failures) == (SCHEMA_POLL, 0)
    quotas.error = SharedUnavailable("lost")
    assert shared._exchange_once(1000.0) > SCHEMA_POLL
    quotas.error = None
    shared._exchange_once(1000.0)
    quotas.error = no_schema(kind)
    assert (shared._exchange_once(1000.0) > SCHEMA_POLL, shared.failures) == (True, 2)


# The beginning and the end


@pytest.mark.parametrize("error", [MemoryError("none"), RuntimeError("can't start new thread")])
def test_where_there_is_no_thread_nobody_waits_for_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: object) -> None:
        raise error

    monkeypatch.setattr(sharer, "start_thread", refuse)
    shared = sharing(Quotas(FakeClock()))
    shared.start()
    assert shared.attempted.is_set()
    assert [one.message for one in caplog.records] == [f"No background thread ({error}): quotas hold per worker."]
    shared.stop(1.0)


def test_who_stops_tells_what_was_used_gives_back_the_rest_and_leaves() -> None:
    leases, quotas = Leases(), Quotas(FakeClock())
    shared = sharing(quotas, leases=leases)
    actor = use(leases, 5)
    shared._exchange_once(1000.0)
    leases.take(actor, [(MINUTE, 100)], 1000.0)
    shared.request_stop()
    shared._run()
    (grant,) = quotas.exchange(b"o" * 16, 0, [Ask(name_of(actor.key, MINUTE), MINUTE, 100, 50, 0, 0, 100)]).grants
    assert quotas.calls == ["exchange", "exchange", "leave", "close", "exchange"]
    # Half of what is left: that the other holds a loan, of nothing, is believed for its life.
    assert (grant.left, grant.units) == (94, 47)


@pytest.mark.parametrize("when", ["before", "at the end"])
def test_who_stops_while_the_server_is_lost_closes_all_the_same(when: str) -> None:
    quotas = Quotas(FakeClock())
    shared = sharing(quotas)
    quotas.error = SharedUnavailable("lost") if when == "before" else None
    shared._exchange_once(1000.0)
    quotas.error = SharedUnavailable("lost")
    shared.request_stop()
    shared._run()
    assert quotas.calls == {"before": ["exchange", "close"], "at the end": ["exchange", "exchange", "close"]}[when]


def test_who_stops_waits_for_no_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharer, "RETRY_INTERVAL", 600.0)
    quotas = Quotas(SystemClock())
    quotas.error = SharedUnavailable("lost")
    shared = sharing(quotas)
    shared.start()
    wait_until(lambda: shared.failures > 0)
    shared.stop(20.0)
    assert not shared._thread.is_alive()
