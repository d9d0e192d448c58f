"""A bar on a terminal while a log is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TextIO

WIDTH = 40


class Progress:
    """Draws how much of some files is read; draws nothing where `stream` is no terminal."""

    def __init__(self, stream: TextIO, total: int | None, lines: Callable[[], int]) -> None:
        self._stream = stream
        self._total = total  # bytes; None where that cannot be known
        self._lines = lines
        self._read = 0
        self._drawn = ""
        self._draws = stream.isatty()

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        self._read += count
        if self._draws:
            self._draw()

    def close(self) -> None:
        """Wipe the bar away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _draw(self) -> None:
        text = f"{self._read >> 20:,} MiB, {self._lines():,} lines"
        if self._total:
            share = min(1.0, self._read / self._total)
            done = int(share * WIDTH)
            text = f"[{'#' * done}{'.' * (WIDTH - done)}] {share:4.0%}  {text}"
        if text != self._drawn:
            self._stream.write(f"\r{text}\x1b[K")
            self._stream.flush()
            self._drawn = text


def total_size(paths: Sequence[str]) -> int | None:
    """Return the bytes of all files, None where one is no regular file."""
    if not all(os.path.isfile(path) for path in paths):
        return None
    return sum(os.path.getsize(path) for path in paths)
