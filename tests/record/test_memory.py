from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest

from asgi_analytics.batch import DECISION, HIT, REFUSED
from asgi_analytics.errors import JournalError
from asgi_analytics.record.frames import frame
from asgi_analytics.record.memory import MemoryJournal

from .journals import COLUMNS, NAME, row, rows


def test_memory_keeps_frames_until_they_are_delivered() -> None:
    memory = MemoryJournal(NAME, COLUMNS, 1 << 20)
    for number in range(5):
        memory.append(frame(HIT, row(number)) + frame(DECISION, b"\0\x01"))
    batch = memory.read(1, 0, 6)
    assert batch is not None
    assert rows(list(batch.frames)) == [0, 1, 2]
    memory.acknowledge_to(batch.end)
    rest = memory.read(1, batch.end, 100)
    assert rest is not None
    assert rows(list(rest.frames)) == [3, 4]
    memory.acknowledge_to(rest.end)
    assert (memory.size, memory.read(1, rest.end, 9)) == (0, None)


def test_what_waits_is_read_though_as_much_before_it_is_delivered() -> None:
    """As where the connection broke between the two halves of a transfer, and the next one is half as large."""
    memory = MemoryJournal(NAME, COLUMNS, 1 << 20)
    for number in range(4):
        memory.append(frame(HIT, row(number)))
    half = memory.read(1, 0, 2)
    assert half is not None
    rest = memory.read(1, half.end, 2)
    assert rest is not None
    assert rows(list(rest.frames)) == [2, 3]


def test_full_memory_refuses_the_newest() -> None:
    memory = MemoryJournal(NAME, COLUMNS, 100)
    memory.append(frame(HIT, row(1, 50)))
    with pytest.raises(JournalError, match="memory_full"):
        memory.append(frame(HIT, row(2, 50)))
    batch = memory.read(1, 0, 9)
    assert batch is not None
    assert rows(list(batch.frames)) == [1]


def test_hits_and_refusals_that_are_only_counted_are_lost_with_it() -> None:
    memory = MemoryJournal(NAME, COLUMNS, 1 << 20)
    memory.append(frame(HIT, row(1)) + frame(DECISION, b"\0\x01"))
    memory.append(frame(REFUSED, b"\0\x01"))
    assert memory.close() == 2


class Interrupted(deque[Any]):
    """What a signal handler that raises leaves behind: the frames are in."""

    def extend(self, frames: Iterable[Any]) -> None:
        super().extend(frames)
        raise TimeoutError


def test_a_signal_handler_that_raises_leaves_no_two_rows_in_one_place() -> None:
    """The first would be sent again with all that follow."""
    memory = MemoryJournal(NAME, COLUMNS, 1 << 20)
    memory._frames = Interrupted()
    with pytest.raises(TimeoutError):
        memory.append(frame(HIT, row(1, 50)))
    memory._frames = deque(memory._frames)
    memory.append(frame(HIT, row(2, 20)))
    batch = memory.read(1, 0, 9)
    assert batch is not None
    assert rows(list(batch.frames)) == [1, 2]
    memory.acknowledge_to(batch.end)
    assert (memory.size, memory.read(1, batch.end, 9)) == (0, None)
