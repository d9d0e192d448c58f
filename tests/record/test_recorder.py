"""Rows on their way into the journal: what is remembered of them is bounded, and where they go when it takes none."""

from __future__ import annotations

from pathlib import Path

import pytest

from asgi_analytics.batch import HIT
from asgi_analytics.errors import JournalError
from asgi_analytics.record import encoding
from asgi_analytics.record import recorder as module
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.settings import Settings

from .rows import NOW_US, finished, hit_frame, identity


def recorder_in(folder: Path) -> Recorder:
    return Recorder(Settings.build(journal_dir=folder), Counters())


def test_what_is_remembered_of_paths_and_methods_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CACHED", 10)
    recorder = recorder_in(tmp_path / "j")
    for number in range(35):
        hit = finished(identity(), 0, 0, NOW_US * 1000)
        hit.path, hit.method, hit.route, hit.outcome = f"/{number}", f"M{number}", f"/r{number}", "complete"
        recorder.hit(hit)
    assert (len(recorder._plain), len(recorder._texts) <= 10) == (5, True)
    assert recorder.memory.count(HIT) == 35


@pytest.mark.parametrize("status", [200.0, True, [200], b"200", 1 << 80])
def test_a_status_that_is_none_is_not_stored_as_one_that_it_equals(tmp_path: Path, status: object) -> None:
    recorder, encoded = recorder_in(tmp_path / "j"), []
    for sent in (200, 1, status, 200):
        hit = finished(identity(), 0, 0, NOW_US * 1000)
        hit.status = sent
        recorder.hit(hit)
        encoded.append(encoding.judged(hit, hit.decision))
    batch = recorder.memory.read(1, 0, 9)
    assert batch is not None
    assert all(middle in frame.row for frame, middle in zip(batch.frames, encoded, strict=True))


@pytest.mark.parametrize(
    ("trouble", "kept", "dropped", "failures"),
    [
        ("journal_full", 0, {"journal_full": 2}, {}),
        ("disk_full", 1, {"memory_full": 1}, {"disk_full": 2}),
        ("journal_unwritable", 1, {"memory_full": 1}, {"journal_unwritable": 2}),
        ("journal_hangs", 1, {"memory_full": 1}, {"journal_hangs": 2}),
    ],
)
def test_what_the_journal_does_not_take_goes_into_memory_unless_it_is_full(
    trouble: str,
    kept: int,
    dropped: dict[str, int],
    failures: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(journal: FileJournal, data: bytes) -> None:
        raise JournalError(trouble)

    row = hit_frame("/e/1")
    monkeypatch.setattr(module, "MEMORY_LIMIT", len(row))
    monkeypatch.setattr(FileJournal, "append", refuse)
    recorder = recorder_in(tmp_path / "j")
    recorder.open()
    for _ in range(2):
        recorder._append(row)
    counters = recorder.counters
    assert (recorder.memory.count(HIT), counters.dropped, counters.failures) == (kept, dropped, failures)
    assert counters.queued == 2
    assert recorder.journal is not None
    recorder.journal.abandon()
