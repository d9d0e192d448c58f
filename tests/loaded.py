"""Commands and servers, loaded once: each is a fork, a process of its own that need not import it all again.

As a program, this is what is forked: from there on a fork is what `python -m asgi_analytics` or `python -m uvicorn`
is, to its very end.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from subprocess import DEVNULL, CompletedProcess, TimeoutExpired
from typing import IO, Any

from tests.servers import HOUSE

COMMAND = "asgi_analytics"
AVAILABLE = hasattr(os, "pidfd_open")  # Linux


class Loaded:
    """The process that is forked. It ends with this one."""

    def __init__(self) -> None:
        self._wire, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "tests.loaded", str(theirs.fileno())],
                cwd=HOUSE,
                pass_fds=[theirs.fileno()],
                stdin=DEVNULL,
                stdout=theirs.fileno(),  # which can not be sought in, as little as the pipes that forks get
            )
        self._answers = self._wire.makefile("r", encoding="ascii")
        self._mutex = threading.Lock()

    def run(self, arguments: Sequence[str], streams: Sequence[int]) -> int:
        """Run a command to its end with these descriptors as its standard streams; return its exit status."""
        return self._ask(["run", COMMAND, arguments, os.getcwd(), dict(os.environ)], streams)

    def start(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: int) -> int:
        """Run a module in a session of its own, which prints to this descriptor; return its process id."""
        with open(os.devnull) as nothing:
            told = ["start", module, arguments, str(HOUSE), dict(environment)]
            return self._ask(told, [nothing.fileno(), log, log])

    def reap(self, pid: int) -> int:
        """Return the exit status of what was started and has ended."""
        return self._ask(["reap", pid], ())

    def _ask(self, told: Sequence[object], streams: Sequence[int]) -> int:
        with self._mutex:
            socket.send_fds(self._wire, [f"{json.dumps(told)}\n".encode()], streams)
            return int(self._answers.readline())


_loaded = cache(Loaded)


class Started:
    """`python -m module` in a session of its own, with what its users call of subprocess.Popen."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: int) -> None:
        self.returncode: int | None = None
        self._loaded = _loaded()
        self.pid = self._loaded.start(module, arguments, environment, log)
        self._end = os.pidfd_open(self.pid)  # a zombie until it is reaped

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises TimeoutExpired."""
        if (status := self._ended(timeout)) is None:
            raise TimeoutExpired(["python"], timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
            self.returncode = self._loaded.reap(self.pid)
            os.close(self._end)
        return self.returncode


def popen(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes] | Started:
    """Run a command in a session of its own; as a fork where it is uvicorn's, in one process."""
    if AVAILABLE and list(command[:3]) == [sys.executable, "-m", "uvicorn"] and "--workers" not in command:
        return Started("uvicorn", command[3:], environment, log.fileno())
    return subprocess.Popen(command, cwd=HOUSE, env=environment, stdout=log, stderr=log, start_new_session=True)


def run(
    *arguments: str, given: bytes = b"", stdout: int | None = None, stderr: int | None = None
) -> CompletedProcess[bytes]:
    """Run a command that reads `given` from a pipe; what no descriptor is named for is captured."""
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as told:
        reading, writing = os.pipe()
        os.write(writing, given)  # a pipe takes 64 KB
        os.close(writing)
        output = printed.fileno() if stdout is None else stdout
        errors = told.fileno() if stderr is None else stderr
        try:
            status = _loaded().run(arguments, (reading, output, errors))
        except BaseException:
            _loaded.cache_clear()  # it may still be busy, or gone
            raise
        finally:
            os.close(reading)
        printed.seek(0)
        told.seek(0)
        return CompletedProcess(arguments, status, printed.read(), told.read())


def _become() -> tuple[str, Sequence[str]]:
    """Fork for each program that is asked for; return in the fork, with the name of its module and its arguments."""
    wire = socket.socket(fileno=int(sys.argv[1]))
    while True:
        told, streams, _, _ = socket.recv_fds(wire, 65_536, 3)
        while told and not told.endswith(b"\n"):
            told += wire.recv(65_536)
        if not told:
            os._exit(0)
        kind, *asked = json.loads(told)
        child = asked[0] if kind == "reap" else os.fork()
        if child == 0:
            wire.close()
            return _prepared(kind == "start", streams, *asked)
        for stream in streams:
            os.close(stream)
        answer = child if kind == "start" else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        wire.sendall(f"{answer}\n".encode())


def _prepared(
    apart: bool, streams: Sequence[int], module: str, arguments: Sequence[str], folder: str, environment: Any
) -> tuple[str, Sequence[str]]:
    if apart:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return module, arguments


def _load() -> None:
    from asgi_analytics import cli, parts
    from asgi_analytics.replay.pipeline import agents

    cli.load(())
    agents()
    parts._agents()
    parts._countries()
    for module in ("uvicorn.main", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "uvloop"):
        import_module(module)
    gc.freeze()


if __name__ == "__main__":
    _load()
    module, sys.argv[1:] = _become()
    if module == COMMAND:
        from asgi_analytics.__main__ import main

        raise SystemExit(main())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
