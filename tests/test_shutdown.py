"""An app that nobody holds any more stops its engine: test suites make an app a test, and forget it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import valkey

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.engine import Engine
from asgi_analytics.middleware import Receive, Scope, Send

from .drive import NOWHERE, ask, get, http_scope, page, rows
from .servers import HOUSE
from .shared.valkey import Server, found_servers
from .transparent import serve
from .waiting import wait_until

SESSIONS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("asgi-analytics")}


def test_a_dropped_app_delivers_and_leaves_no_thread_and_no_connection(dsn: str, tmp_path: Path) -> None:
    before = threads()
    for number in range(5):
        get(AnalyticsMiddleware(page(), dsn=dsn, batch_age=0.05, journal_dir=tmp_path / "j"), f"/{number}")
    begun = threads() - before  # those of another test may end meanwhile
    assert begun
    gc.collect()
    wait_until(lambda: begun.isdisjoint(threads()))
    wait_until(lambda: not rows(dsn, SESSIONS))
    assert sorted(row["path"] for row in rows(dsn)) == [f"/{number}" for number in range(5)]
    assert not [path for path in (tmp_path / "j").rglob("*") if path.is_file()]


def test_a_child_that_multiprocessing_forks_delivers_before_it_ends(dsn: str, tmp_path: Path) -> None:
    """As granian's workers, which serve apps without lifespan events, too: such a child ends without atexit."""
    wrap = AnalyticsMiddleware(page(), dsn=dsn, batch_age=60, journal_dir=tmp_path / "j")
    child = multiprocessing.get_context("fork").Process(target=get, args=(wrap,))
    child.start()
    child.join(20)
    assert (child.exitcode, len(rows(dsn))) == (0, 1)


def test_a_dropped_engine_is_forgotten(dsn: str) -> None:
    wrap = AnalyticsMiddleware(page(), dsn=dsn, batch_age=0.05)
    get(wrap)
    engine = weakref.ref(wrap._engine)
    del wrap

    def gone() -> bool:
        gc.collect()
        return engine() is None

    wait_until(gone)


def test_a_task_that_runs_the_lifespans_of_many_apps_in_turn_holds_none_of_their_engines() -> None:
    async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("lifespan is not supported")

    async def run() -> list[Engine]:
        engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        for _ in range(3):
            wrap = AnalyticsMiddleware(without_lifespan, dsn=NOWHERE, shutdown_timeout=0.1)
            engines.add(wrap._engine)
            await serve(wrap, {"type": "lifespan"}, [])
            wrap.close()
        del wrap
        gc.collect()
        return list(engines)

    assert asyncio.run(run()) == []


def test_an_app_that_is_held_goes_on(dsn: str) -> None:
    wrap = AnalyticsMiddleware(page(), dsn=dsn, batch_age=0.05)
    get(wrap)
    writer = wrap._engine.writer
    gc.collect()
    time.sleep(1.2)  # two looks
    assert wrap._engine.writer is writer is not None
    assert wrap.close()


def test_an_engine_that_was_stopped_for_its_dropped_app_records_what_ends_later(dsn: str) -> None:
    wrap = AnalyticsMiddleware(page(), dsn=dsn, batch_age=0.05)
    get(wrap, "/1")
    engine = wrap._engine
    del wrap
    gc.collect()
    wait_until(lambda: not engine.started and not rows(dsn, SESSIONS))
    engine.start()  # as the end of a request does
    wait_until(lambda: not engine.started and not rows(dsn, SESSIONS))


@pytest.mark.skipif(not found_servers(), reason="needs Valkey or Redis")
def test_a_dropped_app_leaves_no_connection_to_the_server_that_counts(dsn: str) -> None:
    server = Server(next(iter(found_servers().values())))

    async def run(client: Any) -> None:
        options: Any = {"shared": server.url, "shared_mode": "strict", "batch_age": 0.05}
        wrap = AnalyticsMiddleware(page(), dsn=dsn, **options)
        await asyncio.to_thread(wrap._engine.start)
        await asyncio.to_thread(wrap._engine.wait, 10)
        assert (await ask(wrap, http_scope())).header("ratelimit")
        assert len(client.client_list()) > 1
        del wrap
        until = time.monotonic() + 10
        while len(client.client_list()) > 1 and time.monotonic() < until:
            gc.collect()
            await asyncio.sleep(0.05)
        assert len(client.client_list()) == 1

    server.start()
    try:
        with valkey.Valkey.from_url(server.url) as client:
            asyncio.run(run(client))
    finally:
        server.kill()


SCRIPT = """
import gc, sys, time
from asgi_analytics import AnalyticsMiddleware
from tests.drive import get, page
get(AnalyticsMiddleware(page(), dsn=sys.argv[1], durability="memory"))
gc.collect()
time.sleep(float(sys.argv[2]))
"""


def test_a_process_that_ends_waits_for_what_a_dropped_app_has_left(dsn: str) -> None:
    for pause in ("0", "0.5", "0.55"):  # before, at and after the look that finds it dropped
        subprocess.run([sys.executable, "-c", SCRIPT, dsn, pause], cwd=HOUSE, check=True, timeout=60)
    assert len(rows(dsn)) == 3
