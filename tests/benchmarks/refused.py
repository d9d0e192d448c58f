"""What refusing costs beside serving: `python -m tests.benchmarks.refused`.

A visitor hammers at a closed door; the other rows are apps that serve, without us. CPU time of this thread, in process,
the rows in turns. The first hundred refusals of a minute are rows of their own, what is beyond is counted: both are
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from collections import defaultdict
from contextlib import ExitStack

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from asgi_analytics import AnalyticsMiddleware

from .measure import Spread, print_bar, print_table
from .overhead import run
from .peers import NOWHERE, PAGE, App, Peer, page, starlette
from .traffic import VirtualClock, people

TURN = 50  # requests
BOT = people(0, 1)[0]
FASTAPI, STARLETTE = "served by FastAPI", "served by Starlette"
STORED, COUNTED, BLOCKED = "refused by a quota, a row", "refused by a quota, counted", "Blocked, counted"


def fastapi() -> App:
    """The page of the other benchmarks as a FastAPI route."""
    app = FastAPI()

    @app.get("/{path:path}", response_class=HTMLResponse)
    async def show(path: str) -> HTMLResponse:
        return HTMLResponse(PAGE)

    return app


def closed(name: str, folder: str, stack: ExitStack, limits: str) -> Peer:
    """An app that refuses."""
    clock = VirtualClock()
    app = AnalyticsMiddleware(page, dsn=NOWHERE, journal_dir=folder, clock=clock, shutdown_timeout=0, limits=limits)
    stack.callback(app.close)
    return Peer(name, app, clock=clock)


async def block(peer: Peer) -> None:
    """Load pages in a rush until the level is Blocked."""
    for number in range(400):
        await run(peer, [BOT.scope(f"/{number}")])
        peer.clock.pass_by(0.1)


async def measure(folder: str, stack: ExitStack, rounds: int) -> dict[str, list[float]]:
    """Return µs per request of each row, one per round."""
    seconds: dict[str, list[float]] = defaultdict(list)
    stored, counted = (closed(name, folder, stack, "1/day") for name in (STORED, COUNTED))
    blocked = closed(BLOCKED, folder, stack, "100000/minute")
    await block(blocked)
    for peer, count in ((stored, 1), (counted, 150)):
        await run(peer, [BOT.scope("/") for _ in range(count)])
    peers = [Peer(FASTAPI, fastapi()), Peer(STARLETTE, starlette()), stored, counted, blocked]
    for turn in range(rounds + 1):
        for peer in peers:
            spent = await run(peer, [BOT.scope(f"/{number}") for number in range(TURN)])
            if turn:
                seconds[peer.name].append(spent / TURN * 1e6)
        stored.clock.pass_by(60.0)
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.refused", description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--quick", action="store_true", help="two rounds: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    logging.getLogger("asgi_analytics").setLevel(logging.ERROR)  # it says that it reaches no Postgres, as meant here
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="asgi-analytics-"))
        seconds = asyncio.run(measure(folder, stack, 2 if options.quick else options.rounds))
    rows = [
        [name, f"{Spread.of(spent):.1f}"]
        + [f"{Spread.of_ratios(spent, seconds[served]).median:.2f}" for served in (FASTAPI, STARLETTE)]
        for name, spent in seconds.items()
    ]
    print_table(
        "CPU µs per request, median (minimum to maximum) of the rounds", ["", "µs", "/ FastAPI", "/ Starlette"], rows
    )
    print()
    for name in (COUNTED, BLOCKED):
        for served in (FASTAPI, STARLETTE):
            part = Spread.of_ratios(seconds[name], seconds[served])
            print_bar(f"{name}, part of a page {served}", part, "≤ 0.30", part.median <= 0.30)


if __name__ == "__main__":
    main()
