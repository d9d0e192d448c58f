"""Starts real ASGI servers as processes of their own, on a port that is free."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

HOUSE = Path(__file__).parent.parent
Found = TypeVar("Found")
PATIENCE = 30.0  # seconds for a server to come up or to go
PORTS = range(10_000, 32_000)  # below those that the kernel gives to connections
_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on and that no other process of tests gets while this one runs."""
    while True:
        port = secrets.choice(PORTS)
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))  # UDP, which no server here listens on: its TCP side stays free
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port


@contextmanager
def server(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until it answers on the port; at the end send SIGTERM and wait until it is gone."""
    given = {**os.environ, "PYTHONPATH": str(HOUSE), **environment}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=HOUSE, env=given, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for(process, port, log)
        yield process
    finally:
        stop(process)


def eventually(read: Callable[[], Found]) -> Found:
    """Read again until there is something to return."""
    deadline = time.monotonic() + PATIENCE
    while not (found := read()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def stop(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM and return the exit code; a server that does not go is killed with all its workers."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"The server did not come up:\n{log.read_text()}")
