"""The signals about what a visitor does beside browsing: probing, guessing, forging. They hold for programs too."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from ..facts import Actor, Program, Traces
from .behaviour import DISTINCT_PAGES, steps_beyond
from .callers import callers
from .signal import Measure, People, Quiet, Signal, browsing, with_a_session
from .site import Site, fetches_files
from .window import FIVE_MINUTES, TEN_MINUTES, estimate

CRAWLER: Final = Program.CRAWLER
TOOL: Final = Program.TOOL
ITEM_SHARE = 0.8  # of the answers with data
FEW_LOADS = 20  # before it tells anything that no links are followed
LINKED_SHARE = 0.5  # of the steps, by which people follow links
POOL_SHARE = 0.1  # inner steps among the page loads of a pool that does not browse


def probing(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the weights of the sensitive paths asked for in vain: 2 for a scanner's, 1 for what a person may try."""
    traces = visitor.behaviour.traces
    return traces.probes if traces is not None else None


def credential_stuffing(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the credentials refused within ten minutes."""
    traces = visitor.behaviour.traces
    return estimate(traces.ten_minutes, TEN_MINUTES, now) if traces is not None and traces.tries else None


def distributed_stuffing(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the credentials refused to a library, or to who never loaded a page, while a route is tried by many."""
    traces = visitor.behaviour.traces
    return traces.blind_tries if traces is not None else None


def distinct_items(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the distinct paths answered with data per minute and person over five minutes; None where many were asked
    before.
    """
    traces = visitor.behaviour.traces
    if traces is None or not asks_once(visitor, traces):
        return None
    return estimate(traces.five_minutes, FIVE_MINUTES, now) / 5.0 / callers(visitor.behaviour, now)


def asks_once(visitor: Actor, traces: Traces) -> bool:
    """Tell whether hardly any data is asked for twice. For a library always: it may ask twice to hide a walk."""
    return visitor.program is TOOL or traces.items >= ITEM_SHARE * traces.calls


def tool_pages(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the distinct pages that a library, or a program without a known name, loaded in this session."""
    return DISTINCT_PAGES[visitor.behaviour.distinct_pages] if visitor.program is TOOL else None


def inconsistent_headers(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the number of header faults of the claimed browser; None until the site knows that such headers arrive."""
    return len(visitor.claims.faults) if site.knows_headers() else None


def agent_rotation(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the distinct user agents of a network's pool that does not browse."""
    traces = visitor.behaviour.traces
    return traces.agents if traces is not None and traces.agents and not _browses(visitor) else None


def proxy_rotation(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the distinct networks of a user agent's pool that does not browse."""
    traces = visitor.behaviour.traces
    return traces.networks if traces is not None and traces.networks and not _browses(visitor) else None


def false_claim(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return 1.0 for a claim to be an operator's crawler that was found to be false."""
    return 1.0 if visitor.claims.false_claim else None


def odd_requests(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return the failed requests of a method or a path that no browser sends."""
    traces = visitor.behaviour.traces
    return traces.odd if traces is not None else None


def hosting_network(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return 1.0 for a browser in a network of servers.

    None without an ASN file, and for those who browse as people do: their VPN may end there.
    """
    facts, claims = visitor.behaviour, visitor.claims
    if not claims.is_hosted or (facts.page_loads <= FEW_LOADS and not claims.faults):
        return None
    browses = not claims.faults and facts.inner_steps >= LINKED_SHARE * facts.steps and fetches_files(facts)
    return None if browses else 1.0


def needs_beacon(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
    """Return None: what this signal measures, only a script in the page could tell."""
    return None


def _browses(pool: Actor) -> bool:
    facts = pool.behaviour
    return facts.inner_steps > POOL_SHARE * facts.page_loads


def _quiet_tool(visitor: Actor, site: Site, site_pages: int, now: float, threshold: float) -> float:
    return steps_beyond(visitor.behaviour, threshold) if visitor.program is TOOL else inf


def _faults(visitor: Actor) -> str:
    return "; ".join(visitor.claims.faults)


def _signal(
    code: str,
    measure: Measure,
    sentence: str,
    quiet: Quiet = with_a_session,
    of_people: bool = False,
    what: Callable[[Actor], str] | None = None,
    people: People = browsing,
) -> Signal:
    return Signal(code, measure, sentence, quiet=quiet, of_people=of_people, what=what, people=people)


CONDUCT_SIGNALS = (
    _signal("probing", probing, "sensitive paths asked for in vain, weighing {value:.0f} (limit {limit:g})"),
    _signal(
        "credential_stuffing",
        credential_stuffing,
        "{value:.0f} credentials refused within ten minutes (limit {limit:g})",
    ),
    _signal(
        "distributed_stuffing",
        distributed_stuffing,
        "{value:.0f} credentials refused to a library, or to who never loaded a page, where many try (limit {limit:g})",
    ),
    _signal(
        "distinct_items_per_minute",
        distinct_items,
        "{value:.1f} different items of data a minute{each} over five minutes, hardly any twice (limit {limit:g})",
        people=callers,
    ),
    _signal(
        "many_pages_by_a_tool",
        tool_pages,
        "{value:.0f} different pages by a library, an automated browser or a program without a name (limit {limit:g})",
        quiet=_quiet_tool,
    ),
    _signal(
        "inconsistent_headers",
        inconsistent_headers,
        "headers that contradict the browser's name: {what}",
        what=_faults,
        of_people=True,
    ),
    _signal(
        "agent_rotation",
        agent_rotation,
        "{value:.0f} user agents with contradicting headers in one network, none of which browse (limit {limit:g})",
    ),
    _signal(
        "residential_proxy_rotation",
        proxy_rotation,
        "one user agent with contradicting headers from {value:.0f} networks, none of which browse (limit {limit:g})",
    ),
    _signal("false_crawler_claim", false_claim, "a claim to be an operator's crawler that was found to be false"),
    _signal(
        "odd_method_or_path",
        odd_requests,
        "failed requests of a method or a path that no browser sends: {value:.0f} (limit {limit:g})",
    ),
    _signal("hosting_network", hosting_network, "a browser in a network of servers", of_people=True),
    _signal("no_javascript_events", needs_beacon, "no event of a script (needs the beacon)"),
    _signal("ghost_session", needs_beacon, "a session of events without a request (needs the beacon)"),
    _signal("no_engagement_across_sessions", needs_beacon, "sessions without engagement (needs the beacon)"),
)
