"""Admission: a request passes or is refused by quotas and level, before the app runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil

from ..facts import Actor, ThrottleLevel, Window
from ..model import Decision
from ..protocols import StrictAnswer
from . import throttle, window
from .actor import adopt_pool
from .policy import Policy
from .throttle import BLOCKED

SHARED_REFUSAL_HOLDS = 0.05  # seconds: other workers may give units back


def admit(visitor: Actor, network: Actor, policy: Policy, now: float) -> Decision:
    """Decide before the app runs. One unit is charged to each quota, or none at all when the request is refused."""
    level, previous = visitor.throttle.level, None
    if level:
        level, previous = _cooled_down(visitor, network, policy, now)
        if level == BLOCKED:
            return _refuse_blocked(visitor, policy, now)
    if visitor.loans is not None or network.loans is not None:
        return _admit_shared(visitor, network, policy, previous, now)
    # window.remaining and window.reset, written out: this loop is what every request pays.
    quotas: tuple[int, ...] = ()
    fits, hot, crowded = True, False, False
    for counter, (size, limit, most) in zip(visitor.windows, policy.counted[level]):  # noqa: B905 - strict costs time
        rest = counter.ends_at - now
        if not 0.0 < rest <= size:
            rest = window.turn(counter, size, now)
        counter.count = count = counter.count + 1
        used = count + counter.previous * rest / size  # with this request
        if used > most:
            hot = hot or used - 1 >= most
            fits = fits and used - 1 < limit
        quotas += (ceil(limit - used), ceil(rest))
    for counter, (size, limit, most) in zip(network.windows, policy.network_counted):  # noqa: B905 - as above
        rest = counter.ends_at - now
        if not 0.0 < rest <= size:
            rest = window.turn(counter, size, now)
        counter.count = count = counter.count + 1
        used = count + counter.previous * rest / size
        if used > most:
            crowded = crowded or used - 1 >= most
            fits = fits and used - 1 < limit
    if not fits:
        for counter in (*visitor.windows, *network.windows):
            counter.count -= 1
        return _refuse_quota(visitor, network, policy, quotas, previous, now)
    if hot:
        policy.leases.open(visitor, policy.limits[level], now)
    if crowded:
        policy.leases.open(network, policy.network_limits, now)
    decision = Decision(level, visitor.score, quotas)
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _cooled_down(
    visitor: Actor, network: Actor, policy: Policy, now: float
) -> tuple[ThrottleLevel, ThrottleLevel | None]:
    """Let the level fall as far as is due; return it, and the one before if it fell, else None.

    Who is in a pool, which others kept up meanwhile, is not let in once more for each of its names.
    """
    before = visitor.throttle.level
    throttle.cool_down(visitor, policy.cooldown, now)
    if visitor.throttle.level < before and visitor.claims.faults:
        for pool in (network, visitor.pool):
            if pool is not None and pool.throttle.level:
                throttle.cool_down(pool, policy.cooldown, now)
                adopt_pool(visitor, pool)
    level = visitor.throttle.level
    return level, None if level == before else before


def admit_strictly(visitor: Actor, network: Actor, policy: Policy, answer: StrictAnswer, now: float) -> Decision:
    """As `admit`, by the answer of the server that counts for all workers; this worker counts along."""
    level, previous = visitor.throttle.level, None
    if level:
        level, previous = _cooled_down(visitor, network, policy, now)
        if level == BLOCKED:
            return _refuse_blocked(visitor, policy, now)
    if not answer.passes:
        return _refuse(visitor, policy, answer.left, answer.waits, previous, now)
    sized = list(_sized(visitor, policy, level))
    for counter, (size, _) in (*sized, *zip(network.windows, policy.network_limits, strict=True)):
        window.charge(counter, size, now)
    resets = [window.reset(counter, size, now) for counter, (size, _) in sized]
    decision = Decision(level, visitor.score, paired([left - 1 for left in answer.left[: len(sized)]], resets))
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
        decision = _refuse(visitor, policy, own + others, waits, previous, now)
        # Of a quota that does not refuse, what is left to all, as with other answers: not what this worker was lent.
        told = zip(own, leases.shown(visitor, limits, now), strict=True)
        decision.quotas = paired([units if left > 0 else 0 for left, units in told], decision.reset)
        decision.holds_until = min(decision.holds_until, now + SHARED_REFUSAL_HOLDS)
        return decision
    leases.take(visitor, limits, now)
    leases.take(network, outer, now)
    resets = [window.reset(counter, size, now) for counter, (size, _) in _sized(visitor, policy, level)]
    decision = Decision(level, visitor.score, paired(leases.shown(visitor, limits, now), resets))
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _sized(visitor: Actor, policy: Policy, level: ThrottleLevel) -> Iterator[tuple[Window, tuple[float, int]]]:
    return zip(visitor.windows, policy.limits[level], strict=True)


def charge(visitor: Actor, units: int, policy: Policy, now: float) -> None:
    """Add units that other workers charged; a window may come to hold more than its limit."""
    for counter, quota in zip(visitor.windows, policy.quotas, strict=True):
        window.charge(counter, quota.window, now, units)


def _refuse_blocked(visitor: Actor, policy: Policy, now: float) -> Decision:
    state = visitor.throttle
    seconds = seconds_to_cool_down(visitor, policy, now)
    quotas = (0, seconds) * len(policy.quotas)
    return Decision(
        BLOCKED,
        visitor.score,
        quotas,
        refused=True,
        retry_after=seconds,
        violated=("throttle",),
        reasons=state.reasons,
        holds_until=state.changed_at + policy.cooldown,
    )


def _refuse_quota(
    visitor: Actor, network: Actor, policy: Policy, quotas: tuple[int, ...], previous: ThrottleLevel | None, now: float
) -> Decision:
    """Refuse for every quota that is used up. The units in `quotas` are one too low: the request was still charged."""
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
    if level:
        waits = (*_or_cooled(visitor, policy, waits[:own], now), *waits[own:])
    names = [quota.name for quota in (*policy.quotas, *policy.network_quotas)]
    sentences = (*policy.sentences[level], *policy.network_sentences)
    used_up = [place for place, left in enumerate(units) if left <= 0]
    resets = [window.reset(counter, size, now) for counter, (size, _) in _sized(visitor, policy, level)]
    for place in used_up:
        if place < own:
            resets[place] = _whole(waits[place])
    reasons = [sentences[place] for place in used_up]
    until = now + max(waits[place] for place in used_up)
    if level:
        reasons.extend(visitor.throttle.reasons)
        until = min(until, visitor.throttle.changed_at + policy.cooldown)
    decision = Decision(
        level,
        visitor.score,
        paired([max(0, left) for left in units[:own]], resets),
        refused=True,
        retry_after=max(_whole(waits[place]) for place in used_up),
        violated=tuple(names[place] for place in used_up),
        reasons=tuple(reasons),
        holds_until=until,
    )
    if previous is not None:
        _tell_cool_down(decision, previous, policy)
    return decision


def _or_cooled(visitor: Actor, policy: Policy, waits: Sequence[float], now: float) -> Sequence[float]:
    """Return the waits for the visitor's quotas, shorter where the level will have cooled down before."""
    level, cooled = visitor.throttle.level, throttle.time_to_cool_down(visitor.throttle, policy.cooldown, now)
    for lower in reversed(policy.limits[:level]):
        quotas = zip(visitor.windows, lower, waits, strict=True)
        waits = [
            min(seconds, max(cooled, window.wait(counter, size, limit, now)))
            for counter, (size, limit), seconds in quotas
        ]
        cooled += policy.cooldown
    return waits


def paired(remaining: Sequence[int], reset: Sequence[int]) -> tuple[int, ...]:
    """Return the units left and the seconds until the window moves on, in turns, as Decision.quotas."""
    return tuple(chain.from_iterable(zip(remaining, reset, strict=True)))


def _tell_cool_down(decision: Decision, previous: ThrottleLevel, policy: Policy) -> None:
    decision.previous_level = previous
    sentence = f"cooled down from {previous.label} to {decision.level.label}, a level every {policy.cooldown:g} seconds"
    decision.reasons += (sentence,)


def seconds_to_cool_down(visitor: Actor, policy: Policy, now: float) -> int:
    """Return the whole seconds until the level cools down by one."""
    return _whole(throttle.time_to_cool_down(visitor.throttle, policy.cooldown, now))


def _whole(seconds: float) -> int:
    """Round up to whole seconds that are surely enough; at least 1."""
    return int(seconds) + 1
