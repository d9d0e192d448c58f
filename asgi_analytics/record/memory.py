"""A journal in memory, for where no file can be written."""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice

from ..batch import HIT, REFUSED, Batch, Frame, Frames
from ..errors import JournalClosed, JournalError
from .frames import FRAME, Columns, split


class MemoryJournal:
    """Bounded, and lost with the process. Positions and batches are as a FileJournal's."""

    def __init__(self, journal: bytes, columns: Columns, limit: int) -> None:
        self.id = journal
        self.columns = columns
        self.segment = 1
        self._limit = limit
        self._frames: deque[Frame] = deque()
        self._lock = threading.RLock()
        self._end = 0
        self.is_closed = False
        self.size = 0

    def append(self, data: bytes) -> None:
        """Append frames, all or none. Raises JournalError when full: the newest are dropped, not the oldest.

        Raises JournalClosed after `close`.
        """
        with self._lock:
            if self.is_closed:
                raise JournalClosed
            if self.size + len(data) > self._limit:
                raise JournalError("memory_full")
            frames, end = list[Frame](), self._end
            for record in split(data):
                start, end = end, end + FRAME.size + len(record)
                frames.append(Frame(record[:1], record[1:], start, end))
            self._end, self.size = end, self.size + len(data)
            self._frames.extend(frames)  # last: a signal handler may raise when it is done, but not before

    def holds(self, data: bytes) -> bool:
        """Tell whether frames wait here."""
        row = next(split(data))[1:]
        with self._lock:
            return any(frame.row == row for frame in self._frames)

    def read(self, segment: int, offset: int, most: int) -> Batch | None:
        """Return up to `most` frames after an offset, or None."""
        with self._lock:
            frames = list(islice((kept for kept in self._frames if kept.end > offset), most))
        return Batch(self.id, 1, self.columns, Frames(frames), frames[-1].end) if frames else None

    def close(self) -> int:
        """Take no more frames; return how many hits wait, those that are only counted among them."""
        with self._lock:
            self.is_closed = True
            return self.count(HIT) + self.count(REFUSED)

    def count(self, kind: bytes) -> int:
        """Return how many frames of a kind wait."""
        with self._lock:
            return sum(frame.kind == kind for frame in self._frames)

    def acknowledge_to(self, offset: int) -> None:
        """Drop the frames up to an offset, which are delivered."""
        with self._lock:
            while self._frames and self._frames[0].end <= offset:
                gone = self._frames.popleft()
                self.size -= gone.end - gone.start

    def end(self) -> tuple[int, int]:
        """Return (segment, offset) after the last frame."""
        with self._lock:
            return 1, self._end
