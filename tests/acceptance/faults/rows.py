"""A recorder and its writer in this process, with rows that count themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asgi_analytics.clock import SystemClock, uuid7
from asgi_analytics.protocols import Store
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.testing import MemoryState
from tests.record.rows import hit_frame


class Works:
    """What stands behind one middleware: `send` is what its requests do."""

    def __init__(
        self, dsn: str, folder: Path, open_store: Callable[[], Store] | None = None, rows: int = 500, **options: Any
    ) -> None:
        self.counters = Counters()
        self.recorder = Recorder(Settings.build(journal_dir=folder, **options), self.counters)
        self.recorder.open()
        self.writer = Writer(
            open_store or (lambda: PostgresStore(lambda: dsn)),
            self.recorder,
            MemoryState(),
            SystemClock(),
            rows=rows,
            age=0.02,
            chores=lambda: None,
        )

    def __enter__(self) -> Works:
        self.writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.stop(5.0)

    def send(self, first: int, count: int) -> range:
        """Record hits /e/<first> and following; return their numbers."""
        for number in range(first, first + count):
            now_ns = time.time_ns()
            self.recorder._append(hit_frame(f"/e/{number}", hit_id=uuid7(now_ns), time_us=now_ns // 1000))
        return range(first, first + count)

    def wait(self, seconds: float = 30.0) -> None:
        """Wait until nothing waits for delivery."""
        deadline = time.monotonic() + seconds
        while self.writer.pending_bytes():
            assert time.monotonic() < deadline, f"{self.writer.pending_bytes()} bytes wait: {self.writer.state.error}"
            time.sleep(0.02)

    def assert_parity(self, requests: int) -> None:
        """Each request is stored, set aside, or dropped for a reason."""
        counters = self.counters
        told = counters.written - counters.adopted + counters.quarantined + counters.dropped.total()
        assert told == requests, counters
