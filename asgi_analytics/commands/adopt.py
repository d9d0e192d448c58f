"""The command `adopt`: journals that were left over for another database, or for this one under another name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..columns import counted, escape, table
from ..database import destination_of, resolve_dsn
from ..errors import CommandError
from ..record.adoption import redirect
from ..record.destination import Destination
from ..record.listing import JournalState, strays
from ..settings import default_journal_dir
from ..store.reading import connect
from . import Command, Run
from .arguments import path
from .console import place, stray
from .dsn import with_database

MIN_NAME = 4  # hex digits that tell journals apart


def add_adopt(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `adopt` and return what runs it."""
    parser.add_argument("names", nargs="*", metavar="JOURNAL", help="its first digits; none: list them")
    parser.add_argument("--all", action="store_true", help="all that are listed")
    parser.add_argument("--journal-dir", type=path, help="where the apps keep their journals")
    return with_database(parser, _adopt)


NOTES = """
A journal is for the database that it was written for: same host, port and name, or, once it has answered there, under
another host name. Physical copies of a database count as the same: give each app a journal folder.
"""
COMMANDS = (
    Command("adopt", "have journals that were left over for another database delivered to this one", add_adopt, NOTES),
)


def _adopt(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    if options.all and options.names:
        raise CommandError("--all has all journals delivered: name some, or give --all.")
    folder = options.journal_dir or default_journal_dir()
    asked = resolve_dsn(options.dsn)
    if options.all and asked is None:  # the variable that names their own may not be set here
        raise CommandError("--all has all delivered to the embedded Postgres here: give --dsn, or name the journals.")
    destination = destination_of(asked)
    with connect(dsn) as reader:  # an address that leads nowhere would only move the trouble
        destination = Destination(destination.key, destination.address, reader.identity())
    try:
        found = [one for one in strays(folder, destination) if not one.destination.is_same(destination)]
        if not (options.names or options.all):
            yield from table(map(stray, found), indent="") or [
                f"nothing is left over for another database, {place(folder)}"
            ]
            return
        yield from _redirect(folder, found if options.all else _named(found, options.names), destination)
    except OSError as error:
        raise CommandError(f"The journals cannot be read or written: {error}") from None


def _named(found: Sequence[JournalState], names: Sequence[str]) -> list[JournalState]:
    chosen = []
    for name in names:
        one = [journal for journal in found if len(name) >= MIN_NAME and journal.name.startswith(name)]
        if len(one) != 1:
            raise CommandError(f"{escape(name)!r} names {len(one)} of the {len(found)} journals that `adopt` lists.")
        chosen += one
    return chosen


def _redirect(folder: Path, chosen: Sequence[JournalState], destination: Destination) -> Iterator[str]:
    for one in chosen:
        if (owner := (folder / one.name).stat().st_uid) != os.geteuid():  # who could not read what we write there
            raise CommandError(f"Journal {one.name[:8]} belongs to user {owner}: run this command as that user.")
    done = [one for one in chosen if redirect(folder / one.name, destination)]
    size = sum(one.bytes for one in done)
    told = counted(len(done), "journal")
    yield f"{told}, {size:,} bytes: delivered by the next start, or by a living worker within 30 s"
