"""What the benchmarks share: medians of interleaved rounds, tables, a Postgres to write to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from asgi_analytics.embedded import EmbeddedPostgres


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up one value per round."""
        return cls(median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> Spread:
        """Sum up the ratios of two things measured in the same rounds."""
        return cls.of([one / other for one, other in zip(above, below, strict=True)])

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first to the left."""
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    print(f"\n{title}")
    for row in (heads, ["-" * width for width in widths], *rows):
        cells = [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))


def print_bar(name: str, measured: Spread | float, bar: str, met: bool, spec: str = ".2f") -> None:
    """Print a measured figure beside what it should be. Benchmarks tell; they do not fail."""
    print(f"{'ok  ' if met else 'MISS'}  {name}: {measured:{spec}}, bar {bar}")


@contextmanager
def database() -> Iterator[str]:
    """The DSN in ASGI_ANALYTICS_BENCHMARK_DSN, whose schema "analytics" is emptied, else a server of our own.

    Ours is durable as installed: nothing is switched off to look fast.
    """
    if given := os.environ.get("ASGI_ANALYTICS_BENCHMARK_DSN"):
        yield given
        return
    with (
        tempfile.TemporaryDirectory(prefix="asgi-analytics-", ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        yield server.dsn
