"""Refusals that are given again: as exact as the first ones, for a moment only."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from dataclasses import replace
from typing import Any

import pytest

from asgi_analytics.exchange.arrival import CACHED_FOR
from asgi_analytics.jobs.signatures import Signatures
from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send
from asgi_analytics.model import Ruling
from asgi_analytics.record import refusals
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.testing import FakeClock
from tests.drive import Communicator, ask, get, http_scope, page, rows, socket_scope, start, wrapped

OTHER = ("198.51.100.8", 40000)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal is a count, so that the next one is given again."""
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 0)


@pytest.mark.usefixtures("counted")
def test_its_numbers_are_a_second_old_at_most() -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock, limits="1/minute") as wrap:
        get(wrap)
        first = get(wrap)
        clock.advance(CACHED_FOR * 0.9)
        again = get(wrap)
        clock.advance(CACHED_FOR * 0.2)
        anew = get(wrap)
    assert again == first
    assert int(anew.header("retry-after") or 0) < int(first.header("retry-after") or 0)
    assert json.loads(anew.body)["retry-after"] == int(anew.header("retry-after") or 0)


@pytest.mark.usefixtures("counted")
def test_nobody_else_gets_it() -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        assert [get(wrap).status for _ in range(3)] == [200, 429, 429]
        assert get(wrap, client=OTHER).status == 200


class Erring(FakeClock):
    """A clock whose monotonic time is set back."""

    def set_back(self, seconds: float) -> None:
        self._monotonic -= seconds


@pytest.mark.usefixtures("counted")
def test_a_clock_that_goes_back_makes_it_last_no_longer() -> None:
    clock = Erring()
    with wrapped(page(), clock=clock, limits="1/minute") as wrap:
        get(wrap)
        first = get(wrap)
        clock.set_back(200.0)
        assert get(wrap) != first


async def websocket(app: ASGIApp, **more: Any) -> list[Message]:
    client = Communicator(app, socket_scope(**more))
    await client.send_input({"type": "websocket.connect"})
    first = await client.receive_output()
    return [first] if first["type"] == "websocket.close" else [first, await client.receive_output()]


@pytest.mark.usefixtures("counted")
def test_it_suits_the_method_and_the_kind_of_the_request() -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        first, again, head = get(wrap), get(wrap), get(wrap, method="HEAD")
        denied = asyncio.run(websocket(wrap, extensions={"websocket.http.response": {}}))
        closed = asyncio.run(websocket(wrap))
    assert again == first
    assert (head.status, head.headers, head.body) == (429, first.headers, b"")
    assert [message["type"] for message in denied] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert denied[1]["body"] == first.body
    assert closed == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.usefixtures("counted")
def test_what_closes_a_websocket_is_no_answer_to_a_page() -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        get(wrap)
        assert asyncio.run(websocket(wrap)) == [{"type": "websocket.close", "code": 1008}]
        reply = get(wrap)
    assert (reply.status, json.loads(reply.body)["violated-policies"]) == (429, ["minute"])
    assert reply.header("retry-after") is not None


@pytest.mark.usefixtures("counted")
def test_what_somebody_further_out_does_to_an_answer_is_not_given_again() -> None:
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            async def marked(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"].append((b"x-outer", b"1"))
                await send(message)

            await wrap(scope, receive, marked)

        replies = [asyncio.run(ask(outer, http_scope())) for _ in range(4)]
    assert [sum(name == b"x-outer" for name, _ in reply.headers) for reply in replies] == [1, 1, 1, 1]


def test_a_new_minute_has_rows_of_refusals_again(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 3)
    clock = FakeClock()
    clock.advance(60.0 - clock.time_ns() / 1e9 % 60.0 - 0.5)
    with wrapped(page(), dsn, clock=clock, limits="1/day") as wrap:
        start(wrap)  # salts that come in between would make another visitor
        for _ in range(10):
            get(wrap)
        clock.advance(0.6)
        for _ in range(10):
            get(wrap)
    kept = rows(dsn, "SELECT * FROM analytics.hits WHERE outcome = 'refused'")
    sums = rows(dsn, "SELECT refusals FROM analytics.refusals ORDER BY minute")
    assert (len(kept), [row["refusals"] for row in sums]) == (6, [6, 7])
    assert len({row["decision_id"] for row in kept}) == 6


@pytest.mark.usefixtures("counted")
def test_its_findings_are_in_the_scope_as_of_any_request() -> None:
    scope = http_scope(state={})
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        for _ in range(2):
            get(wrap)
        assert asyncio.run(ask(wrap, scope)).status == 429
    assert scope["state"]["analytics"].decision.violated == ("minute",)


@pytest.mark.usefixtures("counted")
def test_it_ends_with_the_quota_that_a_returned_cookie_brings() -> None:
    options: dict[str, Any] = {"session_cookie": "v", "secret": "s" * 16}
    with wrapped(page(), clock=FakeClock(), limits="2/minute", **options) as wrap:
        get(wrap, headers={"sec-fetch-dest": "image"})
        (cookie,) = get(wrap).cookies
        headers = {"cookie": cookie.partition(";")[0]}
        assert [get(wrap, headers={"sec-fetch-dest": "image"}).status for _ in range(2)] == [429, 429]
        assert [get(wrap, headers=headers).status for _ in range(4)] == [200, 200, 429, 429]


def on(address: str, kind: str, now: float, **changes: Any) -> Ruling:
    """An operator's word on the network of one address."""
    made = Ruling(b"r" * 16, 1, kind, "scraping", "alice", now - 1.0, now + 1000.0)
    return replace(made, size=4, prefix=32, network=ipaddress.ip_address(address).packed, **changes)


@pytest.mark.usefixtures("counted")
def test_a_ban_ends_it_at_once_and_so_does_its_lifting() -> None:
    clock = FakeClock()
    with wrapped(page(), clock=clock) as wrap:
        book, now = wrap._engine.rulings, clock.monotonic()
        answers = [get(wrap)]
        book.learn_rulings([on("198.51.100.7", "ban", now)], now)
        answers += [get(wrap), get(wrap)]
        book.learn_rulings([on("198.51.100.7", "ban", now, revision=2, lifted=True)], now)
        answers.append(get(wrap))
    assert [reply.status for reply in answers] == [200, 429, 429, 200]
    assert answers[1] == answers[2]


@pytest.mark.usefixtures("counted")
def test_a_pardon_ends_it_at_once() -> None:
    clock = FakeClock()
    old = {"user-agent": "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0 Safari/1"}
    strict: dict[str, Any] = {"bot_score": 1, "signal_thresholds": {"high_request_count": 1}}
    with wrapped(page(), clock=clock, **strict) as wrap:
        statuses = [get(wrap, f"/{number}", old).status for number in range(5)]
        clock.advance(CACHED_FOR * 0.3)
        now = clock.monotonic()
        wrap._engine.rulings.learn_rulings([on("198.51.100.7", "pardon", now, made_at=now)], now)
        statuses.append(get(wrap, "/5", old).status)
    assert statuses == [200, 200, 200, 429, 429, 200]


@pytest.mark.usefixtures("counted")
def test_it_is_counted_though_the_engine_stops_meanwhile(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FileJournal.append

    def append(journal: FileJournal, data: bytes) -> None:
        patched.undo()
        wrap.close()
        whole(journal, data)

    with wrapped(page(), dsn, clock=FakeClock(), limits="1/minute") as wrap:
        assert [get(wrap).status for _ in range(2)] == [200, 429]
        with monkeypatch.context() as patched:
            patched.setattr(FileJournal, "append", append)
            assert get(wrap).status == 429
    (counted,) = rows(dsn, "SELECT sum(refusals) AS refusals FROM analytics.refusals")
    assert counted["refusals"] == 2


@pytest.mark.usefixtures("counted")
def test_no_signature_is_looked_at_for_a_refusal_that_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    monkeypatch.setattr(Signatures, "check", lambda *arguments: looked.append(arguments))
    signed = {"signature-input": 'a=("@authority");tag="web-bot-auth"'}
    with wrapped(page(), clock=FakeClock(), limits="1/minute") as wrap:
        assert [get(wrap, headers=signed).status for _ in range(9)] == [200] + [429] * 8
    assert len(looked) == 2
