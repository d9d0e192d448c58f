"""A journal, or a writer at work, for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_analytics.record import journal as module
from asgi_analytics.record.journal import FileJournal

from .journals import COLUMNS, NAME
from .rig import Rig


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FileJournal]:
    journal = FileJournal(tmp_path, NAME, COLUMNS, 1 << 30)
    yield journal
    journal.abandon()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_SIZE", 400)


@pytest.fixture
def rig(dsn: str, tmp_path: Path) -> Iterator[Rig]:
    with Rig(dsn, tmp_path / "j") as rig:
        yield rig
