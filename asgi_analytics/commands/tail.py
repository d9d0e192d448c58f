"""The command `tail`: the newest hits and, as they come, those after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from ..errors import StoreUnavailable
from ..store.reading import HitRow, Reader, connect

POLL = 0.5  # seconds between two polls
PAUSE = 2.0  # seconds between two attempts to connect again
OVERLAP = timedelta(seconds=10)  # hits of several workers do not arrive in order
MAX_FOLLOWED = 10_000  # hits in one poll
LEFT_OUT = f"more than {MAX_FOLLOWED:,} hits came at once, as after an outage: older ones are left out here"


def newest(dsn: str, most: int, site: str | None) -> Sequence[HitRow]:
    """Return the newest hits, oldest first; `site` None: of all. Raises StoreUnavailable, StoreMisconfigured."""
    with connect(dsn) as reader:
        return reader.hits(most, site)


def followed(dsn: str, most: int, site: str | None, report: Callable[[str], None]) -> Iterator[Sequence[HitRow]]:
    """Yield the newest hits, then for ever those that came since, each once.

    A database that is gone meanwhile is reported once, and asked until it answers; so are more hits than a poll brings.
    Raises as `newest` at first.
    """
    shown: dict[UUID, datetime] | None = None
    is_reported = False
    while True:
        try:
            with connect(dsn) as reader:
                if shown is None:
                    recent, hits = _recent(reader, site), reader.hits(most, site)
                    shown = recent | _times(hits)
                    yield hits
                while True:
                    since = _since(max(shown.values(), default=None))
                    found = reader.hits(MAX_FOLLOWED, site, since)
                    if _has_gap(found, since, shown):
                        report(LEFT_OUT)
                    fresh = [hit for hit in found if hit.id not in shown]
                    is_reported = False
                    yield fresh
                    shown = {known: at for known, at in (shown | _times(fresh)).items() if at >= since}
                    time.sleep(POLL)
        except StoreUnavailable as error:
            if shown is None:
                raise
            if not is_reported:
                report(f"{error} (trying again)")
            is_reported = True
            time.sleep(PAUSE)


def _recent(reader: Reader, site: str | None) -> dict[UUID, datetime]:
    """Return the newest hits, which the first poll would find again."""
    last = reader.hits(1, site)
    return _times(reader.hits(MAX_FOLLOWED, site, _since(last[0].time))) if last else {}


def _has_gap(found: Sequence[HitRow], since: datetime, shown: Container[UUID]) -> bool:
    """Tell whether what a poll brought does not reach back to what was shown; some of it may be streams of before."""
    oldest = next((hit for hit in found if hit.time >= since), None)
    return len(found) >= MAX_FOLLOWED and oldest is not None and oldest.id not in shown


def _times(hits: Sequence[HitRow]) -> dict[UUID, datetime]:
    return {hit.id: hit.ended for hit in hits}


def _since(newest: datetime | None) -> datetime:
    """Where the next poll begins: a hit of a worker whose clock is ahead must not hide those that come meanwhile."""
    now = datetime.now().astimezone()
    return min(newest or now, now) - OVERLAP
