"""A log through the pipeline: each line is identified, admitted, answered as the log says, and counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from math import inf

from ..settings import Settings
from .entry import Batch, Entry
from .page import Target, delivers_page, own_host, read_target, referer_host
from .pipeline import MOST_PATH, Pipeline, agents
from .tally import Actor, Route, Tally

LATE = 60.0  # seconds behind
MOST_KEPT = 100_000  # of each kind of text
Key = tuple[str, str, str]  # address, agent, X-Forwarded-For


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` on, before `until`; seconds since 1970."""

    since: float = -inf
    until: float = inf


class Replay:
    """Replays one log. The clock is the log's and never goes back: a late line happens when it is read."""

    def __init__(self, settings: Settings, period: Period = Period(), hosts: Iterable[str] = ()) -> None:
        self.pipeline = Pipeline(settings)
        self.tally = Tally(bot_score=settings.bot_score)
        self.hosts = frozenset(host.lower() for host in hosts)
        self.learned_host = ""
        self._period = period
        self._heeds_forwarded = bool(settings.trusted_proxies)
        self._actors: dict[Key, tuple[bytes, Actor]] = {}
        self._targets: dict[str, tuple[Target, Route]] = {}
        self._inner: dict[tuple[str, str], bool] = {}
        self._now = -inf

    def run(self, batches: Iterable[Batch]) -> Tally:
        """Take in all batches."""
        batches = iter(batches)
        first = next(batches, ())
        if not self.hosts:
            self.learned_host = own_host(first)
        for batch in chain((first,), batches):
            for entry in batch:
                self._take(entry)
        return self.tally

    def _take(self, entry: Entry) -> None:
        """The way of one line; written in one piece, for millions go it."""
        at, address, method, target, status, _, referer, agent, host, forwarded, content_type = entry
        tally, pipeline = self.tally, self.pipeline
        if not self._period.since <= at < self._period.until:
            tally.outside += 1
            return
        if not method:
            tally.malformed += 1
            return
        now = self._now
        if at > now:
            self._now = now = at
        elif now - at > LATE:
            tally.late += 1
        visitor = None
        key = (address, agent, forwarded) if self._heeds_forwarded else (address, agent, "")
        known = self._actors.get(key)
        if known is not None:
            fingerprint, actor = known
            visitor = pipeline.meet_again(fingerprint, now)
        if visitor is None:
            actor = self._meet(key, now)
            visitor = actor.visitor
        facts = self._targets.get(target)
        if facts is None:
            facts = self._read_target(target)
        (path, page_shaped, _), route = facts
        decision = pipeline.admit(visitor, now)
        actor.last = now
        actor.requests += 1
        route.requests += 1
        tally.judged += 1
        if decision.refused:
            actor.refused += 1
            route.refused += 1
            actor.violated.update(decision.violated)
            actor.reasons = decision.reasons
            if not actor.first_refused:
                actor.first_refused = actor.requests
        else:
            page = delivers_page(method, status, content_type, page_shaped)
            if page:
                actor.pages += 1
                route.pages += 1
            elif status >= 400:
                actor.errors += 1
                route.errors += 1
            inner = (page or status >= 400) and bool(referer) and self._is_inner(referer, host)
            pipeline.answer(visitor, decision, status, page, path, inner, now)
            if decision.score > actor.score:
                actor.score = decision.score
            if decision.reasons:
                actor.reasons = decision.reasons
        level = decision.level
        tally.requests_by_level[level] += 1
        if level > actor.level:
            actor.level = int(level)

    def _meet(self, key: Key, now: float) -> Actor:
        address, text, forwarded = key
        visitor = self.pipeline.meet(address, text, forwarded, now)
        fingerprint, tally = visitor.identity.fingerprint, self.tally
        actor = tally.actors.get(fingerprint)
        if actor is None:
            if tally.make_room():
                self._actors.clear()
            name = forwarded.rpartition(",")[2].strip() if forwarded else address
            actor = tally.actors[fingerprint] = Actor(name, text, agents().read(text or None), visitor, now)
            tally.first = tally.first or now
        actor.visitor = visitor
        actor.sessions += visitor.session.started_at == now
        if len(self._actors) >= MOST_KEPT:
            self._actors.clear()
        self._actors[key] = fingerprint, actor
        return actor

    def _read_target(self, target: str) -> tuple[Target, Route]:
        found = read_target(target[:MOST_PATH])
        if len(self._targets) >= MOST_KEPT:
            self._targets.clear()
        facts = self._targets[target] = found, self.tally.route(found.route)
        return facts

    def _is_inner(self, referer: str, host: str) -> bool:
        inner = self._inner.get((referer, host))
        if inner is None:
            from_host = referer_host(referer)
            own = from_host in self.hosts if self.hosts else from_host in (host or self.learned_host,)
            if len(self._inner) >= MOST_KEPT:
                self._inner.clear()
            inner = self._inner[referer, host] = bool(from_host) and own
        return inner
