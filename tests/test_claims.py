"""What a request claims to be, through the whole middleware: behind a proxy, by a websocket, and by a report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import Message, Receive, Scope, Send
from asgi_analytics.model import Analytics
from tests.drive import get, page, socket_scope, wrapped

TOLD = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
)
PROXY = "10.0.0.1"
BY_HTTPS = {"x-forwarded-for": "203.0.113.5", "x-forwarded-proto": "https"}


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    """Pages; nothing is below /reports."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
    else:
        await page(status=404 if scope["path"].startswith("/reports") else 200)(scope, receive, send)


@contextmanager
def known(**options: Any) -> Iterator[tuple[AnalyticsMiddleware, list[Analytics]]]:
    """Yield a site that browsers with all their headers have come to, and what its app is told of each request."""
    found: list[Analytics] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope["state"]["analytics"])
        await site(scope, receive, send)

    with wrapped(noted, **options) as app:
        for number in range(30):
            get(app, "/", TOLD, client=(f"198.51.100.{number}", 1), scheme="https")
        yield app, found


@pytest.mark.parametrize(
    ("headers", "peer", "faulty"),
    [
        (BY_HTTPS, PROXY, True),
        ({"forwarded": "for=203.0.113.5;proto=https"}, PROXY, True),
        ({**BY_HTTPS, **TOLD}, PROXY, False),
        ({**BY_HTTPS, "x-forwarded-proto": "http"}, PROXY, False),
        (BY_HTTPS, "203.0.113.9", False),
    ],
    ids=["forged", "forged, Forwarded", "a browser", "by http", "no proxy of ours"],
)
def test_a_browsers_name_without_its_headers_is_told_behind_a_proxy_that_ends_tls(
    headers: dict[str, str], peer: str, faulty: bool
) -> None:
    with known(trusted_proxies=(PROXY,)) as (app, found):
        get(app, "/", headers, client=(peer, 1))
        assert found[-1].score == (30 if faulty else 0)


async def open_socket(app: AnalyticsMiddleware, scope: Scope) -> None:
    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None: ...

    await app(scope, receive, send)


@pytest.mark.parametrize("peer", ["203.0.113.5", PROXY])
def test_a_browser_that_comes_back_by_its_websocket_is_not_judged_with_those_who_forge_its_name(peer: str) -> None:
    """Chromium does not say what page opens one; somebody at the same address forges headers all day."""
    scheme, more = ("https", {}) if peer != PROXY else ("http", BY_HTTPS)
    with known(trusted_proxies=(PROXY,)) as (app, found):
        for number in range(40):
            get(app, f"/{number}", {"user-agent": CHROME.format(100 + number), **more}, client=(peer, 1), scheme=scheme)
        forger = found[-1]
        scope = socket_scope("/live", scheme=scheme.replace("http", "ws"), client=(peer, 1))
        agent = {"user-agent": CHROME.format(155), "origin": "https://shop.example", "accept-language": "fr", **more}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in agent.items()]
        asyncio.run(open_socket(app, scope))
        assert (forger.level > 0, found[-1].level, found[-1].score) == (True, 0, 0)


@pytest.mark.parametrize(
    ("method", "headers"),
    [("POST", {"content-type": "application/reports+json"}), ("OPTIONS", {"access-control-request-method": "POST"})],
)
def test_a_browsers_own_report_that_nobody_takes_forges_nothing(method: str, headers: dict[str, str]) -> None:
    with known() as (app, found):
        get(app, "/reports", headers, method=method, scheme="https")
        get(app, "/", TOLD, scheme="https")
        assert (found[-1].score, found[-1].signals) == (0, ())
        get(app, "/reports/other", {"content-type": "application/json"}, method="POST", scheme="https")
        assert found[-1].score == 30
