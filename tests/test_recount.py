"""Sessions and visitors are what their hits add up to, counted by one plain query each, whatever came, and where."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.middleware import Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .acceptance.faults.process import WHOLE
from .drive import BROWSER, COOKIE, answer_lifespan, get, page, rows, start, wrapped
from .waiting import wait_until

GAPS = (0.001, 0.5, 5, 60, 600, 1799, 1801, 3000, 20_000)
PATHS = {
    "/page": (200, b"text/html"),
    "/same": (304, b""),
    "/picture": (200, b"image/png"),
    "/gone": (404, b"text/html"),
}
CAME: tuple[dict[str, str], ...] = (
    {}, {"referer": "https://www.google.com/"}, {"referer": "https://t.co/x", "sec-fetch-site": "cross-site"},
    {"referer": "https://shop.example/page"}, {"sec-fetch-site": "same-origin"}, {"sec-gpc": "1"},
)  # fmt: skip
QUERIES = (b"", b"", b"utm_source=letter&utm_medium=email&utm_campaign=may", b"gclid=1", b"q=1")
SESSIONS = """
    SELECT id, started_at, last_seen_at, hits, page_views, errors, refusals, bytes_sent, score, level,
        entry_path, exit_path, channel, source, utm_campaign, click_id
    FROM analytics.sessions ORDER BY id"""
OF_HITS = """
    WITH ranked AS (
        SELECT *, row_number() OVER (PARTITION BY session_id ORDER BY page_view DESC, time, id) AS rank
        FROM analytics.hits WHERE session_id IS NOT NULL)
    SELECT session_id AS id, min(time) AS started_at, max(time) AS last_seen_at, count(*) AS hits,
        count(*) FILTER (WHERE page_view) AS page_views, count(*) FILTER (WHERE status >= 400 AND outcome <> 'refused')
        AS errors, count(*) FILTER (WHERE outcome = 'refused') AS refusals, sum(bytes_sent)::bigint AS bytes_sent,
        max(score) AS score, max(level) AS level,
        (array_agg(path ORDER BY time) FILTER (WHERE page_view))[1] AS entry_path,
        (array_agg(path ORDER BY time DESC) FILTER (WHERE page_view))[1] AS exit_path,
        max(channel) FILTER (WHERE rank = 1) AS channel, max(source) FILTER (WHERE rank = 1) AS source,
        max(utm_campaign) FILTER (WHERE rank = 1) AS utm_campaign, max(click_id) FILTER (WHERE rank = 1) AS click_id
    FROM ranked GROUP BY session_id ORDER BY session_id"""
VISITORS = """
    SELECT fingerprint, hits, page_views, refusals, first_seen_at, last_seen_at
    FROM analytics.fingerprints ORDER BY fingerprint"""
VISITORS_OF_HITS = """
    SELECT fingerprint, count(*) AS hits, count(*) FILTER (WHERE page_view) AS page_views,
        count(*) FILTER (WHERE outcome = 'refused') AS refusals, min(time) AS first_seen_at, max(time) AS last_seen_at
    FROM analytics.hits WHERE fingerprint IS NOT NULL GROUP BY fingerprint ORDER BY fingerprint"""


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await answer_lifespan(receive, send)
        return
    status, kind = PATHS[scope["path"].rstrip("0123456789")]
    await page(b"x" * (len(scope["path"]) % 7), status, kind)(scope, receive, send)


@pytest.mark.parametrize("seed", range(10 if WHOLE else 1))
@pytest.mark.parametrize("cookie", [False, True])
def test_sessions_and_visitors_are_what_their_hits_add_up_to(dsn: str, tmp_path: Path, seed: int, cookie: bool) -> None:
    draw, clock = random.Random(seed), FakeClock()
    options: dict[str, Any] = {
        "clock": clock,
        "limits": "4/minute",
        "verify_crawlers": False,
        **(COOKIE if cookie else {}),
    }
    jar: dict[str, str] = {}
    with ExitStack() as stack:
        apps = [stack.enter_context(wrapped(site, dsn, journal_dir=tmp_path / name, **options)) for name in "ab"]
        for app in apps:
            start(app)
        for number in range(80):
            clock.advance(draw.choice(GAPS) if draw.random() < 0.4 else draw.uniform(0.01, 20))
            agent = BROWSER.replace("130", f"13{draw.randrange(3)}")
            headers = {"user-agent": agent, "accept": "text/html", **draw.choice(CAME)}
            if agent in jar:
                headers["cookie"] = jar[agent]
            path, method = f"{draw.choice(list(PATHS))}{number}", draw.choice(["GET"] * 8 + ["HEAD", "POST"])
            reply = get(draw.choice(apps), path, headers, query_string=draw.choice(QUERIES), method=method)
            for given in reply.cookies:
                jar[agent] = given.partition(";")[0]
            if draw.random() < 0.2:
                wait_until(lambda: all(app.stats()["queued"] <= app.stats()["written"] for app in apps), 10, "the rows")
    told = rows(dsn, SESSIONS)
    assert len(told) > 10
    assert told == rows(dsn, OF_HITS)
    assert rows(dsn, VISITORS) == rows(dsn, VISITORS_OF_HITS)
