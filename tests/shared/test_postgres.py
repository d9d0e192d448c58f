"""What clears away quotas in Postgres that nobody uses any more, and what that costs the others: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from asgi_analytics.protocols import Ask
from asgi_analytics.shared import postgres
from asgi_analytics.shared.postgres import PostgresQuotas
from tests.record.rows import fetch

WORKER = bytes(16)
USED = Ask(b"used".ljust(16, b".") + bytes([0, 0, 0, 60]), 60.0, 100, 50, 7, 0, 0)
REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'kept'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON analytics.counters FOR EACH ROW EXECUTE FUNCTION public.refuse()
"""


@pytest.fixture
def quotas(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresQuotas]:
    """Quotas that are cleared away at each exchange."""
    monkeypatch.setattr(postgres, "TIDY", 1)
    quotas = PostgresQuotas(lambda: dsn)
    yield quotas
    quotas.close()


def touch(dsn: str, name: str, window: int, seconds_ago: int) -> None:
    counter = (name.encode().ljust(16, b".") + window.to_bytes(4, "big")).hex()
    fetch(
        dsn,
        "INSERT INTO analytics.counters (counter, touched_at)"
        f" VALUES ('\\x{counter}', now() - interval '{seconds_ago} seconds')",
    )


def kept(dsn: str) -> list[str]:
    rows = fetch(dsn, "SELECT convert_from(substr(counter, 1, 16), 'UTF8') AS name FROM analytics.counters ORDER BY 1")
    return [row["name"].rstrip(".") for row in rows]


def test_a_counter_goes_when_two_of_its_windows_and_a_minute_have_passed(dsn: str, quotas: PostgresQuotas) -> None:
    for name, window, seconds_ago in (("a", 60, 181), ("b", 60, 170), ("c", 3600, 7261), ("d", 3600, 7250)):
        touch(dsn, name, window, seconds_ago)
    quotas.exchange(WORKER, 0, [USED])
    assert kept(dsn) == ["b", "d", "used"]


def test_a_counter_that_somebody_has_in_hand_is_not_waited_for(dsn: str, quotas: PostgresQuotas) -> None:
    for name in ("held", "old"):
        touch(dsn, name, 60, 200)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM analytics.counters WHERE counter < 'i' FOR UPDATE")
        quotas.exchange(WORKER, 0, [USED])
        assert kept(dsn) == ["held", "used"]


def test_where_nothing_can_be_cleared_away_the_exchange_stands(dsn: str, quotas: PostgresQuotas) -> None:
    touch(dsn, "old", 60, 200)
    with psycopg.connect(dsn) as connection:
        connection.execute(REFUSE)
    for left in (93, 86):
        (grant,) = quotas.exchange(WORKER, 0, [USED]).grants
        assert grant.left == left
