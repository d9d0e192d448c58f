"""Days, salts and jumping clocks: no visit is cut and no block lifted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asgi_analytics import Analytics
from asgi_analytics.engine import Engine
from asgi_analytics.middleware import Scope
from asgi_analytics.model import Identity, Place
from asgi_analytics.protocols import Salt
from asgi_analytics.settings import Settings
from asgi_analytics.testing import FakeClock, FixedLocator

from .drive import COOKIE, NOWHERE, OLD, STRICT, block, found, get, http_scope, look, page, rows, start, wrapped


def test_midnight_renames_a_visitor_and_cuts_no_visit(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(86_399)
    seen: list[tuple[str | None, str | None]] = []
    app = look(page(), lambda scope: seen.append(names(scope)) if scope["type"] == "http" else None)
    with wrapped(app, dsn, clock=clock) as wrap:
        start(wrap)
        get(wrap, "/before")
        clock.advance(2)
        get(wrap, "/after")
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]
    before, after = rows(dsn, "SELECT * FROM analytics.hits ORDER BY time")
    assert before["session_id"] == after["session_id"]
    assert before["fingerprint"] != after["fingerprint"]
    assert before["network"] != after["network"]
    assert (before["provisional"], after["provisional"]) == (False, False)


def test_who_comes_each_day_has_the_place_of_a_newer_geo_file_from_midnight_on(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(86_000)
    with wrapped(page(), dsn, clock=clock) as wrap:
        start(wrap)
        for country in ("FR", "DE"):
            wrap._engine.identifier._locator = FixedLocator(elsewhere=Place(country))
            get(wrap, f"/{country}")
            clock.advance(600)
    found = rows(dsn)
    assert [row["country"] for row in found] == ["FR", "DE"]
    assert len({row["session_id"] for row in found}) == 1


def test_a_cookie_that_waits_for_an_answer_over_midnight_keeps_no_network_of_yesterday(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(86_000)
    public = page(headers=[(b"cache-control", b"public, max-age=60")])
    with wrapped(public, dsn, clock=clock, **COOKIE) as wrap:
        start(wrap)
        get(wrap)
        clock.advance(600)
        get(wrap)
    before, after = rows(dsn)
    assert before["fingerprint"] == after["fingerprint"]
    assert before["network"] != after["network"]


def test_midnight_lifts_no_block(dsn: str) -> None:
    clock = FakeClock()
    clock.advance(86_390)
    with wrapped(page(), dsn, clock=clock, **STRICT) as wrap:
        start(wrap)
        block(wrap)
        clock.advance(20)
        assert get(wrap, "/d", OLD).status == 429


def test_a_salt_that_comes_late_keeps_the_visitor(dsn: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn, limits="9/minute", clock=FakeClock()) as wrap:
        get(wrap)
        wrap._engine.start()
        wrap._engine.wait(10)
        left = get(wrap).header("ratelimit")
    assert left == '"minute";r=7;t=20'
    assert len({row["session_id"] for row in rows(dsn)}) == 1


class Interrupted(dict[str, Any]):
    """A scope; another thread gets its turn when the client is read for the second time."""

    def __init__(self, scope: Scope, turn: Callable[[], object]) -> None:
        super().__init__(scope)
        self.turns = [turn, lambda: None]

    def __getitem__(self, key: str) -> Any:
        if key == "client":
            self.turns.pop()()
        return super().__getitem__(key)


def test_a_salt_that_comes_while_somebody_new_is_looked_for_is_everybodys() -> None:
    clock = FakeClock()
    engine = Engine(Settings.build(clock=clock, verify_crawlers=False), NOWHERE)

    def comes(address: str, turn: Callable[[], object] = lambda: None) -> Identity:
        scope = http_scope(client=(address, 1))
        headers, told = dict(scope["headers"]), Interrupted(scope, turn)
        return engine.identifier.visitor(told, headers, clock.monotonic(), clock.time_ns())[0].identity

    assert comes("198.51.100.7").provisional
    comes("198.51.100.8", lambda: engine.state.learn_salts([Salt("2100-01-01", bytes(32))]))
    assert [comes(f"198.51.100.{host}").provisional for host in (7, 8)] == [False, False]


@pytest.mark.parametrize("jump", [-3600, 3600, -60 * 365 * 86_400, 50 * 365 * 86_400])
def test_a_jump_of_the_wall_clock_moves_no_quota_and_lifts_no_block(jump: float) -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock, limits="5/minute", **STRICT) as wrap:
        block(wrap)
        get(wrap)
        clock.jump_wall(jump)
        assert get(wrap, "/d", OLD).status == 429
        assert get(wrap).header("ratelimit") == '"minute";r=3;t=20'


def test_a_session_ends_after_the_gap_and_another_begins(dsn: str) -> None:
    clock = FakeClock()
    with wrapped(page(), dsn, clock=clock, session_timeout=60) as wrap:
        start(wrap)
        for gap in (0, 60, 61):
            clock.advance(gap)
            get(wrap)
    kept = rows(dsn, "SELECT hits FROM analytics.sessions ORDER BY started_at")
    assert [row["hits"] for row in kept] == [2, 1]


def names(scope: Scope) -> tuple[str | None, str | None]:
    analytics: Analytics = scope["state"]["analytics"]
    return analytics.visitor, analytics.session
