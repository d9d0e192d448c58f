"""A cluster in the hands of its owner: created, started on a free port, shut down."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from ..clock import random_bytes
from ..columns import one_line
from ..errors import EmbeddedPostgresError
from ..folders import fsync_path
from .folder import Patience, address, flock, read_dsn, write_dsn
from .process import Child, runs
from .programs import Server, choose, copy_wheel

if sys.platform != "win32":
    import pwd

START_TIMEOUT = 60.0  # seconds; recovery after a crash is part of a start
MAX_FAULT = 500  # characters
# Below the ephemeral ports: a client that keeps reconnecting could otherwise be given ours as its own.
PORTS = range(20_000, 30_000)


class Cluster:
    """The owner's hold on a cluster: its server, its locks and a copy of the programs, until `end` releases them."""

    def __init__(self, folder: Path, settings: Mapping[str, str], account: pwd.struct_passwd | None, lock: int) -> None:
        self.server: Child | None = None
        self._folder = folder
        self._data = folder / "cluster"
        self._settings = settings
        self._account = account
        self._copy: Path | None = None
        self._lock: int | None = lock
        self._server_lock: int | None = None

    def start(self, patience: Patience) -> str:
        """Make the cluster if there is none, run a server on it and return the DSN that it answers to."""
        # The server and its children inherit this lock: once it is free, the last of them is gone.
        while (server_lock := flock(self._folder / "server.lock")) is None:
            patience.pause(f"An earlier server in {self._folder} is still shutting down.")
        self._server_lock = server_lock
        self._clear_leftovers()
        server = self._runnable(choose(self._data))
        if not self._data.exists():
            self._create(server, patience.renewed(START_TIMEOUT))
        self._clear_pid_file()
        dsn = self._launch(server, patience)
        os.close(server_lock)
        self._server_lock = None
        return dsn

    def end(self, signals: Sequence[int]) -> None:
        """Send the signals, one after the other while the server lives, and release everything."""
        try:
            if self.server is not None:
                self.server.end(signals)
            if self._copy is not None:
                shutil.rmtree(self._copy)
        finally:
            self._close_locks()

    def abandon(self) -> None:
        """Let go in a forked child: the server and the locks stay the parent's."""
        if self.server is not None:
            self.server.abandon()
        self._close_locks()

    def _close_locks(self) -> None:
        for handle in (self._server_lock, self._lock):
            if handle is not None:
                os.close(handle)
        self._server_lock = self._lock = None

    def _clear_leftovers(self) -> None:
        for left in (*self._folder.glob("new-*"), *self._folder.glob("bin-*")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        log = self._folder / "server.log"
        if log.exists():
            log.replace(log.with_name("server.log.1"))

    def _runnable(self, server: Server) -> Server:
        account = self._account
        if account is None or runs([str(server.programs / "initdb"), "--version"], account):
            return server
        # Such as in a virtual environment under /root: we copy them, rather than change its permissions.
        self._copy = Path(tempfile.mkdtemp(prefix="bin-", dir=self._folder))
        copied = copy_wheel(server, self._copy, account)
        if copied is None or not runs([str(copied.programs / "initdb"), "--version"], account):
            raise EmbeddedPostgresError(f"The user {account.pw_name} cannot run the programs in {server.programs}.")
        return copied

    def _create(self, server: Server, patience: Patience) -> None:
        password = random_bytes(24).hex()
        staging = Path(tempfile.mkdtemp(prefix="new-", dir=self._folder))
        handle, password_file = tempfile.mkstemp(prefix="new-", dir=self._folder)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(password)
        if self._account is not None:
            for path in (staging, password_file):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        access = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        arguments = ["-D", str(staging), *access, "--encoding=UTF8", "--locale=C"]
        self.server = self._spawn(server.programs / "initdb", arguments)
        while (status := self.server.poll()) is None:
            patience.pause(f"initdb did not end in {START_TIMEOUT:.0f} s; see {self._folder / 'server.log'}.")
        if status != 0:
            raise self._failure("initdb failed")
        os.unlink(password_file)
        # The password first, then the whole cluster at once: a kill in between leaves nothing half made.
        write_dsn(self._folder, address(password, free_port(None)))
        staging.rename(self._data)
        fsync_path(self._folder)

    def _clear_pid_file(self) -> None:
        file = self._data / "postmaster.pid"
        if not file.exists():
            return
        pid = file.read_text("utf-8", "replace").partition("\n")[0].strip()
        if pid.isdecimal() and serves(int(pid), self._data):
            raise EmbeddedPostgresError(f"Process {pid}, which is not ours, serves {self._data}: stop it first.")
        file.unlink()

    def _launch(self, server: Server, patience: Patience) -> str:
        known = read_dsn(self._folder)
        if known is None:
            lost = self._folder / "dsn"
            raise EmbeddedPostgresError(f"{lost} with the password is gone: restore it, or move {self._folder} away.")
        parts = urlsplit(known)
        for _ in range(5):
            port = free_port(parts.port)
            dsn = address(parts.password or "", port)
            self.server = self._spawn(server.programs / "postgres", self._arguments(port))
            if self._ready(dsn, patience):
                if dsn != known:
                    write_dsn(self._folder, dsn)
                return dsn
            if is_free(port):
                break
        raise self._failure("Postgres ended while starting")

    def _arguments(self, port: int) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", **self._settings, "port": str(port)}
        return ["-D", str(self._data), *(part for pair in settings.items() for part in ("-c", "=".join(pair)))]

    def _ready(self, dsn: str, patience: Patience) -> bool:
        while self.server is not None and self.server.poll() is None:
            if (why := fault(dsn, self._folder)) is None:
                return True
            log = self._folder / "server.log"
            patience.pause(f"Postgres did not answer in {START_TIMEOUT:.0f} s ({why}); see {log}.")
        return False

    def _spawn(self, program: Path, arguments: Sequence[str]) -> Child:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(self._folder / "server.log", flags, 0o600)
        try:
            kept = [handle for handle in (self._server_lock,) if handle is not None]
            return Child([str(program), *arguments], self._account, log, kept)
        finally:
            os.close(log)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        log = self._folder / "server.log"
        end = log.read_text("utf-8", "replace").splitlines()[-10:]
        return EmbeddedPostgresError("\n  ".join((f"{what}; the end of {log}:", *end)))


def fault(dsn: str, folder: Path) -> str | None:
    """Return why the server at this address does not answer, None where it does.

    It must be the one of this folder: a port can have changed hands.
    """
    try:
        # SQL_ASCII: the path in bytes, for it need not be text.
        with psycopg.connect(dsn, connect_timeout=3, autocommit=True, client_encoding="SQL_ASCII") as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        # Either name may lead over a symbolic link.
        same = row is not None and os.path.samefile(row[0], folder / "cluster")
        return None if same else "another server has its port"
    except (psycopg.Error, OSError) as error:  # such as what a variable PGOPTIONS of the environment asks for
        return one_line(error)[:MAX_FAULT]


def free_port(wished: int | None) -> int:
    """Return a port that is free, the one that is wished if it is. Raises EmbeddedPostgresError where none is."""
    first = int.from_bytes(random_bytes(2), "big") % len(PORTS)
    candidates: list[int] = [wished or PORTS[first], *PORTS[first:], *PORTS[:first]]
    for port in candidates:
        if is_free(port):
            return port
    raise EmbeddedPostgresError(f"No free port on 127.0.0.1 among {PORTS.start} to {PORTS.stop - 1}.")


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def serves(pid: int, data: Path) -> bool:
    """Tell whether the process is a postmaster of this cluster, not one that reuses a pid."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            return False
    else:
        command = subprocess.run(  # noqa: S603
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        ).stdout
    program = command.split(b" ", 1)[0]
    return program.endswith((b"postgres", b"postmaster")) and os.fsencode(data) in command
