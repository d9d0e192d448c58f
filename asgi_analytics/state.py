"""What this worker holds in memory: bounded in number, whatever comes."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain

from .facts import Actor, ThrottleLevel
from .model import CachedRefusal, Merged, Visitor
from .protocols import Salt

MAX_CHANCES = 16  # visitors that are looked at to evict one
MAX_CACHED_REFUSALS = 4096  # refusals, about 2.6 KB each


class State:
    """Visitors by fingerprint and client networks, least recently seen out first.

    Visitors above Normal live in maps of their own, so that a flood of new visitors cannot wash out a block.
    """

    def __init__(
        self,
        *,
        max_visitors: int,
        max_networks: int,
        max_flagged: int,
        new_network: Callable[[], Actor],
        learn_salts: Callable[[Sequence[Salt]], None],
        meet: Callable[[Actor, bool], None] = lambda actor, is_network: None,
    ) -> None:
        self._max_visitors = max_visitors
        self._max_networks = max_networks
        self._max_flagged = max_flagged
        self._new_network = new_network
        self._learn_salts = learn_salts
        self._meet = meet  # called with each actor that is new here, and whether it is a network
        # Not dict: its first key is found by walking over all that were deleted before.
        self._visitors: OrderedDict[bytes, Visitor] = OrderedDict()
        self._flagged: OrderedDict[bytes, Visitor] = OrderedDict()  # Warning and Severe
        self._blocked: OrderedDict[bytes, Visitor] = OrderedDict()
        self._networks: OrderedDict[bytes, Actor] = OrderedDict()
        self._shared_networks: OrderedDict[bytes, Actor] = OrderedDict()  # by the keyed hash that all workers know
        self._cached_refusals: deque[tuple[Visitor, CachedRefusal]] = deque()

    def get(self, fingerprint: bytes) -> Visitor | None:
        """Return a visitor and mark it as seen; None when it is not in memory."""
        visitor = self._find(fingerprint)
        if visitor is not None:
            visitor.seen = True
        return visitor

    def _find(self, fingerprint: bytes) -> Visitor | None:
        return self._visitors.get(fingerprint) or self._flagged.get(fingerprint) or self._blocked.get(fingerprint)

    def add(self, visitor: Visitor) -> None:
        """Add a new visitor; if full, evict one not seen for long."""
        if len(self._visitors) >= self._max_visitors:
            self._forget_one()
        visitor.known = True
        self._visitors[visitor.identity.fingerprint] = visitor
        self.name_actors(visitor)

    def name_actors(self, visitor: Visitor) -> None:
        """Give a visitor's actors the keys that all workers share; a visitor who asks for privacy gets none."""
        identity, actor, network = visitor.identity, visitor.actor, visitor.network
        if not identity.tracked:
            return
        if actor.loans is None and not actor.key:
            actor.key = identity.fingerprint
            self._meet(actor, False)
        name = identity.network
        if name not in (network.key, network.next_key):
            if len(self._shared_networks) >= self._max_networks:
                with suppress(KeyError):  # another thread was faster
                    self._shared_networks.popitem(last=False)
            self._shared_networks[name] = network
            if network.loans is None:
                network.key = name
                self._meet(network, True)
            else:
                network.next_key = name

    def actor(self, key: bytes) -> tuple[Actor, bool] | None:
        """Return the actor that all workers call `key`, and whether it is a network; None when it is not in memory."""
        visitor = self._find(key)
        if visitor is not None:
            return visitor.actor, False
        network = self._shared_networks.get(key)
        return None if network is None else (network, True)

    def actors(self) -> list[tuple[Actor, bool]]:
        """Return all actors in memory, each with whether it is a network."""
        visitors = chain(*(list(part.values()) for part in (self._visitors, self._flagged, self._blocked)))
        networks = list(self._shared_networks.values())
        return [*((visitor.actor, False) for visitor in visitors), *((network, True) for network in networks)]

    def _forget_one(self) -> None:
        """Second chance (Corbató, 1968): those seen since their last turn go back to the end, at most MAX_CHANCES.

        Moving each visitor to the end at each request would cost every request what this costs new visitors alone.
        """
        visitors = self._visitors
        for _ in range(MAX_CHANCES):
            try:
                fingerprint, visitor = visitors.popitem(last=False)
            except KeyError:  # another thread was faster
                return
            if not visitor.seen:
                break
            visitor.seen = False
            visitors[fingerprint] = visitor
        else:
            del visitors[fingerprint]
        visitor.known = False

    def rename(self, fingerprint: bytes, visitor: Visitor) -> None:
        """Move a visitor from an older fingerprint to its present one."""
        for place in (self._flagged, self._blocked, self._visitors):
            if place.pop(fingerprint, None) is not None:
                place[visitor.identity.fingerprint] = visitor
                actor = visitor.actor
                if actor.loans is None:
                    actor.key = actor.next_key = b""
                elif actor.key:  # until its loans are told under the new one, it keeps the key that others use, too
                    actor.next_key = visitor.identity.fingerprint
                self.name_actors(visitor)
                return
        self.add(visitor)

    def network(self, key: bytes) -> Actor:
        """Return the network's actor, made where it is new. `key` as from identify.client.network_of."""
        actor = self._networks.get(key)
        if actor is None:
            if len(self._networks) >= self._max_networks:
                with suppress(KeyError):  # another thread was faster
                    self._networks.popitem(last=False)
            actor = self._networks[key] = self._new_network()
        else:
            with suppress(KeyError):  # as above
                self._networks.move_to_end(key)
        return actor

    def level_changed(self, visitor: Visitor) -> None:
        """Move a visitor to the map of its level."""
        fingerprint = visitor.identity.fingerprint
        place = self._place(visitor.actor.throttle.level)
        if fingerprint in place:
            return
        for other in (self._visitors, self._flagged, self._blocked):
            before = other.pop(fingerprint, None)
            if before is not None:  # maybe of who was evicted while a request of it was on its way, and is back
                before.known = False
        if place is self._visitors:
            self.add(visitor)
            return
        if len(self._flagged) + len(self._blocked) >= self._max_flagged:
            # Blocked visitors are evicted last: nobody escapes a block by having others warned.
            self._forget_flagged()
        visitor.known = True
        place[fingerprint] = visitor

    def cache_refusal(self, visitor: Visitor, cached: CachedRefusal) -> None:
        """Keep a refusal to send it to its visitor again; beyond MAX_CACHED_REFUSALS the oldest is dropped."""
        if len(self._cached_refusals) >= MAX_CACHED_REFUSALS:
            with suppress(IndexError):  # as above
                other, oldest = self._cached_refusals.popleft()
                if other.cached_refusal is oldest:
                    other.cached_refusal = None
        visitor.cached_refusal = cached
        self._cached_refusals.append((visitor, cached))

    def _forget_flagged(self) -> None:
        with suppress(KeyError):  # as above
            _, visitor = (self._flagged or self._blocked).popitem(last=False)
            visitor.known = False

    def _place(self, level: ThrottleLevel) -> OrderedDict[bytes, Visitor]:
        if level == ThrottleLevel.NORMAL:
            return self._visitors
        return self._blocked if level == ThrottleLevel.BLOCKED else self._flagged

    def learn_salts(self, salts: Sequence[Salt]) -> None:
        """SharedState: pass on the salts that all workers agree on. Called by the writer's thread."""
        self._learn_salts(salts)

    def merge(self, totals: Sequence[Merged]) -> None:
        """SharedState: keep what others saw with each visitor, to be applied at its next request."""
        for merged in totals:
            key = merged.fingerprint
            visitor = self._find(key)
            if visitor is not None:
                visitor.merged = merged if visitor.merged is None else _sum(visitor.merged, merged)

    def counts(self) -> dict[str, int]:
        """Return how many visitors, flagged visitors and networks are held."""
        flagged = len(self._flagged) + len(self._blocked)
        return {"visitors": len(self._visitors), "flagged": flagged, "networks": len(self._networks)}


def _sum(earlier: Merged, later: Merged) -> Merged:
    newest = max(earlier, later, key=lambda merged: merged.level_changed_us)
    remote = earlier.remote + later.remote
    return Merged(later.fingerprint, later.session, remote, newest.level, newest.level_changed_us)
