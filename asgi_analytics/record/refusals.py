"""Refusals past a rate are counts, not rows: clients that ignore refusals must not fill the table.

Each is still in the journal before its last byte is sent, so that none is lost; the store adds them up by minute.
"""

from __future__ import annotations

import struct

from ..clock import MINUTE_NS
from ..model import Hit
from . import encoding

COLUMNS = ("time", "fingerprint", "network", "site")
ROWS_PER_VISITOR = 100  # rows of refusals within a minute by the wall clock; what is beyond is counted
ROWS_PER_NETWORK = 1_000
ROWS_PER_WORKER = 6_000
_NOBODY = encoding.uuid(bytes(16))
_HEAD = struct.Struct("!hiq")


class Refusals:
    """Counts the refusals of this minute. Bounded: after ROWS_PER_WORKER, visitors are no longer told apart."""

    def __init__(self, site: str) -> None:
        self._site = encoding.text(site, 100)
        self._minute = -1
        self._all = 0
        self._counts: dict[bytes, int] = {}
        self._stored: dict[bytes, bytes | None] = {}  # decision of the last row of a visitor or network in this minute
        self._observed: dict[tuple[bytes, tuple[str, ...]], bytes | None] = {}  # likewise, by what was violated

    def count(self, hit: Hit) -> bytes | None:
        """Return a row of COLUMNS for a refusal beyond the rate; None for one that is a hit of its own.

        A counted refusal gets the id of the visitor's, else network's, last stored decision, or None without one.
        """
        counted = self._count(hit)
        identity, decision = hit.visitor.identity, hit.decision
        visitor, network = identity.fingerprint, b"network" + identity.network
        if counted is None:
            self._stored[visitor] = self._stored[network] = decision.id
        else:
            decision.id = self._stored.get(visitor) or self._stored.get(network)
        return counted

    def repeats(self, hit: Hit) -> bool:
        """Tell whether what would be a refusal is beyond the rate: then it has the last decision that is alike."""
        decision = hit.decision
        like = hit.visitor.identity.fingerprint, decision.violated
        counted = self._count(hit)
        last = None if counted is None else self._observed.get(like)
        if last is not None:
            decision.id = last
            return True
        if len(self._observed) < ROWS_PER_WORKER:
            self._observed[like] = decision.id
        return False

    def _count(self, hit: Hit) -> bytes | None:
        minute, identity = hit.time_ns // MINUTE_NS, hit.visitor.identity
        if minute != self._minute:
            self._minute, self._all, self._counts, self._stored, self._observed = minute, 0, {}, {}, {}
        self._all += 1
        if self._all > ROWS_PER_WORKER:
            return self._row(hit.time_ns, _NOBODY, _NOBODY)
        visitor, network = self._seen(identity.fingerprint), self._seen(b"network" + identity.network)
        tracked = identity.tracked
        if network > ROWS_PER_NETWORK:
            return self._row(hit.time_ns, _NOBODY, encoding.uuid(identity.network) if tracked else _NOBODY)
        if visitor > ROWS_PER_VISITOR:
            own = (encoding.uuid(identity.fingerprint), encoding.uuid(identity.network))
            return self._row(hit.time_ns, *(own if tracked else (_NOBODY, _NOBODY)))
        return None

    def _seen(self, key: bytes) -> int:
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count

    def _row(self, time_ns: int, fingerprint: bytes, network: bytes) -> bytes:
        return _HEAD.pack(len(COLUMNS), 8, _time_us(time_ns)) + fingerprint + network + self._site


def _time_us(time_ns: int) -> int:
    return min(max(0, time_ns // 1000 - encoding.EPOCH_US), 1 << 62)
