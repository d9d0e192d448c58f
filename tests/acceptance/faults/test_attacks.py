"""What an attacker tries on identity, quotas, caches and logs, and what it gets."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest

from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.testing import FakeClock
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import WHOLE
from tests.acceptance.faults.test_latency import peak
from tests.acceptance.faults.test_load import MIB, memory
from tests.drive import NOWHERE, ask, get, http_scope, page, rows, start, wrapped


@pytest.fixture(autouse=True)
def bounded(account: Account) -> Iterator[None]:
    """No attack takes more than 64 MiB, not even for a while; where the system tells the peak of a process."""
    peak(os.getpid())
    warm = memory()
    yield
    assert peak(os.getpid()) - warm < 64 * MIB


JSON = page(b"{}", kind=b"application/json")


def test_a_flood_of_new_visitors_washes_no_block_out(account: Account) -> None:
    with wrapped(JSON, limits="10/hour", max_visitors=500, max_flagged=100, clock=FakeClock()) as app:
        blocked = {"user-agent": "blocked/1"}
        assert [get(app, "/", blocked).status for _ in range(12)][-1] == 429
        visitor = next(iter(app._engine.state._visitors.values()))
        visitor.actor.throttle.level = ThrottleLevel.BLOCKED
        visitor.actor.throttle.changed_at = app._engine.monotonic()
        app._engine.state.level_changed(visitor)
        for number in range(20_000 if WHOLE else 3_000):  # there is room for 500
            get(app, "/", {"user-agent": f"flood/{number}"}, client=(f"10.{number >> 8 & 255}.{number & 255}.9", 1))
        assert get(app, "/", blocked).status == 429
        assert app.stats()["memory"]["visitors"] <= 500
        account.round()


def test_ten_thousand_user_agents_of_60_kilobytes_take_bounded_memory(account: Account) -> None:
    with wrapped(JSON, mode="observe") as app:

        def attack(first: int, count: int) -> None:
            for number in range(first, first + count):
                get(app, "/", {"user-agent": f"Mozilla/{number} " + "x" * 60_000, "accept-language": "y" * 60_000})

        attack(0, 500)
        warm = memory()
        attack(500, 5_000 if WHOLE else 2_000)  # 240 MB of text at least
        assert memory() - warm < 64 * MIB
        account.round()


def test_thousands_of_long_methods_take_bounded_memory(account: Account) -> None:
    """h11 takes methods of any length that a head may have."""
    with wrapped(JSON, mode="observe") as app:

        def attack(first: int, count: int) -> None:
            for number in range(first, first + count):
                get(app, method=f"M{number}" + "X" * 60_000)

        attack(0, 100)
        warm = memory()
        attack(100, 1_000)  # 60 MB of text
        assert memory() - warm < 16 * MIB
        account.round()


@pytest.mark.parametrize("option", [{}, {"session_cookie": True, "secret": "s" * 16}])
def test_who_changes_or_drops_all_that_tells_it_apart_is_bound_by_its_address(
    dsn: str, account: Account, option: dict[str, Any]
) -> None:
    with wrapped(JSON, dsn, limits="50/hour", network_limits="200/hour", clock=FakeClock(), **option) as app:
        start(app)
        headers = [{"user-agent": f"agent/{number}", "accept-language": f"x-{number}"} for number in range(600)]
        answers = [get(app, "/", one).status for one in headers]
        account.round()
    assert answers.count(200) == 200
    refusals = "SELECT (SELECT count(*) FROM analytics.hits) + coalesce(sum(refusals), 0) AS n FROM analytics.refusals"
    assert rows(dsn, refusals) == [{"n": 600}]


def test_a_cookie_used_elsewhere_brings_no_trust(dsn: str, account: Account) -> None:
    with wrapped(JSON, dsn, session_cookie=True, secret="s" * 16, limits="20/hour", clock=FakeClock()) as app:
        start(app)
        home = {"sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
        cookie = get(app, "/", home).cookies[0].partition(";")[0]
        stolen = {**home, "cookie": cookie, "user-agent": "thief/1"}
        answers = [get(app, "/", stolen, client=("203.0.113.9", 1)).status for _ in range(30)]
        owner = get(app, "/", {**home, "cookie": cookie}).status
        account.round()
    assert 0 < answers.count(200) <= 20, "the quota is the visitor's, wherever it is used"
    assert (answers[-1], owner) == (429, 429), "and is used up for the owner, too"


def test_a_cookie_in_any_of_several_headers_is_found(account: Account) -> None:
    """As HTTP/2 splits them."""
    with wrapped(page(), session_cookie=True, secret="s" * 16, mode="observe") as app:
        home = {"sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
        ours = get(app, "/", home).cookies[0].partition(";")[0].encode()
        for place in range(4):
            crumbs = [b"a=1", b"b=c=d", b'e="quoted; not"']
            crumbs.insert(place, ours)
            scope = http_scope("/", headers=home)
            scope["headers"] = [*scope["headers"], *((b"cookie", crumb) for crumb in crumbs)]
            assert asyncio.run(ask(app, scope)).cookies == []
            account.round()


@pytest.mark.parametrize("text", ["/a%0d%0aSet-Cookie: x=1", "/\x1b[31mred", "/\r\nFORGED log line", "/\u2028"])
def test_nothing_that_a_visitor_sends_makes_a_line_in_a_log_or_an_answer(
    account: Account, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    with caplog.at_level(logging.DEBUG), wrapped(JSON, limits="1/hour", clock=FakeClock()) as app:
        answers = [get(app, text, {"user-agent": text, "referer": text}) for _ in range(3)]
    account.round()
    assert "FORGED" not in caplog.text
    assert "\x1b" not in caplog.text
    for answer in answers:
        assert all(b"\r" not in value and b"\n" not in value for _, value in answer.headers)


def test_a_refused_request_costs_less_than_one_that_is_served_by_a_framework(account: Account) -> None:
    """Beside a page that a framework serves: routing, a template, a few headers. The bar is 0.3 of it."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    def served(request: Any) -> HTMLResponse:
        return HTMLResponse("".join(f"<li>{number}</li>" for number in range(500)))

    async def asynchronous(request: Any) -> HTMLResponse:
        return served(request)

    bare = Starlette(routes=[*(Route(f"/{number}", asynchronous) for number in range(20)), Route("/", asynchronous)])

    async def cost(app: Any, count: int = 100) -> float:
        began = time.thread_time()
        for _ in range(count):
            await ask(app, http_scope())
        return time.thread_time() - began

    with wrapped(bare, NOWHERE, limits="1/day", clock=FakeClock()) as app:
        get(app)
        ratio = median(asyncio.run(cost(app)) / asyncio.run(cost(bare)) for _ in range(11))
        account.round()
    print(f"a refused request costs {ratio:.2f} of a served one")
    assert ratio < 0.5


def test_secrets_are_nowhere_in_the_journal_in_clear(account: Account, tmp_path: Any) -> None:
    with wrapped(JSON, journal_dir=tmp_path) as app:
        get(
            app,
            "/reset/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            {
                "authorization": "Bearer hunter2",
                "cookie": "sid=hunter2",
                "referer": "https://u:hunter2@x/?token=hunter2",
            },
            query_string=b"token=hunter2&password=hunter2&api_key=hunter2",
        )
        written = b"".join(path.read_bytes() for path in tmp_path.glob("*/*.journal"))
    account.round()
    assert b"/reset/" in written
    assert b"hunter2" not in written
    assert b"9f86d081" not in written
