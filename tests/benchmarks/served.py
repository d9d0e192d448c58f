"""Throughput and latency of a Starlette route under uvicorn, bare and wrapped: `python -m tests.benchmarks.served`.

Under uvicorn with uvloop and httptools, which asks least of the CPU, and with what it has when it is installed alone.
The wrapped server writes to a real Postgres on this machine all the while. Load comes from wrk in a process of its own,
or from a client in Python where there is no wrk: 15,000 visitors with twelve headers each, behind a trusted proxy, who
load a page and two files at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from urllib.request import urlopen

import psycopg
from starlette.applications import Starlette

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.store.migrate import migrate
from tests.servers import free_port
from tests.waiting import wait_until

from .measure import Spread, database, print_bar, print_table
from .peers import Scope, starlette
from .traffic import people, visits

VISITORS = 15_000  # with fewer each would load pages at a pace that no reader has, and be slowed down
CONNECTIONS = 32
SETUPS = {
    "uvloop and httptools": ("--loop", "uvloop", "--http", "httptools"),
    "asyncio and h11": ("--loop", "asyncio", "--http", "h11"),
}
# Never reached: what counts here is what counting costs.
LIMITS = ["1000000/second", "60000000/minute"]
_LUA = """
local requests, at = {}, 0
for line in io.lines(os.getenv("REQUESTS")) do
  requests[#requests + 1] = line:gsub("\\t", "\\r\\n")
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary, latency)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  print(string.format('{"rate": %f, "p50": %f, "p99": %f, "failed": %d}', summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of load saw: requests per second, latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


def bare() -> Starlette:
    """The route by itself."""
    return starlette()


def wrapped() -> AnalyticsMiddleware:
    """The route behind us, everything on, with limits and a bot score that are out of reach."""
    return AnalyticsMiddleware(
        starlette(), limits=LIMITS, network_limits=LIMITS, bot_score=1000, trusted_proxies="127.0.0.1"
    )


@contextmanager
def server(factory: str, setup: str, dsn: str, journal: str) -> Iterator[int]:
    """Run uvicorn in one of SETUPS in a process of its own and yield its port; it is stopped in the end."""
    port = free_port()
    environment = {**os.environ, "ASGI_ANALYTICS_DSN": dsn, "ASGI_ANALYTICS_JOURNAL_DIR": journal}
    command = [sys.executable, "-m", "uvicorn", "--factory", f"tests.benchmarks.served:{factory}", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", "--no-proxy-headers", *SETUPS[setup]]
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until(lambda: _answers(port), 30)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def raw_requests(count: int) -> list[bytes]:
    """Return two visits of three hits for each visitor, as bytes on the wire."""
    return [_raw(scope) for turn in range(2) for visit in visits(people(0, count), turn) for scope in visit]


def _raw(scope: Scope) -> bytes:
    lines = [b"GET %b HTTP/1.1" % scope["raw_path"]]
    lines += [b"%b: %b" % header for header in scope["headers"]]
    lines.append(b"x-forwarded-for: " + scope["client"][0].encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def by_wrk(port: int, requests: Path, seconds: float) -> Load:
    """Load a server with wrk."""
    script = requests.with_suffix(".lua")
    script.write_text(_LUA)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    environment = {**os.environ, "REQUESTS": str(requests)}
    output = subprocess.check_output([*command, f"http://127.0.0.1:{port}/"], env=environment, text=True)
    return Load(**json.loads(output.strip().splitlines()[-1]))


async def by_python(port: int, requests: list[bytes], seconds: float) -> Load:
    """Load a server from this process; slower than wrk, so that it shows less of the server's limit."""
    took: list[float] = []
    failed = 0
    turns, end = cycle(requests), time.perf_counter() + seconds

    async def client() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(next(turns))
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            took.append(time.perf_counter() - began)
            failed += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    parts = quantiles(took, n=100)
    return Load(len(took) / seconds, parts[49] * 1e3, parts[98] * 1e3, failed)


def measure(
    ports: dict[str, int], load: Callable[[int], Load], settled: Callable[[], None], rounds: int
) -> dict[str, list[Load]]:
    """Warm both servers up, then load them in turns; what the writer has left is written before the next turn."""
    found: dict[str, list[Load]] = {name: [] for name in ports}
    for turn in range(rounds + 1):
        for name in sorted(ports, reverse=bool(turn % 2)):
            measured = load(ports[name])
            settled()
            if turn:
                found[name].append(measured)
    return found


def settle(connection: psycopg.Connection) -> None:
    """Wait until no more hits come into the database."""
    before = -1
    while (stored := _stored(connection)) != before:
        before = stored
        time.sleep(0.6)


def _stored(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT coalesce(sum(rows), 0) FROM analytics.positions").fetchone()
    return int(row[0]) if row else 0


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def report(setup: str, found: dict[str, list[Load]]) -> None:
    """Print the table and the bar of one setup."""
    rows = []
    for name, loads in found.items():
        cells = [f"{Spread.of([getattr(load, part) for load in loads]):,.2f}" for part in ("rate", "p50", "p99")]
        rows.append([name, *cells, str(sum(load.failed for load in loads))])
    heads = ["", "requests/s", "p50 ms", "p99 ms", "failed"]
    print_table(f"A Starlette route under uvicorn with {setup}, median (minimum to maximum) of the rounds", heads, rows)
    share = Spread.of_ratios(*([load.rate for load in found[name]] for name in ("wrapped", "bare")))
    print()
    print_bar("throughput, part of bare", share, "≥ 0.80", share.median >= 0.8)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.served", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one round")
    parser.add_argument("--python", action="store_true", help="load from Python even where wrk is installed")
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    rounds, seconds = (1, 0.5) if options.quick else (options.rounds, options.seconds)
    use_wrk = shutil.which("wrk") is not None and not options.python and not options.quick
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asgi-analytics-")))
        requests = raw_requests(200 if options.quick else VISITORS)
        file = folder / "requests"
        file.write_bytes(b"\n".join(one.replace(b"\r\n", b"\t") for one in requests) + b"\n")
        dsn = stack.enter_context(database())
        migrate(dsn)
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))

        def load(port: int) -> Load:
            return by_wrk(port, file, seconds) if use_wrk else asyncio.run(by_python(port, requests, seconds))

        print(
            f"load from {'wrk' if use_wrk else 'Python'}, {CONNECTIONS} connections, {rounds} rounds of {seconds:g} s"
        )
        for setup in list(SETUPS)[: 1 if options.quick else None]:
            with ExitStack() as servers:
                ports = {
                    name: servers.enter_context(server(name, setup, dsn, str(folder / "journal")))
                    for name in ("wrapped", "bare")
                }
                report(setup, measure(ports, load, lambda: settle(connection), rounds))
        print(f"\nrows in Postgres: {_stored(connection):,}")


if __name__ == "__main__":
    main()
