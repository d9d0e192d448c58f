"""Servers in folders of a test, and processes that own them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.embedded.folder import flock
from asgi_analytics.embedded.programs import WHEEL

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="what is done as root only")
only_wheel = pytest.mark.skipif(find_spec(WHEEL) is None, reason="what is done with a wheel's programs only")
# A process that starts a server from a thread which then ends, reports, and lives until its stdin is closed.
WORKER = """
import os, sys, threading
from pathlib import Path
from asgi_analytics.embedded import EmbeddedPostgres
{before}
server = EmbeddedPostgres(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
{after}
print(server.dsn, server.owner, server.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def worker(*arguments: Path, before: str = "", after: str = "") -> Iterator[subprocess.Popen[str]]:
    script = WORKER.format(before=before, after=after)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def report(process: subprocess.Popen[str]) -> tuple[str, bool, int | None]:
    assert process.stdout is not None
    dsn, owner, pid = process.stdout.readline().split()
    return dsn, owner == "True", None if pid == "None" else int(pid)


def gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Left to a PID 1 that may be slow to reap it.
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and ") Z " in state.read_text()


def idle(folder: Path) -> bool:
    """Whether the last process of a server, or of its start, has gone."""
    lock = flock(folder / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


def ask(dsn: str, query: str = "SELECT 1") -> object:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def store(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
