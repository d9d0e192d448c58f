"""Coverage-guided fuzzing of every parser: `python -m tests.fuzz --seconds 1800 [--target NAME …]`.

Needs the extra `fuzz`. An input that does harm becomes a seed, so that the test suite has it from then on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.corpus import FOLDER, add, seeds
from tests.fuzz.targets import LONGEST, TARGETS, Target, slowness, stretched

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds that a process may take beyond its time: start, seeds, a last input
LINE = "{:<18} {:>12} {:>9} {:>12}  {}"


@dataclass(frozen=True)
class Outcome:
    """What became of one target."""

    name: str
    runs: int
    seconds: float
    slowest_ms: float  # of an input of at most 8 KB, without instruments
    harm: Sequence[str]  # what is wrong, nothing where all is well

    @property
    def line(self) -> str:
        """Its line in the table."""
        rate = f"{self.runs / self.seconds:,.0f}" if self.seconds else "-"
        return LINE.format(self.name, f"{self.runs:,}", rate, f"{self.slowest_ms:.2f}", "; ".join(self.harm) or "ok")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print the table, return 1 where an input did harm."""
    options = _options(arguments)
    names = options.target or list(TARGETS)
    print(LINE.format("target", "runs", "runs/s", "slowest ms", "verdict"), flush=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.processes) as pool:
        folder = options.keep or Path(scratch)
        waiting = [pool.submit(fuzz, TARGETS[name], options.seconds, folder / name) for name in names]
        outcomes = []
        for done in as_completed(waiting):
            outcomes.append(done.result())
            print(outcomes[-1].line, flush=True)
    bad = sum(bool(outcome.harm) for outcome in outcomes)
    print(f"{len(outcomes)} targets, {sum(outcome.runs for outcome in outcomes):,} runs, {bad} with harm")
    return 1 if bad else 0


def fuzz(target: Target, seconds: int, folder: Path) -> Outcome:
    """Run one target in a process of its own and judge what it left."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, str(seconds), str(folder)]
    text, ended = _run(command, folder / "log", seconds + PATIENCE)
    found = sorted((folder / "harm").glob("*"))
    harm = [f"{path.name.partition('-')[0]}: {_reason(text)}" for path in found]
    if ended and not harm:
        harm = [f"{ended}: {_reason(text)}, see {folder / 'log'}"]
    harmful = [path.read_bytes() for path in found]
    slowest, cost = slowest_of(target, (path.read_bytes() for path in (folder / "slow").glob("*")))
    if cost > target.most_ms * slowness():
        harm.append("too slow")
        harmful.append(slowest)
    if new := add(target.name, harmful):
        harm.append(f"{new} new in {(FOLDER / target.name).relative_to(ROOT)}.txt")
    return Outcome(target.name, _number(text, "number_of_executed_units"), seconds, cost, harm)


def _run(command: Sequence[str], log: Path, most: int) -> tuple[str, str]:
    """Run for at most so many seconds; return what it printed, and how it ended, "" for well."""
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process:
        try:
            status = process.wait(most)
            ended = f"ended with {status}" if status else ""
        except subprocess.TimeoutExpired:
            process.kill()
            ended = f"did not end in {most} s"
    return log.read_text("utf-8", "replace"), ended


def slowest_of(target: Target, inputs: Iterator[bytes]) -> tuple[bytes, float]:
    """Return the slowest of inputs, seeds and both repeated up to 8 KB, and its CPU in ms."""
    worst, most = b"", 0.0
    for data in (*inputs, *seeds(target.name)):
        for tried in (data[:LONGEST], stretched(data)):
            try:
                cost = target.cost_ms(tried)
            except Exception:  # noqa: BLE001 - harm of its own, already told
                continue
            if cost > most:
                worst, most = tried, cost
    return worst, most


def _reason(text: str) -> str:
    """The exception's line in a log of atheris, else libFuzzer's."""
    for pattern in (r"^ *===? Uncaught Python exception: ===?\n(.*)$", r"^==\d+== ERROR: libFuzzer: (.*)$"):
        if match := re.search(pattern, text, re.MULTILINE):
            return match[1][:120]
    return text.strip().rpartition("\n")[2][:120]


def _number(text: str, name: str) -> int:
    match = re.search(rf"stat::{name}: *(\d+)", text)
    return int(match[1]) if match else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="Fuzz the parsers, guided by coverage.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once (one per core)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where corpora and logs stay, and go on from")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
