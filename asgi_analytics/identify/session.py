"""Sessions: a visitor's hits with gaps up to the time-out, 24 hours at most."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from ..model import Session

LONGEST: Final = 86_400.0  # seconds


def goes_on(session: Session, now: float, timeout: float) -> bool:
    """Tell whether a hit at `now` belongs to the session. A clock that went back ends none."""
    return now - session.last_seen_at <= timeout and now - session.started_at < LONGEST


def none_yet(now: float) -> Session:
    """Return what a new visitor has before its first session begins: ordinal 0."""
    return Session(b"", now, now, 0)


def begin(fingerprint: bytes, now: float, wall_s: float, timeout: float, ordinal: int = 1) -> Session:
    """Begin a session; all workers that see its beginning within the same time-out period give it the same id.

    Where they differ, the store settles on one when the hits are folded (settle_sessions in store/sql/fold.sql).
    """
    period = int(wall_s // timeout).to_bytes(8, "big", signed=True)
    return Session(blake2b(fingerprint + period, digest_size=16, person=b"session").digest(), now, now, ordinal)
