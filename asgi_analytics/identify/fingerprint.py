"""Fingerprints: keyed BLAKE2b over client network, user agent and language, with a salt that rotates daily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from math import inf

from ..clock import DAY_NS, Calendar
from ..protocols import Headers, Salt

MAX_AGENT = 512  # bytes of a header that count
MAX_LANGUAGE = 128  # likewise


class Fingerprinter:
    """Makes fingerprints of the day, and those that the same request had under the salts before.

    Until the shared salt is known, an emergency salt of this process is used and `provisional` is True.
    """

    def __init__(self, site: str, emergency: bytes, calendar: Calendar | None = None) -> None:
        self.calendar = calendar or Calendar()
        self._site = site.encode()
        self._emergency = emergency
        self._emergency_used = False
        self._keys: Mapping[str, bytes] = {}
        self.day = -1  # by the wall clock, when it was last looked at
        self._key = b""
        self._cut: bytes | None = None  # of a day that a leap of the clock ended early
        self._turned_at = -inf
        self._current = self._keyed(emergency)
        self._before: list[blake2b] = []
        self.provisional = True

    def learn(self, salts: Sequence[Salt]) -> None:
        """Take over the salts that all workers agree on. Called from the writer's thread."""
        keys = {salt.period: salt.key for salt in salts}
        if keys != self._keys:
            self._keys = keys
            self.day = -1  # the next request turns to them

    def fingerprint(self, message: bytes) -> bytes:
        """Return the 16 bytes of a message under the salt of the day that was turned to."""
        hasher = self._current.copy()
        hasher.update(message)
        return hasher.digest()

    def turn(self, time_ns: int, now: float) -> bool:
        """Go over to the salt of the day (UTC); tell whether that changed it. `now` in monotonic seconds."""
        if time_ns // DAY_NS == self.day:
            return False
        before = self._key
        self.day = time_ns // DAY_NS  # first: whoever learns salts meanwhile has us turn again
        self._turn(self.calendar.wall(now, time_ns) // DAY_NS, now)
        return self._key != before

    def before(self, message: bytes) -> list[bytes]:
        """Return the message's fingerprints under the salts of yesterday, a day cut short, and an emergency."""
        found = []
        for keyed in self._before:
            hasher = keyed.copy()
            hasher.update(message)
            found.append(hasher.digest())
        return found

    def named(self, visitor: bytes) -> bytes:
        """Return the fingerprint of a visitor that a cookie names; it does not rotate, the cookie's end is its end.

        Without the secret, which may change: the name is random, so the cookie cannot be found out from this.
        """
        return blake2b(self._site + b"\0" + visitor, digest_size=16, person=b"cookie", salt=b"visitor").digest()

    def _turn(self, day: int, now: float) -> None:
        keys = self._keys
        shared, yesterday = keys.get(_period(day)), keys.get(_period(day - 1))
        key = shared or self._emergency
        if key != self._key:
            self._cut = self._key if (now - self._turned_at) * 1e9 < DAY_NS else None
            self._turned_at = now
        emergency = self._emergency if shared and self._emergency_used else None
        older = dict.fromkeys(one for one in (yesterday, self._cut, emergency) if one and one != key)
        self._current, self._before = self._keyed(key), [self._keyed(one) for one in older]
        self._emergency_used = self._emergency_used or shared is None
        self.provisional = shared is None
        self._key = key

    def _keyed(self, key: bytes) -> blake2b:
        return blake2b(self._site + b"\0", digest_size=16, key=key, person=b"fingerprint")


def message(network: bytes, headers: Headers, opted_out: bool) -> bytes:
    """Return what identifies a visitor without a cookie. Only headers that a browser sends on each kind of request.

    Client hints and Accept are left out: a browser leaves them off websockets and changes them with the kind of file.
    """
    agent = headers.get(b"user-agent", b"")[:MAX_AGENT]
    language = headers.get(b"accept-language", b"")[:MAX_LANGUAGE]
    return b"%b\0%b\0%b%b" % (network, agent, language, b"\0q" if opted_out else b"")


def _period(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
