"""What the command line prints, as pure functions from rows to lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import floor
from pathlib import Path

from ..columns import counted, cut, duration, escape, table
from ..facts import LEVEL_LABELS
from ..jobs.data import Held
from ..record.destination import Destination
from ..record.listing import JournalState
from ..store.reading import ClassSummary, HitRow, LastHour, Position, Totals

MAX_STRAY = 10  # journals in `stats`, which `adopt` lists all
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
    return json.dumps({**asdict(hit), "level": LEVEL_LABELS[hit.level]}, default=_plain)


def as_json(value: object) -> str:
    """Return indented JSON; times, ids and bytes as text. What could act on a terminal is escaped as JSON escapes."""
    text = json.dumps(value, indent=2, default=_plain, ensure_ascii=False)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def moment(time: datetime | None) -> str:
    """Return a time to the second, in UTC; "-" for None."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else "-"


def place(folder: Path) -> str:
    """Return the folder that was searched, so that a slip in its name is seen."""
    return f"in {escape(str(folder))}{'' if folder.exists() else ', which is not there'}"


def statistics(
    totals: Totals,
    hour: LastHour,
    positions: Sequence[Position],
    journals: Sequence[JournalState],
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
    yield from journals_here(journals, folder, destination, {one.journal.hex: one for one in positions})
    yield "Queued, retried, dropped by reason and the overhead of our own steps: middleware.stats() in each process."


def journals_here(
    journals: Sequence[JournalState],
    folder: Path,
    destination: Destination | None,
    known: Mapping[str, Position] | None = None,
) -> Iterator[str]:
    """Yield the lines of `stats` on the journals in a folder; `known`: their positions, None: not to be had."""
    yield f"Journals on this machine: {len(journals)}, {place(folder)}"
    lost = [j for j in journals if not j.alive and destination is not None and not j.destination.is_same(destination)]
    found = [
        (j.name[:8], f"{j.bytes:,} bytes", _owner(j), "" if known is None else _delivered(j, known.get(j.name)))
        for j in journals
        if j not in lost
    ]
    yield from table(found) if found else ()
    if lost:
        yield "Of these left over for a database of another name, see `asgi-analytics adopt`:"
        yield from table(map(stray, lost[:MAX_STRAY]))
        if len(lost) > MAX_STRAY:
            yield f"  … and {len(lost) - MAX_STRAY:,} more"


def statistics_json(
    totals: Totals, hour: LastHour, positions: Sequence[Position], journals: Sequence[JournalState], folder: Path
) -> str:
    """Return what `stats --json` prints: one object. Sizes in bytes, ages in seconds."""
    here = [{**asdict(one), "written": datetime.fromtimestamp(one.written, UTC)} for one in journals]
    return as_json(
        {
            "database": asdict(totals),
            "last_hour": asdict(hour),
            "writers": [asdict(position) for position in positions],
            "journal_dir": str(folder),
            "journals": here,
        }
    )


def stray(journal: JournalState) -> tuple[str, str, str, str]:
    """Return the cells that tell of a journal for another database."""
    since = moment(datetime.fromtimestamp(journal.written, UTC))
    address = escape(journal.destination.address) or "a database that is not named"
    return (journal.name[:8], f"{journal.bytes:,} bytes", f"since {since}", f"for {address}")


def summary(classes: Sequence[ClassSummary]) -> Iterator[str]:
    """Yield the table that ends the demo's traffic."""
    heading = ("class", "visitors", "sessions", "hits", "refused", "warning", "severe", "blocked")
    counts = [(c.visitors, c.sessions, c.hits, c.refusals, c.warning, c.severe, c.blocked) for c in classes]
    rows = [(escape(one.class_), *numbers) for one, numbers in zip(classes, counts, strict=True)]
    yield from table([heading, *rows, ("all", *map(sum, zip(*counts, strict=True)))] if rows else [heading])


def not_in_summary(answered: int, stored: int, shown: int) -> Iterator[str]:
    """Yield what of the demo's answered requests is not in the table's hits, and why."""
    if stored > shown:
        yield f"{_more(stored - shown, 'hit')} of visitors who asked not to be told apart (Sec-GPC, DNT)."
    if answered > stored:
        counts = "a count" if answered - stored == 1 else "counts"
        yield f"{_more(answered - stored, 'request')} {counts} in analytics.refusals: what is refused past a rate."


def data_line(name: str, held: Held | None, error: str | None, now: float) -> str:
    """Return the line of one file of `data update`: what the folder has, how old it is, and what went wrong."""
    has = "none"
    if held:
        has = f"{counted(held.ranges.prefixes, 'prefix', 'prefixes')}, {duration(now - held.fetched_at, floor)} old"
    went_wrong = f"; {'kept' if held else 'not there'}: {escape(error)}" if error else ""
    return f"{name:<32}{has}{went_wrong}"


def _more(number: int, noun: str) -> str:
    return f"{counted(number, f'more {noun}')} {'is' if number == 1 else 'are'}"


def _columns(texts: Sequence[str]) -> str:
    return " ".join(text.ljust(width) for text, (_, width) in zip(texts, HIT_COLUMNS, strict=True)).rstrip()


def _ago(seconds: float) -> str:
    return f"{duration(seconds, floor)} ago"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


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
