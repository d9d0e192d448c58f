from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import AnalyticsMiddleware, Signal
from asgi_analytics.errors import ConfigurationError
from asgi_analytics.settings import Quota, Settings
from asgi_analytics.testing import FakeClock

from .drive import page


def own(code: str = "own", sentence: str = "{value:g} of {limit:g}", **more: Any) -> Signal:
    return Signal(code, lambda visitor, site, pages, now: 1.0, sentence, **{"points": 10, "threshold": 1, **more})


class Shapeless:
    """No Signal, though it has a code and measures."""

    code = "shapeless"

    def measure(self) -> None: ...


async def refined_later(problem: dict[str, Any]) -> dict[str, Any]:
    return problem


async def measured_later(*_: Any) -> None: ...


LATER: Any = measured_later  # its type is not that of a measure


class RefinedLater:
    async def __call__(self, problem: dict[str, Any]) -> dict[str, Any]:
        return problem


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_rows": True}, "batch_rows=True is not allowed; allowed: a whole number of rows, 1 to 50000"),
        ({"site": ""}, "printable text of 1 to 100 characters"),
        ({"site": "two\nlines"}, "printable text"),
        ({"limits": 5}, 'allowed: "<number>/<second|minute|hour|day>"'),
        ({"signal_points": {"probing": -1}}, "signal_points['probing']=-1 is not allowed"),
        ({"signal_points": {"probing": 1.5}}, "a whole number of points"),
        ({"signals": own(points=-1)}, "signals['own'].points=-1 is not allowed"),
        ({"signals": own(threshold=1e13)}, "signals['own'].threshold"),
        ({"signals": own(sentence="{nothing}")}, "signals['own'].sentence='{nothing}' is not allowed"),
        ({"signals": own(sentence="{")}, "signals['own'].sentence"),
        ({"signals": own("Own code")}, "lower-case letters, digits and underscores"),
        ({"signals": own("probing")}, "each with a code of its own, which none of those built in has"),
        ({"signals": Signal("own", LATER, "{value:g}")}, "a function, not an async one, each with a code of its own"),
        ({"signals": [own(), own()]}, "each with a code of its own"),
        ({"signals": ["own"]}, "asgi_analytics.Signal objects"),
        ({"session_cookie": "x" * 65}, "at most 64 characters"),
        ({"session_cookie": "a b"}, "a cookie name"),
        ({"session_cookie": "__Host-"}, "a cookie name"),
        ({"session_cookie": "__secure-id"}, "no __Secure-"),
        ({"signals": Shapeless()}, "signals['shapeless'].points=None is not allowed"),
        ({"trusted_proxies": 5}, "addresses or CIDR networks"),
        ({"allow": 5}, "addresses or CIDR networks"),
        ({"journal_dir": 5}, "a path or None"),
        ({"journal_dir": "a\0b"}, "a path or None"),
        ({"refine_refusal": "text"}, "a function, not an async one, or None"),
        ({"refine_refusal": refined_later}, "a function, not an async one, or None"),
        ({"refine_refusal": RefinedLater()}, "a function, not an async one, or None"),
        ({"clock": FakeClock}, "an object with time_ns() and monotonic()"),
        ({"limits": b"5/minute"}, "Option limits=b'5/minute' is not allowed"),
        ({"dsn": b"postgresql://host/db"}, "Option dsn=<class 'bytes'> is not allowed"),
        ({"secret": "\udcff" * 16}, "Option secret='…' is not allowed"),
    ],
)
def test_what_an_option_cannot_be_is_said_while_the_app_is_built(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.build(**{"secret": "a secret of some length", **options})
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"dsn": "http://me:hunter2@host"}, {"shared": "http://me:hunter2@host"}, {"secret": "hunter2"}]
)
def test_an_error_tells_no_password(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.build(**options)
    assert "hunter2" not in str(caught.value)


def test_what_may_hold_a_password_is_not_in_the_repr() -> None:
    shared = "redis://me:hunter2-of-redis@host"
    settings = Settings.build(dsn="postgresql://me:hunter2@host/db", secret="hunter2 that is longer", shared=shared)
    assert "hunter2" not in repr(settings)
    assert "site='default'" in repr(settings)


def test_a_connection_string_may_be_what_a_file_holds() -> None:
    assert Settings.build(dsn="postgresql://host/db\n").dsn == "postgresql://host/db"


def test_an_address_from_the_environment_is_named_as_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_SHARED", "localhost:6379")
    with pytest.raises(ConfigurationError, match="ASGI_ANALYTICS_SHARED='…' is not allowed"):
        AnalyticsMiddleware(page(), dsn="postgresql://host/db")


def test_an_address_in_the_environment_is_for_apps_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_SHARED", "redis://there:6379")
    assert AnalyticsMiddleware(page(), dsn="postgresql://host/db").settings.shared == "redis://there:6379"
    named = AnalyticsMiddleware(page(), dsn="postgresql://host/db", shared="redis://here:6379", shared_mode="strict")
    assert named.settings.shared == "redis://here:6379"
    assert Settings.build().shared is None


def test_quotas_are_kept_from_the_shortest_window_to_the_longest() -> None:
    limits = Settings.build(limits=["100/15 minutes", "600/minute", "20/second"]).limits
    assert limits == (Quota("second", 20, 1), Quota("minute", 600, 60), Quota("15-minutes", 100, 900))


def test_a_whole_number_of_seconds_is_the_same_setting_as_its_float() -> None:
    assert repr(Settings.build(cooldown=600).cooldown) == "600.0"


def test_no_cookie_is_set_where_the_option_is_off() -> None:
    assert Settings.build(session_cookie=False).session_cookie is None
    assert Settings.build(session_cookie=True, secret="x" * 16).session_cookie == "aa_v"
    assert Settings.build(session_cookie="__Host-id", secret="x" * 16).session_cookie == "id"


def test_the_journals_folder_is_the_one_that_is_named_then_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_JOURNAL_DIR", str(tmp_path / "environment"))
    assert Settings.build().journal_dir == Settings.build(journal_dir=None).journal_dir == tmp_path / "environment"
    assert Settings.build(journal_dir=tmp_path / "named").journal_dir == tmp_path / "named"


@pytest.mark.parametrize("network", ["::ffff:203.0.113.0/120", "64:ff9b::203.0.113.0/120", "203.0.113.0/24"])
def test_a_network_that_stands_for_ipv4_is_ipv4(network: str) -> None:
    settings = Settings.build(allow=network, trusted_proxies=network)
    assert settings.allow == settings.trusted_proxies == (ip_network("203.0.113.0/24"),)


def test_a_tilde_is_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ASGI_ANALYTICS_JOURNAL_DIR", "~/journal")
    settings = Settings.build(geoip_city="~/city.mmdb")
    assert (settings.journal_dir, settings.geoip_city) == (tmp_path / "journal", tmp_path / "city.mmdb")
