"""Labelled traffic: kinds of actors, and the requests that an actor sends."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

Headers = tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """One request. `at` in seconds since the traffic's start; `conditional`: it has If-None-Match and that matches."""

    at: float
    address: str
    method: str
    path: str
    query: bytes
    headers: Headers
    conditional: bool = False
    valid: bool = False  # the credentials that it brings are right


class Label(Enum):
    """What a site owner wants of an actor: the ground truth."""

    HUMAN = "human"  # never to be refused, hardly ever to be flagged
    GOOD = "good"  # programs that behave: as people
    EITHER = "either"  # opinions differ; shown, and left out of precision and recall
    BAD = "bad"  # to be found


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table."""

    name: str
    label: Label
    fast: bool = False  # bad ones that must be blocked before their 200th request


@dataclass(slots=True)
class Actor:
    """Somebody with a label. `visit` makes all its requests from a dice of its own; it is called once, when due."""

    kind: Kind
    starts_at: float
    visit: Callable[[random.Random], Iterable[Request]]
    seed: str = ""
    classes: frozenset[str] = frozenset()  # of a declared crawler: the classes that are right for it

    def requests(self, until: float) -> list[Request]:
        """Return its requests up to `until`, in order of time."""
        found = [request for request in self.visit(random.Random(self.seed)) if request.at <= until]
        return sorted(found, key=lambda request: request.at)


def merged(actors: list[Actor], until: float) -> Iterator[tuple[Actor, Request]]:
    """Yield the requests of all actors in order of time. An actor's requests are made when the first is due."""
    waiting: list[tuple[float, int, Iterator[Request] | None, Request | None]]
    waiting = [(actor.starts_at, number, None, None) for number, actor in enumerate(actors)]
    heapq.heapify(waiting)
    while waiting:
        at, number, rest, request = heapq.heappop(waiting)
        actor = actors[number]
        if request is not None:
            yield actor, request
        elif rest is None:
            rest = iter(actor.requests(until))
        following = next(rest, None) if rest is not None else None
        if following is not None:
            heapq.heappush(waiting, (max(at, following.at), number, rest, following))
