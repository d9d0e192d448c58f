"""The verdict on a request: `admit` before the app runs, `judge` when it starts to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil

from ..model import Actor, Behaviour, Decision, Throttle, ThrottleLevel, Window
from ..protocols import Told
from . import signals, throttle, window
from .behaviour import Site, load_page, meet_error
from .explain import inputs_of_rise
from .policy import Policy
from .throttle import BLOCKED

__all__ = [
    "Policy",
    "Site",
    "admit",
    "admit_told",
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
    if visitor.loans is not None or network.loans is not None:
        return _admit_shared(visitor, network, policy, previous, now)
    # window.remaining and window.reset, written out: this loop is what every request pays.
    quotas, fits, hot, crowded = [], True, False, False
    for counter, (size, limit, most) in zip(visitor.windows, policy.counted[level]):  # noqa: B905 - strict costs time
        rest = counter.ends_at - now
        if not 0.0 < rest <= size:
            rest = window.turn(counter, size, now)
        used = counter.count + counter.previous * rest / size
        counter.count += 1
        if used >= most:
            hot = True
            fits = fits and used < limit
        quotas.append(ceil(limit - used) - 1)
        quotas.append(ceil(rest))
    for counter, (size, limit, most) in zip(network.windows, policy.network_counted):  # noqa: B905 - as above
        rest = counter.ends_at - now
        if not 0.0 < rest <= size:
            rest = window.turn(counter, size, now)
        used = counter.count + counter.previous * rest / size
        counter.count += 1
        if used >= most:
            crowded = True
            fits = fits and used < limit
    if not fits:
        for counter in (*visitor.windows, *network.windows):
            counter.count -= 1
        return _refuse_quota(visitor, network, policy, quotas, previous, now)
    if hot:
        policy.leases.open(visitor, policy.limits[level], now)
    if crowded:
        policy.leases.open(network, policy.network_limits, now)
    decision = Decision(level, visitor.score, tuple(quotas))
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def admit_told(visitor: Actor, network: Actor, policy: Policy, told: Told, now: float) -> Decision:
    """As `admit`, by what one server says that counts the requests of all workers; this worker counts along."""
    state, previous = visitor.throttle, None
    level = state.level
    if level:
        throttle.cool_down(visitor, policy.cooldown, now)
        if state.level != level:
            level, previous = state.level, level
        if level == BLOCKED:
            return _refuse_blocked(visitor, policy, previous, now)
    if not told.passes:
        return _refuse(visitor, policy, told.left, told.waits, previous, now)
    sized = list(_sized(visitor, policy, level))
    for counter, (size, _) in (*sized, *zip(network.windows, policy.network_limits, strict=True)):
        window.charge(counter, size, now)
    resets = [window.reset(counter, size, now) for counter, (size, _) in sized]
    decision = Decision(level, visitor.score, _paired([left - 1 for left in told.left[: len(sized)]], resets))
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _admit_shared(
    visitor: Actor, network: Actor, policy: Policy, previous: ThrottleLevel | None, now: float
) -> Decision:
    """As `admit`, for actors that several workers see, or that use much of a quota."""
    level, leases = visitor.throttle.level, policy.leases
    limits, outer = policy.limits[level], policy.network_limits
    own, others = leases.left(visitor, limits, now), leases.left(network, outer, now)
    if min((*own, *others), default=1) <= 0:
        leases.miss(visitor, own)
        leases.miss(network, others)
        waits = leases.waits(visitor, limits, now) + leases.waits(network, outer, now)
        return _refuse(visitor, policy, own + others, waits, previous, now)
    leases.take(visitor, limits, now)
    leases.take(network, outer, now)
    resets = [window.reset(counter, size, now) for counter, (size, _) in _sized(visitor, policy, level)]
    decision = Decision(level, visitor.score, _paired(leases.shown(visitor, limits, now), resets))
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _sized(visitor: Actor, policy: Policy, level: ThrottleLevel) -> Iterator[tuple[Window, tuple[float, int]]]:
    return zip(visitor.windows, policy.limits[level], strict=True)


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
    decision = Decision(BLOCKED, visitor.score, quotas, True, seconds, ("throttle",), state.reasons)
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _refuse_quota(
    visitor: Actor, network: Actor, policy: Policy, quotas: list[int], previous: ThrottleLevel | None, now: float
) -> Decision:
    """Refuse for every quota that is used up: negative units in `quotas`, from before the request was not charged."""
    limits = policy.limits[visitor.throttle.level]
    units = [left + 1 for left in quotas[::2]]
    for counter, (size, limit) in zip(network.windows, policy.network_limits, strict=True):
        units.append(window.remaining(counter, size, limit, now))
    waits = [
        window.wait(counter, size, limit, now)
        for counter, (size, limit) in zip(
            (*visitor.windows, *network.windows), (*limits, *policy.network_limits), strict=True
        )
    ]
    return _refuse(visitor, policy, units, waits, previous, now)


def _refuse(
    visitor: Actor,
    policy: Policy,
    units: Sequence[int],
    waits: Sequence[float],
    previous: ThrottleLevel | None,
    now: float,
) -> Decision:
    """Refuse for every quota without units: the visitor's, then the network's. Such a quota resets when one fits."""
    level, own = visitor.throttle.level, len(visitor.windows)
    names = [quota.name for quota in (*policy.quotas, *policy.network_quotas)]
    sentences = (*policy.sentences[level], *policy.network_sentences)
    used_up = [place for place, left in enumerate(units) if left <= 0]
    resets = [window.reset(counter, size, now) for counter, (size, _) in _sized(visitor, policy, level)]
    for place in used_up:
        if place < own:
            resets[place] = _whole(waits[place])
    reasons = [sentences[place] for place in used_up]
    if level:
        reasons.extend(visitor.throttle.reasons)
    decision = Decision(
        level,
        visitor.score,
        _paired([max(0, left) for left in units[:own]], resets),
        True,
        max(_whole(waits[place]) for place in used_up),
        tuple(names[place] for place in used_up),
        tuple(reasons),
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
