"""Leases with one quota that is open, lent or used."""

from __future__ import annotations

from asgi_analytics.decide.lease import Leases
from asgi_analytics.facts import Actor, Window
from asgi_analytics.protocols import Exchanged, Grant

from .visits import START

KEYS = (b"a" * 16, b"b" * 16)


def leases_of(workers: int) -> Leases:
    leases = Leases()
    leases.take_in(Exchanged(workers, 1, {}, []), START, START)
    return leases


def opened(leases: Leases, limit: int = 100, size: float = 60.0, key: bytes = KEYS[0]) -> Actor:
    """An actor with one quota whose loan is open."""
    actor = Actor([Window()], key=key)
    leases.open(actor, [(size, limit)], START)
    return actor


def lent(leases: Leases, units: int, left: int, limit: int = 100, size: float = 60.0) -> Actor:
    """An actor whose loan was exchanged at START, with nothing used so far."""
    actor = opened(leases, limit, size)
    (ask,) = leases.asks(START)
    leases.take_in(Exchanged(leases.workers, 1, {}, [Grant(ask.counter, units, left, 0.0)]), START, START)
    return actor


def use(leases: Leases, actor: Actor, units: int, limit: int = 100, size: float = 60.0, now: float = START) -> None:
    for _ in range(units):
        leases.take(actor, [(size, limit)], now)
