"""Data that a visitor asks for, such as JSON: how many different items, and which a page fetches at once."""

from __future__ import annotations

from math import inf

from ..facts import Actor, Caller, Traces
from ..inputs import bounded, path_number
from ..model import Variant
from ..variants import TURN
from . import window
from .callers import caller_of, callers
from .site import Site
from .traces import traces_of
from .window import FIVE_MINUTES, HOUR, try_charge

ITEM_BITS = 1024  # of a bitmap
MAX_MARKED = 128  # set bits of the item bitmap: so few that items are seldom taken for one another
BURST_PAUSE = 3.0  # seconds without an item before the next burst
BURST = 2.0  # seconds that a view may take to fetch its items
ENDLESS = 6.0  # seconds without a pause after which a burst is no view's, if no pages are loaded
LONG_BURST, MAX_IN_BURST = 80.0, 300  # seconds and items of a view that fetches one after the other
MAX_OF_NEW = 10  # items in a burst of a login that has yet to come back
MAX_IN_BURSTS = 600  # items excused in five minutes: ten views of sixty
MAX_SCROLLED = 300  # deep pages of lists excused in an hour: a key that is held down leads so far
MAX_PREFETCHED = 1000  # items excused in an hour that were fetched before they were needed


def count_data(
    visitor: Actor,
    path: str,
    site: Site,
    now: float,
    excused: bool = False,
    variant: Variant | None = None,
    login: int = 0,
) -> bool:
    """Count an answer with data, such as JSON. Returns False where that makes no new item.

    What is fetched at once, such as a list and its items, counts as one; what is prefetched, or a further page of a
    list, is not counted. Programs gain little by this: one that never pauses makes no bursts, and one that fetches in
    batches soon reaches MAX_IN_BURSTS, MAX_PREFETCHED or MAX_SCROLLED. `login`: a number, 0: none, or none beside it.
    """
    facts = visitor.behaviour
    traces = traces_of(facts)
    caller = caller_of(traces, site.callers_of(traces), login, now) if login else traces.caller
    people = 1.0 if traces.callers is None else callers(facts, now)
    number = path_number(bounded(path)) if variant is None else variant.number
    bit = 1 << number % ITEM_BITS
    if excused:
        if traces.items_bitmap & bit:
            return False
        if try_charge(traces.prefetched, HOUR, MAX_PREFETCHED * people, now):
            _mark(traces, bit)
            return False
    if variant is not None and variant.kind == TURN and try_charge(traces.turned, HOUR, MAX_SCROLLED * people, now):
        return False
    since, caller.item_at = now - caller.item_at, now
    if not 0.0 <= since < BURST_PAUSE:
        caller.burst_at, caller.in_burst = now, 0
    elif not traces.items_bitmap & bit and _is_excused(visitor, traces, caller, people, now):
        _mark(traces, bit)
        return False
    traces.calls += 1
    if traces.items_bitmap & bit:
        return False
    traces.items += 1
    _mark(traces, bit)
    window.charge(traces.five_minutes, FIVE_MINUTES, now)
    return True


def _is_excused(visitor: Actor, traces: Traces, caller: Caller, people: float, now: float) -> bool:
    """Tell whether an item belongs to a view that fetches many at once; if so, it is charged to `in_bursts`.

    A page may fetch the rows of a table one after the other. If that never ends, they belong to no view, and count.
    """
    since = now - caller.burst_at
    if 0.0 <= since < BURST:
        return _in_burst(traces, caller, people, now)
    if since < 0.0 or (since >= LONG_BURST and caller.in_burst <= since):  # slower than one a second: somebody at work
        return False
    if visitor.program or not (visitor.behaviour.page_loads or visitor.loaded):
        if since < ENDLESS:
            return False
    elif since < LONG_BURST and caller.in_burst < MAX_IN_BURST:
        return _in_burst(traces, caller, people, now)
    traces.items += caller.in_burst
    window.charge(traces.five_minutes, FIVE_MINUTES, now, caller.in_burst)
    caller.burst_at = -inf
    return False


def _in_burst(traces: Traces, caller: Caller, people: float, now: float) -> bool:
    if caller.is_new and caller.in_burst >= MAX_OF_NEW:
        return False
    if not try_charge(traces.in_bursts, FIVE_MINUTES, MAX_IN_BURSTS * people, now):
        return False
    caller.in_burst += 1
    return True


def _mark(traces: Traces, bit: int) -> None:
    """Remember a path. As in count_error: starting over costs a path that is polled one more item."""
    bits = traces.items_bitmap | bit
    traces.items_bitmap = bits if bits.bit_count() <= MAX_MARKED else bit
