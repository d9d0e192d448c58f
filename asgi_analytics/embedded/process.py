"""Runs the programs: as an account that Postgres accepts, and never longer than this process lives."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence

from ..errors import EmbeddedPostgresError

if sys.platform != "win32":
    import pwd

STOP_TIMEOUT = 10.0  # seconds of patience with a fast, then with an immediate shutdown
# The program waits for its watcher, so that a kill at any moment leaves no server behind.
_STARTER = 'read -r go && exec "$@" </dev/null'
_WATCHER = """read -r never
for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do kill -INT "$1" || exit 0; sleep 1; done
kill -QUIT "$1"
"""


class Child:
    """A program that cannot outlive this process: a watcher interrupts it when the pipe that we hold open closes."""

    def __init__(
        self, command: Sequence[str], account: pwd.struct_passwd | None, output: int, kept: Sequence[int]
    ) -> None:
        watched, self._leash = os.pipe()
        _leashes.add(self._leash)
        go, going = os.pipe()
        try:
            self._process = popen(shell(_STARTER, *command), account, go, output, kept)
            self.pid = self._process.pid
            self._watcher = popen(shell(_WATCHER, str(self.pid)), account, watched, subprocess.DEVNULL)
            os.write(going, b"go\n")
        except BaseException:
            _let_go(self._leash)
            raise
        finally:
            for handle in (watched, go, going):
                os.close(handle)

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        status = self._process.poll()
        if status is not None and self._watcher.poll() is None:
            self._watcher.kill()
            self._watcher.wait()
            _let_go(self._leash)
        return status

    def wait(self, timeout: float) -> int | None:
        """Return the exit status, None when it still runs after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass  # the status tells
        return self.poll()

    def end(self, signals: Sequence[int]) -> None:
        """Send one signal after the other until the program has ended."""
        for number in signals:
            if self.poll() is None:
                self._process.send_signal(number)
                self.wait(STOP_TIMEOUT)

    def abandon(self) -> None:
        """Let go in a forked child: neither process is its own to wait for."""
        self._process.returncode = self._watcher.returncode = 0


# Also of those that are just being made: a child that another thread forks meanwhile would keep the server alive.
_leashes: set[int] = set()


def _let_go(leash: int) -> None:
    _leashes.discard(leash)
    os.close(leash)


def _after_fork() -> None:
    while _leashes:
        os.close(_leashes.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


def popen(
    command: Sequence[str], account: pwd.struct_passwd | None, stdin: int, output: int, kept: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, as `account`, None: as we are; `kept`: descriptors that it inherits."""
    return subprocess.Popen(  # noqa: S603 - found programs and the two scripts above
        command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=kept,
        cwd="/",
        env=environment(),
        umask=0o077,
        start_new_session=True,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def shell(script: str, *arguments: str) -> list[str]:
    """Return the command that runs a script with these arguments."""
    return ["/bin/sh", "-c", script, "sh", *arguments]


def environment() -> dict[str, str]:
    """Return what a program of the server gets of our environment, without secrets of the app and PG* variables."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath} | {
        name: os.environ[name] for name in kept if name in os.environ
    }


def runs(command: Sequence[str], account: pwd.struct_passwd) -> bool:
    """Tell whether a command succeeds as this user; False where the user may not run it."""
    try:
        return popen(command, account, subprocess.DEVNULL, subprocess.DEVNULL).wait(STOP_TIMEOUT) == 0
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        return False


def account_of_server() -> pwd.struct_passwd | None:
    """Return the user that the server runs as, None for our own: Postgres refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError("Postgres does not run as root, and there is no user nobody here.") from None
