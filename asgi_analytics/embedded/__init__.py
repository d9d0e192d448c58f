"""A Postgres of our own for the demo, the tests and development: found binaries under a small supervisor.

Its folder holds everything; outside of it, only missing folders on the way to it are made.

    cluster/      what initdb made                  dsn           address and password, mode 0600
    lock          flock of the process that owns    server.log    of this start; server.log.1 of the one before
    server.lock   flock of the server itself        new-*, bin-*  work of one start, cleared by the next
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ..errors import EmbeddedPostgresError
from ..folders import default_folder
from .cluster import START_TIMEOUT, Cluster, fault
from .folder import NOT_WANTED, Patience, flock, prepare, read_dsn
from .process import account_of_server
from .programs import Server, find_servers, is_available

__all__ = ["EmbeddedPostgres", "Server", "default_data_dir", "find_servers", "is_available"]

NOT_ON_WINDOWS = "The embedded Postgres runs on Linux and macOS, not on Windows: set ASGI_ANALYTICS_DSN."
LEAVE_PATIENCE = 0.5  # seconds that `leave` waits for a start to give up, which it does by itself
NOT_THERE = "The embedded Postgres could not be started in {} (ASGI_ANALYTICS_DATA_DIR names another folder): {}"


class EmbeddedPostgres:
    """A server for as long as this process lives; processes with the same `data_dir` share one.

    `settings` are server parameters (`-c name=value`); only those of the process that owns the server take effect.
    """

    def __init__(self, data_dir: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        if sys.platform == "win32":
            raise EmbeddedPostgresError(NOT_ON_WINDOWS)
        self.data_dir = Path(os.path.abspath(data_dir or default_data_dir()))
        self._settings = dict(settings or {})
        self._mutex = threading.RLock()
        self._cluster: Cluster | None = None
        self._dsn: str | None = None
        self._left = False
        _instances.add(self)

    def start(self) -> str:
        """Return the DSN of a server that answers, after starting it if no other process has. Idempotent.

        Raises EmbeddedPostgresError, with the end of the server's log where there is one.
        """
        with self._mutex:
            if self.pid is None:
                self.stop()
                self._check_wanted()
                try:
                    self._dsn = self._join_or_own()
                except (OSError, subprocess.SubprocessError) as error:
                    raise EmbeddedPostgresError(NOT_THERE.format(self.data_dir, error)) from error
                self._check_wanted()
            return self.dsn

    def stop(self) -> None:
        """Shut the server down if this process owns it: fast, after a while immediate, then by force."""
        self._end(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def leave(self) -> None:
        """Stop for good: a start on its way gives up, though it may have waited for a minute, and none follows."""
        self._left = True
        if self._mutex.acquire(timeout=LEAVE_PATIENCE):
            try:
                self.stop()
            finally:
                self._mutex.release()

    def kill(self) -> None:
        """Kill the postmaster if this process owns it, as a crash would; the next `start` recovers."""
        self._end(signal.SIGKILL)

    @property
    def dsn(self) -> str:
        """The address with its password, for psycopg or psql. Raises EmbeddedPostgresError before `start`."""
        if self._dsn is None:
            raise EmbeddedPostgresError("The embedded Postgres is not started.")
        return self._dsn

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run or another process owns it."""
        with self._mutex:
            server = self._cluster.server if self._cluster else None
            return server.pid if server and server.poll() is None else None

    @property
    def owner(self) -> bool:
        """Whether the server is this process's own and ends with it."""
        return self._cluster is not None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _join_or_own(self) -> str:
        patience = Patience(START_TIMEOUT, lambda: not self._left)
        account = account_of_server()
        prepare(self.data_dir, account)
        while (lock := flock(self.data_dir / "lock")) is None:
            dsn = read_dsn(self.data_dir)
            why = "it has no address yet" if dsn is None else fault(dsn, self.data_dir)
            if dsn is not None and why is None:
                return dsn
            patience.pause(f"The process that holds {self.data_dir / 'lock'} has no server that answers ({why}).")
        self._cluster = Cluster(self.data_dir, self._settings, account, lock)
        try:
            return self._cluster.start(patience)
        except BaseException:
            self.stop()
            raise

    def _check_wanted(self) -> None:
        if self._left:
            self.stop()
            raise EmbeddedPostgresError(NOT_WANTED)

    def _end(self, *signals: int) -> None:
        with self._mutex:
            cluster, self._cluster, self._dsn = self._cluster, None, None
            if cluster is not None:
                cluster.end(signals)

    def _after_fork(self) -> None:
        self._mutex = threading.RLock()
        if self._cluster is not None:
            self._cluster.abandon()
        self._cluster = None


def default_data_dir() -> Path:
    """Return the folder of the embedded Postgres where none is named; `prepare` makes it private."""
    return default_folder("ASGI_ANALYTICS_DATA_DIR", "postgres")


_instances: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()


def _let_go() -> None:
    for instance in _instances:
        instance._after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)
