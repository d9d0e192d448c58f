"""The command line, loaded once: each command is a fork of it, a process of its own that need not import it all again.

As a program, this is what is forked: from there on a fork is what `python -m asgi_analytics` is, to its very end.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from subprocess import DEVNULL, CompletedProcess

from tests.servers import HOUSE


class Loaded:
    """The process that is forked, for one command at a time. It ends with this one."""

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
        self._statuses = self._wire.makefile("r", encoding="ascii")

    def run(self, arguments: Sequence[str], streams: Sequence[int]) -> int:
        """Run a command to its end with these descriptors as its standard streams; return its exit status."""
        told = json.dumps([arguments, os.getcwd(), dict(os.environ)])
        socket.send_fds(self._wire, [f"{told}\n".encode()], streams)
        return int(self._statuses.readline())


_loaded = cache(Loaded)


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


def _became_a_command(wire: socket.socket) -> bool:
    """Fork for each command that is asked for; True in the fork, False when nobody asks any more."""
    while True:
        told, streams, _, _ = socket.recv_fds(wire, 65_536, 3)
        while told and not told.endswith(b"\n"):
            told += wire.recv(65_536)
        if not told:
            return False
        if (child := os.fork()) == 0:
            wire.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            arguments, folder, environment = json.loads(told)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[1:] = arguments
            return True
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        wire.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    from asgi_analytics import cli
    from asgi_analytics.__main__ import main
    from asgi_analytics.replay.pipeline import agents

    cli.load(())
    agents()

    if _became_a_command(socket.socket(fileno=int(sys.argv[1]))):
        raise SystemExit(main())
