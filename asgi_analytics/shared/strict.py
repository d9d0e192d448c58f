"""Strict quotas: each request asks Valkey or Redis before the app runs. One round trip, and never an error.

A second one, after the answer, where the visitor has units and its network has not: the visitor gets its unit back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import valkey.asyncio
from valkey.exceptions import NoScriptError

from ..decide.lease import name_of
from ..protocols import Clock, StrictAnswer
from ..threads import run_in_thread
from .scripts import GIVE_BACK, TAKE
from .valkey import client_options, counter_key, in_scheme, sha

MAX_FLIGHTS = 4  # concurrent round trips, each over its own connection; later requests wait for the next
MAX_ASKED = 256  # requests in one round trip
ANSWERS = 10  # that a round trip over a new connection takes, each of which may take as long as a request waits
PAUSE = 0.5  # seconds after a failure in which nobody asks: requests must not queue for a server that is lost

Actors = Sequence[tuple[bytes, Sequence[tuple[float, int]]]]
Waiting = tuple[Actors, "asyncio.Future[StrictAnswer | None]"]


class ValkeyStrict:
    """StrictQuotas over one server, asked by each event loop over connections of its own."""

    def __init__(self, url: str, timeout: float, clock: Clock, is_lost: Callable[[], bool] = lambda: False) -> None:
        """`is_lost` tells whether it is known that the server does not answer: then no request waits for it."""
        self.failures = 0  # requests without an answer in time
        self._is_lost = is_lost
        self._url = in_scheme(url)
        self._timeout = timeout
        self._clock = clock
        self._again_at = 0.0
        self._askers: dict[asyncio.AbstractEventLoop, _Asker] = {}

    async def take(self, quotas: Actors) -> StrictAnswer | None:
        """Take one unit of each quota, or of none. None when the server does not answer in time."""
        if self._clock.monotonic() < self._again_at:
            return None
        loop = _running_loop()
        if loop is None:
            self.failures += 1
            return None
        if self._is_lost():
            return None
        asker = self._askers.get(loop) or self._begin(loop)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asker.ask([(key, limits) for key, limits in quotas if limits])
        except TimeoutError:
            answer = None
            self._pause()
        self.failures += answer is None
        return answer

    async def close(self) -> None:
        """Close the connections of this event loop."""
        loop = _running_loop()
        asker = None if loop is None else self._askers.pop(loop, None)
        if asker is not None:
            await asker.close()

    def _pause(self) -> None:
        self._again_at = self._clock.monotonic() + PAUSE

    def _begin(self, loop: asyncio.AbstractEventLoop) -> _Asker:
        """Make the asker of an event loop, and drop those of closed loops."""
        for other in list(self._askers):
            if other.is_closed():
                self._askers.pop(other, None)
        asker = self._askers[loop] = _Asker(loop, self._url, self._timeout, self._pause)
        return asker


class _Asker:
    """Asks in one event loop.

    Requests that come at once share a round trip. With one for each, several busy workers open hundreds of
    connections, and spend on these the time in which the answers were due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str, timeout: float, failed: Callable[[], None]) -> None:
        pool = valkey.asyncio.BlockingConnectionPool.from_url(
            url, max_connections=MAX_FLIGHTS, timeout=timeout, **client_options(timeout)
        )
        self._loop = loop
        self._client: Any = valkey.asyncio.Valkey(connection_pool=pool)
        self._host: str | None = pool.connection_kwargs.get("host")
        self._is_connected = False  # the last round trip was answered
        self._timeout = timeout
        self._failed = failed
        self._waiting: deque[Waiting] = deque()
        self._flights: set[asyncio.Task[None]] = set()

    def ask(self, asked: Actors) -> asyncio.Future[StrictAnswer | None]:
        """Queue a question for the next round trip."""
        answer: asyncio.Future[StrictAnswer | None] = self._loop.create_future()
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        self._waiting.append((asked, answer))
        if len(self._flights) < (MAX_FLIGHTS if self._is_connected else 1):
            flight = self._loop.create_task(self._fly())
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)  # where it was cancelled
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _fly(self) -> None:
        """Make round trips until nobody waits."""
        while self._waiting:
            is_there = self._is_connected or await self._is_there()
            batch = self._next()  # those whom connecting took too long have left, and are charged nothing
            try:
                async with asyncio.timeout(ANSWERS * self._timeout):
                    self._is_connected = is_there and await self._ask(batch)
            except Exception:  # noqa: BLE001 - whatever listens there may answer anything
                self._is_connected = False
            finally:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_result(None)
            if not self._is_connected:
                self._failed()
        if (me := asyncio.current_task()) is not None:
            self._flights.discard(me)  # at once: who was answered may ask again before it is known to be done

    async def _is_there(self) -> bool:
        """Connect. The host is looked up in a thread of ours: an attempt that is given up would keep one of the app's.

        That has but a few for its event loop.
        """
        found: list[object] = []

        def look_up() -> None:
            with contextlib.suppress(OSError, ValueError):  # the last for what cannot be a name
                found.extend(socket.getaddrinfo(self._host, None))

        if self._host:
            await run_in_thread(look_up)
        if not self._host or found:
            pool = self._client.connection_pool
            with contextlib.suppress(Exception):
                async with asyncio.timeout(ANSWERS * self._timeout):
                    await pool.release(await pool.get_connection("EVALSHA"))
                return True
        return False

    def _next(self) -> list[Waiting]:
        """Take out what the next round trip asks."""
        batch = [self._waiting.popleft() for _ in range(min(MAX_ASKED, len(self._waiting)))]
        return [one for one in batch if not one[1].done()]

    async def _ask(self, batch: Sequence[Waiting]) -> bool:
        """Answer those who wait; returns True, for an error is raised."""
        answers = iter(await self._run(TAKE, [one for asked, _ in batch for one in asked]))
        taken: list[tuple[bytes, Sequence[tuple[float, int]]]] = []
        for asked, answer in batch:
            own = list(islice(answers, len(asked)))
            passes = all(passed for passed, _ in own)
            if not passes:  # the visitor's quotas may have room where the network's have not
                taken += [one for one, (passed, _) in zip(asked, own, strict=True) if passed]
            if not answer.done():
                found = [part for _, parts in own for part in parts]
                answer.set_result(
                    StrictAnswer(passes, [int(left) for left in found[::2]], [float(part) for part in found[1::2]])
                )
        if taken:
            await self._run(GIVE_BACK, taken)
        return True

    async def _run(self, script: str, asked: Actors) -> list[Any]:
        """Run a script for each actor in one round trip; more if the server has not loaded it."""
        answers = await self._send(script, asked)
        lost = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if lost:
            await self._client.script_load(script)
            again = await self._send(script, [asked[place] for place in lost])
            for place, answer in zip(lost, again, strict=True):
                answers[place] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                # What is not in use: it may lead to what was the primary, and is a replica now.
                await self._client.connection_pool.disconnect(inuse_connections=False)
                raise answer
        return answers

    async def _send(self, script: str, asked: Actors) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for key, limits in asked:
                keys = ["s:" + counter_key(name_of(key, size)) for size, _ in limits]
                pipe.evalsha(sha(script), len(keys), *keys, *(part for pair in limits for part in pair))
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return asyncio's event loop; None in one that this client does not know, such as trio's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
