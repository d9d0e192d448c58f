"""A TCP proxy before Postgres whose network breaks on demand: deaf, a black hole, gone, slow, torn after some bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "deaf", "hole", "refuse", "slow", "torn"]
SLOW = (0.1, 0.3)  # seconds that a piece of data takes
TORN = 200_000  # bytes that a connection lives at most


class Wire:
    """Passes all on, but for the fault that is in force. Each connection is torn at a random byte of its own."""

    def __init__(self, dsn: str, seed: int = 1) -> None:
        parts = urlsplit(dsn)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.dsn = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{self.port}").geturl()
        self._fault: Fault = "none"
        self._hears = threading.Event()
        self._hears.set()
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.torn = 0

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hears.set()
        self._listener.close()
        self._cut()

    @contextlib.contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        """A fault for as long as the block runs."""
        self._fault = fault
        if fault in ("deaf", "hole"):
            self._hears.clear()
        if fault in ("refuse", "torn"):
            self._cut()
        try:
            with self._full() if fault == "hole" else contextlib.nullcontext():
                yield
        finally:
            self._fault = "none"
            self._hears.set()
            if fault in ("deaf", "hole"):
                self._cut()  # what was sent into the void is not heard later

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

    def _cut(self) -> None:
        with self._lock:
            ends = list(self._open)
        for end in ends:
            _end(end)

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
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink, budget), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._hears.wait()
                if self._fault == "slow":
                    threading.Event().wait(self._dice.uniform(*SLOW))
                if budget:
                    budget[0] -= len(data)
                    if budget[0] < 0:
                        sink.sendall(data[: budget[0]])
                        self.torn += 1
                        break
                sink.sendall(data)
        _end(source)
        _end(sink)
        with self._lock:
            self._open -= {source, sink}


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
