"""Recorded hits through a policy once more: what it would have decided on each.

For one worker, from its start on, the policy that was in force decides again as it did. For that each hit has the
worker's clock (hits.clock: windows of quotas begin by it) and what was known of request and answer (hits.from_inside,
outdated, inputs: see asgi_analytics.inputs). A visit that went on under another fingerprint, at midnight or when the
worker learnt the shared salt, is recognized by its session. Allowances, bans and pardons are taken as they were.

`asgi-analytics what-if --help` says what is not exact.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple
from uuid import UUID

from ..decide.failures import Failure
from ..decide.probes import kind_of
from ..decide.redirects import NOT_FOUND
from ..decide.verdict import pass_redirected
from ..facts import Claims
from ..inputs import (
    BETWEEN,
    BORROWED,
    DATA,
    FORGIVEN,
    FORM,
    INJECTED,
    IS_LED,
    LED_ON,
    PREFETCHED,
    QUERIED,
    REDIRECTED,
    TRUSTED,
    TYPED,
    UNABLE,
    attempt_of,
    claims_of,
    login_of,
)
from ..model import MAX_SCORE, Agent, Decision, Variant, Visitor
from ..settings import Settings
from ..store.recorded import RecordedHit
from ..variants import unpacked
from .hidden import stand_in
from .page import delivers_page, read_target
from .pipeline import Pipeline

SAME_CLOCK = 60.0  # seconds that two readings of wall and monotonic time may differ on one host
MAX_SESSIONS = 200_000  # whose visitor is remembered
DAY = 86_400.0  # seconds: no session is longer, so a state warmed up for so long has forgotten nothing of one


class Verdict(NamedTuple):
    """A recorded hit and what the policy makes of it."""

    hit: RecordedHit
    again: bool  # False: it cannot be judged again and keeps what it has
    refused: bool
    score: int
    level: int
    reasons: tuple[str, ...] = ()


class Waiting(NamedTuple):
    """A request on its way through the app."""

    answered_at: float
    number: int
    hit: RecordedHit
    visitor: Visitor
    decision: Decision
    claims: Claims | None


class History:
    """Judges hits in the order of their time."""

    def __init__(self, settings: Settings) -> None:
        self._pipeline = Pipeline(settings)
        self._waiting: list[Waiting] = []
        self._numbers = count()
        self._sessions: dict[UUID, bytes] = {}  # → the visitor's fingerprint
        self._offset: float | None = None  # wall minus monotonic seconds
        self._now = 0.0

    def judge(self, hits: Iterable[RecordedHit]) -> Iterator[Verdict]:
        """Yield a verdict on each hit, when its answer has been taken in: not in the order of the hits."""
        for hit in hits:
            now = self._clock(hit)
            yield from self._answer(now)
            if hit.fingerprint is None or hit.network is None:
                yield _kept(hit)
                continue
            claims = claims_of(hit.inputs, hit.numbers, hit.network.bytes)
            visitor = self._visitor(hit, hit.fingerprint.bytes, hit.network.bytes, claims, now)
            if hit.banned:  # which no policy changes; the session went on all the same
                yield _kept(hit)
                continue
            decision = self._pipeline.admit(visitor, now)
            decision.exempt = hit.exempt
            if decision.refused or hit.first_byte_us is None or _is_socket(hit):
                yield _verdict(hit, decision)  # no answer of the app to learn from
            else:
                answered_at = now + hit.first_byte_us / 1e6
                heapq.heappush(self._waiting, Waiting(answered_at, next(self._numbers), hit, visitor, decision, claims))
        yield from self._answer(float("inf"))

    def _answer(self, until: float) -> Iterator[Verdict]:
        """Take in the answers that began up to a moment: a request is judged by what was known when it came."""
        while self._waiting and self._waiting[0].answered_at <= until:
            waiting = heapq.heappop(self._waiting)
            self._take(waiting)
            yield _verdict(waiting.hit, waiting.decision)

    def _take(self, waiting: Waiting) -> None:
        """Take in an answer, as Answered._judge does."""
        hit, inputs = waiting.hit, waiting.hit.inputs or 0
        page, status = _answer_of(hit)
        attempt = attempt_of(inputs, hit.numbers)
        if page:
            self._take_page(waiting, inputs)
        elif status >= 400 or attempt is not None or inputs & REDIRECTED:
            self._take_failure(waiting, NOT_FOUND if inputs & REDIRECTED else status, attempt, inputs)
        elif inputs & DATA or (hit.inputs is not None and hit.method == "POST"):
            self._take_data(waiting, inputs)
        elif not (300 <= status < 400 and inputs & LED_ON):
            self._pipeline.pass_by(waiting.visitor, waiting.decision)

    def _take_page(self, waiting: Waiting, inputs: int) -> None:
        at, _, hit, visitor, decision, claims = waiting
        path, variant = _asked_for(hit)
        if inputs & BETWEEN and not decision.refused:
            visitor.actor.behaviour.people += 1
        if inputs & REDIRECTED and pass_redirected(visitor.actor, variant or path, decision, at):
            return
        if claims is not None:
            claims = claims._replace(is_led=bool(inputs & IS_LED))
        bare = not inputs & QUERIED
        self._pipeline.take_page(visitor, decision, variant or path, hit.from_inside, at, claims, bare)

    def _take_failure(self, waiting: Waiting, status: int, attempt: int | None, inputs: int) -> None:
        at, _, hit, visitor, decision, claims = waiting
        path, variant = _asked_for(hit)
        if variant is not None and kind_of(path):  # the one that was asked for was of no kind
            path = stand_in(path, variant.number)
        failure = Failure(
            status,
            hit.method,
            path,
            hit.from_inside,
            attempt,
            trusted=attempt is None and bool(inputs & TRUSTED),
            injected=bool(inputs & INJECTED),
            guess=variant,
            typed=attempt is not None and bool(inputs & TYPED),
            form=hit.method == "POST" and bool(inputs & FORM),
        )
        self._pipeline.take_failure(visitor, decision, failure, at, claims)

    def _take_data(self, waiting: Waiting, inputs: int) -> None:
        at, _, hit, visitor, decision, _ = waiting
        path, variant = _asked_for(hit)
        data, excused = hit.method != "POST", bool(inputs & (PREFETCHED | TRUSTED))
        form, login = not data and bool(inputs & FORM), login_of(inputs, hit.numbers)
        self._pipeline.take_data(visitor, decision, path, at, data, excused, variant, form, login)

    def _visitor(
        self, hit: RecordedHit, fingerprint: bytes, network: bytes, claims: Claims | None, now: float
    ) -> Visitor:
        if hit.session_id is not None:
            before = self._sessions.get(hit.session_id)
            if before != fingerprint:
                if before is not None:
                    self._pipeline.rename(before, fingerprint, network)
                elif len(self._sessions) >= MAX_SESSIONS:
                    for old in list(self._sessions)[: MAX_SESSIONS // 2]:
                        del self._sessions[old]
                self._sessions[hit.session_id] = fingerprint
        inputs = hit.inputs or 0
        visitor = self._pipeline.recall(fingerprint, network, _agent(hit), now, claims, bool(inputs & BORROWED))
        self._pipeline.verified(visitor, hit.claim)
        if inputs & FORGIVEN:
            self._pipeline.forgive(visitor, now)
        return visitor

    def _clock(self, hit: RecordedHit) -> float:
        """Return the worker's clock at a hit; of workers with another clock, and of rows without, as it was here."""
        offset = 0.0 if hit.clock is None else hit.seconds - hit.clock
        if self._offset is None:
            self._offset = offset
        same = hit.clock is not None and abs(offset - self._offset) < SAME_CLOCK
        now = hit.clock if same and hit.clock is not None else hit.seconds - self._offset
        self._now = max(self._now, now)
        return self._now


def _asked_for(hit: RecordedHit) -> tuple[str, Variant | None]:
    """Return the path of a hit, or what stands in for one that is not stored, and what its query makes of it."""
    if hit.path_inputs is None:
        return hit.path, None
    variant = unpacked(hit.path, hit.path_inputs)
    return (stand_in(hit.path, hit.path_inputs) if variant is None else hit.path), variant


def _answer_of(hit: RecordedHit) -> tuple[bool, int]:
    """Return whether the answer was a page, and its status; of a hit that was refused, as if the app had been asked."""
    if hit.outcome != "refused":
        return hit.page_view, hit.status or 0
    return hit.method == "GET" and delivers_page(200, "", read_target(hit.path).page_shaped), 200


def _kept(hit: RecordedHit) -> Verdict:
    return Verdict(hit, False, hit.refused, hit.score, hit.level)


def _is_socket(hit: RecordedHit) -> bool:
    """Tell whether a hit is of a websocket that the app did not refuse, or only because it was unable to take it."""
    if hit.method != "WEBSOCKET":
        return False
    return hit.outcome == "refused" or (hit.status or 0) < 400 or bool((hit.inputs or 0) & UNABLE)


def _agent(hit: RecordedHit) -> Agent:
    return Agent(hit.browser, bot_class=hit.bot_class, crawler=hit.crawler, outdated=hit.outdated)


def _verdict(hit: RecordedHit, decision: Decision) -> Verdict:
    score = min(decision.score, MAX_SCORE)
    return Verdict(hit, True, decision.refused, score, int(decision.level), decision.reasons)
