"""What the writer clears away, and what does not wait for that."""

from __future__ import annotations

from pathlib import Path

from asgi_analytics.batch import Batch
from asgi_analytics.clock import SystemClock
from asgi_analytics.errors import StoreUnavailable
from asgi_analytics.model import Merged
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.testing import FakeClock, MemoryState, MemoryStore
from tests.record.rows import hit_frame
from tests.waiting import wait_until


class Untidy(MemoryStore):
    """A store that cannot clear anything away."""

    def tidy(self) -> bool:
        raise StoreUnavailable("lock not available")


def test_what_cannot_be_cleared_away_holds_up_nothing(tmp_path: Path) -> None:
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j", durability="memory"), Counters())
    writer = Writer(Untidy, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    recorder._append(hit_frame())
    assert writer._cycle().frames == 1
    assert (recorder.counters.written, recorder.counters.failures) == (1, {"tidy": 1})


class Hopeless(MemoryStore):
    """A store whose server is killed by whoever clears away what is old."""

    tidied = 0

    def tidy(self) -> bool:
        self.tidied += 1
        self.close()
        raise StoreUnavailable("server closed the connection unexpectedly")


def test_clearing_away_that_costs_the_connection_holds_up_nothing_and_waits_for_its_next_turn(tmp_path: Path) -> None:
    store = Hopeless()
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    recorder.open()
    writer = Writer(lambda: store, recorder, MemoryState(), SystemClock(), rows=10, age=0.01, chores=lambda: None)
    recorder._append(hit_frame("/e/0"))
    writer.start()
    wait_until(lambda: store.tidied == 1)
    for number in range(1, 25):
        recorder._append(hit_frame(f"/e/{number}"))
    wait_until(lambda: len(store.frames) == 25)
    assert writer.stop(5.0)
    assert store.tidied == 1


class Cluttered(MemoryStore):
    """A store in which more is old than one call clears away."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def write(self, batch: Batch) -> list[Merged]:
        self.calls.append("write")
        return super().write(batch)

    def tidy(self) -> bool:
        self.calls.append("tidy")
        return self.calls.count("tidy") < 3


def test_what_is_old_is_cleared_away_in_parts_between_transfers(tmp_path: Path) -> None:
    store = Cluttered()
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j", durability="memory"), Counters())
    writer = Writer(lambda: store, recorder, MemoryState(), FakeClock(), rows=10, age=1.0, chores=lambda: None)
    for _ in range(5):
        recorder._append(hit_frame())
        writer._cycle()
    assert store.calls == ["write", "tidy"] * 3 + ["write"] * 2


def test_who_stops_clears_nothing_away(tmp_path: Path) -> None:
    """It may take longer than there is time."""
    store = Hopeless()
    recorder = Recorder(Settings.build(journal_dir=tmp_path / "j"), Counters())
    recorder.open()
    writer = Writer(lambda: store, recorder, MemoryState(), SystemClock(), rows=10, age=0.01, chores=lambda: None)
    recorder._append(hit_frame("/e/1"))
    writer.request_stop()
    writer.start()
    assert writer.stop(5.0)
    assert (len(store.frames), store.tidied) == (1, 0)
