"""Our work that waits for a disk or for Postgres, kept off the event loop."""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

MOST_THREADS = 40  # of one event loop, as many as anyio gives an app

_limiter: RunVar[CapacityLimiter] = RunVar("asgi_analytics_threads")


async def run_in_thread(act: Callable[..., object], *arguments: object) -> None:
    """Call a function in a thread of ours: the app's own calls may hold all that anyio gives it, and wait for us.

    Where the system starts no thread, the function is called here.
    """
    began = False

    def run() -> None:
        nonlocal began
        began = True
        act(*arguments)

    try:
        await to_thread.run_sync(run, limiter=_threads())
    except RuntimeError:
        if began:
            raise
        act(*arguments)


def _threads() -> CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(MOST_THREADS)
        _limiter.set(limiter)
        return limiter
