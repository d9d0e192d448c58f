"""What the engine does with a visitor between identifying and deciding; nothing is started."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from math import inf
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import engine as engines
from asgi_analytics.decide.actor import adopt_level
from asgi_analytics.engine import Engine
from asgi_analytics.errors import EmbeddedPostgresError
from asgi_analytics.exchange.arrival import Arrival
from asgi_analytics.exchange.beginning import begin_strictly
from asgi_analytics.exchange.http import Exchange
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.identify import visitor as module
from asgi_analytics.middleware import Scope
from asgi_analytics.model import Analytics, ClaimStatus, Merged, Ruling, Verification, Visitor
from asgi_analytics.protocols import Store, StrictAnswer
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.shared.sharer import Sharer
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.testing import FakeClock
from tests.drive import COOKIE, NOWHERE, get, http_scope, look, page, wrapped
from tests.waiting import wait_until

GOOGLEBOT = {"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
GPTBOT = {"user-agent": "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)"}


def engine_of(**options: Any) -> Engine:
    return Engine(Settings.build(**{"clock": FakeClock(), "limits": "100/minute", **options}), NOWHERE)


def comes(engine: Engine, scope: Scope) -> tuple[Visitor, bool]:
    return engine.identifier.visitor(scope, dict(scope["headers"]), engine.monotonic(), engine.time_ns())


def arrives(engine: Engine, scope: Scope) -> Arrival:
    unused: Any = None
    engine.started = True  # its threads are not wanted here
    return Arrival(engine, scope, unused, unused)


def told(idle: float = 0.0, connected: bool = False) -> Visitor:
    """A visitor whose session and 30 requests others told of, at its next request."""
    clock = FakeClock()
    engine = engine_of(clock=clock)
    visitor = arrives(engine, http_scope()).visitor
    visitor.merged = Merged(visitor.identity.fingerprint, b"o" * 16, 30, 0, 0)
    engine.leases.connected = connected
    clock.advance(idle)
    assert arrives(engine, http_scope()).visitor is visitor
    return visitor


@pytest.mark.parametrize(("idle", "own"), [(0.0, False), (1801.0, True)])
def test_a_session_that_goes_on_is_the_one_of_the_others_and_a_new_one_its_own(idle: float, own: bool) -> None:
    assert (told(idle).session.id != b"o" * 16) is own


@pytest.mark.parametrize(("connected", "charged"), [(False, 30), (True, 0)])
def test_what_others_admitted_is_charged_where_quotas_are_not_shared(connected: bool, charged: int) -> None:
    assert [window.count for window in told(connected=connected).actor.windows] == [charged]


def test_a_flagged_visitor_that_was_forgotten_is_found_anew() -> None:
    engine = engine_of(max_flagged=100)
    scopes = [http_scope(client=(f"198.51.100.{number}", 40000)) for number in range(101)]
    visitors = [comes(engine, scope)[0] for scope in scopes]
    for visitor in visitors:
        visitor.actor.throttle.level = ThrottleLevel.BLOCKED
        engine.state.level_changed(visitor)
    anew = [comes(engine, scope)[0] is not visitor for scope, visitor in zip(scopes, visitors, strict=True)]
    assert anew == [True] + [False] * 100


def test_the_next_page_of_a_claim_that_turned_out_false_is_judged_by_it(tmp_path: Path) -> None:
    clock, seen = FakeClock(), list[Analytics]()
    app = look(page(), lambda scope: seen.append(scope["state"]["analytics"]))
    with wrapped(app, clock=clock, crawler_dir=tmp_path) as wrap:
        get(wrap, "/1", GPTBOT)
        ranges = tmp_path / "openai-gptbot.json"
        ranges.write_text(json.dumps({"prefixes": [{"ipv4Prefix": "52.230.152.0/24"}]}))
        os.utime(ranges, ns=(clock.time_ns(), clock.time_ns()))
        clock.advance(60.0)
        assert wrap._engine.verifier is not None
        wrap._engine.verifier.refresh(clock.monotonic())
        get(wrap, "/2", GPTBOT)
    assert [finding.signal for finding in seen[-1].signals] == ["false_crawler_claim"]


@pytest.mark.parametrize(
    ("status", "operator", "exempt"),
    [
        (ClaimStatus.VERIFIED, "Google", True),
        (ClaimStatus.VERIFIED, "OpenAI", False),
        (ClaimStatus.VERIFIED, None, False),
        (ClaimStatus.PENDING, "Google", False),
    ],
)
def test_only_the_operator_that_is_claimed_exempts(
    status: ClaimStatus, operator: str | None, exempt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, scope = engine_of(), http_scope(headers=GOOGLEBOT)
    found = Verification(status, "signature", operator)
    monkeypatch.setattr(engine.verifier, "status", lambda *_: found)
    arrival = arrives(engine, scope)
    arrival.decide(scope)
    assert arrival.decision.exempt is exempt


def test_an_engine_that_cannot_be_made_whole_leaves_no_threads_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often requests try again."""

    def fail(engine: Engine) -> Any:
        raise RuntimeError("no")

    before = set(threading.enumerate())
    with wrapped(page(), NOWHERE) as middleware:
        monkeypatch.setattr(Engine, "_new_sharer", fail)
        assert [get(middleware).status for _ in range(3)] == [200] * 3
        assert middleware.stats()["failures"] == {"identify and decide": 3}
        assert set(threading.enumerate()) <= before
        monkeypatch.undo()
        assert get(middleware).status == 200
        assert middleware.stats()["failures"] == {"identify and decide": 3}


def test_all_engines_are_found_while_another_thread_builds_an_app() -> None:
    """Else the end of the process would deliver nothing, and routes of one app count for themselves."""
    done, known = threading.Event(), engine_of()

    def build() -> None:
        while not done.is_set():
            engine_of()

    builder = threading.Thread(target=build)
    builder.start()
    try:
        for _ in range(20_000):
            assert known in engines.all_engines()
    finally:
        done.set()
        builder.join()


def test_a_start_that_is_interrupted_leaves_no_threads_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a signal whose handler raises."""

    def interrupt(sharer: Sharer) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with wrapped(page(), NOWHERE) as middleware:
        monkeypatch.setattr(Sharer, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            middleware._engine.start()
        monkeypatch.undo()
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert set(threading.enumerate()) <= before
        assert get(middleware).status == 200


def test_a_start_in_which_a_signal_closes_the_app_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request starts it: taken for started it would keep all hits in memory, and lose them."""
    with wrapped(page(), NOWHERE) as middleware:
        start = Sharer.start

        def start_and_close(sharer: Sharer) -> None:
            start(sharer)
            middleware.close()  # by a signal handler, in the thread that starts

        monkeypatch.setattr(Sharer, "start", start_and_close)
        middleware._engine.start()
        assert not middleware._engine.started
        monkeypatch.undo()
        assert get(middleware).status == 200
        assert middleware._engine.writer is not None


class NoPostgres:
    """An embedded Postgres that does not start."""

    made = 0

    def __init__(self) -> None:
        NoPostgres.made += 1

    def start(self) -> str:
        raise EmbeddedPostgresError("no")

    def leave(self) -> None:
        pass


def test_all_threads_of_an_engine_use_one_embedded_postgres_also_while_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another one, of the last attempt to deliver, would be stopped by nobody."""
    monkeypatch.setattr(engines, "EmbeddedPostgres", NoPostgres)
    monkeypatch.setattr(NoPostgres, "made", 0)
    engine = Engine(Settings.build(durability="memory"), None)
    engine.start()
    assert engine.writer is not None
    assert engine.writer.attempted.wait(10.0)
    engine.stop()
    assert NoPostgres.made == 1


def test_who_came_lately_is_remembered_in_bounded_number() -> None:
    engine = engine_of(max_visitors=100)
    for number in range(250):
        comes(engine, http_scope(client=(f"198.51.{number // 250}.{number % 250}", 40000)))
    assert len(engine.identifier._recent) == 50


def test_headers_that_many_send_are_one_object_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXTS", 10)
    engine = engine_of()
    for number in range(3):
        headers = {"user-agent": "".join(("Mozilla", "/5.0")), "accept-language": "".join(("en", "-GB"))}
        comes(engine, http_scope(headers=headers, client=(f"198.51.100.{number}", 40000)))
    kept = list(engine.identifier._recent)
    assert {len({id(seen[place]) for seen in kept}) for place in (1, 2)} == {1}
    for number in range(30):
        comes(engine, http_scope(headers={"user-agent": f"agent/{number}"}))
    assert len(engine.identifier._texts) <= 12


def test_whose_cookie_came_back_has_a_quota_of_its_own_that_all_workers_share() -> None:
    engine = engine_of(**COOKIE)
    first, _ = comes(engine, http_scope())
    assert first.cookie is not None
    cookie = first.cookie.decode().partition(";")[0]
    back, _ = comes(engine, http_scope(headers={"cookie": cookie}))
    alike, _ = comes(engine, http_scope(method="POST"))
    assert back.actor is not alike.actor
    assert back.actor.key == back.identity.fingerprint


@pytest.mark.parametrize(("workers", "charged"), [(1, 6), (2, 1)])
def test_a_worker_that_keeps_to_its_part_leaves_what_others_admit_to_theirs(workers: int, charged: int) -> None:
    """While quotas cannot be exchanged; who knows of no others counts what the store tells of them."""
    engine = engine_of(limits="10/minute")
    engine.leases.workers = workers
    visitor, _ = comes(engine, http_scope())
    visitor.merged = Merged(visitor.identity.fingerprint, b"s" * 16, 5, 0, 0)
    scope = http_scope()
    arrives(engine, scope).decide(scope)
    assert visitor.actor.windows[0].count == charged


class Counted:
    """StrictQuotas that have room for all, and remember what was asked for."""

    def __init__(self) -> None:
        self.failures = 0
        self.asked: list[Any] = []

    async def take(self, quotas: Any) -> StrictAnswer | None:
        self.asked.append(quotas[0][1])
        self.names = [name for name, _ in quotas]
        return StrictAnswer(True, [9] * len(quotas), [0.0] * len(quotas))

    async def close(self) -> None:
        """Nothing is open."""


def strictly(engine: Engine) -> Arrival:
    """One request in strict mode, up to the app."""

    async def never(*_: Any) -> Any:
        raise AssertionError

    arrival = asyncio.run(begin_strictly(Exchange, engine, http_scope(), never, never))
    assert arrival is not None
    return arrival


def strict_engine(clock: FakeClock) -> tuple[Engine, Counted]:
    server, counted = "redis://127.0.0.1:1/0", Counted()
    engine = engine_of(limits="40/minute", clock=clock, shared=server, shared_mode="strict")
    engine.strict = counted
    return engine, counted


def test_who_is_banned_is_refused_without_a_unit_of_anybodys_quota_in_strict_mode() -> None:
    """Else a client that hammers would use up its network's."""
    engine, counted = strict_engine(FakeClock())
    first = strictly(engine)
    ban = Ruling(b"1" * 16, 1, "ban", "scraping", "alice", 0.0, inf, fingerprint=first.visitor.identity.fingerprint)
    engine.rulings.learn_rulings([ban], 0.0)
    assert strictly(engine).decision.violated == ("ban",)
    assert len(counted.asked) == 1


@pytest.mark.parametrize(("level", "limit"), [(1, 40), (2, 20), (3, 10)])
def test_a_server_of_strict_quotas_is_asked_for_those_of_the_level_that_has_cooled_down(level: int, limit: int) -> None:
    clock = FakeClock()
    engine, counted = strict_engine(clock)
    adopt_level(strictly(engine).visitor.actor, ThrottleLevel(level), clock.monotonic())
    clock.advance(600)
    assert strictly(engine).decision.level == level - 1
    assert counted.asked[1:] == [((60.0, limit),)]


def test_a_server_of_strict_quotas_is_asked_by_the_names_of_today() -> None:
    """Though the loans that leases have for this actor still have those of yesterday."""
    engine, counted = strict_engine(FakeClock())
    visitor = strictly(engine).visitor
    visitor.actor.next_key, visitor.network.next_key = b"a" * 16, b"n" * 16
    strictly(engine)
    assert counted.names == [b"a" * 16, b"n" * 16]


def test_what_is_old_is_cleared_away_once_an_hour_however_often_the_app_is_closed(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where each call of a function in the cloud ends with a close."""
    tidied: list[int] = []
    looks = 0
    tidy = Writer._tidy

    def look_at(writer: Writer, store: Store) -> None:
        nonlocal looks
        tidy(writer, store)
        looks += 1

    monkeypatch.setattr(PostgresStore, "tidy", lambda store: tidied.append(1))
    monkeypatch.setattr(Writer, "_tidy", look_at)
    with wrapped(page(), dsn) as wrap:
        for _ in range(3):
            before = looks
            get(wrap)
            wait_until(lambda: looks > before)  # noqa: B023
            assert wrap.close()
    assert tidied == [1]
