"""A million visitors in a row, each new, through one process: `python -m tests.benchmarks.memory`.

Everything that differs among visitors differs here: address, user agent, path. The journal is full after its first
megabyte, for what is measured is memory and not the disk. One visitor is blocked at the start and asks again now and
then. A million take about six minutes, most of it for reading a million different user agents.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import subprocess
import tempfile
import time

from asgi_analytics import AnalyticsMiddleware

from .measure import print_bar
from .overhead import receive
from .peers import NOWHERE, Message, page
from .traffic import Person, VirtualClock, people, person, strangers

MEGABYTE = 1 << 20
STEP = 20_000  # visitors between two looks


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS
        return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])) * 1024


class Site:
    """The middleware, its clock, and the status of its last answer."""

    def __init__(self, folder: str, most: int) -> None:
        self.clock = VirtualClock()
        self.status = 0
        self.app = AnalyticsMiddleware(
            page, dsn=NOWHERE, journal_dir=folder, journal_limit=MEGABYTE, clock=self.clock, cooldown=86_400.0,
            max_visitors=most, max_networks=most, shutdown_timeout=0,
        )  # fmt: skip

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]

    async def load(self, one: Person, path: str) -> int:
        """Return the status of one page load."""
        await self.app(one.scope(path), receive, self.send)
        self.clock.pass_by(0.001)
        return self.status


async def block(site: Site, one: Person) -> int:
    """Load pages as fast as no reader does until the visitor is blocked; return how many that took."""
    for count in range(1, 1_000):
        if await site.load(one, f"/archive/{count}") == 429 and site.app.stats()["memory"]["flagged"]:
            site.clock.pass_by(120.0)  # the quotas are free again; a block is not
            if await site.load(one, "/") == 429:
                return count
        site.clock.pass_by(0.1)
    raise AssertionError("this visitor should be blocked by now")


async def measure(site: Site, visitors: int, most: int) -> None:
    """Send them all through, and say what memory did."""
    blocked = person(15_000_000, people(count=1)[0].headers[4][1].decode())
    print(f"blocked after {await block(site, blocked)} page loads")
    gc.collect()
    began, start = time.perf_counter(), resident()
    full, peak, lifted = 0, start, 0
    for first in range(0, visitors, STEP):
        for number, one in enumerate(strangers(first, min(STEP, visitors - first)), first):
            await site.load(one, f"/articles/{number}")
        lifted += await site.load(blocked, "/") != 429
        now = resident()
        peak = max(peak, now)
        if not full and first + STEP >= 2 * most:
            full = now
        if first // STEP % 10 == 0 or first + STEP >= visitors:
            seconds = time.perf_counter() - began
            print(
                f"{min(first + STEP, visitors):>10,} visitors  {now / MEGABYTE:7.1f} MB  {seconds:5.0f} s", flush=True
            )
    report(site, start, full or peak, peak, lifted, min(most, visitors))


def report(site: Site, start: int, full: int, peak: int, lifted: int, held: int) -> None:
    """Print what a visitor takes, and the bars."""
    stats = site.app.stats()
    print(f"\nheld: {stats['memory']}")
    print(f"at the start {start / MEGABYTE:.1f} MB, with all maps full {full / MEGABYTE:.1f} MB")
    print(f"bytes per visitor with a network of its own: {(full - start) / held:,.0f}")
    assert not stats["failures"], stats
    growth = (peak - full) / MEGABYTE
    print_bar("MB more at the peak than when the maps were first full", growth, "< 32", growth < 32, ".1f")
    print_bar("times that the blocked visitor was let in", lifted, "0", not lifted, "d")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--visitors", type=int, default=1_000_000)
    parser.add_argument("--max-visitors", type=int, default=20_000, help="the options max_visitors and max_networks")
    parser.add_argument("--quick", action="store_true", help="few visitors: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    visitors, most = (1_000, 100) if options.quick else (options.visitors, options.max_visitors)
    logging.getLogger("asgi_analytics").setLevel(logging.ERROR)  # it says that it reaches no Postgres, as meant here
    with tempfile.TemporaryDirectory(prefix="asgi-analytics-") as folder:
        site = Site(folder, most)
        asyncio.run(measure(site, visitors, most))
        site.app.close()


if __name__ == "__main__":
    main()
