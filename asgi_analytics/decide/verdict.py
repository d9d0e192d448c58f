"""The verdict on a request: `admit` before the app runs, `judge` when it starts to answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import ceil

from ..model import Actor, Behaviour, Decision, Throttle, ThrottleLevel, Window
from . import signals, throttle, window
from .behaviour import Site, load_page, meet_error
from .explain import inputs_of_rise
from .policy import Policy
from .throttle import BLOCKED

__all__ = [
    "Policy",
    "Site",
    "admit",
    "adopt_level",
    "begin_session",
    "charge",
    "count_session",
    "judge",
    "new_actor",
    "new_network",
]

IDLE = 1800.0  # seconds without a page load after which facts that several sessions share begin anew
_NOBODY = (Throttle(), Behaviour(), Window())


def new_actor(quotas_count: int, outdated: bool = False) -> Actor:
    """Return a visitor nobody knows yet; `outdated` is what `Agent.outdated` says of the browser."""
    return Actor([Window() for _ in range(quotas_count)], outdated=outdated)


def new_network(quotas_count: int) -> Actor:
    """Return a client network: windows only, for nothing else of it is ever read or written."""
    return Actor([Window() for _ in range(quotas_count)], *_NOBODY)


def begin_session(visitor: Actor, now: float) -> None:
    """Start a session: facts, signals, score and what was spent of them are new; level and cool-down stay."""
    visitor.behaviour = Behaviour()
    visitor.score = 0
    visitor.signals = ()
    throttle.spend(visitor)
    window.charge(visitor.hour, signals.HOUR, now)


def count_session(visitor: Actor, now: float) -> None:
    """Count a session of somebody who is judged together with others; the facts go on while anyone loads pages.

    Beginning anew with each session instead would let a program that drops its cookie wipe its own traces.
    """
    facts = visitor.behaviour
    if facts.page_loads and now - facts.last_page_at > IDLE:
        begin_session(visitor, now)
    else:
        window.charge(visitor.hour, signals.HOUR, now)
        facts.quiet_until = -1


def charge(visitor: Actor, units: int, policy: Policy, now: float) -> None:
    """Add units that other workers charged; a window may come to hold more than its limit."""
    for counter, quota in zip(visitor.windows, policy.quotas, strict=True):
        window.charge(counter, quota.window, now, units)


def adopt_level(visitor: Actor, level: ThrottleLevel, changed_at: float) -> None:
    """Take over a level from another worker when it was changed later there; `changed_at` in monotonic seconds here."""
    throttle.adopt(visitor, level, changed_at, ("another worker saw the evidence",))


def admit(visitor: Actor, network: Actor, policy: Policy, now: float) -> Decision:
    """Decide before the app runs. One unit is charged to each quota, or none at all when the request is refused."""
    state = visitor.throttle
    level, previous = state.level, None
    if level:
        throttle.cool_down(visitor, policy.cooldown, now)
        if state.level != level:
            level, previous = state.level, level
        if level == BLOCKED:
            return _refuse_blocked(visitor, policy, previous, now)
    # window.remaining and window.reset, written out: this loop is what every request pays.
    quotas, fits = [], True
    for counter, (size, limit) in zip(visitor.windows, policy.limits[level]):  # noqa: B905 - strict costs time
        rest = counter.ends_at - now
        if not 0.0 < rest <= size:
            rest = window.turn(counter, size, now)
        left = limit - counter.count - counter.previous * rest / size
        counter.count += 1
        if left <= 0.0:
            fits = False
        quotas.append(ceil(left) - 1)
        quotas.append(ceil(rest))
    for counter, (size, limit) in zip(network.windows, policy.network_limits):  # noqa: B905 - as above
        rest = counter.ends_at - now
        if not 0.0 < rest <= size:
            rest = window.turn(counter, size, now)
        if counter.count + counter.previous * rest / size >= limit:
            fits = False
        counter.count += 1
    if not fits:
        for counter in (*visitor.windows, *network.windows):
            counter.count -= 1
        return _refuse_quota(visitor, network, policy, quotas, previous, now)
    decision = Decision(level, visitor.score, tuple(quotas))
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def judge(
    visitor: Actor,
    status: int,
    page: bool,
    path: str,
    inner: bool,
    site: Site,
    policy: Policy,
    decision: Decision,
    now: float,
) -> None:
    """Take in how the app answers, before its headers leave, and bring `decision` up to date with the new level.

    `page`: a page was delivered; `inner`: a page of this site linked it. A refused request teaches nothing, not even in
    observe mode, so that observing shows what enforcing would do.
    """
    if decision.refused:
        return
    facts = visitor.behaviour
    facts.requests += 1
    if decision.exempt:
        return
    if page:
        if not load_page(facts, path, inner, site, now):
            return
        if facts.steps <= facts.quiet_until:
            return
    elif not 400 <= status < 500 or status == 429 or inner or not meet_error(facts, path):
        return
    signals.evaluate(visitor, policy.rules, site, policy.site_pages, now)
    decision.score = visitor.score
    reasons = throttle.new_evidence(visitor, policy.bot_score, policy.further_loads, now)
    if reasons:
        _escalate(visitor, reasons, site, policy, decision, now)
    if visitor.throttle.level != decision.level:
        _apply_level(visitor, policy, decision, now)
    facts.quiet_until = facts.steps + min(
        signals.quiet_steps(visitor, policy.rules, site, policy.site_pages, now),
        throttle.quiet_steps(visitor, policy.bot_score),
    )


def _escalate(
    visitor: Actor, reasons: tuple[str, ...], site: Site, policy: Policy, decision: Decision, now: float
) -> None:
    signals.refresh(visitor, policy.rules, site, policy.site_pages, now)
    if decision.previous_level is None:
        decision.previous_level = visitor.throttle.level
    decision.inputs, decision.findings = inputs_of_rise(visitor, policy, now), visitor.signals
    throttle.escalate(visitor, (*reasons, *(finding.text for finding in visitor.signals)), now)
    decision.reasons += visitor.throttle.reasons


def _apply_level(visitor: Actor, policy: Policy, decision: Decision, now: float) -> None:
    """Show the level in force in the decision of a request that was admitted at another."""
    decision.level = level = visitor.throttle.level
    limits = list(zip(visitor.windows, policy.limits[level], strict=True))
    remaining = [window.remaining(counter, size, limit, now) for counter, (size, limit) in limits]
    reset = [_rest(visitor, policy, now)] * len(limits) if level == BLOCKED else decision.reset
    decision.quotas = _paired(remaining, reset)


def _refuse_blocked(visitor: Actor, policy: Policy, previous: ThrottleLevel | None, now: float) -> Decision:
    state = visitor.throttle
    seconds = _rest(visitor, policy, now)
    quotas = (0, seconds) * len(policy.quotas)
    decision = Decision(
        BLOCKED, visitor.score, quotas, refused=True, retry_after=seconds, violated=("throttle",), reasons=state.reasons
    )
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _refuse_quota(
    visitor: Actor, network: Actor, policy: Policy, quotas: list[int], previous: ThrottleLevel | None, now: float
) -> Decision:
    """Refuse for every quota that is used up: negative units in `quotas`. Such a quota resets when one unit fits."""
    level = visitor.throttle.level
    units, resets = quotas[::2], quotas[1::2]
    waits: list[int] = []
    violated: list[str] = []
    reasons: list[str] = []
    for place, counter in enumerate(visitor.windows):
        if units[place] < 0:
            resets[place] = _whole(window.wait(counter, *policy.limits[level][place], now))
            waits.append(resets[place])
            violated.append(policy.quotas[place].name)
            reasons.append(policy.sentences[level][place])
    for place, (counter, (size, limit)) in enumerate(zip(network.windows, policy.network_limits, strict=True)):
        if window.estimate(counter, size, now) >= limit:
            waits.append(_whole(window.wait(counter, size, limit, now)))
            violated.append(policy.network_quotas[place].name)
            reasons.append(policy.network_sentences[place])
    if level:
        reasons.extend(visitor.throttle.reasons)
    remaining = [max(0, left + 1) for left in units]  # nothing was charged
    decision = Decision(
        level,
        visitor.score,
        _paired(remaining, resets),
        refused=True,
        retry_after=max(waits),
        violated=tuple(violated),
        reasons=tuple(reasons),
    )
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _paired(remaining: Sequence[int], reset: Sequence[int]) -> tuple[int, ...]:
    return tuple(chain.from_iterable(zip(remaining, reset, strict=True)))


def _tell_cool_down(decision: Decision, previous: ThrottleLevel, policy: Policy) -> None:
    decision.previous_level = previous
    sentence = f"cooled down from {previous.label} to {decision.level.label}, a level every {policy.cooldown:g} seconds"
    decision.reasons += (sentence,)


def _rest(visitor: Actor, policy: Policy, now: float) -> int:
    return _whole(throttle.rest(visitor.throttle, policy.cooldown, now))


def _whole(seconds: float) -> int:
    """Round up to whole seconds that are surely enough; at least 1."""
    return int(seconds) + 1
