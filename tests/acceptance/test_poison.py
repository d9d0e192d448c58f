"""Whatever is sent: the app's answer is unchanged, its neighbours are stored, the row is stored or set aside."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import Message, Receive, Scope, Send
from tests.acceptance.app import BODY
from tests.acceptance.rig import Server, serving
from tests.record.rows import fetch, one
from tests.waiting import wait_until

AWFUL = {
    "invalid UTF-8 in headers": b"User-Agent: \xff\xfe\xed\xa0\x80\r\nReferer: http://x/\xff\xc3\r\nCookie: \xfe\r\n",
    "60 KB user agent": b"User-Agent: " + b"A" * 60_000 + b"\r\n",
    "60 KB referrer": b"Referer: http://example.com/" + b"r" * 60_000 + b"\r\n",
    "an accept-language of commas": b"Accept-Language: " + b"," * 5_000 + b"\r\n",
    "forwarded for nonsense": b"X-Forwarded-For: \xff, [::1, " + b"1.2.3.4, " * 500 + b"\r\nForwarded: for=\x80;\r\n",
    "300 headers": b"".join(b"X-Header-%d: v\r\n" % number for number in range(300)),
    "one header 100 times": b"User-Agent: twice\r\n" * 100,
    "4,000 cookies": b"Cookie: " + b"; ".join(b"c%d=1" % number for number in range(4000)) + b"\r\n",
    "empty values": b"User-Agent:\r\nReferer:\r\nAccept-Language:\r\nCookie:\r\n",
}
TARGETS = {
    "NUL": b"/a%00b",
    "invalid UTF-8": b"/%ff%fe%c3",
    "encoded surrogate": b"/%ed%a0%80",
    "50 KB path": b"/" + b"p" * 50_000,
    "50 KB query": b"/q?" + b"q=" * 25_000,
    "query of nonsense": b"/q?utm_source=%00%ff&utm_medium=%ed%a0%80&gclid=" + b"x" * 3000,
    "absolute form": b"http://evil.example/x",
    "backslashes and tabs": b"/%09%5C.%0A%0D%5C%5C",
}


@pytest.fixture
def server(dsn: str, tmp_path: Path) -> Iterator[Server]:
    with serving(dsn, tmp_path / "j", batch_age=0.05) as server:
        yield server


def request(target: bytes, headers: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"Connection: close\r\n\r\n"


def paths(dsn: str) -> list[str]:
    return [
        row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits ORDER BY time") if row["path"] != "/ready"
    ]


def test_awful_requests_through_a_real_server_are_all_answered_and_stored(server: Server, dsn: str) -> None:
    answers = {}
    server.get("/before")
    for name, headers in AWFUL.items():
        answers[name] = server.send(request(b"/awful", headers))
    for name, target in TARGETS.items():
        answers[name] = server.send(request(target))
    server.get("/after")
    # What a server refuses by itself never reaches the app, nor us.
    served = {name: answer for name, answer in answers.items() if not answer.startswith(b"HTTP/1.1 4")}
    assert len(served) >= len(answers) - 4
    assert all(answer.endswith(BODY) for answer in served.values())
    wait_until(lambda: "/after" in paths(dsn), what="the last row")
    found = paths(dsn)
    assert (len(found), found[0], found[-1]) == (len(served) + 2, "/before", "/after")
    assert one(dsn, "SELECT count(*) AS n FROM analytics.quarantine")["n"] == 0


def test_a_status_that_the_server_itself_stumbles_over_is_stored_as_unknown(server: Server, dsn: str) -> None:
    assert server.get("/status/299").startswith(b"HTTP/1.1 299")
    # uvicorn knows no reason phrase for these and closes the connection, as it does under the bare app.
    assert server.get("/status/999") == server.get("/status/600") == b""
    server.get("/after")
    wait_until(lambda: "/after" in paths(dsn), what="the last row")
    rows = fetch(dsn, "SELECT path, status FROM analytics.hits WHERE path LIKE '/status/%%' ORDER BY path")
    assert [(row["path"], row["status"]) for row in rows] == [
        ("/status/299", 299),
        ("/status/600", None),
        ("/status/999", None),
    ]


SCOPES: dict[str, dict[str, Any]] = {
    "lone surrogates": {"path": "/\ud800\udfff", "method": "G\udc80T"},
    "NUL": {"path": "/\0" * 10, "method": "\0"},
    "1 MB path": {"path": "/" + "p" * 1_000_000},
    "1 MB of astral path": {"path": "/" + "\U0001f600" * 250_000},
    "1 MB query": {"query_string": b"utm_source=" + b"\xff" * 1_000_000},
    "60 KB user agent": {"headers": [(b"user-agent", b"\0\xff" * 30_000)]},
    "NUL in headers": {"headers": [(b"referer", b"http://\0/\0"), (b"accept-language", b"\0\xff"), (b"host", b"\0")]},
    "no headers": {"headers": []},
    "no client": {"client": None},
    "a client that is no address": {"client": ("testclient", 50000)},
    "an empty client": {"client": ["", None]},
    "a client with a zone": {"client": ("fe80::1%eth0", 1)},
    "cookies": {"headers": [(b"cookie", b"aa_v=\xff\0; aa_v=" + b"x" * 60_000)] * 3},
    "10,000 forwarded": {"headers": [(b"x-forwarded-for", b"\xff, unknown, _hidden, " * 10_000)]},
}
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
END = {"type": "http.response.body", "body": b"here"}


async def exchange(app: Any, changes: dict[str, Any]) -> list[Message]:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "", "client": ("198.51.100.7", 1),
        "server": ("x", 80), "headers": [(b"user-agent", b"test")], **changes,
    }  # fmt: skip
    client: Any = ApplicationCommunicator(app, scope)
    await client.send_input({"type": "http.request", "body": b""})
    messages = [await client.receive_output(5), await client.receive_output(5)]
    await client.wait(5)
    return messages


def sent_to(app: Any, *changes: dict[str, Any]) -> list[list[Message]]:
    async def run() -> list[list[Message]]:
        return [await exchange(app, one) for one in changes]

    return asyncio.run(run())


def wrapped(dsn: str, start: Message = START, **options: Any) -> AnalyticsMiddleware:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(start))
        await send(dict(END))

    return AnalyticsMiddleware(app, dsn=dsn, limits="100000/second", **options)


@pytest.mark.parametrize("mode", ["fingerprint", "cookie"])
def test_what_no_server_would_pass_on_changes_no_answer_and_is_stored(dsn: str, mode: str) -> None:
    cookie: dict[str, Any] = {"session_cookie": True, "secret": "s" * 16} if mode == "cookie" else {}
    app = wrapped(dsn, trusted_proxies="198.51.100.7", **cookie)
    answers = sent_to(app, {"path": "/before"}, *SCOPES.values(), {"path": "/after"})
    assert app.close()
    for name, (start, end) in zip(SCOPES, answers[1:-1], strict=True):
        assert (name, start["status"], end) == (name, 200, END)
        assert start["headers"][:1] == START["headers"]
    found = paths(dsn)
    assert (len(found), found[0], found[-1]) == (len(SCOPES) + 2, "/before", "/after")
    stats = app.stats()
    assert (stats["queued"], stats["written"], stats["quarantined"]) == (len(found), len(found), 0)
    assert (stats["dropped"], stats["failures"]) == ({}, {})


@pytest.mark.parametrize("status", [99, 999, -1, 1 << 70, "200", None, 200.5])
def test_a_status_that_is_none_is_passed_on_and_stored_as_unknown(dsn: str, status: Any) -> None:
    app = wrapped(dsn, {**START, "status": status})
    ((start, end),) = sent_to(app, {})
    assert app.close()
    assert app.stats()["failures"] == {}
    assert (start["status"], end) == (status, END)
    assert one(dsn, "SELECT status FROM analytics.hits")["status"] is None


def test_headers_of_an_answer_that_are_absurd_are_passed_on(dsn: str) -> None:
    headers = [(b"content-type", b"\xff\0"), (b"", b""), (b"X" * 60_000, b"\xff" * 60_000), (b"set-cookie", b"a\0")]
    app = wrapped(dsn, {**START, "headers": headers})
    ((start, _),) = sent_to(app, {})
    assert app.close()
    assert start["headers"][: len(headers)] == headers
    assert one(dsn, "SELECT count(*) AS n FROM analytics.hits")["n"] == 1
