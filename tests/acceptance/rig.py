"""A real server in processes of its own, and clients that keep their own account of what they were answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests import loaded
from tests.servers import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("ASGI_ANALYTICS_ROUNDS", "1"))
# Nobody is refused: what a visitor is refused past a rate has no row of its own.
OPEN = {"limits": "100000/second", "network_limits": "100000/second", "mode": "observe"}
_numbers = itertools.count(1)


class Server:
    """uvicorn around tests.acceptance.app."""

    def __init__(self, dsn: str, folder: Path, workers: int = 1, **options: Any) -> None:
        self.port = free_port()
        self._log = folder.parent / f"{folder.name}.log"
        self._workers = workers
        self._environment = {
            **os.environ,
            "ASGI_ANALYTICS_DSN": dsn,
            "ASGI_ANALYTICS_JOURNAL_DIR": str(folder),
            "RIG_OPTIONS": json.dumps({**OPEN, **options}),
        }
        self.process: subprocess.Popen[bytes] | loaded.Started

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "uvicorn", "tests.acceptance.app:app", "--port", str(self.port)]
        command += ["--no-access-log", "--timeout-graceful-shutdown", "3"]
        if self._workers > 1:
            command += ["--workers", str(self._workers)]
        with open(self._log, "ab") as log:
            self.process = loaded.popen(command, self._environment, log)
        wait_until(self._answers, what="an answer of the server")

    def kill(self) -> None:
        """kill -9 of the server: of all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        """SIGTERM, as a supervisor does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def get(self, path: str, **headers: str) -> bytes:
        """The whole answer to one request on a connection of its own."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())

    def send(self, request: bytes) -> bytes:
        """What comes back for the raw bytes of a request that closes its connection."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text("utf-8", "replace")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return self.get("/ready").startswith(b"HTTP/1.1 ")
        except OSError:
            return False


@contextmanager
def serving(dsn: str, folder: Path, **options: Any) -> Iterator[Server]:
    """A server for as long as the block runs."""
    server = Server(dsn, folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Load:
    """Clients that ask for /e/<n>, each n once, and note n when the last byte of its answer is here."""

    def __init__(self, port: int, clients: int = 4, pause: float = 0.002) -> None:
        self.answered: list[int] = []
        self.durations: list[float] = []
        self._port = port
        self._clients = clients
        self._pause = pause
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(30)

    def more(self, count: int) -> None:
        """Wait until that many further requests are answered."""
        goal = len(self.answered) + count
        wait_until(lambda: len(self.answered) >= goal, what=f"{count} more answers")

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                while not self._stopping:
                    await self._ask(reader, writer, next(_numbers))
                    await asyncio.sleep(self._pause)
            except (OSError, asyncio.IncompleteReadError):
                pass  # the server was killed: the answer did not come, so there is nothing to note
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        began = time.monotonic()
        writer.write(f"GET /e/{number} HTTP/1.1\r\nHost: x\r\nUser-Agent: rig/1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
        await reader.readexactly(length)
        self.answered.append(number)
        self.durations.append(time.monotonic() - began)


def stored(dsn: str) -> list[int]:
    """The numbers of all stored requests of the load, doubles included."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT path FROM analytics.hits WHERE path LIKE '/e/%'").fetchall()
    return sorted(int(path[3:]) for (path,) in rows)


def assert_exactly_once(dsn: str, answered: list[int]) -> int:
    """Wait until all that was answered is stored, and nothing twice. Returns how many rows there are."""
    wanted = set(answered)
    wait_until(lambda: wanted <= set(stored(dsn)), 60, f"the arrival of all {len(wanted)} answered requests")
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT path), count(DISTINCT id) FROM analytics.hits WHERE path LIKE '/e/%'"
        ).fetchone()
    assert row is not None
    assert row[0] == row[1] == row[2]
    return int(row[0])
