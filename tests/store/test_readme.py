"""The queries of README.md, over rows that tell what they should find."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from asgi_analytics.model import Agent, Referral
from asgi_analytics.store.postgres import PostgresStore
from tests.record.rows import NOW_US, batch, deliver, fetch, hit, identity

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
BLOCK = re.compile(r"```sql\n(.*?)```", re.DOTALL)
QUERIES = [query.strip() for block in BLOCK.findall(README) for query in block.split(";") if query.strip()]
DAY_US = 24 * 3600 * 1_000_000
CRAWLER = identity(b"crawler", agent=Agent(None, None, None, None, "bot", "search_engine", "Googlebot"))
DAY = (datetime.fromtimestamp(NOW_US / 1e6, UTC) - timedelta(days=1)).date()
FOUND: list[list[dict[str, object]]] = [
    [
        {"day": DAY, "visitors": 1, "sessions": 1, "pages": 1},
        {"day": DAY + timedelta(days=1), "visitors": 2, "sessions": 2, "pages": 3},
    ],
    [
        {"path": "/", "views": 3, "visitor_days": 2, "ms": 1},
        {"path": "/pricing", "views": 1, "visitor_days": 1, "ms": 1},
    ],
    [
        {"channel": "Direct", "source": None, "utm_campaign": None, "sessions": 2},
        {"channel": "Email", "source": "letter", "utm_campaign": "may", "sessions": 1},
    ],
    [
        {"bot_class": "search_engine", "crawler": "Googlebot", "hits": 1, "refused": 0, "score": 0},
        {"bot_class": None, "crawler": None, "hits": 1, "refused": 1, "score": 60},
    ],
]


def rows() -> list[bytes]:
    """Ann yesterday and today, Ben by a campaign, a crawler, a scraper that is refused."""
    ann = partial(hit, visitor=b"ann", page_view=True)
    direct, letter = Referral("Direct"), Referral("Email", "letter", utm_campaign="may")
    return [
        ann("/", session=b"ann", referral=direct, time_us=NOW_US - DAY_US),
        ann("/", session=b"ann again", referral=direct),
        ann("/pricing", session=b"ann again", time_us=NOW_US + 1),
        hit("/", visitor=b"ben", session=b"ben", page_view=True, referral=letter),
        hit("/robots.txt", visitor=CRAWLER, session=b"crawler"),
        hit("/all", visitor=b"scraper", session=b"scraper", score=60, level=3, outcome="refused", status=429),
    ]


@pytest.mark.parametrize(("query", "found"), list(zip(QUERIES, FOUND, strict=True)))
def test_a_query_of_the_readme_finds_what_it_says(
    store: PostgresStore, dsn: str, query: str, found: list[dict[str, object]]
) -> None:
    deliver(store, batch(rows()))
    tomorrow = make_conninfo(dsn, options="-c timezone=<far>-24")
    assert sorted(fetch(tomorrow, query), key=str) == sorted(found, key=str)
