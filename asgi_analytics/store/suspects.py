"""Finds the one row of a batch that something in the database, such as a trigger, is too slow for."""

from __future__ import annotations

from collections.abc import Callable


def slow_row(count: int, gets_in: Callable[[int, int], bool]) -> int | None:
    """Return the index of the one of `count` rows that keeps the rest from getting in, by bisection; None if not one.

    `gets_in` tries the rows of a half-open range. If the server is slow for all of them, two tries show it.
    """
    first, last = 0, count
    while last - first > 1:
        middle = (first + last) // 2
        if gets_in(first, middle):
            first = middle
        elif gets_in(middle, last):
            last = middle
        else:
            return None
    return None if gets_in(first, last) else first
