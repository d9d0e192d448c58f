"""A Postgres of its own, a wire to it and a server whose writer is no superuser: what the faults act on."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg

from asgi_analytics.embedded import EmbeddedPostgres
from tests.acceptance.faults.ledger import Account
from tests.acceptance.rig import Load, Server
from tests.acceptance.wire import Wire
from tests.conftest import data_folder

WRITERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'asgi-analytics writer'"
CLERK = "clerk"  # the role that the writer logs in as


@dataclass
class House:
    """`admin` is a superuser's address of the clerk's database, past the wire."""

    postgres: EmbeddedPostgres
    admin: str
    wire: Wire
    server: Server

    @classmethod
    @contextmanager
    def open(
        cls, cluster: Path, folder: Path, listener: socket.socket | None = None, **options: Any
    ) -> Iterator[House]:
        """Start all of it; `cluster` is copied. `listener`: where the wire begins."""
        with data_folder() as data:
            subprocess.run(["cp", "-a", f"{cluster}/.", data], check=True)
            with EmbeddedPostgres(data, {"max_prepared_transactions": "0"}) as postgres:
                admin = _make_database(postgres.dsn)
                with Wire(clerks(admin), listener=listener) as wire:
                    server = Server(wire.dsn, folder / "j", batch_age=0.05, **options)
                    server.start()
                    try:
                        yield cls(postgres, admin, wire, server)
                    finally:
                        server.stop()

    def do(self, *queries: LiteralString) -> list[tuple[Any, ...]]:
        """Run statements as superuser; return the rows of the last."""
        with psycopg.connect(self.admin, autocommit=True) as connection:
            for query in queries:
                cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def writers(self) -> list[int]:
        """The process ids of the writer's backends."""
        return [pid for (pid,) in self.do(WRITERS)]

    def strike(
        self, account: Account, fault: Callable[[House], contextlib.AbstractContextManager[None]], rounds: int = 1
    ) -> None:
        """Let a fault hold under load, end it, and hold the client's ledger against the table."""
        with Load(self.server.port) as load:
            for _ in range(rounds):
                load.more(60)
                with fault(self):
                    load.more(60)
                account.round()
            load.more(40)
        account.settle(self.admin, load.answered)


def clerks(admin: str) -> str:
    """The clerk's address of a database."""
    parts = urlsplit(admin)
    return parts._replace(netloc=f"{CLERK}:pencil@{parts.hostname}:{parts.port}").geturl()


def _make_database(superuser: str) -> str:
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'pencil'")
        connection.execute("CREATE DATABASE office OWNER clerk TEMPLATE template0")
    return urlsplit(superuser)._replace(path="/office").geturl()
