"""The database that a command works on: `--dsn`, else what the environment names, else an embedded Postgres."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..database import resolve_dsn
from ..embedded import EmbeddedPostgres, default_data_dir
from . import Run


def add_dsn(parser: argparse.ArgumentParser) -> None:
    """Add --dsn."""
    parser.add_argument("--dsn", help="else ASGI_ANALYTICS_DSN, else DATABASE_URL, else the embedded Postgres")


@contextmanager
def database(dsn: str | None) -> Iterator[str]:
    """Yield the DSN to use; an embedded Postgres is started for the block if none runs."""
    found = resolve_dsn(dsn)
    if found:
        yield found
        return
    with EmbeddedPostgres() as server:
        if server.owner:
            print(f"asgi-analytics: no DSN given: started the Postgres in {default_data_dir()}", file=sys.stderr)
        yield server.dsn


def with_database(parser: argparse.ArgumentParser, lines: Callable[[argparse.Namespace, str], Iterator[str]]) -> Run:
    """Add --dsn, and return what runs a command that yields lines from its options and the DSN."""
    add_dsn(parser)

    def run(options: argparse.Namespace) -> int:
        with database(options.dsn) as dsn:
            for line in lines(options, dsn):  # printed one by one: also those before an error
                print(line)
        return 0

    return run
