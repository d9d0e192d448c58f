"""People who ask an app without pages for data, and look alike: told by their logins, which come back.

What an app knows them by is in a cookie or a token that anybody can make up. One that is made up for each request never
comes back and earns nothing. Somebody who comes back after others counts as a person bit by bit, in whole after five
minutes: who walks fast is slowed down before, however many cookies take turns.
"""

from __future__ import annotations

from ..facts import Behaviour, Caller, Traces
from .behaviour import MAX_PEOPLE
from .window import FIVE_MINUTES

MAX_CALLERS = 64  # remembered of one visitor
FEW_ITEMS = 10  # or tries, before it is looked at whose they are
RETURN = 20.0  # seconds after which somebody who was met comes back
TURN = 63.0  # seconds for which a login is kept for its turn: many report each minute


def is_small(traces: Traces, data: bool) -> bool:
    """Tell whether so little was asked for, or tried in vain, that it does not matter yet by whom."""
    if data:
        return traces.items + traces.caller.in_burst + traces.prefetched.count < FEW_ITEMS
    return traces.excused < FEW_ITEMS


def login_among(traces: Traces, login: int) -> int:
    """Return a login's number where others are known beside it, else 0: of one alone nothing has to be told apart."""
    if traces.callers is None and traces.first_login in (0, login):
        traces.first_login = login
        return 0
    return login


def caller_of(traces: Traces, known: dict[int, Caller], login: int, now: float) -> Caller:
    """Return what is known of who asks, of all that are `known` by the numbers of their logins."""
    before, traces.last_login = traces.last_login, login
    caller = known.pop(login, None)
    if caller is None:
        caller = Caller(met_at=now, is_new=True, seen_at=now)
        if len(known) >= MAX_CALLERS:
            del known[_one_too_many(known, before, now)]
    elif caller.is_new and before != login and now - caller.met_at >= RETURN:
        _join(traces, caller, now)
    caller.seen_at = now
    known[login] = caller
    return caller


def _one_too_many(known: dict[int, Caller], last: int, now: float) -> int:
    """Return the login to be forgotten: the one not seen for longest, unless all may yet come back in their turn.

    Then it is the last one: else hundreds of devices that report in turn would push each other out.
    """
    oldest = next(iter(known))
    return last if now - known[oldest].seen_at < TURN and last in known and known[last].is_new else oldest


def _join(traces: Traces, caller: Caller, now: float) -> None:
    if traces.settled + len(traces.joined) < MAX_PEOPLE:
        caller.is_new = False
        traces.joined.append(now)


def callers(facts: Behaviour, now: float) -> float:
    """Return how many people ask for data, as far as their logins and the pages that they load tell."""
    traces = facts.traces
    if traces is None or traces.callers is None:
        return facts.people
    return max(facts.people, logins(traces, now))


def logins(traces: Traces, now: float) -> float:
    """Return how many people there are by their logins alone."""
    joined = traces.joined
    while joined and now - joined[0] >= FIVE_MINUTES:
        del joined[0]
        traces.settled += 1
    return traces.settled + sum([now - since for since in joined]) / FIVE_MINUTES
