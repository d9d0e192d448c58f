"""What the demo says of its traffic, when that is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..columns import counted, escape, table
from ..store.reading import ClassSummary


def summary(classes: Sequence[ClassSummary]) -> Iterator[str]:
    """Yield the table that ends the demo's traffic."""
    heading = ("class", "visitors", "sessions", "hits", "refused", "warning", "severe", "blocked")
    counts = [(c.visitors, c.sessions, c.hits, c.refusals, c.warning, c.severe, c.blocked) for c in classes]
    rows = [(escape(one.class_), *numbers) for one, numbers in zip(classes, counts, strict=True)]
    yield from table([heading, *rows, ("all", *map(sum, zip(*counts, strict=True)))] if rows else [heading])


def not_in_summary(answered: int, stored: int, shown: int) -> Iterator[str]:
    """Yield what of the demo's answered requests is not in the table's hits, and why."""
    if stored > shown:
        yield f"{_more(stored - shown, 'hit')} of visitors who asked not to be told apart (Sec-GPC, DNT)."
    if answered > stored:
        counts = "a count" if answered - stored == 1 else "counts"
        yield f"{_more(answered - stored, 'request')} {counts} in analytics.refusals: what is refused past a rate."


def _more(number: int, noun: str) -> str:
    return f"{counted(number, f'more {noun}')} {'is' if number == 1 else 'are'}"
