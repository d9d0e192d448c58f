"""The command `purge`: what is older than a time is deleted, for databases whose apps do not do so by themselves."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from .actors import Run
from .arguments import span
from .store.postgres import PostgresStore
from .store.retention import PARTITIONS, TABLES


def add_purge(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `purge` and return what runs it."""
    parser.add_argument("--older", type=span, required=True, metavar="TIME", help="such as 90d or 52w")
    return _purge


COMMANDS: Sequence[tuple[str, str, Callable[[argparse.ArgumentParser], Run]]] = (
    ("purge", "delete hits, sessions, visitors, decisions and quarantined rows that are older than a time", add_purge),
)


def _purge(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    store, total = PostgresStore(lambda: dsn, migrate=False), Counter[str]()
    try:
        store.connect()
        while any((done := store.forget(options.older)).values()):
            total.update(done)
    finally:
        store.close()
    yield f"{total[PARTITIONS]:,} partitions of hits dropped"
    yield from (f"{total[table]:,} rows of {table} deleted" for table in TABLES)
