"""The command `migrate`: bring the schema up to date."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..store.command_session import migrate_all
from . import Command, Run
from .dsn import with_database


def add_migrate(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `migrate` and return what runs it."""
    return with_database(parser, _migrate)


COMMANDS = (Command("migrate", "bring the database's schema up to date", add_migrate),)


def _migrate(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    done = migrate_all(dsn)
    yield from done.applied
    if done.newer:
        later = f"of a later version ({', '.join(done.newer)}): upgrade asgi-analytics here, what it writes may not fit"
        yield f"the schema is {later}"
    elif not done.applied:
        yield "up to date"
