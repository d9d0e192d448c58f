"""What another policy would have changed: counted per actor and per route, and told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from ..columns import counted, cut, escape, table
from ..facts import LEVEL_LABELS
from ..model import TOOL_CLASSES
from .history import Verdict
from .page import read_target
from .tally import BEHAVIOURAL, HUMAN, OTHER_ROUTES, SILENT, UNKNOWN, counted_as

MAX_ACTORS = 500_000  # then half of them are forgotten, those that neither policy refused first
MAX_PATHS = 100_000  # whose route is remembered
PEOPLE, VERIFIED, DECLARED = "likely humans", "verified crawlers", "other declared crawlers"
TOOLS, BOTS, NO_PAGES = "tools", "behavioural bots", "without page loads"
KINDS = (PEOPLE, VERIFIED, DECLARED, TOOLS, BOTS, NO_PAGES)
_ONE = {kind: kind.removesuffix("s") for kind in KINDS if kind != NO_PAGES}


@dataclass(slots=True, eq=False)
class Actor:
    """One visitor (a fingerprint, which rotates daily) as it was recorded, and what would have become of it."""

    fingerprint: UUID
    bot_class: str | None = None
    browser: str | None = None
    crawler: str | None = None
    verified: bool = False
    requests: int = 0
    pages: int = 0
    score: int = 0  # the highest recorded
    then: int = 0  # requests refused
    now: int = 0
    level_then: int = 0
    level_now: int = 0
    reasons: tuple[str, ...] = ()

    def kind(self, bot_score: int) -> str:
        """Return one of KINDS, by what was recorded: the definition of the view human_sessions."""
        if self.bot_class:
            return VERIFIED if self.verified else TOOLS if self.bot_class in TOOL_CLASSES else DECLARED
        if self.score >= bot_score or self.level_then >= 3:
            return BOTS
        if self.browser is None:
            return TOOLS
        return PEOPLE if self.pages else NO_PAGES

    def label(self, bot_score: int) -> str:
        """Return the class in the words of `replay`."""
        kind = self.kind(bot_score)
        return self.bot_class or {PEOPLE: HUMAN, BOTS: BEHAVIOURAL, TOOLS: UNKNOWN}.get(kind, SILENT)


@dataclass(slots=True, eq=False)
class Route:
    """One route: requests, and those refused under one policy only."""

    requests: int = 0
    newly: int = 0
    freed: int = 0


@dataclass(slots=True)
class Difference:
    """The difference between what happened and what another policy would have decided."""

    bot_score: int = 50  # of what happened
    hits: int = 0
    kept: int = 0  # cannot be judged again
    without_clock: int = 0
    then: int = 0  # requests refused
    now: int = 0
    newly: int = 0
    freed: int = 0
    scores: int = 0  # hits with another score
    levels: int = 0
    policies: Counter[str] = field(default_factory=Counter)  # that the hits were judged by
    actors: dict[UUID, Actor] = field(default_factory=dict)
    forgotten: int = 0  # actors that were refused least
    routes: dict[str, Route] = field(default_factory=dict)
    paths: dict[str, Route] = field(default_factory=dict)  # of hits without a route, as refused ones are
    _route_of: dict[str, str] = field(default_factory=dict)  # path → the route that served it

    def take(self, verdict: Verdict) -> None:
        """Count one verdict."""
        hit, refused = verdict.hit, verdict.refused
        self.hits += 1
        self.policies[hit.policy or "not recorded"] += 1
        self.kept += not verdict.again
        self.without_clock += hit.clock is None
        self.then += hit.refused
        self.now += refused
        self.scores += verdict.score != hit.score
        self.levels += verdict.level != hit.level
        newly, freed = refused and not hit.refused, hit.refused and not refused
        self.newly += newly
        self.freed += freed
        if hit.route and len(self._route_of) < MAX_PATHS:
            self._route_of[hit.path] = hit.route
        route = _route(self.routes, hit.route) if hit.route else _route(self.paths, hit.path)
        route.requests += 1
        route.newly += newly
        route.freed += freed
        if hit.fingerprint is not None:
            self._count(self._actor(hit.fingerprint), verdict)

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing differs: no refusal, no level, no score."""
        return not (self.newly or self.freed or self.scores or self.levels)

    def by_route(self) -> dict[str, Route]:
        """Return the counts by route: the app's, where a hit on the same path told it, else the path's shape."""
        found = {name: replace(route) for name, route in self.routes.items()}
        for path, counts in self.paths.items():
            known = self._route_of.get(path)
            route = _route(found, known or (path if path == OTHER_ROUTES else read_target(path).route))
            route.requests += counts.requests
            route.newly += counts.newly
            route.freed += counts.freed
        return found

    def newly_refused(self) -> list[Actor]:
        """Return the actors that were never refused and would have been, most refusals first."""
        found = [actor for actor in self.actors.values() if actor.now and not actor.then]
        return sorted(found, key=lambda actor: (-actor.now, actor.fingerprint))

    def freed_actors(self) -> list[Actor]:
        """Return the actors that were refused and would never have been, most refusals first."""
        found = [actor for actor in self.actors.values() if actor.then and not actor.now]
        return sorted(found, key=lambda actor: (-actor.then, actor.fingerprint))

    def kinds(self, actors: Sequence[Actor]) -> dict[str, int]:
        """Count actors by kind."""
        counts = Counter(actor.kind(self.bot_score) for actor in actors)
        return {kind: counts[kind] for kind in KINDS}

    def _count(self, actor: Actor, verdict: Verdict) -> None:
        hit = verdict.hit
        actor.requests += 1
        actor.pages += hit.page_view
        actor.bot_class, actor.browser, actor.crawler = hit.bot_class, hit.browser, hit.crawler
        actor.verified = actor.verified or hit.verified
        actor.score, actor.level_then = max(actor.score, hit.score), max(actor.level_then, hit.level)
        actor.level_now = max(actor.level_now, verdict.level)
        actor.then += hit.refused
        actor.now += verdict.refused
        if verdict.refused:
            actor.reasons = verdict.reasons

    def _actor(self, fingerprint: UUID) -> Actor:
        actor = self.actors.get(fingerprint)
        if actor is None:
            if len(self.actors) >= MAX_ACTORS:
                self._forget()
            actor = self.actors[fingerprint] = Actor(fingerprint)
        return actor

    def _forget(self) -> None:
        found = sorted(self.actors.values(), key=lambda actor: actor.then + actor.now)
        # In a flood all are refused: if those were kept, each further actor would sort them all in vain.
        for actor in found[: len(found) - MAX_ACTORS // 2]:
            del self.actors[actor.fingerprint]
            self.forgotten += bool(actor.then or actor.now)


def _route(routes: dict[str, Route], name: str) -> Route:
    return routes.setdefault(counted_as(name, routes), Route())


def report(difference: Difference, top: int) -> Iterator[str]:
    """Yield the lines that tell the difference."""
    d = difference
    versions = ", ".join(f"{escape(version)} ({count:,})" for version, count in d.policies.most_common(5))
    yield f"Hits        {d.hits:,}, judged by {versions or 'nobody'}"
    if d.kept:
        yield f"            {d.kept:,} keep their verdicts: visitors who asked not to be told apart, and the banned"
    if d.without_clock:
        yield f"            {d.without_clock:,} without the worker's clock: quota windows may begin at another moment"
    if d.is_empty:
        yield "Nothing differs: every hit has the refusal, level and score that it had."
        return
    yield f"Refused     {counted(d.then, 'request')} then, {d.now:,} now: {d.newly:,} newly refused, {d.freed:,} freed"
    saved = d.now - d.then
    told = (
        f"Saved       {counted(saved, 'request')} that would not"
        if saved >= 0
        else f"Let in      {counted(-saved, 'request')} that would"
    )
    yield f"{told} have reached the app"
    yield f"Otherwise   {counted(d.levels, 'hit')} at another level, {d.scores:,} with another score"
    if d.forgotten:
        yield f"            {d.forgotten:,} actors that were refused least are not among those below"
    yield from _actors("Actors newly refused", d, d.newly_refused(), top)
    yield from _actors("Actors freed", d, d.freed_actors(), top)
    routes = sorted(
        ((name, route) for name, route in d.by_route().items() if route.newly or route.freed),
        key=lambda item: (-item[1].newly - item[1].freed, item[0]),
    )
    if routes:
        yield f"Routes, {min(top, len(routes))} of {len(routes):,} that differ"
        rows = [(cut(escape(name), 60), one.requests, one.newly, one.freed) for name, one in routes[:top]]
        yield from table([("route", "requests", "newly refused", "freed"), *rows])


def as_json(difference: Difference, policy: Mapping[str, Any]) -> str:
    """Return the difference as JSON, all actors and routes that differ."""
    d = difference
    facts = {
        "policy": dict(policy),
        "hits": d.hits,
        "kept": d.kept,
        "without_clock": d.without_clock,
        "judged_by": dict(d.policies),
        "refused": {"then": d.then, "now": d.now, "newly": d.newly, "freed": d.freed},
        "levels": d.levels,
        "scores": d.scores,
        "forgotten": d.forgotten,
        "newly_refused": {"kinds": d.kinds(d.newly_refused()), "actors": [_facts(one) for one in d.newly_refused()]},
        "freed": {"kinds": d.kinds(d.freed_actors()), "actors": [_facts(one) for one in d.freed_actors()]},
        "routes": {
            name: {"requests": one.requests, "newly_refused": one.newly, "freed": one.freed}
            for name, one in d.by_route().items()
            if one.newly or one.freed
        },
    }
    return json.dumps(facts, indent=1) + "\n"


def _actors(title: str, d: Difference, actors: Sequence[Actor], top: int) -> Iterator[str]:
    kinds = ", ".join(counted(count, _ONE.get(kind, kind), kind) for kind, count in d.kinds(actors).items() if count)
    yield f"{title}: {len(actors):,}" + (f" ({kinds})" if kinds else "")
    if not actors:
        return
    heading = ("visitor", "class", "requests", "refused then", "now", "level then", "now", "why")
    rows = [
        (
            one.fingerprint.hex[:8],
            escape(one.crawler or one.label(d.bot_score)),
            *(one.requests, one.then, one.now, LEVEL_LABELS[one.level_then], LEVEL_LABELS[one.level_now]),
            cut(escape("; ".join(one.reasons)), 120),
        )
        for one in actors[:top]
    ]
    yield from table([heading, *rows])
    if len(actors) > top:
        yield f"  … and {len(actors) - top:,} more (--top)"


def _facts(actor: Actor) -> dict[str, Any]:
    return {
        "fingerprint": actor.fingerprint.hex,
        "class": actor.bot_class,
        "crawler": actor.crawler,
        "requests": actor.requests,
        "page_loads": actor.pages,
        "score": actor.score,
        "refused_then": actor.then,
        "refused_now": actor.now,
        "level_then": LEVEL_LABELS[actor.level_then],
        "level_now": LEVEL_LABELS[actor.level_now],
        "reasons": list(actor.reasons),
    }
