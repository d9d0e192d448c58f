"""What this worker holds in memory: bounded in number, whatever comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

from .model import Actor, ThrottleLevel, Visitor
from .protocols import Merged, Salt


class State:
    """Visitors by fingerprint and client networks, least recently seen out first.

    Visitors above Normal live in a map of their own, so that a flood of new visitors cannot wash out a block.
    """

    def __init__(
        self,
        *,
        max_visitors: int,
        max_networks: int,
        max_flagged: int,
        new_network: Callable[[], Actor],
        learn_salts: Callable[[Sequence[Salt]], None],
    ) -> None:
        self._max_visitors = max_visitors
        self._max_networks = max_networks
        self._max_flagged = max_flagged
        self._new_network = new_network
        self._learn_salts = learn_salts
        # Not dict: its first key is found by walking over all that were deleted before.
        self._visitors: OrderedDict[bytes, Visitor] = OrderedDict()
        self._flagged: OrderedDict[bytes, Visitor] = OrderedDict()
        self._networks: OrderedDict[bytes, Actor] = OrderedDict()

    def get(self, fingerprint: bytes) -> Visitor | None:
        """Return a visitor and mark it as seen; None when it is not in memory."""
        visitor = self._visitors.get(fingerprint)
        if visitor is None:
            return self._flagged.get(fingerprint)
        with suppress(KeyError):  # evicted by another thread in between
            self._visitors.move_to_end(fingerprint)
        return visitor

    def add(self, visitor: Visitor) -> None:
        """Take in a new visitor; the one that was not seen for longest goes."""
        visitors = self._visitors
        if len(visitors) >= self._max_visitors:
            _evict_oldest(visitors)
        visitors[visitor.identity.fingerprint] = visitor

    def rename(self, fingerprint: bytes, visitor: Visitor) -> None:
        """Move a visitor from an older fingerprint to its present one."""
        place = self._flagged if fingerprint in self._flagged else self._visitors
        place.pop(fingerprint, None)
        place[visitor.identity.fingerprint] = visitor

    def network(self, key: bytes) -> Actor:
        """Return the network's actor, made where it is new. `key` as from identify.client.network_of."""
        actor = self._networks.get(key)
        if actor is None:
            if len(self._networks) >= self._max_networks:
                _evict_oldest(self._networks)
            actor = self._networks[key] = self._new_network()
        else:
            self._networks.move_to_end(key)
        return actor

    def level_changed(self, visitor: Visitor) -> None:
        """Put a visitor where its level belongs."""
        fingerprint = visitor.identity.fingerprint
        if visitor.actor.throttle.level == ThrottleLevel.NORMAL:
            if self._flagged.pop(fingerprint, None) is not None:
                self.add(visitor)
            return
        self._visitors.pop(fingerprint, None)
        if fingerprint not in self._flagged and len(self._flagged) >= self._max_flagged:
            self._evict_flagged()
        self._flagged[fingerprint] = visitor

    def learn_salts(self, salts: Sequence[Salt]) -> None:
        """SharedState: pass on the salts that all workers agree on. Called by the writer's thread."""
        self._learn_salts(salts)

    def merge(self, totals: Sequence[Merged]) -> None:
        """SharedState: leave what others saw with each visitor, which takes it in at its next request."""
        for merged in totals:
            visitor = self._visitors.get(merged.fingerprint) or self._flagged.get(merged.fingerprint)
            if visitor is not None:
                visitor.learnt = merged if visitor.learnt is None else _sum(visitor.learnt, merged)

    def counts(self) -> dict[str, int]:
        """Return how many visitors, flagged visitors and networks are held."""
        return {"visitors": len(self._visitors), "flagged": len(self._flagged), "networks": len(self._networks)}

    def _evict_flagged(self) -> None:
        """Make room: the first that is not Blocked, else the one flagged first."""
        for fingerprint, visitor in zip(self._flagged, self._flagged.values(), strict=True):
            if visitor.actor.throttle.level < ThrottleLevel.BLOCKED:
                del self._flagged[fingerprint]
                return
        _evict_oldest(self._flagged)


def _evict_oldest(kept: OrderedDict[bytes, Visitor] | OrderedDict[bytes, Actor]) -> None:
    with suppress(KeyError):  # another thread was faster
        kept.popitem(last=False)


def _sum(earlier: object, later: Merged) -> Merged:
    before = earlier.remote if isinstance(earlier, Merged) else 0
    return Merged(later.fingerprint, later.session, before + later.remote, later.level, later.level_changed_us)
