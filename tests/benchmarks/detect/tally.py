"""What the columns did to each actor, and the sums of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median

from .columns import Verdict
from .traffic import Actor, Kind, Label


@dataclass(slots=True)
class Fate:
    """What one column did to one actor. Places count from 1; infinity: it never came to that."""

    flagged: bool = False
    slowed_at: float = inf
    refused_at: float = inf
    refused: int = 0  # requests
    after: int = 0  # requests after the first refusal
    right_class: bool = False
    signals: set[str] = field(default_factory=set)

    def add(self, place: int, verdict: Verdict, classes: frozenset[str]) -> None:
        """Take in the verdict on the actor's request number `place`."""
        self.after += self.refused_at < inf
        if verdict.flagged:
            self.flagged = True
            self.signals.update(verdict.signals)
        if verdict.slowed and self.slowed_at == inf:
            self.slowed_at = place
        if verdict.refused:
            self.refused += 1
            self.refused_at = min(self.refused_at, place)
        self.right_class = verdict.bot_class in classes


@dataclass(slots=True)
class Record:
    """One actor with its requests and its fates, one per column."""

    kind: Kind
    classes: frozenset[str]
    fates: tuple[Fate, ...]
    requests: int = 0

    @classmethod
    def of(cls, actor: Actor, columns: int) -> Record:
        """Begin."""
        return cls(actor.kind, actor.classes, tuple(Fate() for _ in range(columns)))

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Take in one request."""
        self.requests += 1
        for fate, verdict in zip(self.fates, verdicts, strict=True):
            fate.add(self.requests, verdict, self.classes)


@dataclass(frozen=True, slots=True)
class Line:
    """One kind in one column."""

    actors: int
    requests: int
    flagged: float  # share of the actors
    refused: float  # share of the actors
    slowed_at: float  # median over all actors
    refused_at: float
    afterwards: float | None  # share of requests refused after an actor's first refusal; None: there were none

    @classmethod
    def of(cls, records: Sequence[Record], column: int) -> Line:
        """Sum up."""
        fates = [record.fates[column] for record in records]
        after = sum(fate.after for fate in fates)
        refused_after = sum(max(0, fate.refused - 1) for fate in fates)
        return cls(
            len(records),
            sum(record.requests for record in records),
            sum(fate.flagged for fate in fates) / len(fates),
            sum(fate.refused_at < inf for fate in fates) / len(fates),
            median(fate.slowed_at for fate in fates),
            median(fate.refused_at for fate in fates),
            refused_after / after if after else None,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """All kinds in one column. Shares; None where there is nothing to divide by."""

    precision: float | None  # of the flagged people, good programs and bad ones: the bad ones
    recall: float
    humans_flagged: float
    humans_refused: int
    good_flagged: float
    good_refused: int
    classed_right: float | None
    fast_in_time: float  # of the fast bad ones that send 200 requests: refused before the 200th
    fast_afterwards: float | None

    @classmethod
    def of(cls, records: Sequence[Record], column: int, classes: bool) -> Totals:
        """Sum up; kinds on which opinions differ count for the classes only."""
        by_label = {label: [one for one in records if one.kind.label is label] for label in Label}
        flagged = {label: sum(one.fates[column].flagged for one in found) for label, found in by_label.items()}
        humans, good, bad = (by_label[label] for label in (Label.HUMAN, Label.GOOD, Label.BAD))
        named = [one for one in records if one.classes]
        fast = [one for one in bad if one.kind.fast and one.requests >= 200]
        after = sum(one.fates[column].after for one in fast)
        all_flagged = flagged[Label.HUMAN] + flagged[Label.GOOD] + flagged[Label.BAD]
        return cls(
            precision=flagged[Label.BAD] / all_flagged if all_flagged else None,
            recall=flagged[Label.BAD] / len(bad),
            humans_flagged=flagged[Label.HUMAN] / len(humans),
            humans_refused=_refused(humans, column),
            good_flagged=flagged[Label.GOOD] / len(good),
            good_refused=_refused(good, column),
            classed_right=sum(one.fates[column].right_class for one in named) / len(named)
            if named and classes
            else None,
            fast_in_time=sum(one.fates[column].refused_at < 200 for one in fast) / max(1, len(fast)),
            fast_afterwards=sum(max(0, one.fates[column].refused - 1) for one in fast) / after if after else None,
        )


def _refused(records: Sequence[Record], column: int) -> int:
    return sum(one.fates[column].refused_at < inf for one in records)


def signals_of(records: Sequence[Record], column: int) -> Counter[str]:
    """Return how many of the flagged actors each signal was raised for."""
    return Counter(code for record in records for code in record.fates[column].signals)
