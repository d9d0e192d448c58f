"""Options of the middleware: what is wrong with one is said when the app is built."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from asgi_analytics import AnalyticsMiddleware, ConfigurationError, DatabaseNotConfigured, Privacy, embedded

from .drive import NOWHERE, get, page, rows


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": "1/second"}, "Unknown option 'limit'. Did you mean 'limits'? Allowed: dsn, site,"),
        ({"mode": "strict"}, 'Option mode=\'strict\' is not allowed; allowed: "enforce", "observe".'),
        ({"limits": "20 per second"}, 'allowed: "<number>/<second|minute|hour|day>"'),
        ({"limits": "1/second, 2/minute"}, 'such as "20/second" or "100/15 minutes", or a list of such.'),
        ({"limits": "40/60000 days"}, "allowed: windows of at most 36500 days, or a list of such."),
        ({"limits": ["1/second", "2/second"]}, "at most one quota per window"),
        ({"cooldown": 0}, "Option cooldown=0 is not allowed; allowed: a number of seconds, 1 to 2592000"),
        ({"batch_rows": 1.5}, "Option batch_rows=1.5 is not allowed; allowed: a whole number of rows"),
        ({"trusted_proxies": "10.0.0.1/8"}, "without host bits"),
        ({"session_cookie": True}, "Option secret=None is not allowed; allowed: a text of at least 16 characters"),
        ({"secret": "short"}, "Option secret='…' is not allowed"),
        ({"exclude": "health"}, 'path prefixes that start with "/"'),
        ({"exclude": "/health*"}, 'path prefixes that start with "/", such as "/health", no patterns'),
        ({"privacy": "none"}, "Privacy(address=…, query=…, signals=…)"),
        ({"signal_points": {"typo": 1}}, "a mapping with keys among high_request_count"),
        ({"clock": 5}, "an object with time_ns() and monotonic()"),
        ({"dsn": "secret-password"}, "Option dsn='…' is not allowed"),
        ({"dsn": ""}, "Option dsn='' is not allowed; allowed: None,"),
        ({"legacy_headers": 1}, "True or False"),
        (
            {"shared": "redis://host:6379/cache"},
            "Option shared (or ASGI_ANALYTICS_SHARED) is no URL of Valkey or Redis",
        ),
        ({"shared": "redis://host:port"}, "Option shared (or ASGI_ANALYTICS_SHARED) is no URL of Valkey or Redis"),
        ({"shared": "unix://"}, "Option shared (or ASGI_ANALYTICS_SHARED) is no URL of Valkey or Redis"),
        ({"shared": "unix:///redis?wait=1"}, "Option shared (or ASGI_ANALYTICS_SHARED) is no URL of Valkey or Redis"),
        ({"dsn": "postgresql://host/db?ssl=require"}, "parameters that libpq knows, such as sslmode=require"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AnalyticsMiddleware(page(), **{"dsn": "postgresql://x", **options})
    assert text in str(caught.value)


@pytest.mark.parametrize("wrong", [{"address": "hash"}, {"query": "all"}, {"signals": "maybe"}])
def test_a_wrong_privacy_setting_names_itself(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigurationError, match=f"privacy.{name}='{value}' is not allowed"):
        Privacy(**wrong)


def test_what_starlette_builds_late_is_logged_for_servers_take_it_for_an_app_without_lifespan(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Starlette()
    app.add_middleware(AnalyticsMiddleware, dsn="postgresql://x", limit="1/second")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError), TestClient(app):
        pass
    assert "cannot be built: Unknown option 'limit'. Did you mean 'limits'?" in caplog.text


def test_without_a_database_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "is_available", lambda: False)
    monkeypatch.setattr(DatabaseNotConfigured, "__doc__", None)  # as under python -OO
    with pytest.raises(DatabaseNotConfigured, match="ASGI_ANALYTICS_DSN or DATABASE_URL"):
        AnalyticsMiddleware(page())


def test_where_the_app_has_another_kind_of_database_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///db.sqlite3")
    with pytest.raises(ConfigurationError, match="of another kind of database, ASGI_ANALYTICS_DSN"):
        AnalyticsMiddleware(page())
    monkeypatch.setenv("ASGI_ANALYTICS_DSN", NOWHERE)
    AnalyticsMiddleware(page())


@pytest.mark.parametrize("name", ["ASGI_ANALYTICS_DSN", "DATABASE_URL"])
def test_the_environment_names_the_database(dsn: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, dsn)
    wrap = AnalyticsMiddleware(page())
    get(wrap)
    assert wrap.close() is True
    assert len(rows(dsn)) == 1
