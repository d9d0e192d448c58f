"""Credentials that were refused: which are guesses, and which polls, slips or what somebody is typing."""

from __future__ import annotations

from ..facts import Actor, Behaviour, Traces
from ..inputs import BY_LENGTH, BY_PAGE, bounded, path_number
from . import window
from .callers import caller_of, logins
from .conduct import TOOL
from .site import Route, Site
from .traces import traces_of
from .window import TEN_MINUTES, try_charge

MAX_WITNESSED = 3  # tries of one visitor that count towards an attack by many
MAX_ROUTES = 64  # of those that refused credentials
POLL_GAP = 1.0  # seconds between two polls
SLIP, PER_SLIP = 0.5, 4  # seconds more now and then, for which so many rapid tries are taken back, and not all
# In ten minutes, by a program and by a browser, whose pages have many parts: whoever guesses pads all guesses to one
# length, and pauses now and then.
MAX_POLLED, MAX_POLLED_BY_PAGES = 500, 4000
RAPID = 30  # rapid tries of one length in a row: guesses, such as codes; a page polls fewer at once
MAX_AT_FAULT = 100  # tries excused where nobody has got it right yet: the app may be at fault
REQUESTS_PER_TRY = 2.2  # of a browser, at least: the form, its files, the try
MAX_REMEMBERED = 4  # credentials that were tried last
MIN_GROWTH, MAX_GROWTH = 3, 20  # steps by which what is typed in gets longer
PER_KEY_BACK, PER_STEP_BACK = 2, 4  # of these, that are undone by a character or two less, and by more
MAX_TYPED = 200  # tries in ten minutes that were being typed in: anybody can make each guess longer than the last
TRIES_PER_SUCCESS, MAX_SUCCESSES = 3, 50  # people who also get it right mistype so often


def is_typed(facts: Behaviour, length: int) -> bool:
    """Tell whether what was refused is being typed, in an app that checks it with each key: it gets longer and longer.

    Guesses get shorter as often. `length`: of what was sent; 0: it cannot be typed.
    """
    if not length:
        return False
    traces = traces_of(facts)
    step, traces.length = length - traces.length, length
    if step > 0:
        traces.growth = min(traces.growth + 1, MAX_GROWTH)
    elif step < 0:
        traces.growth = max(traces.growth - (PER_KEY_BACK if step >= -2 else PER_STEP_BACK), 0)
    return step != 0 and traces.growth >= MIN_GROWTH


def count_refused_attempt(visitor: Actor, path: str, attempt: int, site: Site, now: float, typed: bool = False) -> bool:
    """Count refused credentials. Returns False when they are no evidence; `attempt` and `typed` as in Failure."""
    facts = visitor.behaviour
    traces = traces_of(facts)
    since, traces.tried_at = now - traces.tried_at, now
    if typed and try_charge(traces.typed, TEN_MINUTES, MAX_TYPED, now):
        return False
    if attempt in traces.last_tries:
        by_length = attempt & (BY_LENGTH | BY_PAGE) == BY_LENGTH
        if not by_length or not 0.0 <= since < POLL_GAP + SLIP:
            traces.rapid_tries = 0
        else:
            traces.rapid_tries = traces.rapid_tries + 1 if since < POLL_GAP else max(0, traces.rapid_tries - PER_SLIP)
        if not by_length:
            return False
        most = MAX_POLLED if visitor.program or visitor.claims.faults else MAX_POLLED_BY_PAGES
        if traces.rapid_tries < RAPID and try_charge(traces.polled, TEN_MINUTES, most, now):
            return False
    elif attempt:
        traces.last_tries = (attempt, *traces.last_tries[: MAX_REMEMBERED - 1])
    route = _route_of(site, path, now)
    most = TRIES_PER_SUCCESS * min(facts.accepted, MAX_SUCCESSES * max(1, int(logins(traces, now))))
    if route.accepts_nobody and most < MAX_AT_FAULT and _fills_in(visitor, traces):
        most = MAX_AT_FAULT
    if traces.excused < most:
        traces.excused += 1
        return False
    traces.tries += 1
    window.charge(traces.ten_minutes, TEN_MINUTES, now)
    if not _is_blind(visitor):
        return True
    traces.blind_tries += 1
    if traces.tries <= MAX_WITNESSED:
        window.charge(route.failed, TEN_MINUTES, now)
    if not route.is_attacked(now):
        traces.blind_tries = min(traces.blind_tries, 1)
    return True


def _is_blind(visitor: Actor) -> bool:
    """Tell whether somebody never loaded a page, or is a library: it loads one only for the token of the form."""
    return visitor.program is TOOL or not (visitor.behaviour.page_loads or visitor.loaded)


def _route_of(site: Site, path: str, now: float) -> Route:
    number, routes = path_number(bounded(path)), site.routes
    route = routes.get(number)
    if route is None:
        if len(routes) >= MAX_ROUTES:  # the oldest may be attacked: others are made up to have it forgotten
            routes.pop(min(tuple(routes.items()), key=lambda one: one[1].uses(now))[0], None)
        route = routes[number] = Route()
    return route


def _fills_in(visitor: Actor, traces: Traces) -> bool:
    """Tell whether a browser that loads pages and files too sends the tries, as people's do: a program only tries."""
    facts, claims = visitor.behaviour, visitor.claims
    if not facts.page_loads or not claims.is_browser or claims.faults:
        return False
    return facts.requests >= REQUESTS_PER_TRY * (traces.tries + traces.excused + 1)


def count_accepted_post(visitor: Actor, path: str, site: Site, now: float, login: int = 0) -> None:
    """Count a POST that was accepted: with credentials or whatever else. `login`: as in count_data."""
    facts = visitor.behaviour
    facts.accepted += 1
    if login:
        traces = traces_of(facts)
        caller_of(traces, site.callers_of(traces), login, now)
    route = site.routes.get(path_number(bounded(path))) if site.routes else None
    if route is not None:
        route.accepts_nobody = False
        window.charge(route.accepted, TEN_MINUTES, now)
        if _is_blind(visitor):
            window.charge(route.passed, TEN_MINUTES, now)
