"""Real servers around app.py as processes of their own, and what delivers what they leave."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asgi_analytics import AnalyticsMiddleware
from tests import loaded
from tests.acceptance.faults.app import OPEN, bare
from tests.acceptance.faults.ledger import Account
from tests.acceptance.rig import Load, Server
from tests.acceptance.wire import Fault, Wire
from tests.waiting import delay, wait_until

APP = "tests.acceptance.faults.app:app"
GUNICORN = ["-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", "-w", "2"]
GUNICORN_OWN = ["-m", "gunicorn", "-k", "asgi", "-b", "127.0.0.1:{port}", "-w", "2"]  # with its own worker
UVICORN = ["-m", "uvicorn", "--no-access-log", "--port", "{port}", "--timeout-graceful-shutdown", "2"]
SERVERS = {
    "uvicorn-h11": [*UVICORN, "--http", "h11", "--loop", "asyncio"],
    "uvicorn-httptools": [*UVICORN, "--http", "httptools"],
    "uvicorn-uvloop": [*UVICORN, "--loop", "uvloop"],
    "uvicorn-two-workers": [*UVICORN, "--workers", "2"],
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:{port}"],
    "hypercorn-trio": ["-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:{port}"],
    "granian": ["-m", "granian", "--interface", "asgi", "--no-log", "--port", "{port}"],
    "daphne": ["-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", "-v", "0"],
    "gunicorn": [*GUNICORN, "--graceful-timeout", "3"],
    "gunicorn-preload": [*GUNICORN, "--graceful-timeout", "3", "--preload"],
    "gunicorn-own": [*GUNICORN_OWN, "--graceful-timeout", "3"],
    "gunicorn-own-preload": [*GUNICORN_OWN, "--graceful-timeout", "3", "--preload"],
}
RECYCLING = {
    "uvicorn": [*UVICORN, "--workers", "2", "--limit-max-requests", "40"],
    "gunicorn": [*GUNICORN, "--max-requests", "40"],
    "gunicorn-preload": [*GUNICORN, "--max-requests", "40", "--preload"],
    # Its worker does not heed a SIGTERM that comes while it loads an app, ours or another.
    "gunicorn-own": [*GUNICORN_OWN, "--max-requests", "40", "--graceful-timeout", "3"],
}

STOP = 5.0  # seconds that the end of a process may take
WHOLE = os.environ.get("ASGI_ANALYTICS_FAULTS") == "all"  # as `python -m tests.acceptance.faults` says
KILLS = int(os.environ.get("ASGI_ANALYTICS_KILLS", "4"))
PARITY = int(os.environ.get("ASGI_ANALYTICS_PARITY", "12000"))  # read here: `environment` hides it from tests


def some(whole: Iterable[str], fast: Iterable[str]) -> list[str]:
    """Return what is tried: a part of it in the normal test run."""
    return list(whole if WHOLE else fast)


class AnyServer(Server):
    """Like rig.Server, of any kind."""

    def __init__(self, command: list[str], dsn: str, folder: Path, app: str = APP) -> None:
        super().__init__(dsn, folder)
        self.folder = folder
        self._environment["RIG_OPTIONS"] = "{}"
        self._command = [sys.executable, *(part.format(port=self.port) for part in command), app]

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self._log, "ab") as log:
            self.process = loaded.popen(self._command, self._environment, log)
        wait_until(self._answers, what="an answer of the server")

    def within(self, *command: str) -> None:
        """Have a command start it, which gets the server's own as its further arguments."""
        self._command = [*command, *self._command]

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Start it for as long as the block runs; nothing of it is left afterwards."""
        self.start()
        try:
            yield
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(10)

    def end(self, *signals: int, patience: float = 20.0) -> float:
        """Send signals; return the seconds until it was gone."""
        began = time.monotonic()
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.05)
        self.process.wait(patience)
        return time.monotonic() - began


@contextmanager
def running(command: list[str], dsn: str, folder: Path, app: str = APP) -> Iterator[AnyServer]:
    """A server for as long as the block runs; nothing of it is left afterwards."""
    server = AnyServer(command, dsn, folder, app)
    with server.alive():
        yield server


def end_while_broken(
    fault: Fault, command: list[str], dsn: str, folder: Path, account: Account, patience: float = 5.0
) -> None:
    """End a server under load while Postgres cannot be reached: in time, and with nothing lost."""
    with Wire(dsn) as wire, running(command, wire.dsn, folder) as server:
        with Load(server.port) as load:
            load.more(100)
            with wire.broken(fault):
                load.more(100)
                took = server.end(signal.SIGTERM)
        account.round()
        assert took < STOP + delay(), server.log()
        recover(wire.dsn, folder)
    account.settle(dsn, load.answered, patience)


def recover(dsn: str, folder: Path) -> None:
    """What the next start does: deliver all that is left in a folder of journals."""
    app = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=folder, **OPEN)
    app._engine.start()
    try:
        wait_until(lambda: len(journals(folder)) <= 1, 40, "the delivery of what was left")
    finally:
        assert app.close()


def journals(folder: Path) -> list[Path]:
    """The journals in a folder."""
    return [path for path in folder.iterdir() if path.is_dir()] if folder.exists() else []
