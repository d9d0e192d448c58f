"""A log through the pipeline: each line is identified, admitted, answered as the log says, and counted."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import inf

from ..decide.conduct import CRAWLER
from ..decide.failures import Failure
from ..decide.probes import is_injection
from ..identify.request import is_precached_or_tile
from ..model import Decision, Visitor
from ..settings import Settings
from .entry import Batch
from .page import delivers_data, delivers_page, own_host, read_target, referer_host
from .pipeline import MAX_PATH, Pipeline, agents
from .tally import Actor, Route, Tally

BURST = 1.0  # seconds within which a page's files come
LATE = 60.0  # seconds behind the latest line, from which on one is late
CLIENT_CLOSED = 499  # of nginx: the client left before there was an answer, which is no error of its own
MAX_KEPT = 100_000  # of each kind of text
ENOUGH_REFERERS = 200  # to learn the site's own host from
MAX_LOOKED_AT = 50_000  # entries, before the first is judged
Key = tuple[str, str, str]  # address, agent, X-Forwarded-For


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` on, before `until`; seconds since 1970."""

    since: float = -inf
    until: float = inf


@contextmanager
def _without_collector() -> Iterator[None]:
    """Few cycles are made here, and looking for them among millions of values costs a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _opening(batches: Iterator[Batch]) -> list[Batch]:
    """Take batches until enough Referers tell the site's own host: a pipe may give lines one by one."""
    taken: list[Batch] = []
    referers = entries = 0
    for batch in batches:
        taken.append(batch)
        entries += len(batch)
        referers += sum(1 for entry in batch if entry.referer)
        if referers >= ENOUGH_REFERERS or entries >= MAX_LOOKED_AT:
            break
    return taken


class Replay:
    """Replays one log. The clock is the log's and never goes back: a late line happens when it is read."""

    def __init__(self, settings: Settings, period: Period = Period(), hosts: Iterable[str] = ()) -> None:
        self.pipeline = Pipeline(settings)
        self.tally = Tally(bot_score=settings.bot_score)
        self.hosts = frozenset(host.lower() for host in hosts)
        self.learned_host = ""
        self._tells_links = False
        self._period = period
        self._heeds_forwarded = bool(settings.trusted_proxies)
        self._actors: dict[Key, Actor] = {}
        self._targets: dict[str, tuple[str, bool, Route, str]] = {}
        self._inner: dict[tuple[str, str], bool] = {}
        self._now = -inf

    def run(self, batches: Iterable[Batch]) -> Tally:
        """Take in all batches."""
        batches = iter(batches)
        opening = _opening(batches)
        learned_host = own_host(chain.from_iterable(opening))
        self._tells_links = bool(learned_host)
        if not self.hosts:
            self.learned_host = learned_host
        with _without_collector():
            for batch in chain(opening, batches):
                self._take(batch)
        return self.tally

    def _take(self, batch: Batch) -> None:
        """Process each line, with look-ups done before the loop: there are millions of them, most of them files."""
        since, until, tally, heeds = self._period.since, self._period.until, self.tally, self._heeds_forwarded
        pipeline, targets, levels = self.pipeline, self._targets, self.tally.requests_by_level
        admit, take_data, pass_by = pipeline.admit, pipeline.take_data, pipeline.pass_by
        now, met_at, known = self._now, -inf, ("", "")
        for at, address, method, target, status, referer, agent, host, forwarded, content_type in batch:
            if not method or not since <= at < until:
                self._leave_out(at)
                continue
            if at > now:
                now = at
            elif now - at > LATE:
                tally.late += 1
            # A page's files come in one burst: within a second no session ends, and nobody is forgotten.
            if address != known[0] or agent != known[1] or now - met_at >= BURST or heeds:
                met_at, known = now, (address, agent)
                actor, visitor = self._find((address, agent, forwarded if heeds else ""), now)
            else:
                visitor.session.last_seen_at = now
            path, page_shaped, route, query = targets.get(target) or self._read_target(target)
            decision = admit(visitor, now)
            actor.last = now
            actor.requests += 1
            route.requests += 1
            level = decision.level
            if decision.refused:
                route.refused += 1
                actor.refuse(decision)
            else:
                page = method == "GET" and delivers_page(status, content_type, page_shaped)
                if page or status >= 400:
                    inner = bool(referer) and self._is_inner(referer, host)
                    if page:
                        route.pages += 1
                        actor.pages += 1
                        self._take_page(visitor, decision, path, query, referer if inner else "", now)
                    elif status != CLIENT_CLOSED:
                        route.errors += 1
                        actor.errors += 1
                        self._take_error(visitor, decision, Failure(status, method, path, inner), query, now)
                    actor.judged(decision)
                    level = decision.level
                elif method == "GET" and delivers_data(status, content_type, path):
                    variant = pipeline.data_variant(path, query) if query else None
                    prefetched = is_precached_or_tile(path, query)
                    take_data(visitor, decision, path, now, excused=prefetched, variant=variant)
                    level = decision.level
                elif method == "POST":
                    take_data(visitor, decision, path, now, False)
                elif not (300 <= status < 400 and page_shaped and visitor.actor.program != CRAWLER):
                    pass_by(visitor, decision)
            levels[level] += 1
            if level > actor.level:
                actor.level = int(level)
        self._now = tally.last = now

    def _take_page(self, visitor: Visitor, decision: Decision, path: str, query: str, referer: str, now: float) -> None:
        """Take in a page; `referer`: the page of this site that linked it."""
        pipeline, inner = self.pipeline, bool(referer)
        if inner:
            pipeline.note_referring(visitor, referer, now)
        # A log without Referers does not tell who follows links.
        follows = inner or not self._tells_links
        variant = pipeline.page_variant(visitor, path, query, follows) if query else None
        pipeline.take_page(visitor, decision, variant or path, inner, now, bare=not query)

    def _take_error(self, visitor: Visitor, decision: Decision, failure: Failure, query: str, now: float) -> None:
        if query:
            guess = self.pipeline.guess(failure.path, query, failure.status)
            failure = failure._replace(injected=is_injection(query), guess=guess)
        self.pipeline.take_failure(visitor, decision, failure, now)

    def _find(self, key: Key, now: float) -> tuple[Actor, Visitor]:
        actor = self._actors.get(key)
        visitor = None if actor is None else self.pipeline.meet_again(actor.fingerprint, now)
        if actor is None or visitor is None:
            actor, visitor = self._meet(key, now)
        if visitor.session.started_at == now != actor.began:  # a visitor is met by each port or proxy
            actor.sessions += 1
            actor.began = now
        return actor, visitor

    def _leave_out(self, at: float) -> None:
        if self._period.since <= at < self._period.until:
            self.tally.malformed += 1
        else:
            self.tally.outside += 1

    def _meet(self, key: Key, now: float) -> tuple[Actor, Visitor]:
        address, text, forwarded = key
        visitor = self.pipeline.meet(address, text, forwarded, now)
        fingerprint, tally = visitor.identity.fingerprint, self.tally
        actor = tally.actors.get(fingerprint)
        if actor is None:
            if tally.make_room():
                self._actors.clear()
            name = self.pipeline.client(address, forwarded)
            # Not the visitor itself, which is large, and forgotten by the pipeline before the actor is.
            actor = tally.actors[fingerprint] = Actor(name, text, agents().read(text or None), fingerprint, now)
            tally.first = now if tally.first is None else tally.first
        if len(self._actors) >= MAX_KEPT:
            self._actors.clear()
        self._actors[key] = actor
        return actor, visitor

    def _read_target(self, target: str) -> tuple[str, bool, Route, str]:
        found = read_target(target[:MAX_PATH])
        if len(self._targets) >= MAX_KEPT:
            self._targets.clear()
        facts = self._targets[target] = found.path, found.page_shaped, self.tally.route(found.route), found.query
        return facts

    def _is_inner(self, referer: str, host: str) -> bool:
        inner = self._inner.get((referer, host))
        if inner is None:
            from_host = referer_host(referer)
            own = from_host in self.hosts if self.hosts else from_host in (host or self.learned_host,)
            if len(self._inner) >= MAX_KEPT:
                self._inner.clear()
            inner = self._inner[referer, host] = bool(from_host) and own
        return inner
