"""What a replay counts: per actor, per class, per level and per route, bounded in number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from math import inf

from ..facts import LEVEL_LABELS
from ..model import Agent, Decision

MAX_ACTORS = 200_000  # counted one by one; then half of them become sums, harmless ones and the longest unseen first
MAX_ROUTES = 10_000  # counted one by one
MAX_LATE = 0.01  # of all lines; so many are late where servers write a line when they have answered
OTHER_ROUTES = "(other routes)"
HUMAN, SILENT = "human", "no page loads"
BEHAVIOURAL, UNKNOWN = "behavioural bot", "unknown program"


@dataclass(slots=True, eq=False)
class Actor:
    """One visitor in numbers."""

    name: str  # the client's address, as the log has it
    agent_text: str
    agent: Agent
    fingerprint: bytes
    first: float  # seconds since 1970
    last: float = 0.0
    sessions: int = 0
    began: float = -inf  # the session that was counted last
    requests: int = 0
    pages: int = 0
    errors: int = 0
    refused: int = 0
    score: int = 0  # the highest
    level: int = 0
    first_refused: int = 0  # which of its requests; 0: none
    violated: Counter[str] = field(default_factory=Counter)
    reasons: tuple[str, ...] = ()  # of the last refusal, else of the last rise of its level

    @property
    def is_stopped(self) -> bool:
        """Tell whether it was refused, or slowed down at least."""
        return bool(self.refused or self.level)

    def refuse(self, decision: Decision) -> None:
        """Count a refusal of the request that was counted last."""
        self.refused += 1
        self.violated.update(decision.violated)
        self.reasons = decision.reasons
        if not self.first_refused:
            self.first_refused = self.requests

    def judged(self, decision: Decision) -> None:
        """Take in what became of the score and, when that changed, why the level did."""
        if decision.score > self.score:
            self.score = decision.score
        if decision.reasons:
            self.reasons = decision.reasons

    def bot_class(self, bot_score: int) -> str:
        """Return the declared class, else what its behaviour makes of it."""
        if self.agent.bot_class:
            return self.agent.bot_class
        if self.score >= bot_score:
            return BEHAVIOURAL
        if self.agent.browser is None:
            return UNKNOWN
        return HUMAN if self.pages else SILENT


@dataclass(slots=True)
class Sum:
    """Actors of one class, in numbers."""

    actors: int = 0
    sessions: int = 0
    requests: int = 0
    pages: int = 0
    refused: int = 0  # requests
    refused_actors: int = 0
    stopped_actors: int = 0  # refused or slowed down
    levels: list[int] = field(default_factory=lambda: [0] * len(LEVEL_LABELS))  # actors by their highest level

    def add(self, actor: Actor) -> None:
        """Count one actor."""
        self.actors += 1
        self.refused_actors += bool(actor.refused)
        self.stopped_actors += actor.is_stopped
        self.levels[actor.level] += 1
        self.sessions += actor.sessions
        self.requests += actor.requests
        self.pages += actor.pages
        self.refused += actor.refused


@dataclass(slots=True, eq=False)
class Route:
    """One route in numbers."""

    name: str
    requests: int = 0
    pages: int = 0
    errors: int = 0
    refused: int = 0


@dataclass(slots=True)
class Tally:
    """All of one replay."""

    bot_score: int = 50
    first: float | None = None  # seconds since 1970, of the first and the last line judged
    last: float = 0.0
    outside: int = 0  # not in the period that was asked for
    malformed: int = 0  # no HTTP requests
    late: int = 0  # lines more than a minute behind one before
    actors: dict[bytes, Actor] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    settled: dict[str, Sum] = field(default_factory=dict)  # classes of actors no longer counted one by one
    requests_by_level: list[int] = field(default_factory=lambda: [0] * len(LEVEL_LABELS))

    @property
    def judged(self) -> int:
        """Lines that went the whole way."""
        return sum(self.requests_by_level)

    @property
    def is_out_of_order(self) -> bool:
        """Tell whether so many lines are late that verdicts are not to be trusted."""
        return self.late > MAX_LATE * self.judged

    def route(self, name: str) -> Route:
        """Return the counts of a route, of the others together when there are too many."""
        name = counted_as(name, self.routes)
        return self.routes.setdefault(name, Route(name))

    def make_room(self) -> bool:
        """Settle half of the actors when there are too many; returns whether some were."""
        if len(self.actors) < MAX_ACTORS:
            return False
        found = self.actors
        # In a flood all are refused: if those were kept, each further actor would sort them all in vain.
        for key in sorted(found, key=lambda key: (found[key].is_stopped, found[key].refused, found[key].last)):
            if len(found) <= MAX_ACTORS // 2:
                break
            actor = found.pop(key)
            self.settled.setdefault(actor.bot_class(self.bot_score), Sum()).add(actor)
        return True

    def classes(self) -> dict[str, Sum]:
        """Return the sums of each class, most requests first. An actor that was settled and came back counts twice."""
        sums = {name: replace(one, levels=list(one.levels)) for name, one in self.settled.items()}
        for actor in self.actors.values():
            sums.setdefault(actor.bot_class(self.bot_score), Sum()).add(actor)
        return dict(sorted(sums.items(), key=lambda item: (-item[1].requests, item[0])))

    def levels(self) -> list[tuple[str, int, int]]:
        """Return (level, actors whose highest it was, requests judged at it)."""
        sums = self.classes().values()
        return [(label, sum(one.levels[place] for one in sums), self.requests_by_level[place])
                for place, label in enumerate(LEVEL_LABELS)]  # fmt: skip

    def refused(self) -> list[Actor]:
        """Return the actors that were refused or slowed down, the most refused first."""
        found = [actor for actor in self.actors.values() if actor.is_stopped]
        return sorted(found, key=lambda actor: (-actor.refused, -actor.level, -actor.requests, actor.name))

    def busiest(self) -> list[Actor]:
        """Return the actors by their number of requests."""
        return sorted(self.actors.values(), key=lambda actor: (-actor.requests, actor.name, actor.agent_text))


def counted_as(name: str, routes: Collection[str]) -> str:
    """Return under which name a route is counted: with the others together when there are too many."""
    return name if name in routes or len(routes) < MAX_ROUTES else OTHER_ROUTES


def busiest_routes(routes: Iterable[Route]) -> list[Route]:
    """Return routes by refused, then by all requests."""
    return sorted(routes, key=lambda route: (-route.refused, -route.requests, route.name))
