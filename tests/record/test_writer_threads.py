"""The threads of a writer: refused, hanging, failing to the end, or out of memory."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from asgi_analytics.batch import Batch
from asgi_analytics.clock import SystemClock
from asgi_analytics.record import writer as writer_module
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.pace import Backoff
from asgi_analytics.record.recorder import COLUMNS, Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.testing import MemoryState, MemoryStore
from tests.record.rows import hit_frame, one
from tests.waiting import wait_until

from .rig import WAIT, Rig, stored


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (threading.Thread, "start", RuntimeError("can't start new thread")),
        (writer_module, "start_thread", MemoryError()),
    ],
)
def test_where_no_thread_can_be_started_the_journal_keeps_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, place: object, name: str, error: Exception
) -> None:
    rig = Rig(dsn, tmp_path / "j")

    def refuse(_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, name, refuse)
        rig.writer.start()
    rig.send(0, 10)
    assert rig.writer.stop(0.1) is False
    with Rig(dsn, tmp_path / "j") as successor:
        wait_until(lambda: successor.counters.adopted == 10)
    assert stored(dsn) == list(range(10))


def test_a_stop_ends_in_time_where_one_thread_hangs_and_the_other_could_not_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(Settings.build(journal_dir=tmp_path), Counters())
    hanging, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        go_on.wait(WAIT)

    def start(thread: threading.Thread) -> None:
        if "writer" in thread.name:
            raise RuntimeError("can't start new thread")
        thread.start()

    writer = Writer(MemoryStore, recorder, MemoryState(), SystemClock(), rows=50, age=0.02, chores=hang)
    monkeypatch.setattr(writer_module, "start_thread", start)
    writer.start()
    assert hanging.wait(WAIT)
    assert not writer.stop(0.05)
    go_on.set()


def test_a_thread_lives_on_where_there_is_no_memory_even_to_wait(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = threading.Event()

    def failing(*_: object) -> None:
        short.set()
        raise MemoryError

    rig = Rig(dsn, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(rig.writer, "_cycle", failing)
        patch.setattr(Backoff, "next", failing)
        rig.writer.start()
        assert short.wait(WAIT)
    rig.send(0, 3)
    wait_until(rig.delivered)
    assert rig.writer.stop(5.0)
    assert stored(dsn) == [0, 1, 2]


def test_an_unexpected_fault_at_the_end_is_tried_again(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(dsn, tmp_path) as rig:
        journal, stopping = rig.recorder.journal, rig.writer._stopping
        assert journal is not None
        read = journal.read
        faults: list[int] = []

        def failing(segment: int, offset: int, most: int) -> Batch | None:
            if stopping.is_set() and len(faults) < 3:
                faults.append(segment)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(segment, offset, most)

        monkeypatch.setattr(journal, "read", failing)
        rig.writer.request_stop()
        rig.send(0, 20)
    assert (len(faults), one(dsn, "SELECT count(*) AS n FROM analytics.hits")["n"]) == (3, 20)


def test_a_writer_that_fails_to_the_end_leaves_what_it_has_adopted_to_others(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = FileJournal(tmp_path, b"left".ljust(16, b"."), COLUMNS, 1 << 20)
    left.append(hit_frame("/left"))
    left.abandon()
    rig = Rig(dsn, tmp_path)
    tried = threading.Event()

    def failing(*_: object) -> None:
        tried.set()
        raise ValueError("a fault of ours")

    monkeypatch.setattr(rig.writer._delivery, "move", failing)
    rig.writer.start()
    assert tried.wait(WAIT)
    rig.writer.stop(0.2)
    found = {journal.id for journal in adopt(tmp_path)}
    assert left.id in found
