"""How commands read numbers, spans of time and lists: alike in all of them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

_SPAN = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)", re.ASCII)
_LONGEST = timedelta(weeks=5_200)  # Postgres and datetime end at different times
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return what reads a whole number within bounds; it raises ArgumentTypeError."""

    def number(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return number


def path(text: str) -> Path:
    """Read the name of a file or folder. Raises ArgumentTypeError for an empty one, as of an unset variable."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} names no file or folder")
    return Path(os.path.expanduser(text))  # in --dir=~/x, shells leave it as it is


def span(text: str) -> timedelta:
    """Read a time of at least a second, at most a century, such as "2h". Raises ArgumentTypeError."""
    found = read_span(text)
    if not found or found > _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 2h, 7d or 4w, 5200w at most")
    return found


def read_span(text: str) -> timedelta | None:
    """Return a time such as "30m" or "7d"; None for a text of another kind."""
    match = _SPAN.fullmatch(text.strip().lower())
    return None if match is None else timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def split(given: Iterable[str]) -> list[str]:
    """Return the parts of options that may be given several times, or with commas."""
    return [part.strip() for text in given for part in text.split(",") if part.strip()]
