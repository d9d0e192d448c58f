"""One finding of `asgi-analytics doctor`, and how long it waits for files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...threads import within

FILE_PATIENCE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `advice` is set where something is wrong; `note` marks what only deserves a look."""

    subject: str
    text: str
    advice: str | None = None
    note: bool = False

    @property
    def mark(self) -> str:
        """ok, note or WRONG."""
        return "WRONG" if self.advice else "note" if self.note else "ok"


def patiently(subject: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield checks that read files; if a mount hangs, the last one says so."""
    while True:
        try:
            check = within(FILE_PATIENCE, lambda: next(checks, None))
        except TimeoutError:
            text = f"no answer within {FILE_PATIENCE:g} s from the disk or the mount"
            yield Check(subject, text, "mend the mount, or name files and folders on a local disk")
            return
        if check is None:
            return
        yield check
