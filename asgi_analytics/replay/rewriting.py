"""Writes the verdicts of another policy into the rows of a period, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ..columns import counted
from ..store.recorded import Judged, Rewriter
from .history import Verdict
from .pipeline import declared_class

BATCH = 5_000  # rows of a transaction


@dataclass(slots=True)
class Rewriting:
    """What was, or would be, rewritten."""

    hits: int = 0  # judged again
    done: int = 0  # of this version already, by a run before
    kept: int = 0  # cannot be judged again
    scores: int = 0
    levels: int = 0
    classes: int = 0
    written: int = 0
    sessions: int = 0
    sessions_left: int = 0  # with hits of other versions

    def judged(self, verdicts: Iterable[Verdict], version: str) -> Iterator[Judged]:
        """Count verdicts and yield the rows that have yet to be written."""
        for verdict in verdicts:
            hit = verdict.hit
            if not verdict.again:
                self.kept += 1
                continue
            self.hits += 1
            bot_class = declared_class(hit.crawler, hit.bot_class)
            self.scores += verdict.score != hit.score
            self.levels += verdict.level != hit.level
            self.classes += bot_class != hit.bot_class
            if hit.policy == version:
                self.done += 1
            else:
                yield Judged(hit.id, hit.time, verdict.score, verdict.level, bot_class)

    def write(self, rows: Iterable[Judged], rewriter: Rewriter) -> None:
        """Write rows in batches, each a transaction of its own."""
        rows = iter(rows)
        while batch := list(islice(rows, BATCH)):
            self.written += rewriter.hits(batch)


def report(rewriting: Rewriting, written: bool) -> Iterator[str]:
    """Yield the lines that tell what was rewritten."""
    one = rewriting
    hits, classes = counted(one.hits, "hit"), counted(one.classes, "class", "classes")
    yield f"Judged      {hits} again, {one.done:,} of them of this version already, {one.kept:,} kept"
    yield f"Differ      {counted(one.scores, 'score')}, {counted(one.levels, 'level')}, {classes}"
    if written:
        have = "has" if one.sessions_left == 1 else "have"
        left = f"; {one.sessions_left:,} left, which {have} hits of other versions" if one.sessions_left else ""
        yield f"Written     {counted(one.written, 'hit')} and {counted(one.sessions, 'session')}{left}"
    else:
        yield "Written     nothing: this was a dry run, --yes writes"
