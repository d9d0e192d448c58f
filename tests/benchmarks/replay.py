"""Lines per second of `asgi-analytics replay`, one core: `python -m tests.benchmarks.replay [access.log]`.

Without a file, half a million combined lines of 5,000 visitors, in bursts that interleave: of ten requests two are
pages (the second a reload), seven files, and one is an API call or an error. Measured is CPU time of this thread with
the collector off, as the command runs. `identify` is the way to the visitor alone, `decide` admits and judges alone;
`whole` is what the command does, counting included.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import thread_time

from asgi_analytics.decide.failures import Failure
from asgi_analytics.model import Visitor
from asgi_analytics.replay.entry import Batch
from asgi_analytics.replay.page import delivers_page, own_host, read_target, referer_host
from asgi_analytics.replay.pipeline import Pipeline, agents
from asgi_analytics.replay.run import Replay
from asgi_analytics.replay.source import Reading, entries
from asgi_analytics.settings import Settings

from .measure import Spread, print_bar, print_table
from .traffic import AGENTS, SEED, page_path

LINES, VISITORS = 500_000, 5_000
RATE = 50.0  # lines a second of the log
START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


def log_lines(count: int) -> Iterator[str]:
    """Yield lifelike lines: most come in bursts of ten, a page with its files, a call or a missing path."""
    draw = random.Random(SEED)
    visitor, page = 0, "/"
    for number in range(count):
        if number % 10 == 0:
            visitor, page = draw.randrange(VISITORS), page_path(draw.randrange(500))
        other = draw.randrange(VISITORS) if draw.random() < 0.2 else visitor
        target, status = f"/static/{draw.randrange(60):x}.css", 200
        if number % 5 == 0:
            target = page
        elif number % 10 == 9:
            target, status = f"/api/items/{draw.randrange(1000)}", 404 if draw.random() < 0.3 else 200
        moment = datetime.fromtimestamp(START + number / RATE, UTC)
        yield (
            f"198.{18 + other % 2}.{other // 250 % 250}.{other % 250} - - [{moment:%d/%b/%Y:%H:%M:%S} +0000] "
            f'"GET {target} HTTP/1.1" {status} {draw.randrange(90_000)} "https://www.example.com{page}" '
            f'"{AGENTS[other % len(AGENTS)]}"\n'
        )


def parse(path: Path) -> list[Batch]:
    """Read all batches."""
    return list(entries([str(path)], None, Reading()))


def identify(batches: list[Batch]) -> None:
    """Find the visitor of each line."""
    pipeline = Pipeline(Settings.build())
    known: dict[tuple[str, str], Visitor] = {}
    for batch in batches:
        for entry in batch:
            key = entry.address, entry.agent
            visitor = known.get(key)
            if visitor is None or pipeline.meet_again(visitor.identity.fingerprint, entry.time) is None:
                known[key] = pipeline.meet(entry.address, entry.agent, "", entry.time)


def decide(batches: list[Batch]) -> Callable[[], None]:
    """Return the run of the decide stage alone: visitors and facts of each line are found before."""
    pipeline, host = Pipeline(Settings.build()), own_host(batches[0])
    known: dict[tuple[str, str], Visitor] = {}
    facts = []
    for entry in (entry for batch in batches for entry in batch):
        key = entry.address, entry.agent
        visitor = known.get(key) or known.setdefault(key, pipeline.meet(entry.address, entry.agent, "", entry.time))
        target = read_target(entry.target)
        page = delivers_page(entry.status, "", target.page_shaped)
        facts.append((visitor, entry.time, entry.status, page, target.path, referer_host(entry.referer) == host))

    def run() -> None:
        for visitor, now, status, page, path, inner in facts:
            decision = pipeline.admit(visitor, now)
            if decision.refused:
                continue
            if page:
                pipeline.take_page(visitor, decision, path, inner, now)
            elif status >= 400:
                pipeline.take_failure(visitor, decision, Failure(status, "GET", path, inner), now)
            else:
                pipeline.pass_by(visitor, decision)

    return run


def timed(act: Callable[[], object]) -> float:
    """Return the CPU seconds of one run."""
    began = thread_time()
    act()
    return thread_time() - began


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """Return lines per second of each step, one per round."""
    found: dict[str, list[float]] = {step: [] for step in ("parse", "identify", "decide", "whole")}
    batches = parse(path)
    count = sum(len(batch) for batch in batches)
    for _ in range(rounds):
        found["parse"].append(count / timed(lambda: parse(path)))
        found["identify"].append(count / timed(lambda: identify(batches)))
        found["decide"].append(count / timed(decide(batches)))
        whole = Replay(Settings.build())
        found["whole"].append(count / timed(lambda whole=whole: whole.run(entries([str(path)], None, Reading()))))  # type: ignore[misc]
        gc.collect()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.replay", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="an access log of your own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also print where the whole way's time goes")
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    agents()  # compiling its rules is no part of a line
    with tempfile.TemporaryDirectory(prefix="asgi-analytics-") as folder:
        path = options.file or Path(folder) / "access.log"
        if options.file is None:
            path.write_text("".join(log_lines(2_000 if options.quick else LINES)))
        gc.disable()
        try:
            found = measure(path, 1 if options.quick else options.rounds)
            if options.profile:
                _profile(path)
        finally:
            gc.enable()
    rows = [[step, f"{Spread.of(rates):,.0f}", f"{1e6 / Spread.of(rates).median:.2f}"] for step, rates in found.items()]
    print_table("Lines per second and core, median (minimum to maximum)", ["step", "lines/s", "µs a line"], rows)
    whole = Spread.of(found["whole"])
    print_bar("replay, lines per second", whole, "≥ 100,000", whole.median >= 100_000, ",.0f")


def _profile(path: Path) -> None:
    profile = cProfile.Profile()
    profile.runcall(Replay(Settings.build()).run, entries([str(path)], None, Reading()))
    pstats.Stats(profile).sort_stats("tottime").print_stats(16)


if __name__ == "__main__":
    main()
