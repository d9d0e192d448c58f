"""Answers with an error: which are guesses, and which dead links or a fault of the site."""

from __future__ import annotations

from typing import NamedTuple

from ..facts import Actor, Behaviour
from ..inputs import BY_LENGTH, is_unguessed
from ..model import Variant
from ..variants import Variants
from .attempts import count_refused_attempt
from .behaviour import count_error, count_form, error_bit, remember_error
from .conduct import TOOL
from .probes import (
    HIDDEN,
    OF_FOLDERS,
    count_probe,
    is_in_folders,
    is_odd,
    is_package,
    is_picture,
    kind_of,
    probe_kind,
)
from .site import Site
from .traces import traces_of
from .window import FIVE_MINUTES, HOUR, try_charge

# Answers to no guess: a payment is due, things changed while the client was offline, another limiter refuses.
BLAMELESS = (402, 409, 412, 429)
MAX_LINKED = 200  # errors excused in an hour and person because a page asked for them: anybody can claim so
MAX_LINKED_INJECTED = 40  # likewise, with a query that scanners try: in a page that runs what its reader writes
MAX_STRAYED, STRAY_PAUSE = 60, 2.0  # errors excused in a session as dead links; least seconds between them
MAX_INJECTED = 15  # queries in an hour that somebody may type to see what an app does with them
MAX_TRUSTED = 1000  # errors excused in an hour with credentials: synchronizing asks for what may not be there


class Failure(NamedTuple):
    """An error, or an answer that refused credentials in another way."""

    status: int
    method: str
    path: str
    inner: bool  # a page asked for it by itself, see identify.request.is_linked
    attempt: int | None = None  # a number of the credentials that were refused; 0: others each time, None: none
    trusted: bool = False  # asked with credentials that the app did not refuse
    injected: bool = False  # with a query or a header that scanners try
    guess: Variant | None = None  # what the query makes of it, where it holds a token or a code
    typed: bool = False  # the credentials are being typed in, see is_typed
    form: bool = False  # to a form that no page sent, see identify.credentials.is_form_of_no_page


def guess_of(variants: Variants, path: str, query: bytes | str, status: int) -> Variant | None:
    """Return what a query makes of a failure; None where the path tells all, as of what only scanners ask for."""
    guess = variants.failure(path, query, status)
    return None if guess is None or kind_of(path) else guess


def count_failure(visitor: Actor, failure: Failure, site: Site, now: float) -> bool:
    """Count an answer of 4xx, or credentials that were refused in another way. Returns False for nothing new.

    Of 5xx, the app's own fault, only what scanners provoke counts.
    """
    status, method, path, inner, attempt, trusted, injected, guess, typed, form = failure
    facts = visitor.behaviour
    new = form and count_form(facts, status < 500, now, bool(visitor.program))
    new = (attempt is not None and count_refused_attempt(visitor, path, attempt, site, now, typed)) or new
    if status < 400 or status in BLAMELESS or (status >= 500 and not injected):
        return new
    if method in OF_FOLDERS and is_in_folders(path):
        return new
    kind = probe_kind(path)
    picture = is_picture(path)
    linked = inner and visitor.program is not TOOL and (kind < HIDDEN or _shows_pages(visitor))
    # A client that mounts the site as a folder asks each folder for this one, which scanners like, too.
    trusted = trusted and (not kind or path.endswith("/.DS_Store"))
    most = MAX_TRUSTED if trusted else MAX_LINKED * facts.people
    if linked and picture:
        return new
    if linked or trusted:
        if injected:
            excused = try_charge(traces_of(facts).excused_errors, HOUR, min(most, MAX_LINKED_INJECTED), now)
        else:
            excused = _is_excused(facts, path, guess, status, most, now)
        if excused:
            return new
    if injected and not _may_be_typed(visitor, method, now):
        traces_of(facts).probes += 1
        new = True
    if status >= 500:
        return new
    odd = is_odd(method, path)
    if odd:
        traces_of(facts).odd += 1
    if kind and count_probe(facts, path, kind):
        new = True
    if not kind and status in (404, 410) and (is_unguessed(path) or is_package(path)):
        return odd or new
    # An expired token is refused everywhere; many programs send one only when asked for it, and none in a query then.
    by_itself = attempt is None or attempt & BY_LENGTH
    if picture or (attempt and not attempt & BY_LENGTH) or (status == 401 and by_itself and guess is None):
        return odd or new
    if not kind and method == "GET" and _may_stray(visitor, now):
        return odd or new
    return count_error(facts, path, guess) or odd or new


def _is_excused(facts: Behaviour, path: str, guess: Variant | None, status: int, most: float, now: float) -> bool:
    """Tell whether an error is excused because a page, or somebody with credentials, asked for it; once for each path.

    Where there are too many, those of the last minutes count, too: no page asks for so much, and a scanner for more.
    """
    bit = error_bit(path, guess)
    if facts.errors_bitmap & bit:
        return True
    traces = traces_of(facts)
    if not 0.0 <= now - traces.excused_since < FIVE_MINUTES:
        traces.excused_since, traces.excused_lately = now, 0
    if try_charge(traces.excused_errors, HOUR, most, now):
        traces.excused_lately += status != 401 or guess is not None
        remember_error(facts, bit)
        return True
    facts.errors += traces.excused_lately
    traces.excused_lately = 0
    return False


def _may_stray(visitor: Actor, now: float) -> bool:
    """Tell whether an error may be a dead link that a person follows: of an old site, a list, or from memory.

    A scanner guesses faster, or goes on for longer.
    """
    facts = visitor.behaviour
    since, facts.strayed_at = now - facts.strayed_at, now
    if not _is_browser(visitor) or since < STRAY_PAUSE or facts.strayed >= MAX_STRAYED:
        return False
    facts.strayed += 1
    return True


def _may_be_typed(visitor: Actor, method: str, now: float) -> bool:
    """Tell whether a query that scanners try may be typed by a developer, who also reloads what comes of it."""
    if method != "GET" or not _is_browser(visitor):
        return False
    return try_charge(traces_of(visitor.behaviour).injected, HOUR, MAX_INJECTED, now)


def _is_browser(visitor: Actor) -> bool:
    claims = visitor.claims
    return not visitor.program and not claims.faults and (claims.is_browser or claims.tells_origin)


def _shows_pages(visitor: Actor) -> bool:
    """Tell whether a browser that sends Sec-Fetch-Site loaded a page: anybody may have put a picture into it."""
    claims = visitor.claims
    return (
        (visitor.behaviour.page_loads > 0 or visitor.loaded)
        and claims.is_browser
        and claims.tells_origin
        and not claims.faults
    )
