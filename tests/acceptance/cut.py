"""A TCP proxy before Postgres that cuts the connection around COMMIT, on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Cut = Literal["before", "after", "late"]
COMMIT = b"COMMIT\0"


class CutProxy:
    """Passes all on. An armed cut falls at the next COMMIT:

    "before": it never reaches the server. "after": the server commits, its answer never reaches the client.
    "late": the client is cut off first, and the server gets the COMMIT only when the client is long back.
    """

    LATE = 0.6  # seconds; the writer is back within a quarter of one

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        self._armed: Cut | None = None
        self._lock = threading.Lock()
        self.cuts = 0

    def __enter__(self) -> CutProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    def arm(self, cut: Cut) -> None:
        """Cut at the next COMMIT of any connection."""
        with self._lock:
            self._armed = cut

    @property
    def armed(self) -> bool:
        """Whether a cut has yet to fall."""
        return self._armed is not None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if COMMIT in data and (cut := self._take()) is not None:
                    self._cut(cut, data, client, server)
                    break
                server.sendall(data)
        _end(client, server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        # Not the server's side: a late COMMIT may still be on its way to it.
        _end(client)

    def _take(self) -> Cut | None:
        with self._lock:
            cut, self._armed = self._armed, None
            self.cuts += cut is not None
            return cut

    def _cut(self, cut: Cut, data: bytes, client: socket.socket, server: socket.socket) -> None:
        # Whatever the server says from here on has nobody to go to.
        _end(client)
        if cut == "late":
            time.sleep(self.LATE)
        if cut != "before":
            server.sendall(data)
            time.sleep(0.1)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
