"""What visitors with forged headers did together: all of one network, or all of one user agent.

They are judged as one, so that neither changing the name nor changing the address is a fresh start.
"""

from __future__ import annotations

from ..facts import Actor, Behaviour, Claims, Throttle, Traces
from .actor import IDLE, NO_BEHAVIOUR
from .site import Site
from .traces import traces_of

POOL_BITS = 256  # of a bitmap
MAX_POOLS = 512  # by user agent and language; beyond, the oldest is forgotten


def pool_of(site: Site, claims: Claims) -> Actor:
    """Return the pool of those who name the same browser and language."""
    pool = site.pools.get(claims.agent)
    if pool is None:
        if len(site.pools) >= MAX_POOLS:
            site.pools.pop(next(iter(site.pools)), None)
        pool = site.pools[claims.agent] = Actor([])
    return pool


def join_pool(pool: Actor, claims: Claims, now: float) -> Traces:
    """Count a visitor into a pool; one without visitors for IDLE seconds starts afresh, except for its level."""
    facts = pool.behaviour
    if facts is NO_BEHAVIOUR:
        pool.throttle = Throttle()
    seen_at = facts.traces.seen_at if facts.traces is not None else now
    if facts is NO_BEHAVIOUR or not 0.0 <= now - seen_at <= IDLE:
        facts = pool.behaviour = Behaviour()
        pool.score, pool.signals, pool.started_at = 0, (), now
        state = pool.throttle
        pool.throttle = Throttle(state.level, state.changed_at, state.reasons)
    pool.claims = claims
    traces = traces_of(facts)
    traces.seen_at = now
    bit = 1 << claims.agent % POOL_BITS
    if not traces.agents_bitmap & bit:
        traces.agents_bitmap |= bit
        traces.agents += 1
    bit = 1 << claims.network % POOL_BITS
    if not traces.networks_bitmap & bit:
        traces.networks_bitmap |= bit
        traces.networks += 1
    return traces
