"""A TCP proxy before Postgres whose network breaks on demand: deaf, a hole, gone, slow, torn, cut around COMMIT."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "deaf", "hole", "refuse", "slow", "torn"]
Cut = Literal["before", "after", "late"]
SLOW = (0.1, 0.3)  # seconds that a piece of data takes
TORN = 200_000  # bytes that a connection lives at most
LATE = 0.6  # seconds; the writer is back within a quarter of one
COMMIT = b"COMMIT\0"


class Wire:
    """Passes all on, but for the fault that is in force. Each connection is torn at a random byte of its own.

    An armed cut falls at the next COMMIT. "before": it never reaches the server. "after": the server commits, its
    answer never reaches the client. "late": the client is cut off first, and the server gets the COMMIT only when the
    client is long back.
    """

    def __init__(self, dsn: str, seed: int = 1, listener: socket.socket | None = None) -> None:
        parts = urlsplit(dsn)
        self._target = (parts.hostname, parts.port)
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=128)
        host, self.port = self._listener.getsockname()
        self.dsn = parts._replace(netloc=f"{parts.username}:{parts.password}@{host}:{self.port}").geturl()
        self._fault: Fault = "none"
        self._hears = threading.Event()
        self._hears.set()
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._armed: Cut | None = None
        self.cuts = 0

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hears.set()
        _end(self._listener)  # closed only, it would go on waiting for one more
        self._listener.close()
        self._end_all()

    @contextlib.contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        """A fault for as long as the block runs."""
        self._fault = fault
        if fault in ("deaf", "hole"):
            self._hears.clear()
        if fault in ("refuse", "torn"):
            self._end_all()
        try:
            with self._full() if fault == "hole" else contextlib.nullcontext():
                yield
        finally:
            self._fault = "none"
            self._hears.set()
            if fault in ("deaf", "hole"):
                self._end_all()  # what was sent into the void is not heard later

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        """Nobody accepts, and there is no room to wait: the system drops what would connect, without a word."""
        self._listener.listen(0)
        waiting = []
        try:
            for _ in range(16):
                waiting.append(socket.socket())
                waiting[-1].settimeout(0.2)
                try:
                    waiting[-1].connect(("127.0.0.1", self.port))
                except TimeoutError:
                    break
            yield
        finally:
            self._listener.listen(128)
            for one in waiting:
                one.close()

    def lead_to(self, dsn: str) -> None:
        """Lead to another server from now on, as an address that moves does."""
        parts = urlsplit(dsn)
        self._target = (parts.hostname, parts.port)
        self._end_all()

    def arm(self, cut: Cut) -> None:
        """Cut at the next COMMIT of any connection."""
        with self._lock:
            self._armed = cut

    @property
    def connections(self) -> int:
        """How many lead through now."""
        with self._lock:
            return len(self._open) // 2

    @property
    def armed(self) -> bool:
        """Whether a cut has yet to fall."""
        return self._armed is not None

    def _end_all(self) -> None:
        with self._lock:
            ends = list(self._open)
        _end(*ends)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._fault == "hole":
                self._hears.wait()
            if self._fault == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            budget = [self._dice.randrange(TORN)] if self._fault == "torn" else []
            for way in (self._up, self._down):
                threading.Thread(target=way, args=(client, server, budget), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if COMMIT in data and (cut := self._take()) is not None:
                    _cut(cut, data, client, server)
                    break
                if not self._pass(data, server, budget):
                    break
        _end(client, server)
        with self._lock:
            self._open -= {client, server}

    def _down(self, client: socket.socket, server: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and self._pass(data, client, budget):
                pass
        # Not the server's side: a late COMMIT may still be on its way to it.
        _end(client)

    def _pass(self, data: bytes, sink: socket.socket, budget: list[int]) -> bool:
        """Pass data on as the fault wants it; tells whether the connection lives."""
        self._hears.wait()
        if self._fault == "slow":
            threading.Event().wait(self._dice.uniform(*SLOW))
        if budget:
            budget[0] -= len(data)
            if budget[0] < 0:
                sink.sendall(data[: budget[0]])
                return False
        sink.sendall(data)
        return True

    def _take(self) -> Cut | None:
        with self._lock:
            cut, self._armed = self._armed, None
            self.cuts += cut is not None
            return cut


def _cut(cut: Cut, data: bytes, client: socket.socket, server: socket.socket) -> None:
    # Whatever the server says from here on has nobody to go to.
    _end(client)
    if cut == "late":
        time.sleep(LATE)
    if cut != "before":
        server.sendall(data)
        time.sleep(0.1)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
