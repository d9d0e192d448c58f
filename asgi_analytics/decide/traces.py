"""Running facts that most visitors have none of: errors, credentials, data asked for, and pools.

A pool is what visitors with forged headers did together: all of one network, or all of one user agent. They are judged
as one, so that neither changing the name nor changing the address is a fresh start.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from ..facts import Actor, Behaviour, Claims, Throttle, Traces, Window
from ..inputs import BY_LENGTH, BY_PAGE, bounded, is_unguessed, path_number
from ..model import Variant
from ..variants import TURN, Variants
from . import window
from .actor import IDLE, NO_BEHAVIOUR
from .behaviour import count_error, page_facts
from .conduct import CRAWLER, TOOL
from .probes import HIDDEN, count_probe, is_odd, is_picture, kind_of, probe_kind
from .site import Route, Site
from .window import FIVE_MINUTES, HOUR, TEN_MINUTES

POOL_BITS, ITEM_BITS = 256, 1024  # of bitmaps
MAX_MARKED = 128  # set bits of the item bitmap: so few that items are seldom taken for one another
MAX_POOLS = 512  # by user agent and language; beyond, the oldest is forgotten
NOT_FOUND = 404  # the status that a redirect may stand for
# Answers to no guess: a payment is due, things changed while the client was offline, another limiter refuses.
BLAMELESS = (402, 409, 412, 429)
MAX_WITNESSED = 3  # tries of one visitor that count towards an attack by many
MAX_ROUTES = 64  # of those that refused credentials
POLL_GAP = 1.0  # seconds between two polls
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
BURST_PAUSE = 3.0  # seconds without an item before the next burst
BURST = 2.0  # seconds that a view may take to fetch its items
ENDLESS = 6.0  # seconds without a pause after which a burst is no view's, if no pages are loaded
LONG_BURST, MAX_IN_BURST = 60.0, 300  # seconds and items of a view that fetches one after the other
MAX_IN_BURSTS = 600  # items excused in five minutes: ten views of sixty
MAX_SCROLLED = 300  # deep pages of lists excused in an hour: a key that is held down leads so far
MAX_LINKED = 200  # errors excused in an hour and person because a page asked for them: anybody can claim so
MAX_STRAYED, STRAY_PAUSE = 60, 2.0  # errors excused in a session as dead links; least seconds between them
MAX_TRUSTED = 1000  # errors excused in an hour with credentials: synchronizing asks for what may not be there
MAX_REDIRECTED = 600  # pages in an hour that forms lead to: somebody at work needs seven seconds for one
REDIRECTED_WITHIN = 10.0  # seconds after the form
MAX_PREFETCHED = 1000  # items excused in an hour that were fetched before they were needed


def traces_of(facts: Behaviour) -> Traces:
    """Return the traces, made where there were none."""
    traces = facts.traces
    if traces is None:
        traces = facts.traces = Traces()
    return traces


def stands_for_not_found(visitor: Actor, path: str, target: int) -> bool:
    """Tell whether a redirect stands for "not found": one from a scanner's path, or to where the one before led.

    One to the same path, of another scheme or with a slash, does not; nor one of a crawler, which asks for pages that
    have moved. `target`: a number of path and query; 0: nowhere.
    """
    facts = visitor.behaviour
    if not target or visitor.program is CRAWLER or target in (path_number(f"{path}?"), path_number(f"{path}/?")):
        return False
    before, facts.led_to = facts.led_to, target
    return target == before or probe_kind(path) > 1


class Failure(NamedTuple):
    """An error, or an answer that refused credentials in another way."""

    status: int
    method: str
    path: str
    inner: bool  # a page asked for it by itself, see identify.request.is_linked
    attempt: int | None = None  # a number of the credentials that were refused; 0: others each time, None: none
    trusted: bool = False  # asked with credentials that the app did not refuse
    injected: bool = False  # with a query that scanners try
    guess: Variant | None = None  # what the query makes of it, where it holds a token or a code
    typed: bool = False  # the credentials are being typed in, see is_typed


def guess_of(variants: Variants, path: str, query: bytes | str) -> Variant | None:
    """Return what a query makes of a failure; None where the path tells all, as of what only scanners ask for."""
    guess = variants.failure(path, query)
    return None if guess is None or kind_of(path) else guess


def count_failure(visitor: Actor, failure: Failure, site: Site, now: float) -> bool:
    """Count an answer of 4xx, or credentials that were refused in another way. Returns False for nothing new.

    Of 5xx, the app's own fault, only what scanners provoke counts.
    """
    status, method, path, inner, attempt, trusted, injected, guess, typed = failure
    facts = visitor.behaviour
    new = attempt is not None and count_refused_attempt(visitor, path, attempt, site, now, typed)
    if status < 400 or status in BLAMELESS or (status >= 500 and not injected):
        return new
    kind = probe_kind(path)
    picture = is_picture(path)
    linked = inner and visitor.program is not TOOL and (kind < HIDDEN or _shows_pages(visitor))
    # A client that mounts the site as a folder asks each folder for this one, which scanners like, too.
    trusted = trusted and (not kind or path.endswith("/.DS_Store"))
    most = MAX_TRUSTED if trusted else MAX_LINKED * facts.people
    if (linked and picture) or ((linked or trusted) and _charged(traces_of(facts).excused_errors, HOUR, most, now)):
        return new
    if injected:
        traces_of(facts).probes += 1
        new = True
    if status >= 500:
        return new
    odd = is_odd(method, path)
    if odd:
        traces_of(facts).odd += 1
    if kind and count_probe(facts, path, kind):
        new = True
    if not kind and status in (404, 410) and is_unguessed(path):
        return odd or new
    # An expired token is refused everywhere; many programs send one only when asked for it, and none in a query then.
    if picture or (attempt and not attempt & BY_LENGTH) or (status == 401 and attempt is None and guess is None):
        return odd or new
    if not kind and method == "GET" and _may_stray(visitor, now):
        return odd or new
    return count_error(facts, path, guess) or odd or new


def _may_stray(visitor: Actor, now: float) -> bool:
    """Tell whether an error may be a dead link that a person follows: of an old site, a list, or from memory.

    A scanner guesses faster, or goes on for longer.
    """
    facts, claims = visitor.behaviour, visitor.claims
    since, facts.strayed_at = now - facts.strayed_at, now
    if visitor.program or claims.faults or not (claims.is_browser or claims.tells_origin):
        return False
    if since < STRAY_PAUSE or facts.strayed >= MAX_STRAYED:
        return False
    facts.strayed += 1
    return True


def _shows_pages(visitor: Actor) -> bool:
    """Tell whether a browser that sends Sec-Fetch-Site loaded a page: anybody may have put a picture into it."""
    claims = visitor.claims
    return visitor.behaviour.page_loads > 0 and claims.is_browser and claims.tells_origin and not claims.faults


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
    if typed and _charged(traces.typed, TEN_MINUTES, MAX_TYPED, now):
        return False
    if attempt in traces.last_tries:
        by_length = attempt & (BY_LENGTH | BY_PAGE) == BY_LENGTH
        traces.rapid_tries = traces.rapid_tries + 1 if by_length and 0.0 <= since < POLL_GAP else 0
        if not by_length:
            return False
        most = MAX_POLLED if visitor.program or visitor.claims.faults else MAX_POLLED_BY_PAGES
        if traces.rapid_tries < RAPID and _charged(traces.polled, TEN_MINUTES, most, now):
            return False
    elif attempt:
        traces.last_tries = (attempt, *traces.last_tries[: MAX_REMEMBERED - 1])
    route = _route_of(site, path, now)
    most = TRIES_PER_SUCCESS * min(facts.accepted, MAX_SUCCESSES)
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


def count_accepted_post(visitor: Actor, path: str, site: Site, now: float) -> None:
    """Count a POST that was accepted: with credentials or whatever else."""
    facts = visitor.behaviour
    facts.accepted += 1
    route = site.routes.get(path_number(bounded(path))) if site.routes else None
    if route is not None:
        route.accepts_nobody = False
        window.charge(route.accepted, TEN_MINUTES, now)
        if _is_blind(visitor):
            window.charge(route.passed, TEN_MINUTES, now)


def count_data(visitor: Actor, path: str, now: float, excused: bool = False, variant: Variant | None = None) -> bool:
    """Count an answer with data, such as JSON. Returns False where that makes no new item.

    What is fetched at once, such as a list and its items, counts as one; what is prefetched, or a further page of a
    list, is not counted. Programs gain little by this: one that never pauses makes no bursts, and one that fetches in
    batches soon reaches MAX_IN_BURSTS, MAX_PREFETCHED or MAX_SCROLLED.
    """
    facts = visitor.behaviour
    traces = traces_of(facts)
    if excused and _charged(traces.prefetched, HOUR, MAX_PREFETCHED, now):
        return False
    if variant is not None and variant.kind == TURN and _charged(traces.turned, HOUR, MAX_SCROLLED, now):
        return False
    number = path_number(bounded(path)) if variant is None else variant.number
    bit = 1 << number % ITEM_BITS
    since, traces.item_at = now - traces.item_at, now
    if not 0.0 <= since < BURST_PAUSE:
        traces.burst_at, traces.in_burst = now, 0
    elif not traces.items_bitmap & bit and _is_excused(visitor, traces, now):
        _mark(traces, bit)
        return False
    traces.calls += 1
    if traces.items_bitmap & bit:
        return False
    traces.items += 1
    _mark(traces, bit)
    window.charge(traces.five_minutes, FIVE_MINUTES, now)
    return True


def _is_excused(visitor: Actor, traces: Traces, now: float) -> bool:
    """Tell whether an item belongs to a view that fetches many at once; if so, it is charged to `in_bursts`.

    A page may fetch the rows of a table one after the other. If that never ends, they belong to no view, and count.
    """
    since = now - traces.burst_at
    if 0.0 <= since < BURST:
        return _in_burst(traces, now)
    if not 0.0 <= since < LONG_BURST:
        return False
    if visitor.program or not visitor.behaviour.page_loads:
        if since < ENDLESS:
            return False
    elif traces.in_burst < MAX_IN_BURST:
        return _in_burst(traces, now)
    traces.items += traces.in_burst
    window.charge(traces.five_minutes, FIVE_MINUTES, now, traces.in_burst)
    traces.burst_at = -inf
    return False


def _in_burst(traces: Traces, now: float) -> bool:
    if not _charged(traces.in_bursts, FIVE_MINUTES, MAX_IN_BURSTS, now):
        return False
    traces.in_burst += 1
    return True


def _charged(counter: Window, size: float, most: int, now: float) -> bool:
    if window.estimate(counter, size, now) >= most:
        return False
    window.charge(counter, size, now)
    return True


def _mark(traces: Traces, bit: int) -> None:
    """Remember a path. As in count_error: starting over costs a path that is polled one more item."""
    bits = traces.items_bitmap | bit
    traces.items_bitmap = bits if bits.bit_count() <= MAX_MARKED else bit


def note_redirect(facts: Behaviour, target: int, now: float) -> None:
    """Remember where the answer to a form leads; `target`: a number of path and query."""
    traces = traces_of(facts)
    traces.redirected_to, traces.redirected_at = target, now


def is_redirected(traces: Traces, target: int, now: float) -> bool:
    """Tell whether a page is where the form sent last led to; True once for each form."""
    if traces.redirected_to != target or not 0.0 <= now - traces.redirected_at < REDIRECTED_WITHIN:
        return False
    traces.redirected_to = 0
    return True


def count_redirected(facts: Behaviour, page: str | Variant, now: float) -> bool:
    """Record a page that the app chose, not the visitor: it is no page load. Returns False where it counts as one."""
    if not facts.page_loads or not _charged(traces_of(facts).redirected, HOUR, MAX_REDIRECTED, now):
        return False
    facts.before_last = (facts.last_page, *facts.before_last[:2])
    facts.steps += 1
    facts.last_page = page.key if isinstance(page, Variant) else page_facts(page).key
    facts.last_answer_at = now
    return True


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
