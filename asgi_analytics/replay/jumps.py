"""Leaps forward in the times of a log: believed if the following lines agree, else the line is junk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from operator import itemgetter

from .entry import Batch, Entry

LEAP = 86_400.0  # seconds beyond the latest time so far
LOOK = 10  # following lines that are compared


class Jumps:
    """Looks through the entries of one file, in order.

    The replay's clock never goes back: one line with a wrong year would make all that follow late.
    """

    def __init__(self) -> None:
        self._latest = float("-inf")
        self._held: Sequence[Entry] = ()  # from a leap on, until enough lines follow

    def sift(self, batch: Batch, at_end: bool = False) -> tuple[Batch, list[str]]:
        """Return the entries that are good so far, and what is told of each line that is not."""
        if not self._held and batch and (highest := max(batch, key=itemgetter(0)).time) <= self._latest + LEAP:
            self._latest = max(self._latest, highest)
            return batch, []
        waiting = [*self._held, *batch]
        self._held = ()
        good: list[Entry] = []
        junk: list[str] = []
        for place, entry in enumerate(waiting):
            if entry.time > self._latest + LEAP:
                following = waiting[place + 1 : place + 1 + LOOK]
                if len(following) < LOOK and not at_end:
                    self._held = waiting[place:]
                    break
                if 2 * sum(1 for one in following if one.time < entry.time - LEAP) > len(following):
                    junk.append(_told(entry))
                    continue
            self._latest = max(self._latest, entry.time)
            good.append(entry)
        return good, junk


def sifted(batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[str]]]:
    """Yield what `Jumps.sift` makes of all batches of a file."""
    jumps = Jumps()
    for batch in batches:
        yield jumps.sift(batch)
    yield jumps.sift((), at_end=True)


def _told(entry: Entry) -> str:
    return (
        f"{entry.address} … [{datetime.fromtimestamp(entry.time, UTC):%Y-%m-%d %H:%M:%S}] … is later than what follows"
    )
