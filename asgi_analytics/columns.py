"""Texts in columns for terminals and files; what a visitor sent is escaped for both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import TextIO

BAR = 40  # columns at most
MIN_BAR = 10  # columns: what is shorter tells nothing
# What spreadsheets take for the beginning of a formula (OWASP), some also as wide as Chinese characters are.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def escape(text: str) -> str:
    """Return text that cannot move the cursor, change colours or fake a line, whatever a visitor sent."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def one_line(text: object) -> str:
    """Return a text, such as an error, with one blank in place of each run of whitespace, line breaks among it."""
    return " ".join(str(text).split())


def table(rows: Iterable[Sequence[object]], indent: str = "  ") -> list[str]:
    """Return rows as aligned lines: numbers to the right, all else to the left."""
    texts = [[(str(cell), isinstance(cell, int | float)) for cell in row] for row in rows]
    widths = [max(len(text) for text, _ in column) for column in zip(*texts, strict=True)]
    return [
        (indent + "  ".join(_aligned(text, right, width) for (text, right), width in zip(row, widths, strict=True)))
        .rstrip()
        for row in texts
    ]  # fmt: skip


def cut(text: str, most: int) -> str:
    """Return at most `most` characters of a text; an ellipsis tells that there were more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def terminal_columns(stream: TextIO) -> int:
    """Return the width of a terminal on which a line can be redrawn; 0 for any other stream."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return 0
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def bar(share: float, columns: int) -> str:
    """Return a bar that fits into so many columns, "" where it would be too short."""
    width = min(BAR, columns - 2)
    done = int(share * width)
    return f"[{'#' * done}{'.' * (width - done)}]" if width >= MIN_BAR else ""


def cell(value: object) -> str:
    """Return a value as a cell of a CSV file: one line, and never a formula."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = escape(value)
    return f"'{text}" if value.startswith(FORMULA) else text


def _aligned(text: str, right: bool, width: int) -> str:
    return text.rjust(width) if right else text.ljust(width)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 row", "2,000 rows"; `plural` where it is not formed by an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float, whole: Callable[[float], int] = ceil) -> str:
    """Return "12 s", "10 min", "3 h", "2 days": rounded up, so that a wait is enough; an age takes `floor`."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{whole(seconds / size)} {unit}"
    return f"{whole(max(0.0, seconds))} s"
