"""A pooler in transaction mode, as strict as they get: each transaction is given another session of the server."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import threading
from types import TracebackType
from urllib.parse import urlsplit

import psycopg

SSL, GSSAPI = 80877103, 80877104
TOLD = (
    *("server_version", "server_encoding", "client_encoding", "DateStyle", "TimeZone"),
    *("standard_conforming_strings", "integer_datetimes"),
)
Session = tuple[psycopg.Connection, socket.socket]


class Pooler:
    """Lends `size` sessions in turn, one for a transaction. Knows no start-up option, as PgBouncer does not.

    Or, where it `discards`, always the same one, by its own process number, cleared after each transaction.
    """

    def __init__(self, dsn: str, size: int = 3, discards: bool = False) -> None:
        self._server = dsn
        self._size = 1 if discards else size
        self._discards = discards
        self._free: queue.Queue[Session] = queue.Queue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = urlsplit(dsn)._replace(netloc=f"somebody@127.0.0.1:{self._listener.getsockname()[1]}").geturl()
        self.transactions = 0

    def __enter__(self) -> Pooler:
        for _ in range(self._size):
            self._free.put(self._session())
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # closed only, it would go on waiting for one more
        self._listener.close()
        for _ in range(self._size):
            connection, wire = self._free.get(timeout=10)
            wire.close()
            connection.close()

    def _session(self) -> Session:
        connection = psycopg.connect(self._server, autocommit=True, prepare_threshold=None)
        wire = socket.socket(fileno=os.dup(connection.fileno()))
        wire.setblocking(True)
        return connection, wire

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if not self._welcome(client):
                return
            while (asked := client.recv(65_536)) and asked[:1] != b"X":
                self._lend(client, asked)

    def _welcome(self, client: socket.socket) -> bool:
        asked = _first(client)
        while struct.unpack("!i", asked[:4])[0] in (SSL, GSSAPI):
            client.sendall(b"N")
            asked = _first(client)
        if b"\0options\0" in asked:
            fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            client.sendall(_message(b"E", fields))
            return False
        session = self._free.get()
        texts = {name: session[0].info.parameter_status(name) or "" for name in TOLD}
        self._free.put(session)
        told = [_message(b"S", f"{name}\0{text}\0".encode()) for name, text in texts.items()]
        number = struct.pack("!i", session[0].info.backend_pid) if self._discards else os.urandom(4)
        key = _message(b"K", number + os.urandom(4))
        client.sendall(b"".join((_message(b"R", bytes(4)), *told, key, _message(b"Z", b"I"))))
        return True

    def _lend(self, client: socket.socket, asked: bytes) -> None:
        session = self._free.get()
        self.transactions += 1
        try:
            _relay(client, session[1], asked)
            if self._discards:
                session[0].execute("DISCARD ALL")
        except OSError:  # the client is gone in the middle: so is its transaction
            session[1].close()
            session[0].close()
            session = self._session()
            raise
        finally:
            self._free.put(session)


def _relay(client: socket.socket, server: socket.socket, asked: bytes) -> None:
    """Pass on what both say until the server is idle: ready, and in no transaction."""
    server.sendall(asked)
    answer = b""
    while True:
        readable, _, _ = select.select([client, server], [], [])
        if client in readable:
            asked = client.recv(65_536)
            if not asked:
                raise ConnectionError
            server.sendall(asked)
        if server in readable:
            came = server.recv(65_536)
            if not came:
                raise ConnectionError
            client.sendall(came)
            idle, answer = _scan(answer + came)
            if idle and not answer:
                return


def _scan(answer: bytes) -> tuple[bool, bytes]:
    """Tell whether the last whole message says that the server is idle, and return the beginning of a further one."""
    idle, at = False, 0
    while at + 5 <= len(answer):
        end = at + 1 + struct.unpack_from("!i", answer, at + 1)[0]
        if end > len(answer):
            break
        idle, at = answer[at:end] == _message(b"Z", b"I"), end
    return idle, answer[at:]


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _first(client: socket.socket) -> bytes:
    """What a client says first, without its length."""
    (length,) = struct.unpack("!i", client.recv(4, socket.MSG_WAITALL))
    return client.recv(length - 4, socket.MSG_WAITALL)
