"""Whatever comes in: the answer is the bare app's, the value in the table is the one sent or its documented form."""

from __future__ import annotations

import asyncio
import copy
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.acceptance.app import BODY
from tests.acceptance.faults.ledger import Account
from tests.acceptance.rig import serving
from tests.drive import OURS, ask, get, http_scope, page, rows, start, wrapped

NAMES = st.sampled_from(
    b"user-agent referer cookie accept-language x-forwarded-for forwarded host dnt sec-gpc sec-fetch-dest x".split()
)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=12)
ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.text(max_size=50),
    st.sampled_from(["", "testclient", "::ffff:1.2.3.4", "fe80::1%eth0", "1.2.3.4:80", "[::1]:80", "unix:", "0x7f.1"]),
)
CLIENTS = st.one_of(
    st.none(), st.tuples(ADDRESSES, st.integers(0, 65535)), st.lists(st.one_of(ADDRESSES, st.integers()), max_size=3)
)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=80)  # lone surrogates too
SCOPES: Any = st.fixed_dictionaries(
    {"path": TEXTS.map("/{}".format), "method": st.sampled_from(["GET", "HEAD", "POST", "FOO", "OPTIONS", ""])},
    optional={
        "headers": HEADERS,
        "client": CLIENTS,
        "query_string": st.binary(max_size=200),
        "http_version": st.sampled_from(["1.0", "1.1", "2", "3"]),
        "scheme": st.sampled_from(["http", "https", "ws", ""]),
        "root_path": TEXTS,
        "server": st.one_of(st.none(), st.tuples(TEXTS, st.one_of(st.none(), st.integers()))),
        "extensions": st.just({}),
        "state": st.just({}),
    },
)
STATUSES = st.one_of(st.integers(100, 599), st.sampled_from([0, 99, 999, -1, 1 << 70]))


def test_any_scope_is_answered_as_bare_and_is_one_row(dsn: str, account: Account) -> None:
    count, body = 0, b""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": body})

    with wrapped(app, dsn, mode="observe", trusted_proxies=["0.0.0.0/0", "::/0", "unix"], batch_age=0.5) as middleware:

        @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
        @given(changes=SCOPES, answer=st.binary(max_size=20))
        def check(changes: dict[str, Any], answer: bytes) -> None:
            nonlocal count, body
            body, scope = answer, {**http_scope(), **changes}
            kept = copy.deepcopy(scope)
            bare, ours = asyncio.run(ask(app, scope)), asyncio.run(ask(middleware, scope))
            assert (ours.status, ours.body) == (bare.status, bare.body)
            assert [pair for pair in ours.headers if pair[0] not in OURS] == bare.headers
            assert scope["state"].pop("analytics") is not None
            assert scope == {"state": {}, **kept}
            count += 1

        check()
        assert middleware.stats()["failures"] == {}
    account.round(count)
    stats = middleware.stats()
    assert (stats["queued"], stats["written"], stats["quarantined"]) == (count, count, 0)
    assert len(rows(dsn)) == count


NAUGHTY = [
    "undefined", "NULL", "nil", "-1/0", "1e400000", "NaN", "0x0", "'; DROP TABLE analytics.hits;--", "\\.", "\\N",
    "\t\n",
    "<script>alert(1)</script>", "${jndi:ldap://x}", "{{7*7}}", "%s%s%n", "../../etc/passwd", "田中さん", "ｱ社會",
    "مرحبا",
    "Ⱥ", "\u202e reversed", "\ufeff", "\uffff", "👩‍👩‍👧‍👧", "Z̮̞̠͙͔ͅA͘L̷G̡O", "\u200b", "ﷺ", "\x7f", "𝕿𝖍𝖊", "é", "e\u0301",
]  # fmt: skip


def test_naughty_texts_are_stored_as_they_were_sent_but_for_path_parameters(dsn: str, account: Account) -> None:
    with wrapped(page(), dsn, mode="observe") as app:
        start(app)
        for text in NAUGHTY:
            get(app, f"/n/{text}")
            account.round()
    assert [row["path"] for row in rows(dsn)] == [f"/n/{text.partition(';')[0]}" for text in NAUGHTY]


UNUSUAL = [
    b"GET /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"GET /b HTTP/1.0\r\n\r\n",
    b"get /c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("sent", UNUSUAL)
def test_unusual_requests_through_a_socket_are_one_row_or_none(
    dsn: str, tmp_path: Path, account: Account, sent: bytes
) -> None:
    with serving(dsn, tmp_path / "j", batch_age=0.05) as server:
        with socket.create_connection(("127.0.0.1", server.port), 5) as wire:
            wire.sendall(sent)
            wire.settimeout(2)
            got = b""
            try:
                while BODY not in got and (piece := wire.recv(65536)):
                    got += piece
            except TimeoutError:
                pass
        account.round()
        served = BODY in got
    assert served or sent.startswith(b"get "), "only a method that is none may be turned away by the server"
    expected = 1 if served else 0
    assert len([row for row in rows(dsn) if row["path"] != "/ready"]) == expected


PARSED = {
    "user-agent": ["Mozilla/5.0 (" * 600, "a" * 8192, "Chrome/" * 1000, "(;" * 4000, "bot " * 2000, "\xff" * 8000],
    "cookie": [
        "aa_v=" * 1600,
        ";" * 8192,
        "aa_v=" + "A" * 8000,
        "; ".join(f"c{n}=1" for n in range(1500)),
        '="' * 4000,
    ],
    "x-forwarded-for": ["1.2.3.4, " * 900, "[" * 8000, "::" * 4000, "unknown, _hidden, " * 450],
    "forwarded": ['for="[2001:db8::1]:4711", ' * 300, 'for="' * 1600, "for=a;by=b;" * 700, "\\" * 8000],
    "referer": ["http://" + "a." * 4000, "http://[" * 1000, "?" * 8000, "http://x/?" + "utm_source=x&" * 600],
    "x-forwarded-proto": [";" * 500_000, "https" * 100_000],  # some servers bound no line
    "accept-language": ["," * 8000, "en;q=" * 1600, "a-" * 4000, ";q=0.9" * 1300],
}


def test_eight_kilobytes_of_a_root_path_which_daphne_takes_from_a_header_take_little_time(account: Account) -> None:
    with wrapped(page(b"", 302, headers=[(b"location", b"/there")]), mode="observe") as app:

        def cost(root: str) -> float:
            scope, began = http_scope("/here", root_path=root), time.thread_time()
            asyncio.run(ask(app, scope))
            return time.thread_time() - began

        plain, worst = (min(cost(f"/{turn}{'a' * size}") for turn in range(9)) for size in (1, 8192))
        account.round()
    assert worst - plain < 0.003, worst - plain  # 1 ms; the machine is shared


@pytest.mark.parametrize("header", PARSED)
def test_eight_kilobytes_of_any_header_take_little_time(account: Account, header: str) -> None:
    with wrapped(page(), mode="observe", trusted_proxies="0.0.0.0/0", session_cookie=True, secret="s" * 16) as app:

        async def cost(scope: Any) -> float:
            began = time.thread_time()
            await ask(app, scope)
            return time.thread_time() - began

        plain = min(asyncio.run(cost(http_scope(client=(f"10.9.0.{number}", 1)))) for number in range(20))
        for number, text in enumerate(PARSED[header]):
            raw = [(header.encode(), text.encode("latin-1"))]
            worst = min(
                asyncio.run(cost({**http_scope(client=(f"10.{number}.1.{turn}", 1)), "headers": raw}))
                for turn in range(5)
            )
            assert worst - plain < 0.003, (text[:20], worst - plain)  # 1 ms; the machine is shared
            account.round()
        assert app.stats()["failures"] == {}
