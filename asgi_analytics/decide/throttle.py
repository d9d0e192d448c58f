"""Throttle levels: up by one on new evidence, down by one for every cool-down that passes.

Each change spends the evidence of that moment. To climb again a visitor has to give more of it: a score above the spent
one or a further high request count, a further minute of hurried page loads, a further run of errors, of sensitive
paths, of refused credentials or of different items of data.
"""

from __future__ import annotations

from math import ceil, inf
from typing import NamedTuple

from ..facts import Actor, Throttle, ThrottleLevel
from .behaviour import MAX_IN_LOOP, MAX_TABS
from .callers import callers
from .conduct import CRAWLER, TOOL, asks_once
from .pages import NEW_SHARE, is_led_on
from .site import fetches_files
from .window import FIVE_MINUTES, MINUTE, TEN_MINUTES, estimate

PAGE_LOADS_PER_MINUTE = 30.0  # of a person: the level rises above
CRAWLER_PAGE_LOADS = 60.0  # likewise, of a program under its own name
BURST_OF_TABS = float(MAX_TABS)  # likewise, of a browser, the first time in a session
REOPENED_TABS = 45.0  # likewise, without files, which a browser that is started again has from before
PHOTOS_PER_MINUTE, MAX_PHOTOS = 150.0, 300.0  # likewise, through a gallery by the arrow keys; in five minutes
MAX_WITH_TABS = 75.0  # page loads in five minutes up to which a burst may be tabs
ERROR_RATE = 0.5  # of the requests: the level rises above
ERROR_REQUESTS = 20  # likewise, and above so many
RELAPSE = 4.0  # after Blocked, limits are lower by this factor until the level is Normal again
_FEW_ERRORS = ERROR_RATE * ERROR_REQUESTS / RELAPSE
PROBES = 5  # weights of sensitive paths: the level rises above
LEVELS = tuple(ThrottleLevel)
BLOCKED = ThrottleLevel.BLOCKED


class EscalationLimits(NamedTuple):
    """The limits above which a level rises; infinite if the signal that measures the same is switched off."""

    bot_score: int  # from this score on
    further_loads: float  # page loads per person that make an unchanged score count again
    probes: float = PROBES
    tries: float = 20.0  # credentials refused within ten minutes
    shared_tries: float = 0.0  # likewise, by one of many who try a route
    items: float = 150.0  # different ones within five minutes; see item_limit


def effective_limit(limit: int, level: ThrottleLevel) -> int:
    """Return the limit at a level: rounded down, at least 1 unless Blocked, which is 0."""
    return max(1, int(limit * level.multiplier)) if level < BLOCKED else 0


def new_evidence(visitor: Actor, limits: EscalationLimits, now: float) -> tuple[str, ...]:
    """Return a sentence for each limit exceeded by evidence not yet spent; empty while Blocked."""
    throttle, facts, bot_score = visitor.throttle, visitor.behaviour, limits.bot_score
    # Nearly all page loads end here: too little of everything.
    if (
        visitor.score < bot_score
        and facts.paced_loads - throttle.spent_paced_loads <= PAGE_LOADS_PER_MINUTE / RELAPSE
        and facts.errors - throttle.spent_errors <= _FEW_ERRORS
        and facts.traces is None
    ):
        return ()
    if throttle.level == BLOCKED:
        return ()
    reasons: tuple[str, ...] = ()
    score, loads = visitor.score, (facts.page_loads - throttle.spent_page_loads) / facts.people
    if score >= bot_score and (score > throttle.spent_score or loads >= limits.further_loads / relapse(visitor)):
        reasons = (f"a score of {score} (limit {bot_score})",)
    paced, most = (facts.paced_loads - throttle.spent_paced_loads) / facts.people, pace_limit(visitor, now)
    if paced > most:
        pace = min(paced, estimate(facts.minute, MINUTE, now) / facts.people)
        if pace > most:
            what = "page loads and forms sent" if facts.forms else "page loads"
            reasons += (f"{ceil(pace)} {what} in the last minute{_since(throttle)} (limit {most:g})",)
    requests, errors = facts.requests - throttle.spent_requests, facts.errors - throttle.spent_errors
    if requests > ERROR_REQUESTS / relapse(visitor) and errors > ERROR_RATE * requests:
        share = f"{errors} of {requests} requests answered with an error"
        reasons += (f"{share}{_since(throttle)} (limit {ERROR_RATE:.0%})",)
    return reasons + conduct_evidence(visitor, limits, now) if facts.traces is not None else reasons


def _since(throttle: Throttle) -> str:
    """Return what evidence is of, where some is spent: else a reason would say less than there was."""
    return ", since the level last changed" if throttle.level else ""


def pace_limit(visitor: Actor, now: float) -> float:
    """Return the page loads per minute and person above which the level rises."""
    if _may_turn_pages(visitor, now):
        return PHOTOS_PER_MINUTE
    if _may_open_tabs(visitor, now):
        return _most_tabs(visitor)
    return _usual_pace(visitor, visitor.behaviour.paced_loads - visitor.throttle.spent_paced_loads, now)


def _usual_pace(visitor: Actor, count: float = inf, now: float = 0.0) -> float:
    """Return the limit of who opens no tabs; for a library lower if it goes on by the second, as without `count`."""
    if visitor.program is TOOL:
        return PAGE_LOADS_PER_MINUTE / _haste(visitor, count, now)
    return (CRAWLER_PAGE_LOADS if visitor.program is CRAWLER else PAGE_LOADS_PER_MINUTE) / relapse(visitor)


def _may_open_tabs(visitor: Actor, now: float) -> bool:
    """Tell whether a burst may be a person's: of a browser, the first in a session."""
    state, facts = visitor.throttle, visitor.behaviour
    if not _is_browser(visitor):
        return False
    if state.level or state.spent_paced_loads:
        return False
    return estimate(facts.five_minutes, FIVE_MINUTES, now) <= MAX_WITH_TABS * facts.people


def _most_tabs(visitor: Actor) -> float:
    """Return how many pages a burst may have: fewer where no files are fetched, and no more than usual one by one."""
    facts = visitor.behaviour
    if fetches_files(facts, facts.paced_loads) or facts.inner_steps >= NEW_SHARE * facts.paced_loads:
        return BURST_OF_TABS
    return REOPENED_TABS if facts.paced_loads - facts.at_once <= PAGE_LOADS_PER_MINUTE else _usual_pace(visitor)


def _may_turn_pages(visitor: Actor, now: float) -> bool:
    """Tell whether somebody may hold down a key that leads on through a gallery, or reload a few tabs in turn.

    Only up to MAX_PHOTOS in five minutes.
    """
    facts = visitor.behaviour
    if facts.paced_loads <= PAGE_LOADS_PER_MINUTE or not _is_browser(visitor):
        return False
    if estimate(facts.five_minutes, FIVE_MINUTES, now) > MAX_PHOTOS * facts.people:
        return False
    if facts.distinct_pages <= MAX_IN_LOOP and facts.page_loads > 2 * facts.distinct_pages:
        return True
    return is_led_on(facts)


def _is_browser(visitor: Actor) -> bool:
    claims = visitor.claims
    return (claims.tells_origin or claims.is_browser) and not claims.faults and not visitor.program


def relapse(visitor: Actor) -> float:
    """Return the factor by which limits are lower: above 1.0 from Blocked until the level is Normal again."""
    return RELAPSE if visitor.throttle.was_blocked else 1.0


def conduct_evidence(visitor: Actor, limits: EscalationLimits, now: float) -> tuple[str, ...]:
    """Return a sentence for each limit exceeded by what is no page load."""
    throttle, traces = visitor.throttle, visitor.behaviour.traces
    if traces is None:
        return ()
    reasons: tuple[str, ...] = ()
    probes = traces.probes - throttle.spent_probes
    few = limits.probes / relapse(visitor)
    if probes > few:
        reasons = (f"sensitive paths asked for in vain, weighing {probes}{_since(throttle)} (limit {few:g})",)
    tries = min(traces.tries - throttle.spent_tries, estimate(traces.ten_minutes, TEN_MINUTES, now))
    most = try_limit(visitor, limits, tries, now)
    if tries > most:
        reasons += (f"{ceil(tries)} credentials refused within ten minutes{_since(throttle)} (limit {most:g})",)
    items = min(traces.items - throttle.spent_items, estimate(traces.five_minutes, FIVE_MINUTES, now))
    few = item_limit(visitor, limits, items, now)
    if items > few and asks_once(visitor, traces):
        what = f"{ceil(items)} different items of data within five minutes"
        reasons += (f"{what}{_since(throttle)} (limit {round(few, 1):g})",)
    return reasons


def item_limit(visitor: Actor, limits: EscalationLimits, items: float, now: float) -> float:
    """Return the different items of data above which the level rises; fewer where they go on coming by the second."""
    most = limits.items * callers(visitor.behaviour, now)
    if not visitor.throttle.level:
        return most
    return most / (15.0 if _goes_on(visitor, items, now) else 3.0) / relapse(visitor)


def try_limit(visitor: Actor, limits: EscalationLimits, tries: float, now: float) -> float:
    """Return the refused credentials above which the level rises: likewise; none for one of many who try a route."""
    traces = visitor.behaviour.traces
    joins = traces is not None and traces.blind_tries > 1
    return min(limits.tries / _haste(visitor, tries, now), limits.shared_tries if joins else inf)


def _haste(visitor: Actor, count: float, now: float) -> float:
    """Return the factor by which limits are lower for who goes on by the second at a level, or after Blocked."""
    return max(relapse(visitor), 2.0 if _goes_on(visitor, count, now) else 1.0)


def _goes_on(visitor: Actor, count: float, now: float) -> bool:
    """Tell whether so many since the level rose are more than one a second."""
    throttle = visitor.throttle
    return throttle.level > ThrottleLevel.NORMAL and count > now - throttle.changed_at


def quiet_steps(visitor: Actor, bot_score: int, now: float) -> int:
    """Return for how many steps between pages none can be evidence, apart from errors and reloads in a rush.

    Both what is not yet spent and what the last minute holds have to be above the limit; without page loads an
    estimate only falls.
    """
    if visitor.score >= bot_score:
        return 0
    facts = visitor.behaviour
    paced = min(facts.paced_loads - visitor.throttle.spent_paced_loads, estimate(facts.minute, MINUTE, now))
    return max(0, int(_usual_pace(visitor) * facts.people - paced))


def escalate(visitor: Actor, reasons: tuple[str, ...], now: float) -> None:
    """Raise the level by one, for these reasons, and spend the evidence."""
    throttle = visitor.throttle
    throttle.level = LEVELS[min(throttle.level + 1, BLOCKED)]
    throttle.was_blocked = throttle.was_blocked or throttle.level == BLOCKED
    throttle.changed_at = now
    throttle.reasons = reasons
    spend(visitor)


def cool_down(visitor: Actor, cooldown: float, now: float) -> None:
    """Lower the level by one for every `cooldown` seconds since the last change, and spend the evidence."""
    throttle = visitor.throttle
    if not throttle.level:
        return
    if now < throttle.changed_at:  # the clock went back: nobody waits longer than one cool-down for it
        throttle.changed_at = now
    lower = cooled(throttle.level, throttle.changed_at, cooldown, now)
    steps = throttle.level - lower
    if not steps:
        return
    throttle.level = lower
    throttle.was_blocked = throttle.was_blocked and throttle.level > ThrottleLevel.NORMAL
    throttle.changed_at += steps * cooldown
    spend(visitor)


def cooled(level: ThrottleLevel, changed_at: float, cooldown: float, now: float) -> ThrottleLevel:
    """Return what is left at `now` of a level that was set at `changed_at`."""
    return LEVELS[max(0, level - int(max(0.0, now - changed_at) / cooldown))] if level else level


def time_to_cool_down(throttle: Throttle, cooldown: float, now: float) -> float:
    """Return the seconds until the level cools down by one."""
    return throttle.changed_at + cooldown - now


def adopt(
    visitor: Actor,
    level: ThrottleLevel,
    changed_at: float,
    reasons: tuple[str, ...],
    cooldown: float | None = None,
    now: float = 0.0,
) -> None:
    """Take over a level that was set elsewhere at `changed_at`, unless this one was changed later.

    With a `cooldown`: what is left of either at `now` comes first. A level of the last round that cools down at a
    worker, with the first request there for long, is no news of one that has risen meanwhile.
    """
    throttle = visitor.throttle
    theirs = ours = 0
    if cooldown is not None:
        theirs = cooled(level, changed_at, cooldown, now)
        ours = cooled(throttle.level, throttle.changed_at, cooldown, now)
    if theirs < ours or (theirs == ours and changed_at <= throttle.changed_at):
        return
    if level != throttle.level:
        throttle.level = level
        throttle.was_blocked = (throttle.was_blocked or level == BLOCKED) and level > ThrottleLevel.NORMAL
        throttle.reasons = reasons
        visitor.behaviour.quiet_until = -1  # the limits may be lower from now on
        spend(visitor)
    throttle.changed_at = changed_at


def spend(visitor: Actor) -> None:
    """Mark all evidence so far as spent."""
    throttle, facts = visitor.throttle, visitor.behaviour
    throttle.spent_score = visitor.score
    throttle.spent_page_loads = facts.page_loads
    throttle.spent_paced_loads = facts.paced_loads
    throttle.spent_requests = facts.requests
    throttle.spent_errors = facts.errors
    traces = facts.traces
    if traces is not None:
        throttle.spent_probes, throttle.spent_tries = traces.probes, traces.tries
        throttle.spent_items = traces.items
    else:
        throttle.spent_probes = throttle.spent_tries = throttle.spent_items = 0
