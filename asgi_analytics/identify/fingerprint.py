"""Fingerprints: keyed BLAKE2b over client network, user agent and language, with a salt that rotates daily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

from ..protocols import Salt

DAY_NS = 86_400_000_000_000
MOST_AGENT = 512  # bytes of a header that count
MOST_LANGUAGE = 128


class Fingerprinter:
    """Makes fingerprints of the day, and those that the same request had under the salts before.

    Until the shared salt is known, an emergency salt of this process is used and `provisional` is True.
    """

    def __init__(self, site: str, emergency: bytes) -> None:
        self._site = site.encode()
        self._emergency = emergency
        self._emergency_used = False
        self._keys: Mapping[str, bytes] = {}
        self.day = -1
        self._current = blake2b()
        self._before: list[blake2b] = []
        self.provisional = True

    def learn(self, salts: Sequence[Salt]) -> None:
        """Take over the salts that all workers agree on. Called from the writer's thread."""
        keys = {salt.period: salt.key for salt in salts}
        if keys != self._keys:
            self._keys = keys
            self.day = -1  # the next request turns to them

    def fingerprint(self, message: bytes, time_ns: int) -> bytes:
        """Return the 16 bytes of a message under the salt of the day (UTC)."""
        self.turn(time_ns)
        hasher = self._current.copy()
        hasher.update(message)
        return hasher.digest()

    def turn(self, time_ns: int) -> bool:
        """Go over to the salt of the day; tell whether that changed it."""
        day = time_ns // DAY_NS
        if day == self.day:
            return False
        self._turn(day)
        return True

    def before(self, message: bytes) -> list[bytes]:
        """Return the message's fingerprints under yesterday's salt and the emergency salt, newest first."""
        found = []
        for keyed in self._before:
            hasher = keyed.copy()
            hasher.update(message)
            found.append(hasher.digest())
        return found

    def named(self, visitor: bytes, key: bytes) -> bytes:
        """Return the fingerprint of a visitor that a cookie names; it does not rotate, the cookie's end is its end."""
        return blake2b(visitor, digest_size=16, key=key, person=b"cookie", salt=b"visitor").digest()

    def _turn(self, day: int) -> None:
        keys = self._keys
        key, yesterday = keys.get(_period(day)), keys.get(_period(day - 1))
        self._current = self._keyed(key or self._emergency)
        self._before = [self._keyed(yesterday)] if yesterday else []
        if key and self._emergency_used:
            self._before.append(self._keyed(self._emergency))
        self._emergency_used = self._emergency_used or key is None
        self.provisional = key is None
        self.day = day

    def _keyed(self, key: bytes) -> blake2b:
        return blake2b(self._site + b"\0", digest_size=16, key=key, person=b"fingerprint")


def message(network: bytes, headers: Mapping[bytes, bytes], quiet: bool) -> bytes:
    """Return what identifies a visitor without a cookie. Only headers that a browser sends on each kind of request.

    Client hints and Accept are left out: a browser leaves them off websockets and changes them with the kind of file.
    """
    agent = headers.get(b"user-agent", b"")[:MOST_AGENT]
    language = headers.get(b"accept-language", b"")[:MOST_LANGUAGE]
    return b"%b\0%b\0%b%b" % (network, agent, language, b"\0q" if quiet else b"")


def _period(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
