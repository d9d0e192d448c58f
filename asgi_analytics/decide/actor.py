"""Actors, which are judged: made when new, reset with each session."""

from __future__ import annotations

from ..facts import Actor, Behaviour, Claims, Program, Throttle, ThrottleLevel, Window
from ..model import TOOL_CLASSES, Agent
from . import throttle, window
from .behaviour import GAP_MEMORY, MAX_ERRORS_KNOWN
from .conduct import CRAWLER, TOOL
from .policy import Policy
from .site import Site

GATEWAYS = frozenset(("Amazon CloudFront",))  # replace every visitor's user agent by their own
IDLE = 1800.0  # seconds without a page load after which facts shared by several sessions are reset
# One for all client networks that are no pool: they are many, and have no facts of their own.
NO_THROTTLE, NO_BEHAVIOUR, NO_SESSIONS = Throttle(), Behaviour(), Window()


def program_of(agent: Agent) -> Program:
    """Return what a user agent says of the program behind it."""
    if agent.crawler in GATEWAYS:
        return CRAWLER
    if agent.bot_class is not None:
        return TOOL if agent.bot_class in TOOL_CLASSES else CRAWLER
    return Program.NONE if agent.browser is not None else TOOL


def new_actor(quotas_count: int, outdated: bool = False, program: Program = Program.NONE) -> Actor:
    """Return a visitor nobody knows yet; `outdated` is what `Agent.outdated` says, `program` as from program_of."""
    return Actor([Window() for _ in range(quotas_count)], outdated=outdated, program=program)


def new_network(quotas_count: int) -> Actor:
    """Return a client network: windows only, until somebody in it sends forged headers (`pools.join_pool`)."""
    return Actor([Window() for _ in range(quotas_count)], NO_THROTTLE, NO_BEHAVIOUR, NO_SESSIONS)


def begin_session(visitor: Actor, now: float) -> None:
    """Start a session: facts, signals, score and what was spent of them are new; level and cool-down stay."""
    if visitor.behaviour.requests or visitor.behaviour.page_loads:
        visitor.loaded = visitor.loaded or visitor.behaviour.page_loads > 0
        known = visitor.behaviour.errors_bitmap
        # Somebody may look whether what failed before still does.
        visitor.behaviour = Behaviour(errors_bitmap=known if known.bit_count() <= MAX_ERRORS_KNOWN else 0)
    visitor.score = 0
    visitor.signals = ()
    throttle.spend(visitor)
    window.charge(visitor.hour, window.HOUR, now)
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


def count_session(visitor: Actor, now: float) -> None:
    """Count a session of somebody who is judged together with others; the facts go on while anyone loads pages.

    Beginning anew with each session instead would let a program that drops its cookie wipe its own traces.
    """
    facts = visitor.behaviour
    if facts.page_loads and now - facts.last_page_at > IDLE:
        begin_session(visitor, now)
    else:
        window.charge(visitor.hour, window.HOUR, now)
        facts.quiet_until = -1


def start_like_pool(visitor: Actor, network: Actor, claims: Claims, site: Site, policy: Policy, now: float) -> None:
    """Begin a session with contradicting headers at the level of the pools that it is in, where that is higher."""
    visitor.claims = claims
    if claims.faults and site.knows_headers():
        for pool in (network, site.pools.get(claims.agent)):
            if pool is not None and pool.throttle.level:
                throttle.cool_down(pool, policy.cooldown, now)
                adopt_pool(visitor, pool)


def adopt_level(
    visitor: Actor, level: ThrottleLevel, changed_at: float, cooldown: float | None = None, now: float = 0.0
) -> None:
    """Take over a level from another worker, as throttle.adopt; `changed_at` in monotonic seconds here."""
    throttle.adopt(visitor, level, changed_at, ("another worker saw the evidence",), cooldown, now)


def adopt_pool(visitor: Actor, pool: Actor) -> None:
    """Put a visitor at the level of a pool that it is in, where that is higher."""
    state, common = visitor.throttle, pool.throttle
    if common.level > state.level:
        state.level, state.changed_at, state.reasons = common.level, common.changed_at, common.reasons
        throttle.spend(visitor)
