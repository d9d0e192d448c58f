"""CPU time that a middleware adds to a request, in process: `python -m tests.benchmarks.overhead`.

The ASGI callables are driven directly, a task per request. All rows take turns of 1,000 requests, each with its own
copy of them. What is measured is the CPU time of this thread (time.thread_time), with our journal in a real file. The
writer's thread is idle, as it reaches no Postgres, and would not count: tests.benchmarks.writer tells its share.

One page load in about ten is judged in full: a round where that comes for most visitors at once is above the others.
Under a server a request costs more: tests.benchmarks.served.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from statistics import median
from time import thread_time

from asgi_analytics.exchange import http

from .measure import Spread, print_bar, print_table
from .peers import BARE, BASE_HTTP, OURS, WITH_HEADERS, Message, Peer, Scope, installed
from .traffic import PAGES, VISITORS, Person, page_loads, people, strangers

TURN = 1000  # requests
THINK_TIME = 0.02  # seconds from one request to the next, over all visitors: 2,000 of them load a page in 40 s each
NEW = "cold, 200 user agents"
STRANGE = "cold, all user agents distinct"
HOT = "hot"
Samples = dict[tuple[str, str], list[float]]  # (row, kind of traffic) → µs per request, one per round


async def receive() -> Message:
    """What a server says of a request without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Render an answer as a server does, so that each header costs what it costs there; it goes nowhere."""
    if message["type"] == "http.response.start":
        lines = [b"HTTP/1.1 %d OK\r\n" % message["status"]]
        for name, value in message["headers"]:
            lines.extend((name, b": ", value, b"\r\n"))
        lines.append(b"\r\n")
        b"".join(lines)


async def run(peer: Peer, scopes: Iterable[Scope]) -> float:
    """Serve requests one after another, each in a task of its own as servers do; return the CPU seconds spent.

    Each is made right before it is served, as by a server that has just parsed it: thousands that were made ahead would
    be out of the caches. Making it is not measured.
    """
    app, create_task, spent = peer.app, asyncio.get_running_loop().create_task, 0.0
    gc.disable()  # as timeit does: most of what it would look through is the benchmark's own
    for scope in scopes:
        began = thread_time()
        await create_task(app(scope, receive, send))
        spent += thread_time() - began
    gc.enable()
    return spent


async def compare(peers: list[Peer], persons: list[Person], turn: int) -> dict[str, float]:
    """Return the µs per request of each peer for one page load of each person."""
    seconds: dict[str, float] = defaultdict(float)
    loads = [page_loads(persons, turn) for _ in peers]
    for first in range(0, len(persons), TURN):
        for peer, scopes in zip(peers, loads, strict=True):
            seconds[peer.name] += await run(peer, islice(scopes, TURN))
            peer.clock.pass_by(THINK_TIME * min(TURN, len(persons) - first))
    return {name: spent / len(persons) * 1e6 for name, spent in seconds.items()}


async def measure(peers: list[Peer], rounds: int, count: int) -> Samples:
    """Warm up, then take all rounds."""
    samples: Samples = defaultdict(list)
    returning, turns, fresh = people(0, count), iter(range(1_000_000)), iter(range(count, 6_000_000, count))
    await compare(peers, returning, next(turns))
    for _ in range(rounds):
        for kind, persons in _kinds(returning, fresh, count):
            gc.collect()
            for name, spent in (await compare(peers, persons, next(turns))).items():
                samples[name, kind].append(spent)
    return samples


def _kinds(returning: list[Person], fresh: Iterator[int], count: int) -> Iterable[tuple[str, list[Person]]]:
    yield HOT, returning
    yield NEW, people(next(fresh), count)
    yield STRANGE, strangers(next(fresh), count)


def added(samples: Samples, peer: Peer, kind: str) -> list[float]:
    """Return what a peer adds to its framework's bare app, µs per request, one per round."""
    bare = samples[BARE[peer.framework], kind]
    return [spent - base for spent, base in zip(samples[peer.name, kind], bare, strict=True)]


def ratio(above: list[float], below: list[float]) -> float:
    """Return the ratio of two medians: of a microsecond, the difference of two rounds can be noise, or negative."""
    return median(above) / median(below)


def report(peers: list[Peer], samples: Samples) -> None:
    """Print the table and the bars."""
    by_name = {peer.name: peer for peer in peers}
    reference, no_op, ours = (added(samples, by_name[name], HOT) for name in (WITH_HEADERS, BASE_HTTP, OURS))
    rows = []
    for peer in peers:
        cells = [f"{Spread.of(samples[peer.name, HOT]):.1f}"]
        cells += [f"{Spread.of(added(samples, peer, kind)):.1f}" for kind in (HOT, NEW, STRANGE)]
        cells += [f"{ratio(added(samples, peer, HOT), base):.2f}" for base in (reference, no_op)]
        rows.append([peer.name, peer.framework, *cells])
    heads = ["", "app", "hot, whole request", "hot, added", NEW, STRANGE, "hot / headers", "hot / BaseHTTP"]
    print_table("CPU µs per request, median (minimum to maximum) of the rounds", heads, rows)
    print()
    times, part = ratio(ours, reference), ratio(ours, no_op)
    print_bar("hot, times the pass-through with 4 headers", times, "≤ 8", times <= 8)
    print_bar("hot, part of the no-op BaseHTTPMiddleware", part, "≤ 0.125", part <= 0.125, ".3f")
    hot = Spread.of(ours)
    print_bar("hot, µs", hot, "≤ 16", hot.median <= 16, ".1f")
    for kind in (NEW, STRANGE):
        cold = Spread.of(added(samples, by_name[OURS], kind))
        print_bar(f"{kind}, µs", cold, "≤ 80 where hot ≤ 16", cold.median <= 80, ".1f")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--visitors", type=int, default=VISITORS)
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    rounds, count = (1, 20) if options.quick else (options.rounds, options.visitors)
    logging.getLogger("asgi_analytics").setLevel(logging.ERROR)  # it says that it reaches no Postgres, as meant here
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="asgi-analytics-"))
        peers = installed(folder, stack)
        built = "not compiled" if http.__file__.endswith(".py") else "compiled"
        print(f"{count:,} visitors, {PAGES} pages, {rounds} rounds, {built}")
        samples = asyncio.run(measure(peers, rounds, count))
        report(peers, samples)
        for peer in peers:
            peer.check()


if __name__ == "__main__":
    main()
