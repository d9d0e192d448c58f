"""Adds hits for commands to show."""

from __future__ import annotations

from uuid import uuid4

import psycopg

ADD_HIT = """
INSERT INTO analytics.hits (id, time, page_view, duration_us, bytes_sent, score, level, status, outcome, method, path,
    session_id, fingerprint, site, device, country, browser, provisional)
VALUES (%(id)s, now(), true, 1000, 10, 20, 1, 200, 'complete', 'GET', %(path)s,
    gen_random_uuid(), gen_random_uuid(), %(site)s, 'desktop', 'DE', 'Firefox', false)
"""


def add_hit(dsn: str, path: str, site: str = "default") -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(ADD_HIT, {"id": uuid4(), "path": path, "site": site})
