"""`asgi-analytics demo`: a small site behind the middleware, with a Postgres of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import json
import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..clock import SystemClock
from ..database import resolve_dsn
from ..embedded import EmbeddedPostgres, default_data_dir
from ..embedded.programs import program_folders
from ..errors import AnalyticsError, ConfigurationError, EmbeddedPostgresError
from ..middleware import AnalyticsMiddleware
from ..settings import Settings, default_journal_dir
from ..shared import resolve_shared
from ..store.command_session import migrate_all
from ..store.reading import connect
from . import traffic
from .report import not_in_summary, summary
from .site import ARTICLES, site

VARIABLE = "ASGI_ANALYTICS_DEMO"  # the middleware's options as JSON: how they reach worker processes
PATIENCE = 30.0  # seconds until the server has to answer
VISITOR = "X-Forwarded-For: 84.130.1.2"
SETTLING = 5.0  # seconds until the last hits of the traffic have to be stored
LOOKING = 1.0  # seconds between two looks at a Postgres that another process owns


@dataclass(frozen=True, slots=True)
class Demo:
    """What the command line asks for; without `traffic_seconds` nobody visits but you."""

    host: str
    port: int
    workers: int
    data: Path | None
    limits: tuple[str, ...]
    cooldown: float
    traffic_seconds: int | None
    seed: int


def run(demo: Demo) -> int:
    """Serve the demo until it is interrupted. Raises AnalyticsError when it cannot start."""
    if importlib.util.find_spec("uvicorn") is None:
        raise ConfigurationError('The demo needs uvicorn: pip install "asgi-analytics[demo]"')
    Settings.build(**_tightened(demo), shared=resolve_shared(None))
    _check_port(demo.host, demo.port)
    with _database(demo) as (dsn, journal):
        migrate_all(dsn)
        os.environ[VARIABLE] = json.dumps({**_tightened(demo), "dsn": dsn, "journal_dir": str(journal)})
        # uvicorn raises both signals again when it has shut down, which is how a demo ends.
        with contextlib.suppress(KeyboardInterrupt), _herald(demo, dsn, journal):
            _serve(demo)
    return 0


def app() -> AnalyticsMiddleware:
    """Build the wrapped site in a server process, with the options that `run` left in the environment."""
    options: dict[str, Any] = json.loads(os.environ[VARIABLE])
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), name="demo-parent", daemon=True).start()
    return AnalyticsMiddleware(site(), **options)


def _end_with(parent: BaseProcess) -> None:
    # Killed outright, uvicorn's supervisor leaves its servers behind: they hold the port, and have no Postgres.
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _tightened(demo: Demo) -> dict[str, Any]:
    """Return options that suit a demo: its limits show themselves within seconds."""
    # All requests come from this machine, which is in no country: X-Forwarded-For says whom they play.
    here = ["127.0.0.0/8", "::1/128"]
    return {"limits": list(demo.limits), "cooldown": demo.cooldown, "trusted_proxies": here, "site": _site()}


def _site() -> str:
    """Return the name to store by: in a database that somebody uses, what is told of their site is no demo's."""
    return "demo" if resolve_dsn(None) else "default"


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # the latter of a name that cannot be encoded for DNS
        reason = getattr(error, "strerror", "") or str(error)
        other = "--port" if getattr(error, "errno", 0) in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise AnalyticsError(f"Port {port} on {host} cannot be used ({reason}): choose another by {other}.") from None


@contextlib.contextmanager
def _database(demo: Demo) -> Iterator[tuple[str, Path]]:
    """Yield the DSN and a journal folder of the demo's own: a left-over of it must not end up in another database."""
    dsn = resolve_dsn(None)
    if dsn:
        yield dsn, (demo.data or default_journal_dir().parent).absolute() / "demo-journal"
        return
    folder = demo.data or default_data_dir()
    print(f"Starting a Postgres in {folder} …", file=sys.stderr)
    with EmbeddedPostgres(folder) as server, _kept_up(server):
        yield server.dsn, server.data_dir / "demo-journal"


@contextlib.contextmanager
def _kept_up(server: EmbeddedPostgres) -> Iterator[None]:
    """Take the server over when the process ends that owns it, such as a `tail` that was there before."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOKING):
            with contextlib.suppress(EmbeddedPostgresError):
                server.start()

    thread = threading.Thread(target=look, name="demo-postgres", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        server.leave()  # it may be waiting for an owner that hangs
        thread.join()


def _serve(demo: Demo) -> None:
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    uvicorn.run(
        f"{__name__}:app",
        factory=True,
        host=demo.host,
        port=demo.port,
        workers=demo.workers,
        log_level="warning",
        use_colors=False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None,
        proxy_headers=False,  # the middleware walks X-Forwarded-For itself
        timeout_graceful_shutdown=3,
    )


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Interrupted twice, uvicorn cancels requests and lifespan, and logs that as errors of the app."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and "CancelledError" not in record.getMessage()


@contextlib.contextmanager
def _herald(demo: Demo, dsn: str, journal: Path) -> Iterator[None]:
    """While the server runs: say that it answers, then send the traffic that was asked for."""
    stopping = threading.Event()
    thread = threading.Thread(target=_announce, args=(demo, dsn, journal, stopping), name="demo-herald", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(2.0)


def _announce(demo: Demo, dsn: str, journal: Path, stopping: threading.Event) -> None:
    if not _answers(demo, stopping):
        return
    print(banner(demo, dsn, journal), flush=True)
    if demo.traffic_seconds is None:
        return
    since = datetime.fromtimestamp(SystemClock.time_ns() / 1e9, UTC)
    try:
        visits = traffic.plan(demo.seed, demo.traffic_seconds, ARTICLES)
        answered = traffic.play(visits, _reachable(demo.host), demo.port, stopping)
        if not stopping.is_set():
            _summarise(dsn, since, answered)
    except AnalyticsError as error:
        print(f"asgi-analytics: {error}", file=sys.stderr)


def _answers(demo: Demo, stopping: threading.Event) -> bool:
    deadline = SystemClock.monotonic() + PATIENCE
    while not stopping.is_set() and SystemClock.monotonic() < deadline:
        try:
            socket.create_connection((_reachable(demo.host), demo.port), 1.0).close()
            return True
        except OSError:
            stopping.wait(0.05)
    return False


def banner(demo: Demo, dsn: str, journal: Path) -> str:
    """Return what the demo says when it answers: where it is, and three lines to try."""
    url = f"http://{traffic.bracketed(_reachable(demo.host))}:{demo.port}"
    # The commands find an embedded Postgres in its usual place by themselves; a variable may be set here only.
    elsewhere = demo.data or resolve_dsn(None) or os.environ.get("ASGI_ANALYTICS_DATA_DIR")
    export = f"  (after: export ASGI_ANALYTICS_DSN={shlex.quote(dsn)})" if elsewhere else ""
    return f"""
asgi-analytics demo   {url}/   (Ctrl-C ends it)
  database            {_psql()} {shlex.quote(dsn)}
  limits              {", ".join(demo.limits)}; a level cools down in {demo.cooldown:g} s

Try in another terminal{export}:

  1. The headers of one answer (X-Forwarded-For: as if from that address, this machine itself is in no country)
     curl -i -H '{VISITOR}' {url}/articles/1

  2. RateLimit falls, levels rise, then 429; wait {3 * demo.cooldown:g} s and it is Normal again
     for n in $(seq 220); do curl -si -H '{VISITOR}' {url}/articles/$((n % {ARTICLES} + 1)) \\
       | grep -iE '^(HTTP|ratelimit:|retry-after|x-throttle)' | tr -d '\\r' | paste -sd' ' -; sleep 0.05; done

  3. Why: while it is refused, the answer has the id of a decision
     curl -s -H '{VISITOR}' {url}/articles/1
     {_command()} explain DECISION_ID

  4. Every request is a row
     {_command()} tail -f
     {_command()} stats --journal-dir {shlex.quote(str(journal))}
"""


def _command() -> str:
    started = Path(sys.argv[0]).absolute()  # the other terminal may be anywhere
    is_module = started.name == "__main__.py"
    return f"{shlex.quote(sys.executable)} -m asgi_analytics" if is_module else shlex.quote(str(started))


def _psql() -> str:
    found = "psql" if shutil.which("psql") else next((one / "psql" for one in program_folders()), "psql")
    return shlex.quote(str(found))  # the wheel has one, too


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - to connect to


def _summarise(dsn: str, since: datetime, answered: int) -> None:
    """Print the table of what the traffic left in the database, once all of it is there."""
    deadline = SystemClock.monotonic() + SETTLING
    with connect(dsn) as reader:
        while reader.count_answered(since, _site()) < answered and SystemClock.monotonic() < deadline:
            time.sleep(0.1)
        classes, stored = reader.summary(since, _site()), reader.count_since(since, _site())
    lines = [*summary(classes), *not_in_summary(answered, stored, sum(one.hits for one in classes))]
    print("\n".join(["Traffic, as the database has it (levels: sessions that reached it):", *lines, ""]), flush=True)
