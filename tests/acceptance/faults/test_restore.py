"""Postgres comes back as it was before: from a backup, or as a standby that lagged. What it lacks is sent again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from asgi_analytics.embedded import EmbeddedPostgres
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import WHOLE
from tests.acceptance.faults.test_disk import small_disk
from tests.acceptance.rig import Load, serving
from tests.acceptance.wire import Wire
from tests.conftest import data_folder
from tests.waiting import wait_until

HITS = "SELECT count(*) FROM analytics.hits"


def copy(source: Path, to: Path) -> None:
    """Copy a stopped cluster with its owners."""
    subprocess.run(["cp", "-a", f"{source}/.", to], check=True)


def kill(postgres: EmbeddedPostgres, cluster: Path) -> None:
    """Kill a server; what its sessions remove as they end is gone when this returns."""
    postgres.kill()
    wait_until(
        lambda: not any(os.path.realpath(at).startswith(f"{cluster}/") for at in Path("/proc").glob("[0-9]*/cwd")),
        what="the end of all sessions",
    )


def ask(dsn: str, query: LiteralString) -> Any:
    """The first value of an answer, None where there is none."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    return row[0] if row else None


@pytest.mark.skipif(not WHOLE, reason="takes five seconds: `python -m tests.acceptance.faults F19`")
def test_a_backup_that_is_restored_gets_what_came_since(
    own_postgres: EmbeddedPostgres, cluster_folder: Path, tmp_path: Path, account: Account
) -> None:
    with serving(own_postgres.dsn, tmp_path / "j", batch_age=0.05) as server, Load(server.port) as load:
        load.more(100)
        kill(own_postgres, cluster_folder)
        copy(cluster_folder, tmp_path / "backup")
        own_postgres.start()
        load.more(200)
        wait_until(lambda: ask(own_postgres.dsn, HITS) > 200, what="rows that the backup has not got")
        kill(own_postgres, cluster_folder)
        for child in cluster_folder.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        copy(tmp_path / "backup", cluster_folder)
        own_postgres.start()
        account.round()
        load.more(50)
        account.settle(own_postgres.dsn, load.answered)


@contextmanager
def replicated(cluster: Path) -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A primary and its standby, from one cluster."""
    with data_folder() as first, data_folder() as second:
        copy(cluster, first)
        copy(cluster, second)
        with EmbeddedPostgres(first) as primary:
            at = urlsplit(primary.dsn)
            version = next(path for path in second.rglob("PG_VERSION") if (path.parent / "global").is_dir())
            sign, settings = version.parent / "standby.signal", version.parent / "postgresql.auto.conf"
            sign.touch()
            os.chown(sign, version.stat().st_uid, version.stat().st_gid)
            way = f"host=127.0.0.1 port={at.port} user={at.username} password={at.password} sslmode=disable"
            with settings.open("a") as file:
                file.write(f"primary_conninfo = '{way}'\n")
            with EmbeddedPostgres(second) as standby:
                yield primary, standby


def has_hits(standby: str) -> bool:
    return bool(ask(standby, "SELECT to_regclass('analytics.hits') IS NOT NULL")) and ask(standby, HITS) > 0


def is_promoted(standby: str) -> bool:
    """Ask it to take over; not while it recovers, from the kill of a process of its own."""
    with contextlib.suppress(psycopg.OperationalError):
        return bool(ask(standby, "SELECT pg_promote()"))
    return False


@pytest.mark.skipif(not WHOLE, reason="takes four seconds: `python -m tests.acceptance.faults F19`")
def test_a_standby_that_lagged_and_is_promoted_gets_what_it_missed(
    fresh_cluster: Path, tmp_path: Path, account: Account
) -> None:
    with (
        replicated(fresh_cluster) as (primary, standby),
        Wire(primary.dsn) as wire,
        serving(wire.dsn, tmp_path / "j", batch_age=0.05) as server,
        Load(server.port) as load,
    ):
        load.more(100)
        wait_until(lambda: has_hits(standby.dsn), what="replicated rows")
        receiver = ask(standby.dsn, "SELECT pid FROM pg_stat_wal_receiver")
        os.kill(receiver, signal.SIGSTOP)
        before = ask(primary.dsn, HITS)
        load.more(200)
        wait_until(lambda: ask(primary.dsn, HITS) > before + 100, what="rows that the standby has not got")
        primary.kill()
        os.kill(receiver, signal.SIGKILL)
        load.more(50)
        wait_until(lambda: is_promoted(standby.dsn), what="a standby that takes over")
        wire.lead_to(standby.dsn)
        account.round()
        load.more(50)
        account.settle(standby.dsn, load.answered)


@pytest.mark.skipif(not WHOLE, reason="takes six seconds: `python -m tests.acceptance.faults F14`")
def test_a_server_whose_disk_is_full_with_its_log_catches_up_when_there_is_room(
    fresh_cluster: Path, tmp_path: Path, account: Account
) -> None:
    with small_disk("150m") as disk:
        subprocess.run(["cp", "-a", fresh_cluster, disk / "data"], check=True)
        with (
            EmbeddedPostgres(disk / "data") as postgres,
            serving(postgres.dsn, tmp_path / "j", batch_age=0.05) as server,
            Load(server.port) as load,
        ):
            load.more(100)
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                while filler.write(b"x" * 4096):
                    pass
            with contextlib.suppress(psycopg.Error), psycopg.connect(postgres.dsn, autocommit=True) as other:
                other.execute("CREATE TABLE eaten AS SELECT repeat('x', 1000), n FROM generate_series(1, 100000) AS n")
            load.more(300)
            (disk / "filler").unlink()
            if postgres.pid is None:  # it gives up where its log cannot grow
                postgres.start()
            account.round()
            load.more(50)
            account.settle(postgres.dsn, load.answered)
