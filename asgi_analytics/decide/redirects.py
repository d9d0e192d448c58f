"""Redirects: those that stand for an error, and those after a form, whose page the app has chosen."""

from __future__ import annotations

from ..facts import Actor, Behaviour, Traces
from ..inputs import path_number
from ..model import Variant
from .behaviour import page_facts
from .conduct import CRAWLER
from .probes import probe_kind
from .traces import traces_of
from .window import HOUR, try_charge

NOT_FOUND = 404  # the status that a redirect may stand for
MAX_REDIRECTED = 600  # pages in an hour that forms lead to: somebody at work needs seven seconds for one
REDIRECTED_WITHIN = 10.0  # seconds after the form


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
    if not facts.page_loads or not try_charge(traces_of(facts).redirected, HOUR, MAX_REDIRECTED, now):
        return False
    facts.before_last = (facts.last_page, *facts.before_last[:2])
    facts.steps += 1
    facts.last_page = page.key if isinstance(page, Variant) else page_facts(page).key
    facts.last_answer_at = now
    return True
