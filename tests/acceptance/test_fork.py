"""A process that forks: what the parent and the child have answered is stored, once, and neither disturbs the other."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.engine import Engine
from asgi_analytics.store.connection import FORK_PATIENCE, connecting
from asgi_analytics.testing import FakeClock
from tests.drive import wrapped
from tests.record.rows import fetch


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


def ask(app: AnalyticsMiddleware, path: str) -> None:
    async def nothing(*_: Any) -> Any:
        return {"type": "http.request"}

    asyncio.run(app({"type": "http", "method": "GET", "path": path, "headers": [], "client": None}, nothing, nothing))


def in_child(act: Any) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("used_before", [False, True], ids=["before-use", "after-use"])
def test_hits_of_parent_and_child_are_stored_once(dsn: str, tmp_path: Path, used_before: bool) -> None:
    app = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=tmp_path)
    expected = ["/child", "/parent"]
    if used_before:
        ask(app, "/before")
        expected.insert(0, "/before")

    def child() -> None:
        ask(app, "/child")
        app.close()

    in_child(child)
    ask(app, "/parent")
    assert app.close()
    assert [row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits ORDER BY path")] == expected


def test_a_child_holds_no_connection_of_its_parents_writers_also_of_one_that_ends(dsn: str, tmp_path: Path) -> None:
    """The server would not notice that the parent is gone, and keep its locks."""
    app = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=tmp_path)
    stores = [app._engine._open_store() for _ in range(2)]
    for store in stores:
        store.connect()
    sockets = [store._connected().fileno() for store in stores]

    def child() -> None:
        for socket in sockets:
            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                os.fstat(socket)

    in_child(child)
    for store in stores:
        assert store.exchange_salts([], []) == []
        store.close()


def test_a_child_counts_from_zero_and_the_parent_goes_on(dsn: str, tmp_path: Path) -> None:
    app = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=tmp_path)
    for _ in range(70):  # one of 64 is timed
        ask(app, "/before")
    app._engine.failed("test", ValueError())
    app._engine.recorder.drop("test")

    def child() -> None:
        stats = app.stats()
        assert (stats["queued"], stats["written"], stats["dropped"], stats["failures"]) == (0, 0, {}, {})
        assert (stats["steps_us"], stats["retried"], stats["pending_bytes"]) == ({}, 0, 0)
        for _ in range(3):
            ask(app, "/child")
        assert app.close()
        assert (app.stats()["queued"], app.stats()["written"]) == (3, 3)

    in_child(child)
    ask(app, "/parent")
    assert app.close()
    stats = app.stats()
    assert (stats["queued"], stats["written"], stats["dropped"]) == (71, 71, {"test": 1})
    assert stats["failures"] == {"test": 1}
    assert stats["steps_us"]


def test_a_child_asks_a_strict_server_though_the_parent_has_just_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("valkey")
    monkeypatch.setattr(Engine, "_is_cut_off", lambda engine: False)  # the sharer may find out before a request does
    clock = FakeClock()
    options: dict[str, Any] = {"shared": "valkey://127.0.0.1:1", "shared_mode": "strict", "shared_timeout": 5.0}
    with wrapped(bare, journal_dir=tmp_path, clock=clock, **options) as app:
        for _ in range(2):
            clock.advance(1.0)
            ask(app, "/before")
        assert app.stats()["shared"]["unanswered"] == 2

        def child() -> None:
            ask(app, "/child")
            assert app.stats()["shared"]["unanswered"] == 1

        in_child(child)


def test_a_child_that_vanishes_loses_nothing(dsn: str, tmp_path: Path) -> None:
    app = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=tmp_path)
    ask(app, "/before")
    in_child(lambda: ask(app, "/child"))  # os._exit: no farewell
    assert app.close()
    following = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=tmp_path)
    ask(following, "/next")
    assert following.close()
    paths = [row["path"] for row in fetch(dsn, "SELECT path FROM analytics.hits ORDER BY path")]
    assert paths == ["/before", "/child", "/next"]


@pytest.mark.parametrize("seconds", [0.05, 10.0], ids=["connects", "waits for a deaf server"])
def test_a_fork_waits_for_who_connects_whose_locks_a_child_would_have_but_not_for_long(seconds: float) -> None:
    begun, over = threading.Event(), threading.Event()

    def connect() -> None:
        with connecting():
            begun.set()
            over.wait(seconds)
            over.set()

    thread = threading.Thread(target=connect)
    thread.start()
    assert begun.wait(10)
    began = time.monotonic()
    if (child := os.fork()) == 0:
        os._exit(over.is_set())
    took = time.monotonic() - began
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (seconds < FORK_PATIENCE)
    assert took < 2.0
    over.set()
    thread.join()
