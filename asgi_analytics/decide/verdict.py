"""The verdict on a request: `admit` before the app runs, `judge` when it starts to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import ceil

from ..model import Actor, Agent, Behaviour, Claims, Decision, Throttle, ThrottleLevel, Window
from ..protocols import Told
from . import signals, throttle, window
from .behaviour import GAP_MEMORY, Site, load_page
from .conduct import CRAWLER, TOOL
from .explain import inputs_of_rise
from .policy import Policy
from .throttle import BLOCKED
from .traces import accept_try, join_pool, meet_failure, pool_of, take_data

__all__ = [
    "Policy",
    "Site",
    "accept",
    "admit",
    "admit_told",
    "adopt_level",
    "begin_session",
    "charge",
    "count_session",
    "join",
    "judge",
    "new_actor",
    "new_network",
    "program_of",
]

IDLE = 1800.0  # seconds without a page load after which facts that several sessions share begin anew
_NOBODY = (Throttle(), Behaviour(), Window())
_TOOLS = frozenset(("http-library", "browser-automation", "scanner"))


def program_of(agent: Agent) -> int:
    """Return CRAWLER for a program that says its own name, TOOL for a library or an unknown one, 0 for a browser."""
    if agent.bot_class is not None:
        return TOOL if agent.bot_class in _TOOLS else CRAWLER
    return 0 if agent.browser is not None else TOOL


def new_actor(quotas_count: int, outdated: bool = False, program: int = 0) -> Actor:
    """Return a visitor nobody knows yet; `outdated` is what `Agent.outdated` says, `program` as from program_of."""
    return Actor([Window() for _ in range(quotas_count)], outdated=outdated, program=program)


def new_network(quotas_count: int) -> Actor:
    """Return a client network: windows only, until somebody in it sends forged headers (`traces.join_pool`)."""
    return Actor([Window() for _ in range(quotas_count)], *_NOBODY)


def begin_session(visitor: Actor, now: float) -> None:
    """Start a session: facts, signals, score and what was spent of them are new; level and cool-down stay."""
    if visitor.behaviour.requests or visitor.behaviour.page_loads:
        visitor.loaded = visitor.loaded or visitor.behaviour.page_loads > 0
        visitor.behaviour = Behaviour()
    visitor.score = 0
    visitor.signals = ()
    throttle.spend(visitor)
    window.charge(visitor.hour, signals.HOUR, now)
    _time_start(visitor, now)


def _time_start(visitor: Actor, now: float) -> None:
    """Take in the time from the session before, as behaviour does for pages."""
    if visitor.starts:
        weight = 1.0 / min(visitor.starts, GAP_MEMORY)
        difference = now - visitor.started_at - visitor.start_gap_mean
        correction = difference * weight
        visitor.start_gap_mean += correction
        visitor.start_gap_variance = (1.0 - weight) * (visitor.start_gap_variance + difference * correction)
    visitor.starts += 1
    visitor.started_at = now


def join(visitor: Actor, network: Actor, claims: Claims, site: Site, policy: Policy, now: float) -> None:
    """Let somebody new with forged headers begin at the level of those who came like that before."""
    visitor.claims = claims
    if claims.faults and site.knows_headers():
        for pool in (network, site.pools.get(claims.agent)):
            if pool is not None and pool.throttle.level:
                throttle.cool_down(pool, policy.cooldown, now)
                _adopt(visitor, pool)


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
    *,
    method: str = "GET",
    attempt: int | None = None,
    claims: Claims | None = None,
    network: Actor | None = None,
) -> None:
    """Take in how the app answers, before its headers leave, and bring `decision` up to date with the new level.

    `page`: a page was delivered; `inner`: a page of this site linked it; `attempt`: as for traces.meet_failure;
    `claims` and `network` may be left out where a page load is not due for a full judgement (Behaviour.quiet_until).
    A refused request teaches nothing, not even in observe mode, so that observing shows what enforcing would do.
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
    elif not 400 <= status < 500 or status == 429 or not meet_failure(visitor, method, path, inner, attempt, site, now):
        return
    if claims is not None:
        visitor.claims = claims
        if page and facts.page_loads == 1:
            site.witness(claims)
    _weigh(visitor, site, policy, decision, now)
    if visitor.claims.faults and network is not None and site.knows_headers():
        for pool in (network, pool_of(site, visitor.claims)):
            _judge_together(visitor, pool, page, path, inner, attempt, site, policy, decision, now)
        facts.quiet_until = -1


def accept(visitor: Actor, data: bool, path: str, site: Site, policy: Policy, decision: Decision, now: float) -> None:
    """Take in an answer that is neither a page nor an error: `data` tells JSON and its like from what was sent."""
    if decision.refused:
        return
    facts = visitor.behaviour
    facts.requests += 1
    if decision.exempt:
        return
    if not data:
        accept_try(visitor, path, site, now)
    elif take_data(facts, path, now):
        traces = facts.traces
        # The fifth part of what would tell: most who ask for data never come this far.
        if traces is not None and traces.items - visitor.throttle.spent_items > throttle.ITEMS // 5:
            _weigh(visitor, site, policy, decision, now)


def _weigh(visitor: Actor, site: Site, policy: Policy, decision: Decision, now: float) -> None:
    """Judge in full."""
    facts, rules, first = visitor.behaviour, policy.rules, policy.first
    if visitor.program and not visitor.claims.false_claim:
        rules, first = policy.program_rules, policy.program_first
    begins = facts.page_loads == 1 and not (facts.steps or facts.raised or facts.traces)
    signals.evaluate(visitor, first.rules if begins else rules, site, policy.site_pages, now)
    decision.score = visitor.score
    reasons = throttle.new_evidence(visitor, policy.bot_score, policy.further_loads, now)
    if reasons:
        _escalate(visitor, visitor, rules, reasons, site, policy, decision, now)
    if visitor.throttle.level != decision.level:
        _apply_level(visitor, policy, decision, now)
    facts.quiet_until = facts.steps + min(
        first.quiet if begins else signals.quiet_steps(visitor, rules, site, policy.site_pages, now),
        throttle.quiet_steps(visitor, policy.bot_score),
    )


def _judge_together(
    visitor: Actor,
    pool: Actor,
    page: bool,
    path: str,
    inner: bool,
    attempt: int | None,
    site: Site,
    policy: Policy,
    decision: Decision,
    now: float,
) -> None:
    """Judge what all did who came like this visitor, and put the visitor at their level."""
    join_pool(pool, _NOBODY[1], visitor.claims, now, IDLE)
    facts = pool.behaviour
    facts.requests += 1
    if pool.throttle.level:
        throttle.cool_down(pool, policy.cooldown, now)
    if page and load_page(facts, path, inner, site, now):
        site.loads -= 1
    elif not page:
        meet_failure(pool, "GET", path, inner, attempt, site, now)
    signals.evaluate(pool, policy.rules, site, policy.site_pages, now)
    reasons = throttle.new_evidence(pool, policy.bot_score, policy.further_loads, now)
    if reasons:
        _escalate(pool, visitor, policy.rules, reasons, site, policy, decision, now)
    _adopt(visitor, pool)
    if visitor.throttle.level != decision.level:
        _apply_level(visitor, policy, decision, now)


def _adopt(visitor: Actor, pool: Actor) -> None:
    state, common = visitor.throttle, pool.throttle
    if common.level > state.level:
        state.level, state.changed_at, state.reasons = common.level, common.changed_at, common.reasons
        throttle.spend(visitor)


def _escalate(
    judged: Actor,
    visitor: Actor,
    rules: tuple[signals.Rule, ...],
    reasons: tuple[str, ...],
    site: Site,
    policy: Policy,
    decision: Decision,
    now: float,
) -> None:
    """Raise the level of who was judged: the visitor, or a pool that it is in."""
    signals.refresh(judged, rules, site, policy.site_pages, now)
    if decision.previous_level is None:
        decision.previous_level = visitor.throttle.level
    decision.inputs, decision.findings = inputs_of_rise(judged, policy, now), judged.signals
    throttle.escalate(judged, (*reasons, *(finding.text for finding in judged.signals)), now)
    decision.reasons += judged.throttle.reasons


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
    visitor: Actor, network: Actor, policy: Policy, quotas: tuple[int, ...], previous: ThrottleLevel | None, now: float
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
        refused=True,
        retry_after=max(_whole(waits[place]) for place in used_up),
        violated=tuple(names[place] for place in used_up),
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
