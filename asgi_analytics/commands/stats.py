"""The command `stats`: what is stored, what was set aside, and what waits in this machine's journals."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import floor
from pathlib import Path
from uuid import UUID

from ..columns import counted, duration, escape, table
from ..database import destination_of, resolve_dsn
from ..errors import CommandError, StoreUnavailable
from ..record.destination import Destination
from ..record.listing import JournalState, journals
from ..settings import default_journal_dir
from ..store.reading import LastHour, Position, Totals, connect
from . import Command, Run
from .arguments import path
from .console import as_json, moment, place, stray
from .dsn import add_dsn, database

MAX_WRITERS = 10  # shown besides those of this machine
MAX_STRAY = 10  # journals shown, which `adopt` lists all


def add_stats(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `stats` and return what runs it."""
    add_dsn(parser)
    parser.add_argument("--journal-dir", type=path, help="where the apps keep their journals")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    return _stats


COMMANDS = (Command("stats", "show what was written, set aside, and is still to come", add_stats),)


def _stats(options: argparse.Namespace) -> int:
    folder = options.journal_dir or default_journal_dir()
    destination = destination_of(resolve_dsn(options.dsn))
    try:
        found = journals(folder)
    except OSError as error:
        raise CommandError(f"The journal folder cannot be read: {error}") from None
    here = [UUID(journal.name) for journal in found]
    try:
        with database(options.dsn) as dsn, connect(dsn) as reader:
            destination = replace(destination, server=reader.identity())
            totals, hour, positions = reader.totals(), reader.last_hour(), reader.positions(here, MAX_WRITERS)
    except StoreUnavailable:  # what waits here is known all the same
        if found and not options.json:
            print("\n".join(journals_here(found, folder, destination)))
        raise
    if options.json:
        print(statistics_json(totals, hour, positions, found, folder))
    else:
        print("\n".join(statistics(totals, hour, positions, found, folder, destination)))
    return 0


def statistics(
    totals: Totals,
    hour: LastHour,
    positions: Sequence[Position],
    found: Sequence[JournalState],
    folder: Path,
    destination: Destination | None = None,
) -> Iterator[str]:
    """Yield the lines of `stats`.

    `folder` is where the journals are; `destination`, the database that was asked, tells which are for another.
    """
    yield "Database"
    updated = moment(totals.updated_at) if totals.updated_at else "never"
    written, sources = counted(totals.written, "row"), counted(totals.journals, "journal")
    yield f"  written         {written} from {sources}, last {updated}"
    last = f", last error: {escape(totals.last_error)}" if totals.last_error else ""
    yield f"  quarantined     {counted(totals.quarantined, 'row')}{last}"
    recent = f"{hour.last_minute:,} in the last minute, {hour.hits:,} in the last hour"
    counted_only = f"; {counted(hour.counted, 'more refusal')} as counts" if hour.counted else ""
    yield f"  hits            {recent}, of these {hour.refused:,} refused{counted_only}"
    yield (
        f"  by level        normal {hour.normal:,}, warning {hour.warning:,}, severe {hour.severe:,}, "
        f"blocked {hour.blocked:,} hits in the last hour"
    )
    if hour.ahead:
        ahead = f"{counted(hour.ahead, 'hit')}, up to {moment(hour.furthest)}"
        yield f"  of the future   {ahead}: a worker's clock was ahead"
    yield f"  human sessions  {totals.human_sessions:,} today (UTC)"
    yield f"Writers: {len(positions)} of {totals.journals:,}, this machine's first, then those that moved last"
    heading = ("journal", "host", "segment", "offset", "rows", "quarantined", "moved")
    rows = [
        (p.journal.hex[:8], escape(p.host), p.segment, p.position, p.rows, p.quarantined, _ago(p.age))
        for p in positions
    ]
    yield from table([heading, *rows]) if rows else ()
    yield from journals_here(found, folder, destination, {one.journal.hex: one for one in positions})
    yield "Queued, retried, dropped by reason and the overhead of our own steps: middleware.stats() in each process."


def journals_here(
    found: Sequence[JournalState],
    folder: Path,
    destination: Destination | None,
    known: Mapping[str, Position] | None = None,
) -> Iterator[str]:
    """Yield the lines of `stats` on the journals in a folder; `known`: their positions, None: not to be had."""
    yield f"Journals on this machine: {len(found)}, {place(folder)}"
    lost = [j for j in found if not j.alive and destination is not None and not j.destination.is_same(destination)]
    ours = [
        (j.name[:8], f"{j.bytes:,} bytes", _owner(j), "" if known is None else _delivered(j, known.get(j.name)))
        for j in found
        if j not in lost
    ]
    yield from table(ours) if ours else ()
    if lost:
        yield "Of these left over for a database of another name, see `asgi-analytics adopt`:"
        yield from table(map(stray, lost[:MAX_STRAY]))
        if len(lost) > MAX_STRAY:
            yield f"  … and {len(lost) - MAX_STRAY:,} more"


def statistics_json(
    totals: Totals, hour: LastHour, positions: Sequence[Position], found: Sequence[JournalState], folder: Path
) -> str:
    """Return what `stats --json` prints: one object. Sizes in bytes, ages in seconds."""
    here = [{**asdict(one), "written": datetime.fromtimestamp(one.written, UTC)} for one in found]
    return as_json(
        {
            "database": asdict(totals),
            "last_hour": asdict(hour),
            "writers": [asdict(position) for position in positions],
            "journal_dir": str(folder),
            "journals": here,
        }
    )


def _ago(seconds: float) -> str:
    return f"{duration(seconds, floor)} ago"


def _owner(journal: JournalState) -> str:
    return (
        "owner lives" if journal.alive else "owner is dead: the next start of its app, or a living worker, delivers it"
    )


def _delivered(journal: JournalState, position: Position | None) -> str:
    if position is None:
        return "unknown to this database"
    if not position.position:
        return "nothing delivered yet"
    if journal.newest != position.segment:
        return f"delivered to segment {position.segment} of {journal.newest}"
    behind = journal.newest_bytes - position.position
    return f"{behind:,} bytes behind" if behind > 0 else "all delivered"
