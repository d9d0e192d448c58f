"""What a test owes the table: rounds, and what the client's ledger says was lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import psycopg
import pytest

COUNTS = "SELECT path, count(*) FROM analytics.hits WHERE path LIKE '/e/%' GROUP BY path"


class Account:
    """Collects figures of one test; they travel with its report."""

    def __init__(self, node: pytest.Item) -> None:
        self._figures = {"rounds": 0, "lost": 0, "doubled": 0}
        node.user_properties.append(("fault", self._figures))
        self._node = node

    def round(self, count: int = 1) -> None:
        """Count times that the fault has struck."""
        self._figures["rounds"] += count

    def note(self, lost: int, doubled: int) -> None:
        """Take figures in, and fail where they are not zero."""
        self._figures["lost"] += lost
        self._figures["doubled"] += doubled
        assert (lost, doubled) == (0, 0), f"{lost} lost, {doubled} doubled"

    def latency(
        self, state: str, p50: float, p99: float, ratio: float, lags: Sequence[float], end: float, grown: int
    ) -> None:
        """Take a line of the table "latency under outage" in; all in seconds, `grown` in bytes."""
        late = " / ".join(f"{lag * 1e3:.1f}" for lag in lags)
        times = (f"{p50 * 1e3:.2f} ms", f"{p99 * 1e3:.2f} ms", f"{ratio:.2f}", f"{late} ms", f"{end:.1f} s")
        self._node.user_properties.append(("latency", (state, *times, f"{grown / (1 << 20):.1f} MiB")))

    def settle(self, dsn: str, answered: Iterable[int], patience: float = 60.0) -> None:
        """Wait until all that was answered is stored; what is not by then is lost."""
        wanted = {f"/e/{number}" for number in answered}
        began = asked = time.monotonic()
        while (lost := wanted - (found := _stored(dsn)).keys()) and time.monotonic() < began + patience:
            time.sleep(max(0.1, 2 * (time.monotonic() - asked)))  # to count a million rows takes the server seconds
            asked = time.monotonic()
        self.note(len(lost), sum(found[path] - 1 for path in found))


def _stored(dsn: str) -> dict[str, int]:
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            return dict(connection.execute(COUNTS).fetchall())
    except psycopg.OperationalError:  # still coming up
        return {}
