"""`asgi-analytics doctor` names what ails a real Postgres, and the way to it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from asgi_analytics import cli
from asgi_analytics.clock import SystemClock
from asgi_analytics.commands.doctor.check import Check
from asgi_analytics.commands.doctor.postgres import database_checks
from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.store import migrate
from tests.acceptance.faults.house import _make_database, clerks
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.test_disk import small_disk
from tests.acceptance.faults.test_postgres import CALM, RAISING
from tests.acceptance.wire import Wire
from tests.conftest import data_folder

PATIENCE = 3.0


@dataclass
class Ward:
    """A Postgres of its own, migrated by a user that is no superuser."""

    postgres: EmbeddedPostgres
    admin: str  # a superuser's address of that user's database
    data: Path

    @property
    def dsn(self) -> str:
        return clerks(self.admin)

    def do(self, *queries: LiteralString) -> None:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            for query in queries:
                connection.execute(query)


Ill = Callable[[Ward], AbstractContextManager[str]]  # yields the DSN to ask


@pytest.fixture(scope="module")
def ward(fresh_cluster: Path) -> Iterator[Ward]:
    with data_folder() as data:
        subprocess.run(["cp", "-a", f"{fresh_cluster}/.", data], check=True)
        with EmbeddedPostgres(data, {"max_prepared_transactions": "2"}) as postgres:
            ward = Ward(postgres, _make_database(postgres.dsn), data)
            migrate.migrate(ward.dsn)
            assert [check for check in checks(ward.dsn) if check.advice] == []
            yield ward


def checks(dsn: str, shift: float = 0.0) -> list[Check]:
    return list(database_checks(dsn, SystemClock.time_ns() / 1e9 + shift, PATIENCE))


def told(found: Iterator[Check]) -> str:
    return "\n".join(f"{check.mark} {check.text} → {check.advice}" for check in found)


def between(begin: LiteralString, end: LiteralString) -> Ill:
    @contextmanager
    def ill(ward: Ward) -> Iterator[str]:
        ward.do(begin)
        try:
            yield ward.dsn
        finally:
            ward.do(end)

    return ill


def instead(part: str, other: str) -> Ill:
    @contextmanager
    def ill(ward: Ward) -> Iterator[str]:
        yield ward.dsn.replace(part, other)

    return ill


@contextmanager
def down(ward: Ward) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    yield f"postgresql://clerk@127.0.0.1:{port}/office"


@contextmanager
def deaf(ward: Ward) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://clerk@127.0.0.1:{server.getsockname()[1]}/office?connect_timeout=2"


@contextmanager
def strange(ward: Ward) -> Iterator[str]:
    """As where the port is that of the app itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(1024)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"postgresql://clerk@127.0.0.1:{server.getsockname()[1]}/office"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def frozen(ward: Ward) -> Iterator[str]:
    """The backend is stopped once it has let the doctor in: a slow way to it leaves the time to do so."""
    stopping, pids = threading.Event(), set[int]()
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'asgi-analytics doctor' AND state = 'idle'"

    def freeze() -> None:
        while not stopping.wait(0.01):
            for (pid,) in watcher.execute(query).fetchall():
                stopping.wait(0.05)  # until it has said that it is ready
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                pids.add(pid)

    thread = threading.Thread(target=freeze)
    with psycopg.connect(ward.admin, autocommit=True) as watcher, Wire(ward.dsn) as wire, wire.broken("slow"):
        thread.start()
        try:
            yield wire.dsn
        finally:
            stopping.set()
            thread.join()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@contextmanager
def no_schema(ward: Ward) -> Iterator[str]:
    yield urlsplit(ward.postgres.dsn)._replace(path="/template1").geturl()


@contextmanager
def locked(ward: Ward) -> Iterator[str]:
    with psycopg.connect(ward.admin, application_name="report") as holder:
        holder.execute("LOCK TABLE analytics.sessions IN ACCESS EXCLUSIVE MODE")
        yield ward.dsn
        holder.rollback()


@contextmanager
def row_locked(ward: Ward) -> Iterator[str]:
    """As by somebody who corrected something, and went to lunch before the COMMIT."""
    with psycopg.connect(ward.admin, application_name="psql") as holder:
        holder.execute("UPDATE analytics.positions SET rows = 0")
        yield ward.dsn
        holder.rollback()


@contextmanager
def prepared(ward: Ward) -> Iterator[str]:
    """As by a manager of transactions that has died."""
    with psycopg.connect(ward.admin, autocommit=True) as holder:
        with holder.transaction():
            holder.execute("LOCK TABLE analytics.sessions IN ACCESS EXCLUSIVE MODE")
            holder.execute("PREPARE TRANSACTION 'forgotten'")
        yield ward.dsn
        holder.execute("ROLLBACK PREPARED 'forgotten'")


@contextmanager
def closed(ward: Ward) -> Iterator[str]:
    with psycopg.connect(ward.postgres.dsn, autocommit=True) as connection:
        connection.execute("ALTER DATABASE office ALLOW_CONNECTIONS false")
        yield ward.dsn
        connection.execute("ALTER DATABASE office ALLOW_CONNECTIONS true")


STATES: dict[str, tuple[Ill, str]] = {
    "down": (down, r"database: .*refused.* → no server runs there"),
    "deaf": (deaf, r"database: .*(timeout|timed out).* → nobody answers there"),
    "no-postgres": (strange, r"database: .* → what answers there is no Postgres"),
    "frozen": (frozen, r"database: .*did not answer within 3 s.* → nobody answers there"),
    "wrong-password": (instead("pencil", "pen"), r"database: .* → the password, or the user, is wrong"),
    "password-expired": (
        between("ALTER ROLE clerk VALID UNTIL '2020-01-01'", "ALTER ROLE clerk VALID UNTIL 'infinity'"),
        r"database: .* → the password, or the user, is wrong, or it has expired",
    ),
    "no-connections": (closed, r"database: .* → ALTER DATABASE . ALLOW_CONNECTIONS true"),
    "no-user": (instead("clerk:", "nobody:"), r"database: .* → the password, or the user, is wrong"),
    "no-login": (between("ALTER ROLE clerk NOLOGIN", "ALTER ROLE clerk LOGIN"), r"database: .* → ALTER ROLE . LOGIN"),
    "no-database": (instead("/office", "/attic"), r"database: .* → there is no such database"),
    "may-not-connect": (
        between(
            "REVOKE CONNECT ON DATABASE office FROM PUBLIC, clerk", "GRANT CONNECT ON DATABASE office TO PUBLIC, clerk"
        ),
        r"database: .* → GRANT CONNECT",
    ),
    "connection-limit": (
        between("ALTER ROLE clerk CONNECTION LIMIT 0", "ALTER ROLE clerk CONNECTION LIMIT -1"),
        r"database: .* → the connection limit is reached",
    ),
    "read-only": (
        between(
            "ALTER ROLE clerk SET default_transaction_read_only = on",
            "ALTER ROLE clerk RESET default_transaction_read_only",
        ),
        r"database: it is read-only .* → name the primary",
    ),
    "no-privilege": (
        between("REVOKE INSERT ON analytics.hits FROM clerk", "GRANT INSERT ON analytics.hits TO clerk"),
        r"privileges: missing: INSERT on analytics.hits",
    ),
    "no-schema-privilege": (
        between("REVOKE USAGE ON SCHEMA analytics FROM clerk", "GRANT USAGE ON SCHEMA analytics TO clerk"),
        r"privileges: no USAGE on schema analytics",
    ),
    "schema-missing": (no_schema, r"schema: not applied: 0001_schema.sql"),
    "schema-older": (
        between(
            "CREATE TABLE public.kept AS SELECT * FROM analytics.migrations WHERE number = 6;"
            "DELETE FROM analytics.migrations WHERE number = 6",
            "INSERT INTO analytics.migrations SELECT * FROM public.kept; DROP TABLE public.kept",
        ),
        r"schema: not applied: 0006_\w+.sql → run `asgi-analytics migrate`",
    ),
    "schema-newer": (
        between(
            "INSERT INTO analytics.migrations (number, name, checksum) VALUES (9000, '9000_later.sql', 'x')",
            "DELETE FROM analytics.migrations WHERE number = 9000",
        ),
        r"schema: it is of a later version: 9000 → upgrade",
    ),
    "schema-applied-otherwise": (
        between(
            "UPDATE analytics.migrations SET checksum = '-' || checksum WHERE number = 2",
            "UPDATE analytics.migrations SET checksum = substr(checksum, 2) WHERE number = 2",
        ),
        r"schema: applied otherwise: 0002_",
    ),
    "column-renamed": (
        between(
            "ALTER TABLE analytics.hits RENAME COLUMN city TO town",
            "ALTER TABLE analytics.hits RENAME COLUMN town TO city",
        ),
        r"schema: .*city.*42703.* → it was changed",
    ),
    "values-narrowed": (
        between(
            "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (length(path) < 3) NOT VALID",
            "ALTER TABLE analytics.hits DROP CONSTRAINT narrow",
        ),
        r"schema: .*narrow.*23514.* → a constraint was added",
    ),
    "lock-held": (locked, r"lock: AccessExclusiveLock on analytics.sessions, held by process \d+ \(report\)"),
    "rows-held": (row_locked, r"lock: RowExclusiveLock on analytics.positions, held by process \d+ \(psql\)"),
    "prepared-transaction": (
        prepared,
        r"lock: AccessExclusiveLock on analytics.sessions, held by the prepared transaction 'forgotten' \(ROLLBACK",
    ),
    "disk-full-code": (
        between(RAISING.format(state="53100").replace("%%", "%").replace("% 3 = 0", "> 0"), CALM),
        r"disk: .*53100.* → the server's disk is full",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_doctor_names_what_ails_the_database(
    ward: Ward,
    account: Account,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    state: str,
) -> None:
    monkeypatch.setattr(database_checks, "__defaults__", (PATIENCE,))
    ill, wanted = STATES[state]
    with ill(ward) as dsn:
        assert cli.main(["doctor", "--dsn", dsn, "--journal-dir", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert re.search(f"^WRONG {wanted}", output, re.MULTILINE), output
    assert "pencil" not in output
    account.round()


@contextmanager
def full_disk(ward: Ward) -> Iterator[None]:
    """Rows of ours go to a disk of a few megabytes that something else has filled."""
    with small_disk("6m") as disk, psycopg.connect(ward.admin, autocommit=True) as connection:
        owner = next(ward.data.rglob("postmaster.pid")).stat()
        space = disk / "space"
        space.mkdir()
        for folder in (disk, space):
            os.chown(folder, owner.st_uid, owner.st_gid)
        tables = (
            "SELECT format('ALTER TABLE %%s SET TABLESPACE %%I', oid::regclass, %s::text) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'analytics'::regnamespace AND relname LIKE 'hits%%'"
        )
        connection.execute(f"CREATE TABLESPACE small LOCATION '{space}'".encode())
        connection.execute("TRUNCATE analytics.hits")  # a page that is there already would take the row
        try:
            for (move,) in connection.execute(tables, ("small",)).fetchall():
                connection.execute(move)
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(b"x" * 4096):
                    pass
            yield
        finally:
            (disk / "filler").unlink()
            for (move,) in connection.execute(tables, ("pg_default",)).fetchall():
                connection.execute(move)
            connection.execute("DROP TABLESPACE small")


def test_doctor_names_a_full_disk_of_the_server(ward: Ward, account: Account) -> None:
    with full_disk(ward):
        assert "SQLSTATE 53100) → the server's disk is full" in told(iter(checks(ward.dsn)))
    account.round()


def test_doctor_names_a_standby(fresh_cluster: Path, account: Account) -> None:
    """A cluster that waits for a primary; nobody has migrated it."""
    with data_folder() as data:
        subprocess.run(["cp", "-a", f"{fresh_cluster}/.", data], check=True)
        version = next(path for path in data.rglob("PG_VERSION") if (path.parent / "global").is_dir())
        sign = version.parent / "standby.signal"
        sign.touch()
        os.chown(sign, version.stat().st_uid, version.stat().st_gid)
        with EmbeddedPostgres(data) as standby:
            found = told(iter(checks(standby.dsn)))
    assert "WRONG it is a standby, and takes no writes → name the primary" in found
    account.round()


@pytest.mark.parametrize(("shift", "words"), [(3600.0, r"3,\d+ s ahead of"), (-86_400.0, r"86,\d+ s behind")])
def test_doctor_names_a_clock_far_off_the_servers(ward: Ward, account: Account, shift: float, words: str) -> None:
    assert re.search(f"WRONG this machine's is {words} the server's → let NTP", told(iter(checks(ward.dsn, shift))))
    account.round()
