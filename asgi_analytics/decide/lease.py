"""Quotas that all workers share, as one worker holds them: units that it may admit without asking anybody.

An actor that uses little is counted by each worker alone. One that uses more than a part of what a worker may admit
unasked gets loans, one per quota: a background thread tells what was used of them and is lent more, before the
request comes that would need it. Nothing here waits. While nothing can be exchanged, each worker keeps to its part of
the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil

from ..facts import Actor, Loan, Window
from ..protocols import Ask, Exchanged
from . import window
from .lending import LIFE, believed, size_of, unasked, unasked_at

Limits = Sequence[tuple[float, int]]  # seconds and units, one pair per quota
EARLY = 4  # quotas are shared from this part of the unasked units on: time to be lent more before they are gone
MAX_ACTORS = 4096  # whose loans are exchanged; those above keep to this worker's part of the limit
MAX_SCARCE = 20_000  # counters that are known to be scarce
IDLE = 1.0  # seconds after which a loan is exchanged though nothing was used; a quarter of short windows
QUICK = 0.2  # seconds after which one is exchanged though plenty is left; a tenth of short windows
LONGEST = 600.0  # seconds without use after which loans rest, however long the window
MAX_UNITS = 1_000_000  # lent ahead of need: plenty, and a number that every server takes


def shared_from(limit: int, workers: int) -> int:
    """Return the units of a window from which on a quota is shared; for a lone worker, not before it is used up.

    Two windows of the clock hold at most twice as much: still less than may be admitted unasked.
    """
    return limit if workers < 2 else unasked(limit, workers) // EARLY


def name_of(key: bytes, size: float) -> bytes:
    """Return the name of a counter: 16 bytes of the actor, 4 of the window."""
    return key + int(size).to_bytes(4, "big")


class Leases:
    """What this worker was lent, and what it may admit unasked. Requests read it; one thread exchanges it.

    `limits` and `network_limits`: at level Normal. `wake` has something exchanged soon; `find` returns the actor in
    memory with this key, and whether it is a network; `everybody` all that are in memory, as `find`. `agreed` tells
    whether other workers know an actor by the same key.
    """

    def __init__(
        self,
        limits: Limits = (),
        network_limits: Limits = (),
        wake: Callable[[], None] = lambda: None,
        find: Callable[[bytes], tuple[Actor, bool] | None] = lambda key: None,
        everybody: Callable[[], Iterable[tuple[Actor, bool]]] = tuple,
        agreed: Callable[[], bool] = lambda: True,
    ) -> None:
        self.workers = 1  # that live, as far as this one knows
        self.sharing = 1  # as `workers`, but at least 2 once there were others: they may have used any quota
        self.connected = False
        self.revision = 0
        self._limits = limits
        self._network_limits = network_limits
        self._wake = wake
        self._find = find
        self._everybody = everybody
        self._agreed = agreed
        self._hurried = False
        self._actors: dict[bytes, Actor] = {}
        self._scarce: dict[bytes, tuple[int, float]] = {}  # counter → stage, and until when that is believed

    # On the way of a request

    def open(self, actor: Actor, limits: Limits, now: float) -> None:
        """Open the loans of an actor; what it used here so far is yet to be told."""
        if actor.loans is not None or not actor.key:  # no key: it asks not to be told apart, so it is told to nobody
            return
        before = self._actors.get(actor.key)
        if before is not None and before.loans is not None:  # it was forgotten in between
            actor.loans, before.loans = before.loans, None
        else:
            actor.loans = [self._loan(actor, place, *quota, now) for place, quota in enumerate(limits)]
        if before is not None or len(self._actors) < MAX_ACTORS:
            self._actors[actor.key] = actor
        self._hurry()

    def _loan(self, actor: Actor, place: int, size: float, limit: int, now: float) -> Loan:
        name, counter = name_of(actor.key, size), actor.windows[place]
        used = ceil(window.estimate(counter, size, now))
        # What came unshared in the window before may all lie in the present one of the server's clock.
        used = max(used, counter.count + min(int(counter.previous), shared_from(limit, self.sharing)))
        allowed = unasked_at(unasked(limit, self.sharing), self._stage(name, now))
        return Loan(name, size, limit, used, max(used, allowed), limit, now, asked_at=now, wanted=True)

    def meet(self, actor: Actor, is_network: bool, now: float) -> None:
        """Open the loans of an actor new to this worker, if others told that its quotas are scarce."""
        limits = self._network_limits if is_network else self._limits
        if self._scarce and any(self._stage(name_of(actor.key, size), now) for size, _ in limits):
            self.open(actor, limits, now)

    def left(self, actor: Actor, limits: Limits, now: float) -> list[int]:
        """Return the units that this worker may admit now, one number per quota."""
        loans = actor.loans
        if loans is not None and self.connected and (actor.next_key or actor.key not in self._actors):
            self._take_up(actor, limits, now)
            loans = actor.loans
        own = self._own(actor, loans, limits)
        if own is not None:
            return _remaining(actor, own, now)
        loans = loans or []
        for loan, (_, limit) in zip(loans, limits, strict=True):
            loan.limit = limit
        return [loan.allowed - loan.used for loan in loans]

    def _own(self, actor: Actor, loans: list[Loan] | None, limits: Limits) -> Limits | None:
        """Return the limits that this worker keeps to by itself; None where it has what it was lent."""
        if loans is None:
            return limits
        if self.connected and actor.key in self._actors and self._agreed():
            return None
        return [(size, max(1, limit // self.workers)) for size, limit in limits]

    def _take_up(self, actor: Actor, limits: Limits, now: float) -> None:
        """Exchange loans again that rested, or found no room; after midnight open new ones under the actor's new key.

        While loans rest, all use of them is reported and all units are given back. What others used meanwhile comes
        with the next answer.
        """
        if actor.next_key:
            self._actors.pop(actor.key, None)
            actor.key, actor.next_key, actor.loans = actor.next_key, b"", None
            return self.open(actor, limits, now)
        if len(self._actors) >= MAX_ACTORS:
            return None
        for counter, loan in zip(actor.windows, actor.loans or (), strict=False):
            _forget_old(counter, loan, now)
            unasked_now = unasked_at(unasked(loan.limit, self.sharing), self._stage(loan.counter, now))
            loan.allowed = max(loan.used, loan.reported + min(unasked_now, loan.left))
            loan.used_at, loan.dry = now, False
        self._actors[actor.key] = actor
        self._hurry()
        return None

    def take(self, actor: Actor, limits: Limits, now: float) -> None:
        """Charge one unit to each quota, and share from now on what has come so far, as `admit` does by itself."""
        loans, hot = actor.loans, False
        for one, (size, limit) in zip(actor.windows, limits, strict=True):
            window.charge(one, size, now)
            if loans is None:
                used = window.estimate(one, size, now) - 1.0  # before this request
                hot = hot or used >= shared_from(limit, self.sharing)
        if hot:
            self.open(actor, limits, now)
        for loan in loans or ():
            loan.used += 1
            if loan.allowed - loan.used <= loan.used - loan.reported and not loan.dry:
                self._hurry()

    def miss(self, actor: Actor, left: Sequence[int]) -> None:
        """Ask for what was refused, and at once unless the last answer was that there is nothing."""
        for loan, units in zip(actor.loans or (), left, strict=False):
            if units <= 0:
                loan.wanted = True
                if not loan.dry:
                    self._hurry()

    def shown(self, actor: Actor, limits: Limits, now: float) -> list[int]:
        """Return the units left to all workers together as far as this one knows, one number per quota."""
        loans = actor.loans  # once: another thread may close them
        own = self._own(actor, loans, limits)
        if own is not None:
            return _remaining(actor, own, now)
        here = _remaining(actor, limits, now)
        told = [loan.left - (loan.used - loan.reported) for loan in loans or ()]
        return [max(0, min(pair)) for pair in zip(here, told, strict=True)]

    def waits(self, actor: Actor, limits: Limits, now: float) -> list[float]:
        """Return the seconds until a unit may fit, one number per quota."""
        loans = actor.loans
        own = self._own(actor, loans, limits)
        if own is not None:
            return [window.wait(one, *quota, now) for one, quota in zip(actor.windows, own, strict=True)]
        return [max(0.0, loan.asked_at + loan.wait - now) for loan in loans or ()]

    def _hurry(self) -> None:
        if not self._hurried:
            self._hurried = True
            self._wake()

    # In the thread that exchanges

    def asks(self, now: float) -> list[Ask]:
        """Return what to report and to ask for; units not kept are given up here, before they are given back."""
        self._hurried = False
        given_back = self._rest(now) if self.connected else []
        return given_back + [self._ask(counter, loan, now) for counter, loan in self._each() if _is_due(loan, now)]

    def returns(self, now: float) -> list[Ask]:
        """Return asks that report all use and give the rest back; from now on nothing may be admitted on loan."""
        told = [self._ask(counter, loan, now) for counter, loan in self._each()]
        self.let_go()
        return [replace(one, keep=0, wanted=0) for one in told]

    def let_go(self) -> None:
        """Drop all loans: another thread, or the parent of this process, accounts for what was used."""
        self.connected, self.revision, self._hurried = False, 0, False
        for _, loan in self._each():
            loan.reported = loan.allowed = loan.sent = loan.used

    def _ask(self, counter: Window, loan: Loan, now: float) -> Ask:
        share = unasked(loan.limit, self.sharing)
        # As much as a burst may need, as long as all who hold loans can have it.
        least = min(MAX_UNITS, max(int(loan.left >= self.workers), loan.left // (2 * self.workers)))
        _forget_old(counter, loan, now)
        loan.sent = used = loan.used
        fresh = used - loan.reported
        keep = min(max(0, loan.allowed - used), max(fresh, least))
        loan.allowed = used + keep
        wanted = max(4 * fresh, least, int(loan.wanted), keep)
        loan.wanted = False
        if fresh:
            loan.used_at = now
        return Ask(loan.counter, loan.size, loan.limit, share, fresh, keep, wanted)

    def take_in(self, answer: Exchanged, sent_at: float, now: float) -> None:
        """Take in the answer to `asks` that were sent at `sent_at`."""
        loans = {loan.counter: loan for _, loan in self._each()}
        for grant in answer.grants:
            loan = loans.get(grant.counter)
            if loan is None:
                continue
            allowed = loan.sent + grant.units
            loan.dry = allowed <= loan.allowed
            loan.reported, loan.allowed = loan.sent, allowed
            loan.left, loan.wait, loan.asked_at = grant.left, grant.wait, sent_at
        self.workers, self.revision, self.connected = answer.workers, answer.revision, True
        alone, self.sharing = self.sharing < 2, max(answer.workers, min(2, self.sharing))
        if alone and self.sharing > 1:
            self._share_all(now)
        for counter, stage in answer.scarce.items():
            self._learn(counter, stage, now)
        self._forget(now)

    def cut_off(self) -> None:
        """Nothing can be exchanged: from now on this worker keeps to its part of the limits."""
        self.connected = False

    def interval(self) -> float:
        """Return the seconds after which there may be something to exchange."""
        return min((_quick(loan) for _, loan in self._each()), default=QUICK)

    def count(self) -> int:
        """Return how many actors have loans that are exchanged."""
        return len(self._actors)

    def _each(self) -> Iterator[tuple[Window, Loan]]:
        for actor in list(self._actors.values()):
            yield from zip(actor.windows, actor.loans or (), strict=False)

    def _share_all(self, now: float) -> None:
        """Open loans for what was used while this worker was alone: actors may go to others only from now on."""
        for actor, is_network in self._everybody():
            limits = self._network_limits if is_network else self._limits
            for counter, (size, limit) in zip(actor.windows, limits, strict=True):
                if limit - window.remaining(counter, size, limit, now) >= shared_from(limit, self.sharing):
                    self.open(actor, limits, now)

    def _learn(self, counter: bytes, stage: int, now: float) -> None:
        if len(self._scarce) < MAX_SCARCE or counter in self._scarce:
            self._scarce[counter] = (stage, now + believed(size_of(counter)))
        found = self._find(counter[:16])
        if found is not None:
            actor, is_network = found
            self.open(actor, self._network_limits if is_network else self._limits, now)

    def _forget(self, now: float) -> None:
        self._rest(now, gives=False)
        for counter, (_, until) in list(self._scarce.items()):
            if until < now:
                del self._scarce[counter]

    def _rest(self, now: float, gives: bool = True) -> list[Ask]:
        """Stop exchanging the loans that nobody used for long; return the asks that give their units back.

        Without `gives` none can be sent now, so that loans with units are left for later: others would take these
        units for used.
        """
        given_back: list[Ask] = []
        for key, actor in list(self._actors.items()):
            loans = actor.loans or ()
            if not all(_is_idle(loan, now) for loan in loans):
                continue
            holding = [loan for loan in loans if loan.allowed > loan.used and now - loan.asked_at < LIFE]
            if holding and not gives:
                continue
            given_back += [Ask(loan.counter, loan.size, loan.limit, 0, 0, 0, 0) for loan in holding]
            if not any(
                window.held(counter, loan.size, now) or self._stage(loan.counter, now)
                for counter, loan in zip(actor.windows, loans, strict=False)
            ):
                actor.loans = None  # else they go on where they ended: the others know of what was used
                if actor.next_key:
                    actor.key, actor.next_key = actor.next_key, b""
            self._actors.pop(key, None)
        return given_back

    def _stage(self, counter: bytes, now: float) -> int:
        stage, until = self._scarce.get(counter, (0, 0.0))
        return stage if now < until else 0


def _remaining(actor: Actor, limits: Limits, now: float) -> list[int]:
    return [window.remaining(one, *quota, now) for one, quota in zip(actor.windows, limits, strict=True)]


def _forget_old(counter: Window, loan: Loan, now: float) -> None:
    """Leave out what was used more than a window ago: it need not be told any more, as after an outage."""
    if now - loan.asked_at > loan.size:
        loan.reported = max(loan.reported, loan.used - ceil(window.held(counter, loan.size, now)))


def _is_due(loan: Loan, now: float) -> bool:
    fresh, age = loan.used - loan.reported, now - loan.asked_at
    low = loan.allowed - loan.used <= fresh and not loan.dry
    return loan.wanted or age > min(IDLE, loan.size / 4) or (fresh > 0 and (low or age > _quick(loan)))


def _quick(loan: Loan) -> float:
    return min(QUICK, loan.size / 10)


def _is_idle(loan: Loan, now: float) -> bool:
    return loan.used == loan.reported and now - loan.used_at > min(2 * loan.size, LONGEST) + LIFE
