"""The command `tail`: the newest hits and, as they come, those after them."""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

from ..columns import cut, escape, one_line
from ..errors import StoreUnavailable
from ..facts import LEVEL_LABELS
from ..store.reading import HitRow, Reader, connect
from . import Command, Run
from .arguments import whole
from .console import plain
from .dsn import add_dsn, database

POLL = 0.5  # seconds between two polls
PAUSE = 2.0  # seconds between two attempts to connect again
PATIENCE = 30.0  # seconds that a poll may take
OVERLAP = timedelta(seconds=10)  # hits of several workers do not arrive in order
MAX_FOLLOWED = 10_000  # hits in one poll
LEFT_OUT = f"more than {MAX_FOLLOWED:,} hits came at once, as after an outage: older ones are left out here"
HIT_COLUMNS = (
    ("time (UTC)", 12),
    ("method", 7),
    ("path", 33),
    ("status", 6),
    ("country", 7),
    ("browser", 16),
    ("visitor", 8),
    ("level", 7),
    ("score", 5),
    ("outcome", 8),
)


def add_tail(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tail` and return what runs it."""
    add_dsn(parser)
    parser.add_argument("-n", "--lines", type=whole(0, MAX_FOLLOWED), default=20, help="hits to begin with (20)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    parser.add_argument("--site", help="only hits of this site")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    return _tail


COMMANDS = (Command("tail", "show hits as they come", add_tail),)


def _tail(options: argparse.Namespace) -> int:
    line = hit_json if options.json else hit_line
    with database(options.dsn) as dsn:
        asked = (dsn, options.lines, options.site)
        polls = followed(*asked, _report) if options.follow else iter([newest(*asked)])
        for number, hits in enumerate(polls):
            if number == 0 and sys.stdout.isatty() and not options.json:
                print(hit_heading())
            if number == 0 and options.lines and not hits:  # a slip in the site's name would be waited for
                whose = f" of site {options.site!r}" if options.site else ""
                _report(f"no hit{whose} is stored yet")
            for hit in hits:
                print(line(hit))
            sys.stdout.flush()
            if options.follow and _has_no_reader():  # else only the next hit would tell, and there may be none
                raise BrokenPipeError
    return 0


def _has_no_reader() -> bool:
    watched = select.poll()
    watched.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))


def _report(text: str) -> None:
    print("asgi-analytics:", escape(one_line(text)), file=sys.stderr)


def newest(dsn: str, most: int, site: str | None) -> Sequence[HitRow]:
    """Return the newest hits, oldest first; `site` None: of all. Raises StoreUnavailable, StoreMisconfigured."""
    with connect(dsn, PATIENCE) as reader:
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
            with connect(dsn, PATIENCE) as reader:
                if shown is None:
                    recent, hits = _recent(reader, site), reader.hits(most, site)
                    shown = recent | _times(hits)
                    yield hits
                for fresh in _polled(reader, site, shown, report):
                    is_reported = False
                    yield fresh
        except StoreUnavailable as error:
            if shown is None:
                raise
            if not is_reported:
                report(f"{error} (trying again)")
            is_reported = True
            time.sleep(PAUSE)


def _polled(
    reader: Reader, site: str | None, shown: dict[UUID, datetime], report: Callable[[str], None]
) -> Iterator[Sequence[HitRow]]:
    """Yield for ever what each poll brings; `shown` keeps the hits that the next one would find again."""
    while True:
        since = _since(max(shown.values(), default=None))
        found = reader.hits(MAX_FOLLOWED, site, since)
        if _has_gap(found, since, shown):
            report(LEFT_OUT)
        fresh = [hit for hit in found if hit.id not in shown]
        yield fresh
        shown.update(_times(fresh))
        for known in [known for known, at in shown.items() if at < since]:
            del shown[known]
        time.sleep(POLL)


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


def hit_heading() -> str:
    """Return the line that stands above those of `tail`."""
    return _columns([name for name, _ in HIT_COLUMNS])


def hit_line(hit: HitRow) -> str:
    """Return one line of `tail`."""
    texts = (
        f"{hit.time:%H:%M:%S}.{hit.time.microsecond // 1000:03}",
        escape(hit.method),
        cut(escape(hit.path), 80),
        str(hit.status or "-"),
        hit.country or "-",
        cut(escape(hit.agent or "-"), 16),
        hit.fingerprint.hex[:8] if hit.fingerprint else "-",
        LEVEL_LABELS[hit.level],
        str(hit.score),
        hit.outcome,
    )
    return _columns(texts)


def hit_json(hit: HitRow) -> str:
    """Return one line of `tail --json`: an object in ASCII, which can act on no terminal."""
    return json.dumps({**asdict(hit), "level": LEVEL_LABELS[hit.level]}, default=plain)


def _columns(texts: Sequence[str]) -> str:
    return " ".join(text.ljust(width) for text, (_, width) in zip(texts, HIT_COLUMNS, strict=True)).rstrip()
