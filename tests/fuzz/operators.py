"""What operators write: options, connection strings, rulings, as functions over bytes like those of parsers.py."""

from __future__ import annotations

import argparse
import json
from typing import Any

from asgi_analytics.commands import MAX_SHOWN, arguments, policy, quarantine, targets
from asgi_analytics.decide.rulings import Rulings, allowance
from asgi_analytics.errors import ConfigurationError
from asgi_analytics.settings import CHECKS, Quota, Settings
from asgi_analytics.shared.valkey import in_scheme
from asgi_analytics.store.connection import PARAMETERS
from asgi_analytics.store.dsn import conninfo, database_key
from tests.fuzz.parsers import NOW, lines_of, text_of

OPTION_NAMES = sorted(CHECKS)
HIDDEN = ("dsn", "secret", "shared")  # may hold a password


def moments(data: bytes) -> None:
    """A moment as an option of a command."""
    assert policy.moment(text_of(data), float(NOW)) is not None


def points(data: bytes) -> None:
    """Points and thresholds of signals as options of a command."""
    for kind in (float, int):
        assert set(policy._pairs("--points", [text_of(data)], ["probing"], kind)) <= {"probing"}


def quota(data: bytes) -> None:
    """A quota such as "100/15 minutes"."""
    found = Quota.parse(text_of(data))
    assert found.limit > 0
    assert found.window > 0


def option(data: bytes) -> None:
    """Any option with any text, list or JSON value: first byte tells which."""
    name = OPTION_NAMES[data[0] % len(OPTION_NAMES)] if data else "site"
    text = text_of(data[1:])
    values: list[Any] = [text, text.split(",")]
    try:
        values.append(json.loads(text))
    except (ValueError, RecursionError):
        pass
    for value in values:
        told = ""
        try:
            Settings.build(**{name: value})
        except ConfigurationError as error:
            told = str(error)
        assert name not in HIDDEN or len(text) < 20 or text not in told


def dsn(data: bytes) -> None:
    """A connection string of Postgres: no error of ours repeats it, for it may hold a password."""
    text = text_of(data)
    assert len(database_key(text)) == 32
    conninfo(text, PARAMETERS)


def shared_url(data: bytes) -> None:
    """The address of a Valkey server."""
    text = "redis://" + text_of(data)
    CHECKS["shared"]("shared", text)
    assert in_scheme(text).startswith("valkey://")


class _Nobody:
    def find_visitors(self, prefix: str) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: []


def ruling(data: bytes) -> None:
    """What `ban`, `pardon` and `allow` are told: a target, a time, a number, and a row's id."""
    first, second = lines_of(data, 2)
    registry: Any = _Nobody()
    for read in (arguments.span, arguments.whole(1, MAX_SHOWN), quarantine._id):
        try:
            read(text_of(second))
        except argparse.ArgumentTypeError:
            pass
    found = targets.read_target(text_of(first), registry, "ban")
    assert found.network is None or len(found.network) in (4, 8, 16)


def allowances(data: bytes) -> None:
    """Networks of the option `allow`, as rulings that are looked up."""
    networks = CHECKS["allow"]("allow", text_of(data).split("\n"))
    known = Rulings.of([allowance(network) for network in networks[:64]], 0.0)
    for network in networks[:64]:
        first = network.network_address.packed[: 4 if network.version == 4 else 8]
        assert known.ruling_for(b"", first, 0.0) is not None
