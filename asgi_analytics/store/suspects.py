"""Which row of a batch is at fault, where one is that something in the database takes for ever for."""

from __future__ import annotations

from collections.abc import Callable


def slow_row(count: int, gets_in: Callable[[int, int], bool]) -> int | None:
    """Return the place of the only one of `count` rows that keeps them from getting in; None where it is not one alone.

    `gets_in` tries the rows from a place up to another. Where the server is slow for all of them, two tries tell it.
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
