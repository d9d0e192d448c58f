"""Corners of ASGI that a server or an app brings about: nothing hangs, nothing leaks, one hit for each request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import pickle
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import Message, Receive, Scope, Send
from tests.acceptance.faults.app import bare
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import UVICORN, running
from tests.acceptance.faults.test_load import MIB, memory
from tests.drive import NOWHERE, ask, get, http_scope, page, rows, socket_scope, wrapped
from tests.transparent import serve, without_ours
from tests.waiting import wait_until

OPEN: Any = {"limits": "100000/second", "network_limits": "100000/second", "mode": "observe"}


def test_two_middlewares_in_one_process_are_independent(dsn: str, empty_dsn: str, account: Account) -> None:
    with wrapped(page(), dsn, site="one") as one, wrapped(page(), empty_dsn, site="two") as two:
        for _ in range(5):
            get(one)
        get(two)
        account.round()
    assert [row["site"] for row in rows(dsn)] == ["one"] * 5
    assert [row["site"] for row in rows(empty_dsn)] == ["two"]


def test_a_hundred_event_loops_leave_no_thread_no_task_and_no_descriptor(dsn: str, account: Account) -> None:
    threads, descriptors = 0, 0
    with wrapped(page(), dsn, **OPEN) as app:
        for turn in range(100):
            with TestClient(app) if turn % 10 == 0 else contextlib.nullcontext(TestClient(app)) as client:
                assert client.get("/").status_code == 200
            if turn == 20:
                gc.collect()
                threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
            account.round()
        gc.collect()
        # The writer, the keeper and the sharer, their files and connections; one may be at work this moment.
        wait_until(lambda: threading.active_count() <= threads + 3, 10, "the end of threads")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 6, 10, "the close of files")
    assert len(rows(dsn)) == 100


def test_32_threads_with_a_loop_each_are_counted_exactly(dsn: str, account: Account) -> None:
    with wrapped(page(), dsn, **OPEN) as app:

        async def many() -> None:
            for _ in range(50):
                await ask(app, http_scope())

        threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        account.round(32)
    assert (app.stats()["queued"], app.stats()["written"], app.stats()["failures"]) == (1600, 1600, {})
    found = rows(dsn)
    assert len({row["id"] for row in found}) == len(found) == 1600


@pytest.mark.timeout(20)
def test_a_finaliser_that_makes_a_request_while_a_row_is_appended_hangs_nothing(dsn: str, account: Account) -> None:
    with wrapped(page(), dsn, **OPEN) as app:

        class Last:
            def __del__(self) -> None:
                done, run = [], app(http_scope("/last"), None, _swallow)  # type: ignore[arg-type]
                with contextlib.suppress(StopIteration):
                    done.append(run.send(None))

        get(app)
        journal = app._engine.recorder.journal
        assert journal is not None
        with journal._lock:  # as in the middle of an append
            Last()
            gc.collect()
        account.round()
    assert [row["path"] for row in rows(dsn)] == ["/", "/last"]


async def _swallow(message: Message) -> None: ...


@pytest.mark.timeout(20)
def test_a_logging_handler_that_makes_a_request_feeds_nothing_back(dsn: str, account: Account) -> None:
    calls = 0
    with wrapped(page(), NOWHERE, **OPEN) as app:

        class Asking(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                nonlocal calls
                calls += 1
                asyncio.run(ask(app, http_scope("/log")))

        handler = Asking()
        logging.getLogger("asgi_analytics").addHandler(handler)
        try:
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                get(app)
                time.sleep(0.05)
        finally:
            logging.getLogger("asgi_analytics").removeHandler(handler)
        account.round()
    assert 1 <= calls <= 3


@pytest.mark.timeout(20)
def test_a_logging_handler_that_makes_a_request_while_we_start_hangs_nothing(tmp_path: Path, account: Account) -> None:
    (tmp_path / "j").write_text("no folder")  # so that the start has something to say
    app = AnalyticsMiddleware(page(), dsn=NOWHERE, journal_dir=tmp_path / "j")

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            asking = threading.Thread(target=lambda: asyncio.run(ask(app, http_scope("/log"))))
            asking.start()
            asking.join(10)
            assert not asking.is_alive()

    handler = Asking()
    logging.getLogger("asgi_analytics").addHandler(handler)
    try:
        assert get(app).status == 200
    finally:
        logging.getLogger("asgi_analytics").removeHandler(handler)
        app.close()
    account.round()


@pytest.mark.timeout(20)
def test_a_logging_filter_that_raises_costs_no_request_and_ends_no_thread(tmp_path: Path, account: Account) -> None:
    (tmp_path / "j").write_text("no folder")  # so that the start has something to say, as the threads have

    def raising(record: logging.LogRecord) -> bool:
        raise LookupError("this is no request")

    logging.getLogger("asgi_analytics").addFilter(raising)
    try:
        with wrapped(page(), NOWHERE, journal_dir=tmp_path / "j") as app:
            assert get(app).status == 200
            writer, sharer = app._engine.writer, app._engine.sharer
            assert writer is not None
            assert sharer is not None
            wait_until(lambda: writer.state.error is not None and sharer.failures > 0)
            time.sleep(0.1)
            assert [thread.is_alive() for thread in (*writer._threads, sharer._thread)] == [True] * 3
    finally:
        logging.getLogger("asgi_analytics").removeFilter(raising)
    account.round()


def test_a_wrapped_app_that_is_pickled_says_clearly_that_it_cannot_be(account: Account) -> None:
    pickle.dumps(bare)  # it is not the app's fault
    app = AnalyticsMiddleware(bare, dsn=NOWHERE)
    with pytest.raises(TypeError, match=r"^An AnalyticsMiddleware cannot be pickled: .* in each process"):
        pickle.dumps(app)
    account.round()


@pytest.mark.parametrize(("then", "told"), [("raises", ("aborted", None)), ("answers", ("complete", 400))])
def test_who_leaves_while_the_app_reads_an_upload_is_one_row_that_tells_what_the_app_made_of_it(
    dsn: str, account: Account, then: str, told: tuple[str, int | None]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await Request(scope, receive).body()
        except ClientDisconnect:
            if then == "raises":
                raise
            await PlainTextResponse("cut", 400)(scope, receive, send)

    part: list[Message] = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
    seen = asyncio.run(serve(app, http_scope("/", "POST"), part))
    with wrapped(app, dsn) as middleware:
        ours = asyncio.run(serve(middleware, http_scope("/", "POST"), part))
    assert (type(ours.raised), ours.received) == (type(seen.raised), part)
    assert without_ours(ours.sent) == seen.sent
    account.round()
    (row,) = rows(dsn)
    assert (row["outcome"], row["status"]) == told


@pytest.mark.parametrize("way", ["download", "upload"])
def test_a_gigabyte_takes_no_memory_and_each_send_is_awaited(account: Account, way: str) -> None:
    chunk, count = b"x" * MIB, 1024
    passed = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while way == "upload" and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(count if way == "download" else 0):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    async def run(middleware: AnalyticsMiddleware) -> None:
        nonlocal passed
        left = count

        async def receive() -> Message:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": chunk, "more_body": left > 0}

        async def send(message: Message) -> None:
            nonlocal passed
            await asyncio.sleep(0)
            passed += len(message.get("body", b""))

        await middleware(http_scope(), receive, send)

    with wrapped(app) as middleware:
        before = memory()
        asyncio.run(run(middleware))
        assert memory() - before < 8 * MIB  # the start of the writer is in it
    assert passed == (count * MIB if way == "download" else 0)
    account.round()


@pytest.mark.parametrize("make", [http_scope, socket_scope])
def test_an_open_stream_costs_at_most_two_kilobytes(account: Account, make: Callable[[], Scope]) -> None:
    count = 5_000
    gate: asyncio.Event

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await receive()
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body"})

    async def nothing(message: Message) -> None: ...

    async def receive() -> Message:
        await gate.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def open_all(app: Any) -> float:
        nonlocal gate
        gate = asyncio.Event()
        await asyncio.sleep(0)
        before, _ = tracemalloc.get_traced_memory()
        tasks = [asyncio.create_task(app(make(), receive, nothing)) for _ in range(count)]
        await asyncio.sleep(0.2)
        after, _ = tracemalloc.get_traced_memory()
        gate.set()
        await asyncio.gather(*tasks)
        return (after - before) / count

    with wrapped(stream, **OPEN) as app:
        tracemalloc.start()
        try:
            bare = asyncio.run(open_all(stream))
            ours = asyncio.run(open_all(app)) - bare
        finally:
            tracemalloc.stop()
        print(f"an open stream: {bare:.0f} bytes bare, {ours:.0f} more with us")
        assert app.stats()["queued"] == count
    account.round()
    assert ours <= 2_048


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_a_refused_request_leaves_the_connection_usable(
    dsn: str, tmp_path: Path, account: Account, parser: str
) -> None:
    command = [*UVICORN, "--http", parser]
    with running(command, dsn, tmp_path / "j") as server:
        server.end(15)
        server._environment["RIG_OPTIONS"] = '{"limits": "1/day", "mode": "enforce"}'
        server.start()
        head = b"Host: x\r\nUser-Agent: again/1\r\n"
        body = b"x" * 200_000
        post = b"POST / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        one = b"GET / HTTP/1.1\r\n%b\r\n" % head
        assert server.send(b"GET / HTTP/1.1\r\n%bConnection: close\r\n\r\n" % head).startswith(b"HTTP/1.1 200")
        for asked in (one, b"HEAD / HTTP/1.1\r\n%b\r\n" % head, b"OPTIONS * HTTP/1.1\r\n%b\r\n" % head, post):
            with socket.create_connection(("127.0.0.1", server.port), 10) as wire:
                wire.settimeout(10)
                for sent in (asked, one):
                    wire.sendall(sent)
                    assert _answer(wire, sent.startswith(b"HEAD")).startswith(b"HTTP/1.1 429"), asked
        account.round(4)


def _answer(wire: socket.socket, headless: bool) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = wire.recv(65536)
        assert piece, "the connection was closed"
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    while not headless and len(body) < length:
        body += wire.recv(65536)
    assert len(body) == (0 if headless else length)
    return got


def test_a_background_task_delays_no_row_and_is_in_no_duration(dsn: str, account: Account) -> None:
    release = asyncio.Event()

    async def soon(request: Any) -> PlainTextResponse:
        return PlainTextResponse("soon", background=BackgroundTask(release.wait))

    with wrapped(Starlette(routes=[Route("/soon", soon)]), dsn) as app:

        async def run() -> None:
            asking = asyncio.create_task(ask(app, http_scope("/soon")))
            await asyncio.to_thread(wait_until, lambda: bool(rows(dsn)), 10, "a row while the task runs")
            release.set()
            await asking

        asyncio.run(run())
    (row,) = rows(dsn)
    assert row["duration_us"] < 2_000_000
    account.round()
