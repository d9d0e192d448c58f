"""The command `quarantine`: list, retry or delete the rows that were set aside."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..columns import counted, escape, table
from ..errors import CommandError, RowRejected, StoreError
from ..store.quarantine import Quarantine, Quarantined, connect
from . import MAX_SHOWN, MORE, Command, Run
from .arguments import span, whole
from .console import moment
from .dsn import with_database

MAX_READ = 1_000  # rows in memory while they are retried
LONGEST_ERROR = 100  # characters in the list


def add_quarantine(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `quarantine` and return what runs it."""
    parser.add_argument("action", choices=("list", "retry", "purge"), help="see them, store them again, delete them")
    parser.add_argument("ids", nargs="*", default=(), type=_id, metavar="ID", help="only these")
    parser.add_argument("--all", action="store_true", help="purge: every row")
    parser.add_argument("--older", type=span, metavar="TIME", help="purge: rows older than 7d, 12h, …")
    parser.add_argument("--top", type=whole(1, MAX_SHOWN), default=50, metavar="N", help="list: at most so many (50)")
    return with_database(parser, _quarantine)


COMMANDS = (Command("quarantine", "list, retry or purge rows that Postgres refused", add_quarantine),)


def _quarantine(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    ids = options.ids or None
    if options.action == "purge" and not (ids or options.all or options.older):
        raise CommandError("purge deletes for good: name IDs, --older TIME or --all.")
    if options.all and (ids or options.older):
        raise CommandError("--all deletes every row: leave it out, or the IDs and --older.")
    if options.action != "purge" and (options.all or options.older):
        raise CommandError(f"--all and --older are for purge; {options.action} takes IDs, or none for every row.")
    with connect(dsn) as quarantine:
        if options.action == "list":
            yield from _listing(_rows(quarantine, ids, options.top + 1), options.top)
        elif options.action == "retry":
            yield from _retry(quarantine, _every(quarantine, ids))
        else:
            deleted = quarantine.purge(ids, options.older)
            if ids and not deleted:
                raise _absent(ids, options.older is not None)
            yield f"{counted(deleted, 'row')} deleted"


def _rows(quarantine: Quarantine, ids: Sequence[int] | None, most: int) -> Sequence[Quarantined]:
    rows = quarantine.rows(ids, most)
    if ids and not rows:
        raise _absent(ids)
    return rows


def _absent(ids: Sequence[int], so_old: bool = False) -> CommandError:
    age = " for that long" if so_old else ""
    return CommandError(f"No row of number {', '.join(map(str, ids))} is set aside{age}: see `quarantine list`.")


def _every(quarantine: Quarantine, ids: Sequence[int] | None) -> Iterator[Quarantined]:
    """Yield all rows of these ids, part by part: there may be millions."""
    rows = _rows(quarantine, ids, MAX_READ)
    while rows:
        yield from rows
        rows = quarantine.rows(ids, MAX_READ, rows[-1].id)


def _listing(rows: Sequence[Quarantined], most: int) -> Iterator[str]:
    if not rows:
        yield "nothing is set aside"
        return
    heading = ("id", "since", "kind", "bytes", "journal", "segment", "offset", "error")
    yield from table([heading, *map(_line, rows[:most])], indent="")
    if len(rows) > most:
        yield MORE


def _line(row: Quarantined) -> tuple[object, ...]:
    error = escape(f"{row.sqlstate or '-'} {row.error}")[:LONGEST_ERROR]
    place = (row.journal.hex[:8], row.segment, row.position)
    return (row.id, moment(row.created_at), row.kind, row.size, *place, error)


def _retry(quarantine: Quarantine, rows: Iterable[Quarantined]) -> Iterator[str]:
    count = Counter[str]()
    try:
        yield from _tried(quarantine, rows, count)
    except StoreError:
        if count.total():
            yield _counted(count)
        raise
    yield _counted(count)


def _tried(quarantine: Quarantine, rows: Iterable[Quarantined], count: Counter[str]) -> Iterator[str]:
    for row in rows:
        if not row.readable:
            count["unreadable"] += 1
            continue
        try:
            count["stored" if quarantine.retry(row) else "gone"] += 1
        except RowRejected as error:
            count["refused"] += 1
            yield f"{row.id}: refused again: {escape(str(error))[:LONGEST_ERROR]}"


def _counted(count: Counter[str]) -> str:
    gone = f", {count['gone']:,} gone meanwhile" if count["gone"] else ""
    again, unreadable = f"{count['refused']:,} refused again", f"{count['unreadable']:,} damaged beyond reading"
    return f"{counted(count['stored'], 'row')} stored, {again}, {unreadable}{gone}"


def _id(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a row: see `quarantine list`")
    return int(text)
