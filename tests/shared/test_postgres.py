"""Quotas in Postgres: what clears away those that nobody uses any more, and how long anybody waits."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Thread

import psycopg
import pytest

from asgi_analytics.clock import random_bytes
from asgi_analytics.errors import EmbeddedPostgresError, SharedUnavailable, StoreError
from asgi_analytics.protocols import Ask, Exchanged
from asgi_analytics.shared import postgres
from asgi_analytics.shared.postgres import PostgresQuotas
from tests.record.rows import fetch
from tests.waiting import wait_until

from .aging import silence

WORKER = bytes(16)
USED = Ask(b"used".ljust(16, b".") + bytes([0, 0, 0, 60]), 60.0, 100, 50, 7, 0, 0)
REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'kept'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON analytics.counters FOR EACH ROW EXECUTE FUNCTION public.refuse()
"""
SLOW = """
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(20); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON analytics.counters FOR EACH ROW EXECUTE FUNCTION public.slow()
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


def test_it_is_cleared_away_now_and_then(dsn: str, quotas: PostgresQuotas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "TIDY", 3)
    touch(dsn, "old", 60, 200)
    found = []
    for _ in range(3):
        quotas.exchange(WORKER, 0, [])
        found.append(kept(dsn))
    assert found == [["old"], ["old"], []]


def test_a_worker_that_says_nothing_for_a_minute_is_forgotten(dsn: str, quotas: PostgresQuotas) -> None:
    for name, seconds in ((b"a" * 16, 50.0), (b"b" * 16, 61.0)):
        quotas.exchange(name, 0, [])
        silence(quotas, name, seconds)
    assert quotas.exchange(WORKER, 0, []).workers == 1
    rows = fetch(dsn, "SELECT worker FROM analytics.workers ORDER BY 1")
    assert [row["worker"] for row in rows] == [WORKER, b"a" * 16]


def test_a_counter_that_somebody_has_in_hand_is_not_waited_for(dsn: str, quotas: PostgresQuotas) -> None:
    for name in ("held", "old"):
        touch(dsn, name, 60, 200)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM analytics.counters WHERE counter < 'i' FOR UPDATE")
        quotas.exchange(WORKER, 0, [USED])
        assert kept(dsn) == ["held", "used"]


def test_a_counter_that_is_cleared_away_while_it_is_asked_for_is_made_again(dsn: str, quotas: PostgresQuotas) -> None:
    fetch(dsn, f"INSERT INTO analytics.counters (counter) VALUES ('\\x{USED.counter.hex()}')")
    answers: list[Exchanged] = []
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM analytics.counters FOR UPDATE")
        asking = Thread(target=lambda: answers.append(quotas.exchange(WORKER, 0, [USED])))
        asking.start()
        wait_until(lambda: bool(fetch(dsn, "SELECT pid FROM pg_locks WHERE NOT granted")))
        other.execute("DELETE FROM analytics.counters")
    asking.join(10)
    assert [grant.left for answer in answers for grant in answer.grants] == [93]


def test_where_nothing_can_be_cleared_away_the_exchange_stands(dsn: str, quotas: PostgresQuotas) -> None:
    touch(dsn, "old", 60, 200)
    with psycopg.connect(dsn) as connection:
        connection.execute(REFUSE)
    for left in (93, 86):
        (grant,) = quotas.exchange(WORKER, 0, [USED]).grants
        assert grant.left == left


def test_workers_of_another_site_are_not_counted(dsn: str) -> None:
    for site in ("one", "two"):
        quotas = PostgresQuotas(lambda: dsn, site)
        assert quotas.exchange(random_bytes(16), 0, []).workers == 1
        quotas.close()


@pytest.mark.parametrize("error", [StoreError("no"), EmbeddedPostgresError("no"), OSError("no")])
def test_where_no_server_can_be_found_quotas_cannot_be_shared(error: Exception) -> None:
    def nowhere() -> str:
        raise error

    with pytest.raises(SharedUnavailable, match="no"):
        PostgresQuotas(nowhere).exchange(WORKER, 0, [])


def test_who_never_lets_us_in_is_waited_for_two_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quotas = PostgresQuotas(lambda: f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none")
        with pytest.raises(SharedUnavailable, match="timeout"):
            quotas.exchange(WORKER, 0, [])


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("SELECT FROM analytics.counters FOR UPDATE", psycopg.errors.LockNotAvailable),
        (SLOW, psycopg.errors.QueryCanceled),
    ],
    ids=["locked", "slow"],
)
def test_an_exchange_that_takes_long_is_given_up(dsn: str, trouble: str, cause: type[Exception]) -> None:
    quotas = PostgresQuotas(lambda: dsn)
    quotas.exchange(WORKER, 0, [USED])
    with psycopg.connect(dsn) as other:
        other.execute(trouble.encode())
        if trouble == SLOW:
            other.commit()
        with pytest.raises(SharedUnavailable) as raised:
            quotas.exchange(WORKER, 0, [USED])
        assert isinstance(raised.value.__cause__, cause)
    quotas.close()
