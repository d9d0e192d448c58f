"""What several workers together admit of one quota: `python -m tests.benchmarks.shared`.

Each worker is a process with a whole middleware, all on one Postgres (or, with --shared, one Valkey). Visitors send a
steady stream of requests at a multiple of the limit, either to workers drawn at random or, as over one connection that
is kept alive, to one worker. A window is one of the clock; the first finds workers that know nothing of the visitor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.decide.lending import unasked
from asgi_analytics.store.migrate import migrate
from tests.drive import ask, http_scope, page, start

from .measure import database, print_bar, print_table

LOADS = (0.5, 1.0, 1.5, 10.0)
PATTERNS = ("spread", "one")
HEADS = ("workers", "load", "sent to", "offered", "admitted", "refused", "overshoot", "bound", "wrongly refused")
OPEN = "1000000/second"
HOUSE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does; times in seconds."""

    dsn: str
    limit: int
    window: int
    workers: int
    windows: int = 2
    shared: str | None = None
    mode: str = "lease"
    loads: Sequence[float] = LOADS

    @property
    def visitors(self) -> list[tuple[float, str]]:
        """One visitor for each load and pattern."""
        return [(load, pattern) for load in self.loads for pattern in PATTERNS]

    @property
    def options(self) -> dict[str, Any]:
        """Options of the middleware."""
        quota = f"{self.limit}/{self.window} seconds"
        more = {"shared": self.shared, "shared_mode": self.mode, "shared_timeout": 1.0} if self.shared else {}
        return {"dsn": self.dsn, "limits": quota, "network_limits": OPEN, **more}

    @property
    def bound(self) -> int:
        """What may be admitted above the limit in a window."""
        if self.mode == "strict":
            return -(-self.limit // 100)
        return max(0, (self.workers - 1) * unasked(self.limit, self.workers) - self.limit // 2)


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one visitor in its worst window, and in all of them."""

    workers: int
    load: float
    pattern: str
    offered: int
    admitted: int
    overshoot: int
    bound: int
    wrongly: int

    def cells(self) -> list[str]:
        """The row as HEADS names it."""
        refused = self.offered - self.admitted
        numbers = (self.offered, self.admitted, refused, self.overshoot, self.bound, self.wrongly)
        where = "one worker" if self.pattern == "one" else "all, at random"
        return [str(self.workers), f"{self.load:g}×", where, *map(str, numbers)]


def schedule(plan: Plan, worker: int) -> Iterator[tuple[float, int]]:
    """Yield when, after the beginning, this worker gets a request, and whose."""
    due = []
    for visitor, (load, pattern) in enumerate(plan.visitors):
        rng, count = random.Random(visitor), round(load * plan.limit * plan.windows)
        for number in range(count):
            chosen = visitor % plan.workers if pattern == "one" else rng.randrange(plan.workers)
            if chosen == worker:
                due.append(((number + 0.5) / count * plan.windows * plan.window, visitor))
    return iter(sorted(due))


async def work(app: AnalyticsMiddleware, plan: Plan, worker: int, begins: float) -> list[list[int]]:
    """Send what is due. Returns visitor, window, requests and admitted ones."""
    offered: Counter[tuple[int, int]] = Counter()
    admitted: Counter[tuple[int, int]] = Counter()

    async def send(visitor: int) -> None:
        window = int((time.time() - begins) // plan.window)
        scope = http_scope("/api", client=(f"198.51.100.{visitor}", 4000))
        offered[visitor, window] += 1
        passed = (await ask(app, scope)).status == 200  # first: others count while this one waits
        admitted[visitor, window] += passed

    sent = []
    for after, visitor in schedule(plan, worker):
        await asyncio.sleep(max(0.0, begins + after - time.time()))
        sent.append(asyncio.create_task(send(visitor)))
    await asyncio.gather(*sent)
    return [[*key, count, admitted[key]] for key, count in offered.items()]


def serve(plan: Plan, worker: int, folder: str) -> None:
    """Be a worker process: say when ready, read when to begin, print what was admitted."""
    app = AnalyticsMiddleware(page(kind=b"application/json"), journal_dir=folder, **plan.options)
    start(app)
    deadline = time.time() + 20.0
    while app.stats()["shared"]["workers"] < plan.workers and time.time() < deadline:
        time.sleep(0.05)
    print(json.dumps(app.stats()["shared"]), flush=True)
    begins = float(sys.stdin.readline())
    print(json.dumps(asyncio.run(work(app, plan, worker, begins))), flush=True)
    sys.stdin.readline()
    print(json.dumps(app.stats()["shared"]), flush=True)
    app.close()


def run(plan: Plan) -> list[Row]:
    """Start the workers, let them begin with a window of the clock, and add up."""
    with tempfile.TemporaryDirectory(prefix="asgi-analytics-") as folder:
        command = [sys.executable, "-m", "tests.benchmarks.shared", "--serve"]
        processes = [
            subprocess.Popen(
                [*command, json.dumps([_values(plan), worker, f"{folder}/{worker}"])],
                cwd=HOUSE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for worker in range(plan.workers)
        ]  # fmt: skip
        ready = [_read(process) for process in processes]
        assert all(one["workers"] == plan.workers for one in ready), ready
        # One worker alone counts by its own clock, several by that of the server.
        ahead = time.time() - time.monotonic() if plan.workers == 1 else 0.0
        begins = ((time.time() + 0.5 - ahead) // plan.window + 1) * plan.window + ahead
        for process in processes:
            _tell(process, str(begins))
        counted = [_read(process) for process in processes]
        for process in processes:
            _tell(process, "")
        stats = [json.loads(process.communicate(timeout=30)[0]) for process in processes]
    mean, lost = (sum(one[name] for one in stats) for name in ("exchange_ms", "unanswered"))
    print(
        f"{plan.workers} workers: an exchange took {mean / plan.workers:.1f} ms, {lost} requests were not told in time"
    )
    return summed(plan, [tuple(one) for worker in counted for one in worker])


def _values(plan: Plan) -> list[Any]:
    return [plan.dsn, plan.limit, plan.window, plan.workers, plan.windows, plan.shared, plan.mode, plan.loads]


def _read(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def summed(plan: Plan, counted: Sequence[tuple[int, int, int, int]]) -> list[Row]:
    """Add up what the workers counted: the overshoot of the worst window, all else over all windows."""
    rows = []
    for visitor, (load, pattern) in enumerate(plan.visitors):
        offered: Counter[int] = Counter()
        admitted: Counter[int] = Counter()
        for who, window, sent, passed in counted:
            if who == visitor:
                offered[window] += sent
                admitted[window] += passed
        over = max(0, *(count - plan.limit for count in admitted.values()))
        # What came late, into a window after the last, finds the one before it full.
        wrongly = sum(max(0, min(offered[one], plan.limit) - admitted[one]) for one in range(plan.windows))
        rows.append(Row(plan.workers, load, pattern, offered.total(), admitted.total(), over, plan.bound, wrongly))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shared", description=__doc__)
    parser.add_argument("--shared", help="URL of a Valkey or Redis server; none: through Postgres")
    parser.add_argument("--strict", action="store_true", help="with --shared: one round trip per request")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--quotas", nargs="*", default=["1500/60", "300/10", "20/1"], help="limit/seconds")
    parser.add_argument("--quick", action="store_true", help="one tiny run: shows that it runs, measures nothing")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        values, worker, folder = json.loads(options.serve)
        return serve(Plan(*values), worker, folder)
    quotas, workers = (["20/1"], [2]) if options.quick else (options.quotas, options.workers)
    with database() as dsn:
        migrate(dsn)
        for quota in quotas:
            limit, window = map(int, quota.split("/"))
            rows: list[Row] = []
            for count in workers:
                _empty(dsn)
                mode = "strict" if options.strict else "lease"
                windows = 2 if options.quick else max(2, 6 // window)
                rows += run(Plan(dsn, limit, window, count, windows, options.shared, mode))
            through = f"{options.shared} ({mode})" if options.shared else "Postgres"
            title = f"{limit} requests per {window} s, through {through}, {windows} windows"
            print_table(title, HEADS, [row.cells() for row in rows])
            worst = max(row.overshoot - row.bound for row in rows)
            print_bar("units above the bound, worst row", worst, "≤ 0", worst <= 0, "d")


def _empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE analytics.counters, analytics.workers")


if __name__ == "__main__":
    main()
