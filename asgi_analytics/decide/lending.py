"""How the units of one counter are lent to workers: the rule behind every SharedQuotas, on values.

What all workers together admit is kept to the limit by lending no unit twice: those used, those lent, and those that
workers may admit unasked add up to the limit. What they may admit unasked (`unasked_at`) falls to nothing in two stages
as a counter is used up; a stage counts for a worker once that worker has said that it knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, inf

from ..protocols import Ask, Grant

LIFE = 5.0  # seconds that a loan, and a worker that says nothing, is believed in
STAGES = 2  # after the second, nothing may be admitted unasked
SCARCE = 8  # a counter with less than this part of its limit free goes on to the next stage
ANNOUNCE = 2.0  # seconds, at least, after which a stage is told again


@dataclass(slots=True)
class Counter:
    """A sliding window of all workers, and what it has lent to whom."""

    window: int = 0  # number of the window of the clock that `count` belongs to
    count: int = 0
    previous: int = 0
    stage: int = 0
    raised: float = 0  # revision under which the stage was first told; infinity: it has yet to be
    revision: float = 0  # under which it was told last
    told_at: float = 0.0
    loans: dict[bytes, tuple[int, float]] = field(default_factory=dict)  # worker → units, end in seconds


def unasked(limit: int, workers: int) -> int:
    """Return the units of a quota that each of `workers` may admit without asking: all of them when it is alone."""
    return limit if workers < 2 else max(1, limit // (2 * workers), min(limit // 8, 8))


def unasked_at(share: int, stage: int) -> int:
    """Return what is left of a worker's unasked share at a stage."""
    return (share, max(1, share // 8), 0)[stage]


def size_of(name: bytes) -> int:
    """Return the seconds of the window that a counter's name ends with."""
    return int.from_bytes(name[16:], "big")


def believed(size: float) -> float:
    """Return the seconds for which a stage is believed in; while the counter is used, it is told again before."""
    return 2 * max(size, ANNOUNCE) + LIFE


def lend(counter: Counter, ask: Ask, worker: bytes, heeded: Mapping[bytes, int], now: float) -> tuple[Grant, bool]:
    """Take in what a worker used and lend; tells too whether the stage is to be announced under a new revision.

    `heeded`: the live workers, and up to which revision each knows of stages. `now`: seconds, by one clock for all.
    """
    _turn(counter, ask.window, now)
    counter.count += ask.used
    counter.loans.pop(worker, None)
    for other, (units, until) in list(counter.loans.items()):
        if until <= now:  # nobody knows how many of them it used: all
            counter.count += units
            del counter.loans[other]
    others = {name: revision for name, revision in heeded.items() if name != worker}
    faded = 1.0 - now / ask.window % 1.0
    left = floor(ask.limit - counter.count - counter.previous * faded)
    lent = sum(units for units, _ in counter.loans.values())
    free = left - lent - _reserved(counter, ask, others) - ask.keep
    extra = max(0, min(ask.wanted - ask.keep, ceil(free / (1 + len(counter.loans)))))
    counter.loans[worker] = (ask.keep + extra, now + LIFE)
    grant = Grant(ask.counter, ask.keep + extra, max(0, left), 0.0 if left > 0 else _wait(counter, ask, faded))
    return grant, _goes_on(counter, ask, free - extra, others, now)


def _turn(counter: Counter, size: float, now: float) -> None:
    window = floor(now / size)
    step = window - counter.window
    if step == 1:
        counter.previous, counter.count = counter.count, 0
    elif step > 1:
        counter.previous = counter.count = counter.stage = 0
    if step > 0:  # a clock that goes back moves nothing
        counter.window = window


def _reserved(counter: Counter, ask: Ask, others: Mapping[bytes, int]) -> int:
    """Return what workers without a loan may admit unasked, at most half the limit: one can have half at once."""
    most = 0
    for worker, revision in others.items():
        if worker not in counter.loans:
            known = counter.stage if revision >= counter.raised else max(0, counter.stage - 1)
            most += unasked_at(ask.share, known)
    return min(ask.limit // 2, most)


def _goes_on(counter: Counter, ask: Ask, free: int, others: Mapping[bytes, int], now: float) -> bool:
    settled = all(revision >= counter.raised for revision in others.values())
    if free < ask.limit // SCARCE + 1 and counter.stage < STAGES and settled and others:
        counter.stage += 1
        counter.raised = inf
    elif not counter.stage or now - counter.told_at < max(ask.window, ANNOUNCE):
        return False
    counter.told_at = now
    return True


def announce(counter: Counter, revision: int) -> None:
    """Have the stage told under a new revision."""
    counter.revision = revision
    counter.raised = min(counter.raised, revision)


def _wait(counter: Counter, ask: Ask, faded: float) -> float:
    """Return the seconds until the window has moved on so far that a unit is free, as decide.window.wait."""
    if counter.count < ask.limit:
        return max(0.0, (faded - (ask.limit - counter.count) / counter.previous) * ask.window)
    return (faded + 1.0 - ask.limit / counter.count) * ask.window
