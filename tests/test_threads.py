from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import anyio
import anyio.to_thread
import pytest

from asgi_analytics import parts
from asgi_analytics.identify import geoip
from asgi_analytics.jobs import verification
from asgi_analytics.threads import BoundedCall, end_threads, run_in_thread

from .drive import NOWHERE, get, page, wrapped
from .waiting import wait_until


def test_what_hangs_is_waited_for_a_while_and_holds_up_nothing_else() -> None:
    hanging, calls = threading.Event(), []

    def hang() -> None:
        calls.append("hang")
        hanging.wait(10)

    bounded, began = BoundedCall(0.05), time.monotonic()
    for _ in range(3):
        bounded(hang)
    assert time.monotonic() - began < 5
    assert calls == ["hang"]
    hanging.set()
    assert bounded._thread is not None
    assert bounded._thread.daemon, "else no process would end"
    bounded._thread.join(10)
    bounded(lambda: calls.append("next"))
    assert calls == ["hang", "next"]


@pytest.mark.parametrize("when", ["between two runs", "while it runs"])
def test_a_child_in_the_event_loop_of_its_parent_waits_for_no_thread_of_the_parents(when: str) -> None:
    loop = asyncio.new_event_loop()

    async def fork() -> int:
        await run_in_thread(int)
        child = os.fork()
        if child == 0:
            await leave()
        return child

    async def leave() -> None:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)  # else it might wait for ever
            await run_in_thread(os._exit, 7)
        finally:
            os._exit(1)

    if when == "while it runs":
        child = loop.run_until_complete(fork())
    else:
        loop.run_until_complete(run_in_thread(int))
        child = os.fork()
        if child == 0:
            loop.run_until_complete(leave())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    loop.close()


def test_a_geo_file_on_a_mount_that_hangs_holds_up_neither_the_start_nor_the_keeper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(geoip, "_refresh", lambda files: hanging.wait(10))
    monkeypatch.setattr(parts, "FILE_PATIENCE", 0.05)
    began = time.monotonic()
    with wrapped(page(), NOWHERE, geoip_city="/mnt/city.mmdb") as app:
        assert get(app).status == 200
        app._engine.locator.refresh(1e9)
        assert time.monotonic() - began < 5
    hanging.set()


def test_ranges_of_crawlers_on_a_mount_that_hangs_hold_up_neither_the_start_nor_the_keeper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(verification, "stamp", lambda folder: hanging.wait(10))
    monkeypatch.setattr(parts, "FILE_PATIENCE", 0.05)
    began = time.monotonic()
    with wrapped(page(), NOWHERE) as app:
        assert get(app).status == 200
        assert app._engine.verifier is not None
        app._engine.verifier.refresh(1e9)
        assert time.monotonic() - began < 5
    hanging.set()


def calling() -> int:
    """How many threads wait for calls, or make one."""
    return sum(thread.name == "asgi-analytics-call" for thread in threading.enumerate())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_is_made_elsewhere_once_and_what_it_raises_is_raised_here(backend: str) -> None:
    made: list[threading.Thread] = []

    def fail(error: Exception) -> None:
        made.append(threading.current_thread())
        raise error

    async def run() -> None:
        for error in (LookupError("no such row"), RuntimeError("can't start new thread")):
            with pytest.raises(type(error)) as raised:
                await run_in_thread(fail, error)
            assert raised.value is error
        end_threads()

    anyio.run(run, backend=backend)
    assert len(made) == 2
    assert threading.current_thread() not in made


@pytest.mark.parametrize(
    ("backend", "where", "what"), [("asyncio", threading.Thread, "start"), ("trio", anyio.to_thread, "run_sync")]
)
def test_where_no_thread_can_be_started_a_call_is_made_here(
    backend: str, where: object, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[threading.Thread] = []

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(where, what, refuse)
            await run_in_thread(lambda: made.append(threading.current_thread()))

    anyio.run(run, backend=backend)
    assert made == [threading.current_thread()]


def test_who_is_cancelled_meanwhile_takes_no_thread_from_others(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(10)

    async def run() -> None:
        before = calling()
        waiting = asyncio.create_task(run_in_thread(hang))
        assert await asyncio.to_thread(begun.wait, 10)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        go_on.set()
        for _ in range(5):
            await run_in_thread(begun.clear)
        assert calling() - before <= 2, "one for the call that was given up, one while it hung"
        end_threads()

    asyncio.run(run())
    assert not begun.is_set()
    assert caplog.records == []


def test_a_call_after_the_end_of_a_lifespan_waits_for_none_that_hangs_since_before() -> None:
    """Another app in the same event loop goes on."""
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(10)

    async def run() -> None:
        hanging = asyncio.create_task(run_in_thread(hang))
        assert await asyncio.to_thread(begun.wait, 10)
        end_threads()
        try:
            for _ in range(3):
                await asyncio.wait_for(run_in_thread(int), 5)
        finally:
            go_on.set()
            await hanging
            end_threads()

    before = calling()
    asyncio.run(run())
    wait_until(lambda: calling() <= before)
