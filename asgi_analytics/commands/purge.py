"""The command `purge`: delete what is older than a time, for databases whose apps do not do so by themselves."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from ..columns import counted
from ..errors import StoreError
from ..store.retention import PARTITIONS, TABLES, connect, forget, may_be_more, outdated
from . import Command, Run
from .arguments import span
from .dsn import with_database


def add_purge(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `purge` and return what runs it."""
    parser.add_argument("--older", type=span, required=True, metavar="TIME", help="such as 90d or 52w")
    parser.add_argument("--yes", action="store_true", help="delete; without it nothing is")
    return with_database(parser, _purge)


NOTES = """
Drops the partitions of hits that are entirely older, including your own, for all sites in the database, and deletes
other rows in batches. It needs the role that owns the tables. The clock is the database's, unless that is a day ahead
of this machine's. Partitions published for logical replication need ALTER TABLE … REPLICA IDENTITY FULL first, also
for reclassify.
"""
COMMANDS = (
    Command(
        "purge",
        "delete hits, refusals, sessions, visitors, decisions and quarantined rows that are older than a time",
        add_purge,
        NOTES,
    ),
)


def _purge(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    if options.yes:
        yield from _deleted(options.older, dsn)
        return
    with connect(dsn) as session:
        found = outdated(session, options.older)
    yield f"{counted(found[PARTITIONS], 'partition')} of hits {_are(found[PARTITIONS])} older as a whole"
    yield from (f"{counted(found[table], 'row')} of {table} {_are(found[table])} older" for table in TABLES)
    yield "nothing was deleted: this was a dry run, --yes deletes"


def _deleted(older: timedelta, dsn: str) -> Iterator[str]:
    """Delete part by part, and yield what was; also before the error that ends it."""
    found, more = Counter[str](), True
    try:
        with connect(dsn) as session:
            while more:
                more = may_be_more(forget(session, older, total=found))
    except StoreError:
        if found.total():
            yield from _told(found)
        raise
    yield from _told(found)


def _told(found: Counter[str]) -> Iterator[str]:
    yield f"{counted(found[PARTITIONS], 'partition')} of hits dropped"
    yield from (f"{counted(found[table], 'row')} of {table} deleted" for table in TABLES)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
