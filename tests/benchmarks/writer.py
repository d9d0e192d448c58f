"""Rows per second from the journal to COMMIT, and what they cost: `python -m tests.benchmarks.writer`.

The same rows are loaded by `psql \\copy` into the same table, as text and as binary, in files of as many rows as a
batch of ours has; we also fold them into sessions and fingerprints. All is emptied in between, and the server has made
its checkpoint before each turn. Connecting is not counted on either side.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
from psycopg import sql

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.batch import HIT
from asgi_analytics.clock import SystemClock
from asgi_analytics.facts import Actor
from asgi_analytics.record.encoding import HIT_COLUMNS
from asgi_analytics.record.frames import frame
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import MAX_BATCHES_BEHIND, Writer
from asgi_analytics.settings import Settings
from asgi_analytics.state import State
from asgi_analytics.store.migrate import migrate
from asgi_analytics.store.postgres import PostgresStore

from .measure import Spread, database, print_bar, print_table
from .overhead import receive, send
from .peers import NOWHERE, Message, Receive, Scope, Send, page
from .traffic import VISITORS, VirtualClock, people, visits

TABLES = ("hits", "sessions", "fingerprints", "decisions", "positions")
OURS, TEXT, BINARY = "journal to COMMIT, with the fold", "psql \\copy, text", "psql \\copy, binary"
THINK_TIME = 0.02  # seconds between two visits, over all visitors
_TIME = re.compile(r"^Time: ([\d.]+) ms", re.MULTILINE)


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a page, or with a file below /static."""
    if not scope["path"].startswith("/static/"):
        await page(scope, receive, send)
        return
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"image/webp")]}
    await send(start)
    await send({"type": "http.response.body", "body": b"picture"})


async def hits(count: int, folder: str) -> list[bytes]:
    """Return the journal frames of lifelike visits, made by the middleware itself: a page and two files each."""
    # From now on, as those of a worker at work: hits from before the database knew of a journal are looked up in it.
    clock = VirtualClock()
    app = AnalyticsMiddleware(site, dsn=NOWHERE, journal_dir=folder, clock=clock, shutdown_timeout=0)
    for turn in range(-(-count // (3 * VISITORS))):
        for visit in visits(people(), turn):
            for scope in visit:
                await app(scope, receive, send)
            clock.pass_by(THINK_TIME)
    journal = app._engine.recorder.journal
    assert journal is not None
    rows: list[bytes] = []
    segment, offset = 1, 0
    while batch := journal.read(segment, offset, 20_000):
        rows += batch.frames.rows(HIT)
        segment, offset = batch.segment, batch.end
    app.close()
    return [frame(HIT, row) for row in rows[:count]]


def deliver(frames: list[bytes], dsn: str, folder: Path, batch_rows: int) -> tuple[float, float]:
    """Move the frames from a journal to Postgres; return seconds of wall time, and of CPU time of this process."""
    settings = Settings.build(journal_dir=folder)
    recorder = Recorder(settings, Counters())
    recorder.open()
    assert recorder.journal is not None
    for place in range(0, len(frames), 1000):
        recorder.journal.prepare()
        recorder.journal.append(b"".join(frames[place : place + 1000]))
    shared = State(
        max_visitors=1, max_networks=1, max_flagged=1, new_network=_no_network, learn_salts=lambda salts: None
    )
    writer = Writer(
        lambda: PostgresStore(lambda: dsn), recorder, shared, SystemClock(), rows=batch_rows, age=0.25, chores=_nothing
    )
    writer.start()
    writer.attempted.wait(30)
    wall, cpu = time.perf_counter(), time.process_time()
    assert writer.stop(600), "not all was delivered"
    spent = time.perf_counter() - wall, time.process_time() - cpu
    assert recorder.counters.written == len(frames), recorder.counters
    return spent


def export(connection: psycopg.Connection, folder: Path, size: int, form: str) -> list[Path]:
    """Write the hits table to files of `size` rows, in the order in which they were stored."""
    columns = sql.SQL(", ").join(map(sql.Identifier, HIT_COLUMNS))
    ordered = sql.SQL("CREATE TEMP TABLE ordered AS SELECT row_number() OVER (ORDER BY id) - 1 AS place, {} FROM {}")
    connection.execute(ordered.format(columns, sql.Identifier("analytics", "hits")))
    total = connection.execute("SELECT count(*) FROM ordered").fetchone()
    files = []
    for place in range(0, total[0] if total else 0, size):
        query = sql.SQL("COPY (SELECT {} FROM ordered WHERE place BETWEEN {} AND {} ORDER BY place) TO STDOUT ({})")
        bounds = sql.Literal(place), sql.Literal(place + size - 1)
        with connection.cursor().copy(query.format(columns, *bounds, sql.SQL(f"FORMAT {form}"))) as copy:
            file = folder / f"{place}.{form}"
            file.write_bytes(b"".join(map(bytes, copy)))
            files.append(file)
    connection.execute("DROP TABLE ordered")
    return files


def by_psql(dsn: str, files: list[Path]) -> float:
    """Load the files one by one; return the seconds that psql itself says it took."""
    options = " with (format binary)" if files[0].suffix == ".binary" else ""
    columns = ", ".join(HIT_COLUMNS)
    lines = [f"\\copy analytics.hits ({columns}) from '{file}'{options}" for file in files]
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn]
    script = "\\timing on\n" + "\n".join(lines) + "\n"
    output = subprocess.run(command, input=script, check=True, capture_output=True, text=True).stdout
    return sum(float(found) for found in _TIME.findall(output)) / 1e3


def by_psycopg(dsn: str, files: list[Path]) -> float:
    """Load the files as psql would, where there is no psql; return the seconds."""
    form = files[0].suffix[1:]
    columns = sql.SQL(", ").join(map(sql.Identifier, HIT_COLUMNS))
    query = sql.SQL("COPY analytics.hits ({}) FROM STDIN ({})").format(columns, sql.SQL(f"FORMAT {form}"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        began = time.perf_counter()
        for file in files:
            with connection.cursor().copy(query) as copy:
                copy.write(file.read_bytes())
        return time.perf_counter() - began


def clear(connection: psycopg.Connection) -> None:
    """Empty the tables and let the server finish its work."""
    for table in TABLES:
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier("analytics", table)))
    connection.execute("CHECKPOINT")


def measure(dsn: str, frames: list[bytes], folder: Path, rounds: int, batch_rows: int) -> dict[str, list[float]]:
    """Take turns; return seconds by way, one per round, and of our CPU as "cpu"."""
    spent: dict[str, list[float]] = defaultdict(list)
    load = by_psql if shutil.which("psql") else by_psycopg
    if load is by_psycopg:
        print("not installed: psql; COPY through psycopg stands in for it")
    journals = iter(range(1_000_000))
    with psycopg.connect(dsn, autocommit=True) as connection:
        clear(connection)
        deliver(frames, dsn, folder / f"journal-{next(journals)}", batch_rows)
        print(f"sessions, fingerprints: {', '.join(map(str, _counts(connection)))}")
        size = batch_rows * MAX_BATCHES_BEHIND
        files = {way: export(connection, folder, size, form) for way, form in ((TEXT, "text"), (BINARY, "binary"))}
        for _ in range(rounds):
            clear(connection)
            wall, cpu = deliver(frames, dsn, folder / f"journal-{next(journals)}", batch_rows)
            spent[OURS].append(wall)
            spent["cpu"].append(cpu)
            for way, made in files.items():
                clear(connection)
                spent[way].append(load(dsn, made))
        clear(connection)
    return spent


def _counts(connection: psycopg.Connection) -> Iterator[int]:
    for table in ("sessions", "fingerprints"):
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("analytics", table))
        ).fetchone()
        yield int(row[0]) if row else 0


def _no_network() -> Actor:
    raise AssertionError("the writer asks for no network")


def _nothing() -> None:
    """The writer's chores: none here."""


def report(count: int, spent: dict[str, list[float]]) -> None:
    """Print the table and the bars."""
    rows = []
    for way in (OURS, TEXT, BINARY):
        rate = Spread.of([count / seconds for seconds in spent[way]])
        rows.append([way, f"{rate:,.0f}", f"{Spread.of_ratios(spent[TEXT], spent[way]):.2f}"])
    print_table(f"{count:,} rows, median (minimum to maximum) of the rounds", ["", "rows/s", "text = 1"], rows)
    print()
    for way in (TEXT, BINARY):
        share = Spread.of_ratios(spent[way], spent[OURS])
        print_bar(f"rows/s, part of {way}", share, "≥ 0.4", share.median >= 0.4)
    cpu = Spread.of([seconds / count * 1e6 for seconds in spent["cpu"]])
    print_bar("CPU µs per row in our process", cpu, "≤ 5", cpu.median <= 5, ".1f")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.writer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument(
        "--batch-rows", type=int, default=5_000, help="the option batch_rows; a backlog goes by four times"
    )
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    rounds, count = (1, 600) if options.quick else (options.rounds, options.rows)
    logging.getLogger("asgi_analytics").setLevel(logging.ERROR)  # while the rows are made it reaches no Postgres
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asgi-analytics-")))
        frames = asyncio.run(hits(count, str(folder / "made")))
        dsn = stack.enter_context(database())
        migrate(dsn)
        report(len(frames), measure(dsn, frames, folder, rounds, options.batch_rows))


if __name__ == "__main__":
    main()
