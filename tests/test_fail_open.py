"""A step of ours that fails costs the host nothing: it is counted by its name, and the rest goes on."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from asgi_analytics.middleware import AnalyticsMiddleware, Message, Receive, Scope, Send
from asgi_analytics.overhead import SAMPLE
from asgi_analytics.record import refusals
from asgi_analytics.testing import FakeClock

from .build import Without, interpreted_only
from .drive import get, http_scope, page, socket_scope, wrapped
from .transparent import serve

STRICT: dict[str, Any] = {"shared": "redis://127.0.0.1:1/0", "shared_mode": "strict"}
BARE = (200, [(b"content-type", b"text/html")], b"<h1>hello</h1>")


def broken(*_: object) -> Any:
    raise LookupError("our own bug")


def break_step(wrap: AnalyticsMiddleware, part: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    get(wrap)  # which starts what is to be broken
    monkeypatch.setattr(wrap._engine, part, Without(getattr(wrap._engine, part), step))


def live(wrap: AnalyticsMiddleware) -> None:
    """Have the app's lifespan begin and end."""
    events: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    seen = asyncio.run(serve(wrap, {"type": "lifespan"}, events))
    assert [message["type"] for message in seen.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen.raised is None


@pytest.mark.parametrize("options", [{}, STRICT], ids=["memory", "strict"])
def test_where_nobody_can_be_identified_the_app_is_served_as_if_we_were_not_there(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with wrapped(page(), **options) as wrap:
        break_step(wrap, "identifier", "visitor", monkeypatch)
        reply = get(wrap)
        assert wrap.stats()["failures"] == {"identify and decide": 1}
    assert (reply.status, reply.headers, reply.body) == BARE


def test_an_answer_that_cannot_be_judged_keeps_its_headers_though_they_can_be_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = iter([(b"content-type", b"text/html")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<h1>hello</h1>"})

    with wrapped(app) as wrap:
        break_step(wrap, "responder", "fields", monkeypatch)
        reply = get(wrap)
        assert (wrap.stats()["failures"], wrap.stats()["queued"]) == ({"judge and respond": 1}, 2)
    assert (reply.status, reply.headers, reply.body) == BARE


def test_a_row_that_cannot_be_made_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with wrapped(page()) as wrap:
        break_step(wrap, "recorder", "hit", monkeypatch)
        assert get(wrap).body == b"<h1>hello</h1>"
        assert wrap.stats()["failures"] == {"record": 1}


def test_what_is_timed_is_done_once_though_its_time_cannot_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with wrapped(page(), limits=f"{2 * SAMPLE}/minute", clock=FakeClock()) as wrap:
        break_step(wrap, "overhead", "add", monkeypatch)
        replies = [get(wrap) for _ in range(SAMPLE)]  # one of them is timed
        assert {reply.body for reply in replies} == {b"<h1>hello</h1>"}
        assert (wrap.stats()["queued"], wrap.stats()["failures"]) == (SAMPLE + 1, {})
    assert str(replies[-1].header("ratelimit")).startswith(f'"minute";r={SAMPLE - 1};'), "each was charged once"


def test_a_disk_that_cannot_flush_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("the disk is gone")

    with wrapped(page(), durability="fsync") as wrap:
        get(wrap)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fail)
            assert get(wrap).body == b"<h1>hello</h1>"
        assert wrap.stats()["failures"]["sync"] == 1


@interpreted_only
@pytest.mark.parametrize("step", ["refuse", "refuse_again"])
def test_a_refusal_that_cannot_be_counted_is_told_all_the_same(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 0)  # each is a count, so that the next one is given again
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        break_step(wrap, "recorder", step, monkeypatch)
        told = [get(wrap) for _ in range(2)]
        failures = wrap.stats()["failures"]
    assert [reply.status for reply in told] == [429, 429]
    assert failures == {"count refusals": 2 if step == "refuse" else 1}


def test_where_no_refusal_can_be_made_the_app_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        break_step(wrap, "responder", "answer", monkeypatch)
        reply = get(wrap)
        assert wrap.stats()["failures"] == {"refuse": 1}
    assert (reply.status, reply.headers, reply.body) == BARE


def test_a_websocket_with_extensions_that_are_none_is_not_refused_by_an_error() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})

    async def send(message: Message) -> None:
        seen.append(message)

    with wrapped(app, clock=FakeClock(), limits="1/minute") as wrap:
        for _ in range(2):
            asyncio.run(wrap(socket_scope(extensions=5), None, send))  # type: ignore[arg-type]
        assert wrap.stats()["failures"] == {"refuse": 1}
    assert seen == [{"type": "websocket.close"}] * 2


def test_a_refusal_that_reaches_nobody_is_a_hit_all_the_same() -> None:
    async def gone(message: Message) -> None:
        raise OSError("client is gone")

    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        with pytest.raises(OSError, match="client is gone"):
            asyncio.run(wrap(http_scope(), gone, gone))  # type: ignore[arg-type]
        assert (wrap.stats()["queued"], wrap.stats()["failures"]) == (2, {})


def test_a_failing_start_fails_no_start_up_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with wrapped(page()) as wrap:
        monkeypatch.setattr(wrap._engine, "start", broken)
        live(wrap)
        assert get(wrap).status == 200
        assert wrap.stats()["failures"] == {"start": 1, "identify and decide": 1}


@pytest.mark.parametrize("step", ["stop_all", "hang_up"])
def test_a_failing_stop_fails_no_shutdown_of_the_host(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang_up() -> None:
        broken()

    with wrapped(page()) as wrap:
        with monkeypatch.context() as patched:
            if step == "hang_up":
                patched.setattr(wrap._engine, "hang_up", hang_up)
            else:
                patched.setattr("asgi_analytics.lifespan.stop_all", broken)
            live(wrap)
        assert wrap.stats()["failures"] == {"stop": 1}
