"""Whether a crawler is who it claims to be: by signature, then published address ranges, then DNS names."""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import ResolverError
from ..identify.client import network_of, packed_address
from ..identify.geoip import is_local
from ..identify.operators import CLAIMS, SOURCES, Claim, claim_of
from ..identify.reverse_dns import judge_names, names_to_confirm
from ..model import TOOL_CLASSES, Agent, ClaimStatus, Verification
from ..protocols import Clock, Fetch, Headers, Resolver
from .background import Background
from .data import FRESH, Held, held, stamp
from .fetch import fetch_directory
from .signatures import Signatures

MAX_KNOWN = 20_000  # outcomes by crawler and network, least recently used out first
MAX_WAITING, MAX_LOOKUPS = 256, 300  # addresses to look up: queued, and taken in a minute
THREADS = 8  # that look names up: each may wait for half a minute for a name server that does not answer
REFRESH_INTERVAL = 30.0  # seconds between two looks at the folder
TRANSIENT = 60.0  # seconds until a name server that gave no answer is asked again
KEPT = {ClaimStatus.VERIFIED: 86_400.0, ClaimStatus.FALSE: 3_600.0, ClaimStatus.UNVERIFIABLE: 600.0}
TOOLS = frozenset((None, *TOOL_CLASSES))  # bot classes that claim no operator


@dataclass(frozen=True, slots=True)
class Lookup:
    """What names an address has. Any address stands for its client network, an IPv6 /64: one is asked about."""

    crawler: str
    network: bytes
    address: str = field(compare=False)


UNCLAIMED = Verification(ClaimStatus.UNCLAIMED, text="no operator is claimed")
UNKNOWN = Verification(ClaimStatus.UNVERIFIABLE, text="nothing is known of this crawler's operator")


class SocketResolver:
    """Asks the system's resolver; a call may take as long as that allows."""

    def names(self, address: str) -> Sequence[str]:
        """Return the names of an address; none when it has none. Raises ResolverError."""
        try:
            name, others, _ = socket.gethostbyaddr(address)
        except socket.herror as error:
            if error.errno in (1, 4):  # HOST_NOT_FOUND, NO_DATA of netdb.h
                return []
            raise ResolverError(str(error)) from None
        except (OSError, TypeError, ValueError) as error:  # the last two for what cannot be a name
            raise ResolverError(str(error)) from None
        return [name, *others]

    def addresses(self, name: str) -> Sequence[str]:
        """Return the addresses of a name; none when it has none. Raises ResolverError."""
        try:
            return [str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                return []
            raise ResolverError(str(error)) from None
        except (OSError, TypeError, ValueError) as error:  # the last two for what cannot be a name
            raise ResolverError(str(error)) from None


class Verifier:
    """Checks what crawlers claim. status() waits for nothing; what it does not know is found out in threads."""

    def __init__(
        self,
        clock: Clock,
        data_dir: Path,
        resolver: Resolver | None = None,
        fetch: Fetch = fetch_directory,
        read: Callable[[Callable[[], None]], object] = lambda load: load(),
    ) -> None:
        """`read` is given what reads the folder, which may hang: it may call it later, in another thread."""
        self.errors: dict[str, str] = {}  # damaged files of the folder
        self._read = read
        self._clock = clock
        self._data_dir = data_dir
        self._resolver = resolver or SocketResolver()
        self._signatures = Signatures(fetch, clock)
        self._names: Background[Lookup] = Background(
            "names", self._look_up, clock, size=MAX_WAITING, rate=MAX_LOOKUPS, threads=THREADS, group=_owner
        )
        self._files: dict[str, Held] = {}
        self._stamp: object = None
        self._looked_at = float("-inf")
        self._has_names = False
        self._known: OrderedDict[tuple[str, bytes], tuple[Verification, float]] = OrderedDict()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Read the address ranges and let background work begin; threads start when there is some."""
        self.refresh(self._clock.monotonic())
        self._names.start()
        self._signatures.background.start()

    def stop(self, timeout: float) -> bool:
        """Drop what waits; returns whether the threads ended within `timeout` seconds. They hold nothing."""
        deadline = self._clock.monotonic() + timeout
        ended = self._names.stop(timeout)
        return self._signatures.background.stop(max(0.0, deadline - self._clock.monotonic())) and ended

    def after_fork(self) -> None:
        """In a forked child: what is known is kept; start() again begins background work."""
        self._lock = threading.Lock()
        self._names.abandon()
        self._signatures.abandon()

    def work_off(self) -> None:
        """Do in the caller's thread what waits for the background threads."""
        self._names.work_off()
        self._signatures.background.work_off()

    def refresh(self, monotonic: float) -> None:
        """Read the address ranges again where a file has changed; looks every 30 seconds. Not for the request path."""
        if monotonic < self._looked_at + REFRESH_INTERVAL:
            return
        self._looked_at = monotonic
        self._read(self._load)

    def _load(self) -> None:
        found = stamp(self._data_dir)
        # What could not be read is tried again: the disk may have failed for a moment, or the folder changed hands.
        if names := SOURCES if found != self._stamp else self.errors:
            files, self.errors = held(self._data_dir, names)
            # One that cannot be read now is not refuted by that; its age tells how long it counts.
            kept = {name: file for name, file in self._files.items() if name not in names or name in self.errors}
            self._files = {**kept, **files}
            self._stamp = found

    def status(
        self, agent: Agent, address: str, scope: Mapping[str, Any], headers: Headers, now: float
    ) -> Verification:
        """Return what is known of the claim now; `now` is wall time in seconds since 1970. Ask once per request.

        A claim is verified by a signature of its operator, by the operator's ranges, or by names; a signature without a
        claim proves its signer only. What the address says is kept per crawler and network.
        """
        claim = claim_of(agent.crawler)
        signature = self._signatures.check(scope, now, address) if b"signature-input" in headers else None
        if signature is None:
            return self._by_address(claim, agent, address, now)
        if claim is None or (signature.status == ClaimStatus.VERIFIED and _speaks_for(signature, claim)):
            return signature
        found = self._by_address(claim, agent, address, now)
        if found.status == ClaimStatus.VERIFIED:
            return found
        waits = found.status != ClaimStatus.FALSE or self._signatures.is_known(signature.signer)
        if waits and signature.status == ClaimStatus.PENDING and _speaks_for(signature, claim):
            return signature
        return signature if signature.status == ClaimStatus.FALSE else found

    def stats(self) -> dict[str, Any]:
        """Return what is held in memory and what the background work did since the start."""
        signatures = self._signatures
        return {
            "ranges": len(self._files),
            "known": len(self._known),
            "lookups": dict(self._names.counters),
            "fetches": dict(signatures.background.counters),
            **signatures.counts(),
        }

    def _by_address(self, claim: Claim | None, agent: Agent, address: str, now: float) -> Verification:
        if claim is None:
            return UNCLAIMED if agent.bot_class in TOOLS else UNKNOWN
        if claim.anywhere:
            return _unverifiable(claim, "lets people run it on their own machines")
        if not claim.is_checkable:
            return _unverifiable(claim, "publishes neither address ranges nor names")
        packed = packed_address(address)
        if packed is None or is_local(packed):
            return _unverifiable(claim, "does not crawl from local addresses: are trusted_proxies set?")
        file = self._files.get(claim.ranges) if claim.ranges else None
        if file is not None and packed in file.ranges:
            return _in_ranges(claim)
        if claim.operator.domains:
            return self._by_names(claim, address)
        if file is None:
            return _unverifiable(claim, "publishes address ranges: get them by asgi-analytics data update")
        if now > file.fetched_at + FRESH:
            return _unverifiable(claim, "has published newer address ranges: get them by asgi-analytics data update")
        return _out_of_ranges(claim)

    def _by_names(self, claim: Claim, address: str) -> Verification:
        key = claim.crawler, network_of(address)
        known = self._known.get(key)
        if known is None or self._clock.monotonic() >= known[1]:
            self._names.ask(Lookup(*key, address))
        if known is None:
            return _pending(claim)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
        return known[0]

    def _look_up(self, lookup: Lookup) -> None:
        """In the thread: ask for the names of the address, and for the addresses of those that fit."""
        crawler, network, address = lookup.crawler, lookup.network, lookup.address
        operator = CLAIMS[crawler.casefold()].operator
        try:
            names = self._resolver.names(address)
            self._has_names = self._has_names or bool(names)
            confirmed = {name: self._resolver.addresses(name) for name in names_to_confirm(operator, names)}
        except ResolverError:
            before = self._known.get((crawler, network))
            self._keep((crawler, network), before[0] if before else _unanswered(operator.name), TRANSIENT)
            return
        found = judge_names(operator, address, names, confirmed, self._has_names)
        self._keep((crawler, network), found, KEPT[found.status])

    def _keep(self, key: tuple[str, bytes], found: Verification, seconds: float) -> None:
        with self._lock:
            self._known.pop(key, None)
            if len(self._known) >= MAX_KNOWN:
                self._known.popitem(last=False)
            self._known[key] = found, self._clock.monotonic() + seconds


def _owner(lookup: Lookup) -> bytes:
    """Return what is mostly one owner's, with its own name servers: an IPv4 /24, an IPv6 /32."""
    return lookup.network[: 3 if len(lookup.network) == 4 else 4]


def _speaks_for(signature: Verification, claim: Claim) -> bool:
    return signature.operator == claim.operator.name


@lru_cache(1024)
def _unverifiable(claim: Claim, text: str) -> Verification:
    operator = claim.operator.name
    return Verification(ClaimStatus.UNVERIFIABLE, None, operator, text=f"{operator} {text}")


@lru_cache(1024)
def _pending(claim: Claim) -> Verification:
    return Verification(ClaimStatus.PENDING, "dns", claim.operator.name, text="the names of the address are looked up")


def _unanswered(operator: str) -> Verification:
    return Verification(ClaimStatus.UNVERIFIABLE, "dns", operator, text="the name server gave no answer")


@lru_cache(1024)
def _in_ranges(claim: Claim) -> Verification:
    text = f"the address is in the ranges of {claim.ranges}"
    return Verification(ClaimStatus.VERIFIED, "ranges", claim.operator.name, text=text)


@lru_cache(1024)
def _out_of_ranges(claim: Claim) -> Verification:
    text = f"the address is in none of the ranges of {claim.ranges}"
    return Verification(ClaimStatus.FALSE, "ranges", claim.operator.name, text=text)
