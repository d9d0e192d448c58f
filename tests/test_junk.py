"""Requests and answers as nobody should send them: served as they are, stored sanitised."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from asgi_analytics import AnalyticsMiddleware, ConfigurationError, Privacy

from .drive import COOKIE, ask, get, http_scope, page, rows, wrapped


@pytest.mark.parametrize(
    "client", [None, (), ("", 0), ["127.0.0.1", "x"], ("fe80::1%eth0", 1), ("testclient", 50000), 5]
)
def test_any_client_is_served_and_stored(dsn: str, client: Any) -> None:
    with wrapped(page(), dsn) as wrap:
        assert get(wrap, client=client).header("ratelimit")
        assert wrap.stats()["failures"] == {}
    assert len(rows(dsn)) == 1


@pytest.mark.parametrize("status", [99, 999, -1, 10**12, "200", None, 200.5])
def test_an_absurd_status_reaches_the_server_as_it_is_and_the_hit_is_stored(dsn: str, status: Any) -> None:
    with wrapped(page(status=status), dsn) as wrap:
        assert get(wrap).status is status
        get(wrap, "/neighbour")
    assert len(rows(dsn)) + len(rows(dsn, "SELECT * FROM analytics.quarantine")) == 2


@pytest.mark.parametrize("bad", ["\0", "\udcff", "a" * 1_000_000, "é" * 2000, "http://evil/x"])
def test_junk_in_path_and_method_is_stored_sanitised(dsn: str, bad: str) -> None:
    scope = http_scope("/" + bad, method=bad[:5000])
    scope["raw_path"] = b"/x"
    with wrapped(page(), dsn) as wrap:
        assert asyncio.run(ask(wrap, scope)).status == 200
    (row,) = rows(dsn)
    assert len(row["path"]) <= 1024
    assert len(row["method"]) <= 16


def test_junk_in_every_header_is_stored_sanitised(dsn: str) -> None:
    junk = b"\xff\xfe\xed\xa0\x80\x00" + b"x" * 60_000
    names = (b"user-agent", b"referer", b"host", b"cookie", b"accept-language", b"x-forwarded-for", b"forwarded")
    scope = http_scope(headers=None)
    scope["headers"] = [(name, junk) for name in names] * 3
    scope["query_string"] = junk
    with wrapped(page(), dsn, trusted_proxies="198.51.100.0/24", privacy=Privacy("full", "redacted"), **COOKIE) as wrap:
        assert asyncio.run(ask(wrap, scope)).status == 200
        assert wrap.stats()["failures"] == {}
    assert len(rows(dsn)) == 1


def test_a_wrong_connection_string_fails_when_the_app_is_built() -> None:
    with pytest.raises(ConfigurationError, match="is not a connection string of Postgres") as raised:
        AnalyticsMiddleware(page(), dsn="host=db nonsense=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("dsn", "allowed"),
    [
        ("host=db port=secret", "1 to 65535"),
        ("host=a,b port=5432,0", "1 to 65535"),
        ("postgresql://db:99999/app", "1 to 65535"),
        ("host=db sslmode=secret", "disable, allow, prefer, require, verify-ca, verify-full"),
    ],
)
def test_what_can_never_connect_fails_when_the_app_is_built(dsn: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Option dsn .*; allowed: {allowed}") as raised:
        AnalyticsMiddleware(page(), dsn=dsn)
    assert "secret" not in str(raised.value)


def test_several_ports_and_those_left_out_are_taken() -> None:
    AnalyticsMiddleware(page(), dsn="host=a,b,c port=5432,,6432 sslmode=verify-full").close()


@pytest.mark.parametrize("password", ["12/secret", "/secret", "p@/secret", "p@secret/x", "1,secret/x", "p@[secret]/x"])
def test_no_part_of_a_password_is_taken_for_a_host_or_a_database(password: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Option dsn=.*percent-encoded.*as %40") as raised:
        AnalyticsMiddleware(page(), dsn=f"postgresql://user:{password}@db.example.org/app")
    assert "secret" not in str(raised.value)
    encoded = f"postgresql://user:{quote(password, safe='')}@db.example.org/app"
    assert conninfo_to_dict(AnalyticsMiddleware(page(), dsn=encoded).settings.dsn or "")["password"] == password


@pytest.mark.parametrize("text", ["postgresql://user:%secret@db/app", "dbname=postgresql://user:secret@db/app"])
def test_what_libpq_would_not_take_for_a_password_is_not_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Option dsn .*percent-encoded") as raised:
        AnalyticsMiddleware(page(), dsn=text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("postgresql+asyncpg://user:p@db/app", "postgresql://user:p@db/app"),
        ("postgres+psycopg2://user:a+b%40@db:5432/app", "postgres://user:a+b%40@db:5432/app"),
        ("postgis://user:p@db/app", "postgresql://user:p@db/app"),
        ("postgresql://user:a#?:b@[::1]:5432,db2:5433/app?sslmode=require", None),
        ("postgresql:///app?host=/run/postgresql", None),
        ("postgresql://user:12?host=#:b@db/app?user=me@tenant", None),
        ("postgresql://db/a%40b?application_name=a/b@c", None),
        ("host=db password=postgresql+x://y", None),
    ],
)
def test_a_connection_string_is_taken_without_the_driver_of_sqlalchemy(text: str, taken: str | None) -> None:
    assert AnalyticsMiddleware(page(), dsn=text).settings.dsn == (taken or text)
