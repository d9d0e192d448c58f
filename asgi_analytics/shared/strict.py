"""Strict quotas: each request asks Valkey or Redis before the app runs. One round trip, and never an error.

A second one where the visitor has units and its network has not: then the visitor gets its unit back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import valkey.asyncio
from valkey.exceptions import NoScriptError, ValkeyError

from ..protocols import Clock, Told
from .scripts import GIVE_BACK, TAKE
from .valkey import client_options, counter_key, in_scheme, sha

MOST_CONNECTIONS = 64
PAUSE = 0.5  # seconds after a failure in which nobody asks: requests must not queue for a server that is lost

Actors = Sequence[tuple[bytes, Sequence[tuple[float, int]]]]


class ValkeyStrict:
    """StrictQuotas over one server, for the event loop that asks."""

    def __init__(self, url: str, timeout: float, clock: Clock) -> None:
        self.failures = 0
        self._url = in_scheme(url)
        self._timeout = timeout
        self._clock = clock
        self._again_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None

    async def take(self, quotas: Actors) -> Told | None:
        """Take one unit of each quota, or of none. None when the server does not say so in time."""
        if self._clock.monotonic() < self._again_at:
            return None
        asked = [(key, limits) for key, limits in quotas if limits]
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._run(TAKE, asked)
                if len({passed for passed, _ in answers}) > 1:  # the visitor's quotas have room, the network's have not
                    taken = [one for one, (passed, _) in zip(asked, answers, strict=True) if passed]
                    await self._run(GIVE_BACK, taken)
        except (ValkeyError, OSError, TimeoutError):
            self.failures += 1
            self._again_at = self._clock.monotonic() + PAUSE
            return None
        found = [part for _, parts in answers for part in parts]
        passes = all(passed for passed, _ in answers)
        return Told(passes, [int(left) for left in found[::2]], [float(wait) for wait in found[1::2]])

    async def close(self) -> None:
        """Close the connections of this event loop."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _run(self, script: str, asked: Actors) -> list[Any]:
        """Run a script for each actor in one round trip; more where the server has forgotten it."""
        client = self._connected()
        answers = await self._send(client, script, asked)
        lost = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if lost:
            await client.script_load(script)
            again = await self._send(client, script, [asked[place] for place in lost])
            for place, answer in zip(lost, again, strict=True):
                answers[place] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _send(self, client: Any, script: str, asked: Actors) -> list[Any]:
        async with client.pipeline(transaction=False) as pipe:
            for key, limits in asked:
                keys = ["s:" + counter_key(key + int(size).to_bytes(4, "big")) for size, _ in limits]
                pipe.evalsha(sha(script), len(keys), *keys, *(part for pair in limits for part in pair))
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    def _connected(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            pool = valkey.asyncio.BlockingConnectionPool.from_url(
                self._url, max_connections=MOST_CONNECTIONS, timeout=self._timeout, **client_options(self._timeout)
            )
            self._loop, self._client = loop, valkey.asyncio.Valkey(connection_pool=pool)
        return self._client
