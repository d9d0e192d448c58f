"""A live run on a clock of its own, recorded in Postgres: what the tests of what-if and reclassify begin with."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from asgi_analytics.middleware import ASGIApp, Receive, Scope, Send
from asgi_analytics.testing import FakeClock
from tests import drive

PERIOD = ("--since", "2099-12-31", "--until", "2100-01-04")
LIMITS = ("20/second", "100/minute")
OLD = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
MONOTONIC = 1000.0


@dataclass
class Live:
    """A middleware at work, with a ledger of what it answered."""

    overlap: int = 0
    clock: FakeClock = field(default_factory=lambda: FakeClock(monotonic=MONOTONIC))
    statuses: list[int] = field(default_factory=list)
    turns: list[asyncio.Event] = field(default_factory=list)

    def site(self) -> ASGIApp:
        """Return an app that takes its time: 20 ms a page, a missing path or an API's answer."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await drive.answer_lifespan(receive, send)
                return
            path = scope["path"]
            if path.startswith("/slow"):
                await self.turns[int(path[6:])].wait()
            self.clock.advance(0.02)
            status = 404 if "missing" in path else 200
            kind = b"application/json" if path.startswith("/api") else b"text/html"
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
            await send({"type": "http.response.body", "body": b"x" * 10})

        return app

    async def ask(self, app: ASGIApp, visitor: int, path: str, inner: bool = False, agent: str = drive.BROWSER) -> int:
        """Send one request and return its status."""
        headers = {"user-agent": agent, **({"referer": "http://shop.example/from"} if inner else {})}
        client = (f"198.51.100.{visitor}", 4000)
        reply = await drive.ask(app, drive.http_scope(path, headers=headers, client=client))
        self.statuses.append(reply.status)
        return reply.status

    async def ask_at_once(self, app: ASGIApp, draw: random.Random) -> None:
        """Begin several requests of one visitor before any is answered; they are answered in another order."""
        self.turns = [asyncio.Event() for _ in range(self.overlap)]
        tasks = []
        for number in range(self.overlap):
            tasks.append(asyncio.create_task(self.ask(app, 95, f"/slow/{number}")))
            await asyncio.sleep(0)
            self.clock.advance(0.05)
        for number in draw.sample(range(self.overlap), self.overlap):
            self.turns[number].set()
            for _ in range(5):
                await asyncio.sleep(0)
            self.clock.advance(0.3)
        await asyncio.gather(*tasks)


def record(dsn: str, seed: int = 1, rounds: int = 60, begins: float = 0.0, overlap: int = 0, **options: Any) -> Live:
    """Let people, a scraper, a scanner, a poller and an old browser visit for some minutes.

    `begins` seconds after midnight; with `overlap` so many requests at once at the end of each round.
    """
    live, draw = Live(overlap), random.Random(seed)
    live.clock.jump_wall(begins)
    with drive.wrapped(live.site(), dsn, clock=live.clock, **{"limits": LIMITS, **options}) as app:
        drive.start(app)
        asyncio.run(_visits(live, app, draw, rounds))
    return live


async def _visits(live: Live, app: ASGIApp, draw: random.Random, rounds: int) -> None:
    for turn in range(rounds):
        for person in range(1, 5):
            await live.ask(app, person, f"/shop/{draw.randrange(40)}", inner=turn > 0)
            live.clock.advance(draw.uniform(0.1, 1.5))
        for step in range(6):
            await live.ask(app, 50, f"/catalogue/{turn * 6 + step:05}")
            live.clock.advance(0.2)
        await live.ask(app, 60, f"/missing/{turn}")
        await live.ask(app, 61, f"/missing/{draw.randrange(9)}", inner=True)
        await live.ask(app, 70, "/api/poll")
        await live.ask(app, 80, f"/shop/{draw.randrange(40)}", agent=OLD.format(80 + turn % 2))
        if turn % 20 == 10:
            for _ in range(30):
                await live.ask(app, 90, "/api/burst")
        if live.overlap:
            await live.ask_at_once(app, draw)
        live.clock.advance(draw.uniform(0.5, 4.0))
