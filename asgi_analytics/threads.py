"""Our work that waits for a disk or for Postgres, kept off the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from .clock import release_gil
from .low_memory import start_thread

MAX_THREADS = 40  # of one event loop, as many as anyio gives an app

Call = Callable[[], object]
T = TypeVar("T")


async def run_in_thread(act: Callable[..., object], *arguments: object) -> None:
    """Call a function in a thread of ours: the app's calls may occupy all of anyio's, and wait for us.

    Where the system starts no thread, the function is called here.
    """
    call = partial(act, *arguments)
    await (_run_in_pool(call) if _is_asyncio() else _run_in_trio(call))


def end_threads() -> None:
    """Let the threads of this event loop end, which would stay until it is collected. A later call starts new ones."""
    if _is_asyncio() and (pool := _pool.get(None)) is not None:
        pool.end()
        _pool.set(None)  # a later call must not wait for one that hangs in these


class _Pool:
    """Threads of one event loop, which alone uses it.

    anyio's threads end with the loop's root task: if a loop is abandoned, they keep the process from exiting.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._threads = self._busy = 0
        self._process = os.getpid()

    def is_ours(self) -> bool:
        """Tell whether the threads are of this process: a child that runs the loop of its parent has none of them."""
        return self._process == os.getpid()

    def end(self) -> None:
        """Let the threads end after the calls that are queued."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    __del__ = end

    def takes_more(self) -> bool:
        """Tell whether a call will be made, now or after others; starts a thread where all are busy."""
        if self._busy >= self._threads < MAX_THREADS:
            try:
                start_thread(
                    threading.Thread(target=_work, args=(self._calls,), name="asgi-analytics-call", daemon=True)
                )
            except (RuntimeError, MemoryError):
                return self._threads > 0
            self._threads += 1
        return True

    def submit(self, call: Call) -> asyncio.Future[None]:
        """Queue a call; the future is done, or has its error, when the call is over."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            error: BaseException | None = None
            try:
                call()
            except BaseException as raised:  # noqa: BLE001 - raised again where it is awaited
                error = raised
            _call_in_loop(loop, partial(self._settle, done, error))

        self._busy += 1
        self._calls.put(run)
        return done

    def _settle(self, done: asyncio.Future[None], error: BaseException | None) -> None:
        self._busy -= 1
        if done.done():  # cancelled
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


class BoundedCall:
    """Calls one function at a time in a thread and waits a while for it, so that the caller never hangs."""

    def __init__(self, patience: float) -> None:
        """`patience` in seconds."""
        self._patience = patience
        self._thread: threading.Thread | None = None

    def __call__(self, act: Callable[[], object]) -> None:
        """Call a function, unless the last one still runs or the system starts no thread."""
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=act, name="asgi-analytics-bounded", daemon=True)
        try:
            start_thread(thread)
        except (RuntimeError, MemoryError):
            return
        self._thread = thread
        thread.join(self._patience)


def within(seconds: float, act: Callable[[], T]) -> T:
    """Call a function in a thread and return what it returns. Raises TimeoutError, and lets it run on, when late.

    Raises RuntimeError or MemoryError where no thread can begin.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            answer.set_exception(error)

    start_thread(threading.Thread(target=run, name="asgi-analytics-within", daemon=True))
    return answer.result(seconds)


_pool: RunVar[_Pool | None] = RunVar("asgi_analytics_pool")
_limiter: RunVar[CapacityLimiter] = RunVar("asgi_analytics_threads")


def _work(calls: SimpleQueue[Call | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # it refers to the pool, which must be collectable


def _call_in_loop(loop: asyncio.AbstractEventLoop, call: Call) -> None:
    while not loop.is_closed():
        try:
            loop.call_soon_threadsafe(call)
        except (RuntimeError, MemoryError):  # closed by now; or out of memory: try again, for somebody waits
            release_gil()
        else:
            return


async def _run_in_pool(call: Call) -> None:
    pool = _pool.get(None)
    if pool is None or not pool.is_ours():
        pool = _Pool()
        _pool.set(pool)
    if not pool.takes_more():
        call()
        return
    with CancelScope(shield=True):
        await pool.submit(call)


async def _run_in_trio(call: Call) -> None:
    began = False

    def run() -> None:
        nonlocal began
        began = True
        call()

    try:
        limiter = _limiter.get(None)
        if limiter is None:
            limiter = CapacityLimiter(MAX_THREADS)
            _limiter.set(limiter)
        await to_thread.run_sync(run, limiter=limiter)
    except RuntimeError:  # no thread, or a forked child in the event loop of its parent, which asyncio disowns there
        if began:
            raise
        call()


def _is_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
