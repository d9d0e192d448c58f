"""Rulings as one worker knows them: an immutable look-up, and the holder that the writer's thread keeps up to date.

An allowance wins over every ban. The way of a request asks `book.current`, which is None while there is nothing to ask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import ceil, inf

from ..facts import Actor, Behaviour, ThrottleLevel, Window
from ..model import PARDON_GRACE, Decision, Ruling
from ..settings import Network
from .site import Site
from .throttle import spend

MAX_RULINGS = 100_000  # in memory; what ends soonest goes first, allowances last
MAX_ALIASES = 10_000  # ruled-on visitors whose fingerprint changed since; and as many that may be ruled on yet
WHOLE = {4: 32, 8: 64}  # bits of a client network, by its bytes
IN_CLEAR = {4: 24, 8: 48}  # a narrower network is stored as a digest: it names a household or a person
KINDS = ("allow", "ban", "pardon")

# size, prefix and key tell how a client network is looked up → what was ruled on it
Shape = tuple[int, int, bytes]


@dataclass(frozen=True, slots=True)
class Table:
    """The rulings of one kind."""

    fingerprints: Mapping[bytes, Ruling] = field(default_factory=dict)
    networks: Mapping[Shape, Mapping[bytes, Ruling]] = field(default_factory=dict)

    def find(self, fingerprint: bytes, network: bytes, now: float, older: Sequence[bytes] = ()) -> Ruling | None:
        """Return what stands at `now` (monotonic): on the fingerprint, an older one, or the narrowest network."""
        for name in (fingerprint, *older):
            found = self.fingerprints.get(name)
            if found is not None and found.until > now:
                return found
        for (size, prefix, key), table in self.networks.items():
            if size == len(network):
                found = table.get(name_network(network, prefix, key))
                if found is not None and found.until > now:
                    return found
        return None

    def latest(self, fingerprint: bytes, network: bytes, now: float, older: Sequence[bytes] = ()) -> float:
        """Return when the last of all that stands was made, in monotonic seconds; minus infinity: nothing stands."""
        if not self.fingerprints and not self.networks:
            return -inf
        found = [self.fingerprints.get(name) for name in (fingerprint, *older)]
        for (size, prefix, key), table in self.networks.items():
            if size == len(network):
                found.append(table.get(name_network(network, prefix, key)))
        return max([one.made_at for one in found if one is not None and one.until > now], default=-inf)


@dataclass(frozen=True, slots=True)
class Rulings:
    """All rulings, never changed: a change makes another. One look by fingerprint, one per prefix length by network."""

    allows: Table = Table()
    bans: Table = Table()
    pardons: Table = Table()
    count: int = 0

    @classmethod
    def of(cls, rulings: Iterable[Ruling], now: float, most: int = MAX_RULINGS) -> Rulings:
        """Put together what stands at `now`; of more than `most`, allowances and what ends last are kept."""
        kept = [one for one in rulings if one.until > now and not one.lifted]
        if len(kept) > most:
            kept.sort(key=lambda one: (one.kind == "allow", one.kind == "ban", one.until), reverse=True)
            del kept[most:]
        tables = {kind: _table([one for one in kept if one.kind == kind]) for kind in KINDS}
        return cls(tables["allow"], tables["ban"], tables["pardon"], len(kept))

    def ruling_for(self, fingerprint: bytes, network: bytes, now: float, older: Sequence[bytes] = ()) -> Ruling | None:
        """Return the allowance, else the ban that stands at `now` (monotonic seconds); None: neither.

        `network` is the client network in clear, 4 or 8 bytes as of identify.client.network_of; b"": unknown. `older`:
        what the fingerprint was before.
        """
        return self.allows.find(fingerprint, network, now, older) or self.bans.find(fingerprint, network, now, older)

    def pardoned_at(self, fingerprint: bytes, network: bytes, now: float, older: Sequence[bytes] = ()) -> float:
        """Return the monotonic seconds up to which all is forgiven; minus infinity: nothing is."""
        return self.pardons.latest(fingerprint, network, now, older)

    def rules_on(self, fingerprint: bytes) -> bool:
        """Tell whether an allowance or a ban is on this fingerprint."""
        return fingerprint in self.allows.fingerprints or fingerprint in self.bans.fingerprints


class RulingBook:
    """SharedRulings of one worker. `learn_rulings` runs in the writer's thread; readers take `current` once."""

    def __init__(self, allow: Sequence[Network] = (), now: float = 0.0, most: int = MAX_RULINGS) -> None:
        self._born = now
        self._most = most
        self._known: dict[bytes, Ruling] = {one.id: one for one in map(allowance, allow)}
        # By present fingerprint, the older ones: of which one was ruled on, and of which none was yet.
        self._aliases: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._renamed: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self.current: Rulings | None = None
        self._publish(now)

    def learn_rulings(self, rulings: Sequence[Ruling], now: float) -> None:
        """Take in changed rulings, in order of their revisions; `now` in monotonic seconds.

        What is told again ends as it says now: this clock may have stood still meanwhile, as while a machine sleeps.
        """
        known = self._known
        for ruling in rulings:
            before = known.pop(ruling.id, None)
            if before is not None and before.revision == ruling.revision:  # a pardon forgives once
                ruling = replace(before, until=ruling.until)
                if ruling.until > now:
                    known[ruling.id] = ruling
            elif not ruling.lifted and ruling.until > now:
                known[ruling.id] = self._as_learnt(ruling, now)
                if ruling.kind == "pardon" and ruling.fingerprint is not None:  # bans on its older names end, too
                    self._aliases.pop(ruling.fingerprint, None)
                    self._renamed.pop(ruling.fingerprint, None)
        for name in [one.id for one in known.values() if one.until <= now]:
            del known[name]
        self._publish(now)

    def follow(self, older: bytes, newer: bytes) -> None:
        """Let what is ruled on a visitor's older fingerprint hold for its present one: midnight lifts no ban.

        Also what is ruled on it later: who was refused before midnight may be pardoned after.
        """
        names, current = (older, *self._older(older)), self.current
        ruled = tuple(name for name in names if current and current.rules_on(name))
        kept = self._aliases if ruled else self._renamed
        if len(kept) >= MAX_ALIASES:
            kept.popitem(last=False)
        kept[newer] = tuple(dict.fromkeys((older, *ruled)))

    def ruling_for(self, fingerprint: bytes, network: bytes, now: float) -> Ruling | None:
        """Return Rulings.ruling_for, with the fingerprints of yesterday that `follow` told of; None: no ruling."""
        current = self.current
        return None if current is None else current.ruling_for(fingerprint, network, now, self._older(fingerprint))

    def pardoned_at(self, fingerprint: bytes, network: bytes, now: float) -> float:
        """Return Rulings.pardoned_at, likewise."""
        current = self.current
        return -inf if current is None else current.pardoned_at(fingerprint, network, now, self._older(fingerprint))

    def _older(self, fingerprint: bytes) -> tuple[bytes, ...]:
        return self._aliases.get(fingerprint) or self._renamed.get(fingerprint, ())

    def _as_learnt(self, ruling: Ruling, now: float) -> Ruling:
        """Let a pardon cover what came in until this worker learnt of it, if it ran when the pardon was made."""
        if ruling.kind != "pardon":
            return ruling
        # Never later than now: after the server's clock was set back, all would be forgiven until it is as late again.
        living = ruling.made_at >= self._born
        return replace(ruling, made_at=now if living else min(now, ruling.made_at + PARDON_GRACE))

    def _publish(self, now: float) -> None:
        rulings = Rulings.of(self._known.values(), now, self._most)
        if rulings.count < len(self._known):
            kept = {one.id for table in (rulings.allows, rulings.bans, rulings.pardons) for one in _all(table)}
            self._known = {name: one for name, one in self._known.items() if name in kept}
        self.current = rulings if rulings.count else None


def name_network(network: bytes, prefix: int, key: bytes) -> bytes:
    """Return the name that a client network (4 or 8 bytes) has under a ruling: its first bits, or their digest."""
    rest = len(network) * 8 - prefix
    if rest:
        network = (int.from_bytes(network, "big") >> rest << rest).to_bytes(len(network), "big")
    if not key:
        return network
    return blake2b(bytes((prefix,)) + network, digest_size=16, key=key, person=b"ruling").digest()


def network_key(network: Network) -> tuple[bytes, int]:
    """Return a network's client-network bytes and its prefix; of IPv6 no more than the first 64 bits."""
    size = 4 if network.version == 4 else 8
    return network.network_address.packed[:size], min(network.prefixlen, WHOLE[size])


def allowance(network: Network) -> Ruling:
    """Return the ruling that the option `allow` makes of a network."""
    packed, prefix = network_key(network)
    name = blake2b(b"allow" + bytes((prefix,)) + packed, digest_size=16).digest()
    return Ruling(
        name, 0, "allow", "the option allow", "settings", 0.0, inf, size=len(packed), prefix=prefix, network=packed
    )


def pardon(visitor: Actor, network: Actor, site: Site, now: float) -> None:
    """Forgive a visitor and the pools that it is in: they would put it back at their level with the next page."""
    if visitor.throttle.level and visitor.claims.faults:
        for pool in (network, site.pools.get(visitor.claims.agent)):
            if pool is not None and pool.throttle.level:
                forgive(pool, now)
    forgive(visitor, now)


def forgive(visitor: Actor, now: float) -> None:
    """Reset level, evidence and score; quotas stay charged. `now` in monotonic seconds."""
    state = visitor.throttle
    state.level, state.changed_at, state.reasons = ThrottleLevel.NORMAL, now, ()
    state.was_blocked = False
    visitor.behaviour, visitor.hour = Behaviour(), Window()
    visitor.score, visitor.signals = 0, ()
    spend(visitor)


def is_pardon_due(visitor: Actor, pardoned_at: float) -> bool:
    """Tell whether a pardon is later than this visitor's last change, so that it is applied once."""
    return pardoned_at > visitor.throttle.changed_at


def refusal(ruling: Ruling, quotas: int, score: int, now: float) -> Decision:
    """Return the decision that a ban makes on a request; `quotas`: of the visitor, `now` in monotonic seconds.

    The banned read its reasons: who made the ban is not among them.
    """
    seconds = max(1, ceil(time_left(ruling, now)))
    return Decision(
        refused=True,
        level=ThrottleLevel.BLOCKED,
        score=score,
        quotas=(0, seconds) * quotas,
        retry_after=seconds,
        violated=("ban",),
        reasons=(f"banned: {ruling.reason}",),
    )


def time_left(ruling: Ruling, now: float) -> float:
    """Return the seconds until a ruling ends: a number where its end is "infinity", too."""
    return min(ruling.until - now, 2.0**31 - 1)


def _table(rulings: Sequence[Ruling]) -> Table:
    fingerprints: dict[bytes, Ruling] = {}
    networks: dict[Shape, dict[bytes, Ruling]] = {}
    # Of several on one target, the one that ends last.
    for one in sorted(rulings, key=lambda one: one.until):
        if one.fingerprint is not None:
            fingerprints[one.fingerprint] = one
        else:
            networks.setdefault((one.size, one.prefix, one.key), {})[one.network] = one
    return Table(fingerprints, dict(sorted(networks.items(), key=lambda item: -item[0][1])))


def _all(table: Table) -> Iterable[Ruling]:
    yield from table.fingerprints.values()
    for networks in table.networks.values():
        yield from networks.values()
