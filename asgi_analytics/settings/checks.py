"""What each option may be: a function per kind of option, a row per option."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, get_args

from ..folders import default_folder, named
from .values import (
    SIGNAL_POINTS,
    SIGNAL_THRESHOLDS,
    Durability,
    Mode,
    Network,
    Privacy,
    ProxyWord,
    Quota,
    Sharing,
    as_counted,
    words,
    wrong,
)


def default_journal_dir() -> Path:
    """Return the folder of the journals where no option names one; the journal makes it private."""
    return default_folder("ASGI_ANALYTICS_JOURNAL_DIR", "journal")


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) else list(value)


def _choice(kind: Any) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if value not in get_args(kind):
            raise wrong(name, value, words(get_args(kind)))
        return value

    return check


def _number(kind: type, low: float, high: float, unit: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
            raise wrong(name, value, f"{'a number' if kind is float else 'a whole number'} of {unit}, {low} to {high}")
        return kind(value)

    return check


def _days(name: str, value: Any) -> int | None:
    return None if value is None else int(_number(int, 1, 36_500, "days")(name, value))


def _unsaid(value: object) -> object:
    """Return what an error says in place of a value that may hold a password: of an object, what it is."""
    if isinstance(value, str) and not value.strip():
        return value  # as of a variable that is empty
    return "…" if isinstance(value, (str, list, tuple)) else type(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, value, "True or False")
    return value


def _text(low: int, high: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not low <= len(value) <= high or not value.isprintable():
            raise wrong(name, value, f"printable text of {low} to {high} characters")
        return value

    return check


_ENCODED = 'in a URL reserved characters are percent-encoded: "@" of a password as %40, "/" as %2F, "%" as %25'
# As libpq reads it: the user's part ends at the first "@", and there is none where "/" comes before. Of a password with
# either in it, the rest would be taken for hosts and a database, which errors and journals name.
_HOST = r"(?:\[[^\]]*\]|[^][:@/?,]*)(?::\d*)?"
_URL = re.compile(rf"postgres(?:ql)?://(?:[^/@]*@)?{_HOST}(?:,{_HOST})*(?:/[^?@]*)?(?:\?.*)?", re.DOTALL)
# As URLs of SQLAlchemy, and of Django (dj-database-url, django-environ), have it.
_DRIVER = re.compile(r"\A(?:(postgres(?:ql)?)\+\w+|postgis|pgsql|psql)://")
_ELSEWHERE = "if DATABASE_URL is of another kind of database, ASGI_ANALYTICS_DSN, which comes first, names the Postgres"


def _dsn(name: str, value: Any) -> str | None:
    if value is None:
        return None
    # A file that holds it ends with a line break, which would be read as the end of the database's name.
    text = _DRIVER.sub(_plain_scheme, value.strip()) if isinstance(value, str) else ""
    if _URL.fullmatch(text) or ("://" not in text.partition("=")[0] and "=" in text):
        return text
    allowed = 'None, "postgresql://user:password@host/database" or "host=… dbname=…"'
    hint = _ELSEWHERE if name == "DATABASE_URL" and not text.startswith("postgres") else _ENCODED
    raise wrong(name, _unsaid(value), f"{allowed}; {hint}")


def _plain_scheme(found: re.Match[str]) -> str:
    return f"{found[1] or 'postgresql'}://"


def _shared(name: str, value: Any) -> str | None:
    schemes = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")
    if value is None or (isinstance(value, str) and value.startswith(schemes)):
        return value
    raise wrong(name, _unsaid(value), 'None or "redis://user:password@host:6379/0", also rediss:// or unix://')


def _quotas(prefix: str) -> Callable[[str, Any], tuple[Quota, ...]]:
    def check(name: str, value: Any) -> tuple[Quota, ...]:
        quotas = []
        for text in _listed(value):
            try:
                quotas.append(Quota.parse(text, prefix))
            except ValueError as error:
                raise wrong(name, text, f"{error}, or a list of such") from None
        if len({quota.window for quota in quotas}) != len(quotas):
            raise wrong(name, value, "at most one quota per window")
        return tuple(sorted(quotas, key=lambda quota: quota.window))

    return check


def _table(defaults: Mapping[str, float], kind: type) -> Callable[[str, Any], dict[str, Any]]:
    def check(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or set(value) - set(defaults):
            raise wrong(name, value, f"a mapping with keys among {', '.join(defaults)}")
        checker = _number(kind, 0, 1_000_000, "points" if kind is int else "the signal's unit")
        return {**defaults, **{key: checker(f"{name}[{key!r}]", number) for key, number in value.items()}}

    return check


def _signals(name: str, value: Any) -> tuple[Any, ...]:
    """Check the site's own signals: duck-typed, as what a signal is belongs to the stage that measures it."""
    found = tuple(_listed(value))
    codes = [getattr(one, "code", None) for one in found]
    fit = all(
        _is_function(getattr(one, "measure", None)) and isinstance(code, str)
        for one, code in zip(found, codes, strict=True)
    )
    if not fit or len({*codes}) != len(codes) or not SIGNAL_POINTS.keys().isdisjoint(codes):
        allowed = "asgi_analytics.Signal objects that measure by a function, not an async one, each with a code"
        raise wrong(name, value, f"{allowed} of its own, which none of those built in has")
    for one in found:
        label = f"{name}[{one.code!r}]"
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", one.code):
            raise wrong(f"{label}.code", one.code, "lower-case letters, digits and underscores, a letter first")
        _number(int, 0, 1_000_000, "points")(f"{label}.points", getattr(one, "points", None))
        _number(float, -1e12, 1e12, "the signal's unit")(f"{label}.threshold", getattr(one, "threshold", None))
        sentence: Any = getattr(one, "sentence", None)
        try:
            sentence.format(value=1.0, limit=1.0, each="", what="")
        except (AttributeError, LookupError, ValueError) as error:
            raise wrong(
                f"{label}.sentence", sentence, f"{{value}}, {{limit}}, {{each}}, {{what}} in it ({error})"
            ) from None
    return found


def _cookie(name: str, value: Any) -> str | None:
    if value is False or value is None:
        return None
    if value is True:
        return "aa_v"
    # Browsers drop a cookie of such a name that came by http; the prefix __Host- is set and left off as it must be.
    plain = value.removeprefix("__Host-") if isinstance(value, str) else ""
    if not re.fullmatch(r"(?!(?i:__(?:host|secure|http)-))[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", plain):
        raise wrong(name, value, "True, False or a cookie name (RFC 6265 token, at most 64 characters, no __Secure-)")
    return plain


def _secrets(name: str, value: Any) -> tuple[str, ...]:
    keys = tuple(_listed(value))
    if not all(isinstance(key, str) and len(key) >= 16 and _is_unicode(key) for key in keys):
        raise wrong(name, _unsaid(value), "a text of at least 16 characters, or several: the first signs, all verify")
    return keys


def _is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogates, as stand for bytes of the environment that are no UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _proxies(name: str, value: Any) -> tuple[Network | ProxyWord, ...]:
    words = get_args(ProxyWord)
    try:
        return tuple(text if text in words else _network(text) for text in _listed(value))
    except ValueError:
        allowed = (
            'addresses or CIDR networks such as "10.0.0.0/8" without host bits, "unix" for unix sockets, '
            '"forwarded" where they write Forwarded rather than X-Forwarded-For'
        )
        raise wrong(name, value, allowed) from None


def _networks(name: str, value: Any) -> tuple[Network, ...]:
    try:
        return tuple(_network(text) for text in _listed(value))
    except ValueError:
        raise wrong(name, value, 'addresses or CIDR networks such as "198.51.100.0/24" without host bits') from None


def _network(value: object) -> Network:
    if not isinstance(value, str):
        raise ValueError(value)
    return as_counted(ipaddress.ip_network(value))


def _path(name: str, value: Any) -> Path | None:
    if value is not None and (not isinstance(value, (str, Path)) or "\0" in str(value)):
        raise wrong(name, value, "a path or None")
    return named(value) if value else None


def _journal(name: str, value: Any) -> Path:
    return _path(name, value) or default_journal_dir()


def _paths(name: str, value: Any) -> tuple[str, ...]:
    patterns = tuple(_listed(value))
    if not all(isinstance(text, str) and text.startswith("/") and "*" not in text for text in patterns):
        raise wrong(name, value, 'path prefixes that start with "/", such as "/health", no patterns')
    return patterns


def _privacy(name: str, value: Any) -> Privacy:
    if not isinstance(value, Privacy):
        raise wrong(name, value, "a Privacy(address=…, query=…, signals=…)")
    return value


def _callable(name: str, value: Any) -> Any:
    if value is not None and not _is_function(value):
        raise wrong(name, value, "a function, not an async one, or None")
    return value


def _is_function(value: Any) -> bool:
    """Tell whether a value can be called, and gives what it returns at once."""
    return callable(value) and not any(map(iscoroutinefunction, (value, type(value).__call__)))


def _clock(name: str, value: Any) -> Any:
    fit = hasattr(value, "time_ns") and hasattr(value, "monotonic") and not isinstance(value, type)
    if value is not None and not fit:
        raise wrong(name, value, "an object with time_ns() and monotonic()")
    return value


CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "dsn": _dsn,
    "site": _text(1, 100),
    "mode": _choice(Mode),
    "limits": _quotas(""),
    "network_limits": _quotas("network-"),
    "cooldown": _number(float, 1, 86400 * 30, "seconds"),
    "bot_score": _number(int, 1, 1000, "points"),
    "signal_points": _table(SIGNAL_POINTS, int),
    "signal_thresholds": _table(SIGNAL_THRESHOLDS, float),
    "signals": _signals,
    "site_pages": _number(int, 0, 10_000_000, "pages"),
    "session_timeout": _number(float, 60, 86400, "seconds"),
    "session_cookie": _cookie,
    "secret": _secrets,
    "bans": _flag,
    "allow": _networks,
    "verify_crawlers": _flag,
    "crawler_dir": _path,
    "trusted_proxies": _proxies,
    "geoip_city": _path,
    "geoip_asn": _path,
    "include": _paths,
    "exclude": _paths,
    "privacy": _privacy,
    "durability": _choice(Durability),
    "journal_dir": _journal,
    "journal_limit": _number(int, 1 << 20, 1 << 40, "bytes"),
    "retention_days": _days,
    "batch_rows": _number(int, 1, 50_000, "rows"),
    "batch_age": _number(float, 0.01, 60, "seconds"),
    "shared": _shared,
    "shared_mode": _choice(Sharing),
    "shared_timeout": _number(float, 0.005, 10, "seconds"),
    "shutdown_timeout": _number(float, 0, 60, "seconds"),
    "max_visitors": _number(int, 100, 10_000_000, "visitors"),
    "max_networks": _number(int, 100, 10_000_000, "networks"),
    "max_flagged": _number(int, 100, 10_000_000, "visitors"),
    "legacy_headers": _flag,
    "refine_refusal": _callable,
    "migrate": _flag,
    "clock": _clock,
}
