"""A bar on a terminal while a log is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from ..columns import bar, terminal_columns


class Progress:
    """Draws how much of a work is done; draws nothing where `stream` is no terminal.

    Counts bytes, shown as MiB, or with `unit=1` rows; `total` is None where it cannot be known.
    """

    def __init__(self, stream: TextIO, total: int | None, unit: int = 1 << 20) -> None:
        self._stream = stream
        self._total = total
        self._unit, self._name = unit, "MiB" if unit > 1 else "hits"
        self._read = 0
        self._drawn = ""
        self._draws = terminal_columns(stream) > 0

    def add(self, count: int) -> None:
        """Count what was done."""
        self._read += count
        if self._draws:
            self._draw()

    def close(self) -> None:
        """Wipe the bar away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _draw(self) -> None:
        room = terminal_columns(self._stream) - 1  # in the last one, some terminals begin another line
        text = f"{self._read // self._unit:,} {self._name}"
        if self._total:
            share = min(1.0, self._read / self._total)
            text = f"{share:4.0%}  {text}"
            text = f"{bar(share, room - len(text) - 1)} {text}".strip()
        text = text[:room]
        if text != self._drawn:
            self._stream.write(f"\r{text}\x1b[K")
            self._stream.flush()
            self._drawn = text


def total_size(paths: Sequence[str]) -> int | None:
    """Return the bytes of all files, None where one is no regular file."""
    if not all(os.path.isfile(path) for path in paths):
        return None
    return sum(os.path.getsize(path) for path in paths)
