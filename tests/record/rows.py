"""Rows as the recorder encodes them, with what a test wants to be different, and batches of them."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg import sql

from asgi_analytics.batch import HIT, Batch, Frame, Frames
from asgi_analytics.clock import uuid7
from asgi_analytics.facts import Actor, ThrottleLevel
from asgi_analytics.model import Agent, Decision, Hit, Identity, Merged, Place, Referral, Session, Visitor
from asgi_analytics.protocols import Store
from asgi_analytics.record import encoding
from asgi_analytics.record.frames import frame
from asgi_analytics.record.recorder import COLUMNS
from tests.sessions import session

__all__ = ["COLUMNS", "NOW_US", "batch", "deliver", "fetch", "finished", "hit", "hit_frame", "identity", "one"]

NOW_US = int(time.time() * 1e6)
_offsets = itertools.count(1000)


def identity(name: bytes = b"visitor", **changes: Any) -> Identity:
    """An identity told apart by its name."""
    values: dict[str, Any] = {
        "fingerprint": name[:16].ljust(16, b"."),
        "network": b"network".ljust(16, b"."),
        "place": Place("DE"),
        "agent": Agent("Firefox", "130", "Linux", None, "desktop"),
    }
    return Identity(**{**values, **changes})


def finished(who: Identity, score: int, level: int, time_ns: int, **measured: Any) -> Hit:
    """A request that has its answer, with what was measured of it."""
    visitor = Visitor(who, Session(b"session".ljust(16, b"."), 0.0, 0.0), Actor([]), Actor([]))
    known = ThrottleLevel(level) if 0 <= level < len(ThrottleLevel) else level
    done = Hit(visitor, Decision(known, score), time_ns, "GET", "/")  # type: ignore[arg-type] # any number is stored
    for name, value in measured.items():
        assert hasattr(done, name), name
        setattr(done, name, value)
    return done


def hit(
    path: str = "/",
    *,
    visitor: bytes | Identity = b"visitor",
    session: bytes | None = b"session",
    time_us: int = NOW_US,
    hit_id: bytes | None = None,
    page_view: bool = False,
    duration_us: int = 1000,
    bytes_sent: int = 10,
    score: int = 0,
    level: int = 0,
    level_before: int | None = None,
    close_code: int | None = None,
    decision_id: bytes | None = None,
    status: Any = 200,
    first_byte_us: int | None = 500,
    clock: float = 1000.0,
    inputs: int = 0,
    numbers: int | None = None,
    path_inputs: int | None = None,
    from_inside: bool | None = None,
    exempt: bool = False,
    outcome: str = "complete",
    method: str = "GET",
    route: str | None = None,
    query: str | None = None,
    referral: Referral | None = None,
    site: str = "default",
    verified: str | None = None,
    policy: str | None = None,
) -> bytes:
    """One row of analytics.hits in COPY binary format."""
    who = visitor if isinstance(visitor, Identity) else identity(visitor)
    high, low = struct.unpack("!QQ", hit_id or uuid7(time_us * 1000))
    done = finished(
        who, score, level, time_us * 1000, page_view=page_view, duration_us=duration_us, bytes_sent=bytes_sent,
        status=status, first_byte_us=first_byte_us, started_at=clock, inputs=inputs, from_inside=from_inside,
    )  # fmt: skip
    done.decision.exempt = exempt
    return b"".join(
        (
            encoding.hit_head(done, high, low),
            encoding.big(numbers),
            encoding.judged(done, done.decision),
            encoding.decided(close_code, level_before, decision_id),
            encoding.text(outcome),
            encoding.text(method, 16),
            encoding.text(path, 1024),
            encoding.big(path_inputs),
            encoding.text(route),
            encoding.text(query, 1024),
            encoding.referral(referral or Referral()),
            encoding.uuid(session and session[:16].ljust(16, b".")),
            encoding.visitor(who, site, verified, policy),
        )
    )


def hit_frame(path: str = "/", **changes: Any) -> bytes:
    """A hit as the journal holds it."""
    return frame(HIT, hit(path, **changes))


def batch(rows: Sequence[bytes], journal: bytes = b"journal", kind: bytes = HIT) -> Batch:
    """The next batch of a journal: batches made later lie behind those made before."""
    frames = []
    for row in rows:
        start = next(_offsets) * 10
        frames.append(Frame(kind, row, start, start + 10))
    return Batch(journal.ljust(16, b"."), 1, COLUMNS, Frames(frames), frames[-1].end)


def deliver(store: Store, moved: Batch) -> list[Merged]:
    """Write a batch as a writer does, which asks for the position of the journal first."""
    store.position(moved.journal)
    return store.write(moved)


def fetch(dsn: str, query: str, *parameters: Any) -> list[dict[str, Any]]:
    """All rows of a query, uuids as bytes."""
    cursor = session(dsn).execute(sql.SQL(query), parameters)
    rows = cursor.fetchall() if cursor.description else []
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def one(dsn: str, query: str, *parameters: Any) -> dict[str, Any]:
    """The only row of a query."""
    (row,) = fetch(dsn, query, *parameters)
    return row


def _plain(value: Any) -> Any:
    return value.bytes if isinstance(value, UUID) else value
