"""Who sends a request: client address → fingerprint or cookie → the visitor and its running session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ..clock import DAY_NS, random_bytes
from ..facts import Actor
from ..model import Agent, Identity, Visitor
from ..protocols import Headers, Locator
from ..settings import Privacy, Settings
from .client import ClientAddress, network_of, shorten
from .cookie import Ticket, VisitorCookie
from .fingerprint import Fingerprinter, message
from .language import read_language
from .request import is_navigation, opts_out
from .session import LONGEST, begin, none_yet

MAX_UNRETURNED = 5  # cookies given to a fingerprint that drops them
MAX_SEEN = 2048  # bytes of headers that are remembered of a visitor
MAX_TEXTS = 4096  # different ones of them

# Who asks, and the headers that tell visitors apart as they came: user agent, language, Sec-GPC, DNT.
Seen = tuple[str, bytes | None, bytes | None, bytes | None, bytes | None]


class KnownVisitors(Protocol):
    """The visitors and networks in this worker's memory."""

    def get(self, fingerprint: bytes) -> Visitor | None: ...

    def add(self, visitor: Visitor) -> None: ...

    def rename(self, fingerprint: bytes, visitor: Visitor) -> None: ...

    def name_actors(self, visitor: Visitor) -> None: ...

    def network(self, key: bytes) -> Actor: ...


class Identifier:
    """Finds the visitor of a request, or makes it. Everything that a returning visitor needs again is on it."""

    def __init__(
        self,
        settings: Settings,
        known: KnownVisitors,
        fingerprinter: Fingerprinter,
        read_agent: Callable[[str | None], Agent],
        locator: Locator,
        new_actor: Callable[[Agent], Actor],
        renamed: Callable[[bytes, bytes], None] = lambda older, newer: None,
    ) -> None:
        self._client = ClientAddress.of(settings.trusted_proxies)
        self._known = known
        self._fingerprinter = fingerprinter
        self._read_agent = read_agent
        self._locator = locator
        self._new_actor = new_actor
        self._renamed = renamed
        self._privacy: Privacy = settings.privacy
        self._heeds_opt_out = settings.privacy.signals != "ignore"
        self._timeout = settings.session_timeout
        self._recent: dict[Seen, Visitor] = {}  # finds those who came lately without computing anything
        self._most_recent = settings.max_visitors
        self._texts: dict[bytes | None, bytes | None] = {}
        self._cookie = VisitorCookie(settings.session_cookie, settings.secret) if settings.session_cookie else None

    def visitor(self, scope: Mapping[str, Any], headers: Headers, now: float, time_ns: int) -> tuple[Visitor, bool]:
        """Return the visitor, its session brought up to date, and whether a session began with this request."""
        seen = (
            self._client.peer(scope, headers),
            headers.get(b"user-agent"),
            headers.get(b"accept-language"),
            headers.get(b"sec-gpc"),
            headers.get(b"dnt"),
        )
        if time_ns // DAY_NS != self._fingerprinter.day and self._fingerprinter.turn(time_ns, now):
            self._recent.clear()
        visitor = self._recent.get(seen)
        if visitor is None or not visitor.known:
            visitor = self._find(seen, self._client.read(scope, headers), headers, now)
        if self._cookie is not None and visitor.identity.tracked:
            visitor = self._by_cookie(self._cookie, visitor, scope, headers, now, time_ns)
        visitor.seen = True
        session = visitor.session
        # session.goes_on, written out
        if now - session.last_seen_at <= self._timeout and now - session.started_at < LONGEST and session.ordinal:
            session.last_seen_at = now
            return visitor, False
        visitor.row_tail = None
        wall = time_ns / 1e9
        visitor.session = begin(visitor.identity.fingerprint, now, wall, self._timeout, session.ordinal + 1)
        return visitor, True

    def address(self, scope: Mapping[str, Any], headers: Headers) -> str:
        """Return the client address; "" when it is not known."""
        return self._client.read(scope, headers)

    def is_secure(self, scope: Mapping[str, Any], headers: Headers) -> bool:
        """Tell whether the visitor came by https, as ClientAddress.is_secure."""
        return self._client.is_secure(scope, headers)

    def _find(self, seen: Seen, address: str, headers: Headers, now: float) -> Visitor:
        """Find the visitor by its fingerprint, or make it, and remember it by what was seen of it."""
        opted_out = self._heeds_opt_out and opts_out(headers)
        text = message(network_of(address), headers, opted_out)
        fingerprint = self._fingerprinter.fingerprint(text)
        if self._known.get(fingerprint) is None:
            self._rename(text, fingerprint, address)
        visitor = self._known.get(fingerprint) or self._new(fingerprint, address, headers, opted_out, now)
        if sum(len(part) for part in seen[1:] if part is not None) <= MAX_SEEN:
            if len(self._recent) >= self._most_recent:
                self._recent.clear()
            self._recent[self._with_known_texts(seen)] = visitor
        return visitor

    def _with_known_texts(self, seen: Seen) -> Seen:
        """Return the same with one object per text: it is compared with each request that sends this text."""
        if len(self._texts) >= MAX_TEXTS:
            self._texts.clear()
        host, agent, language, gpc, dnt = seen
        known = self._texts.setdefault
        return host, known(agent, agent), known(language, language), known(gpc, gpc), known(dnt, dnt)

    def _rename(self, text: bytes, fingerprint: bytes, address: str) -> None:
        """Find the visitor under earlier salts, so that midnight ends no visit and lifts no block."""
        for older in self._fingerprinter.before(text):
            visitor = self._known.get(older)
            if visitor is not None:
                network = self._network_key(address)
                renamed = _with(visitor.identity, fingerprint, network, self._fingerprinter.provisional)
                # Geo files are loaded anew; who comes each day has the newer place from the next day on.
                visitor.identity = replace(renamed, place=self._locator.locate(address))
                visitor.row_tail, visitor.unreturned = None, 0
                self._known.rename(older, visitor)
                self._renamed(older, fingerprint)
                return

    def _new(
        self,
        fingerprint: bytes,
        address: str,
        headers: Headers,
        opted_out: bool,
        now: float,
    ) -> Visitor:
        raw = headers.get(b"user-agent")
        agent = self._read_agent(None if raw is None else raw[:512].decode("utf-8", "replace"))
        language = headers.get(b"accept-language")
        network = network_of(address)
        identity = Identity(
            fingerprint=fingerprint,
            network=self._network_key(address),
            place=self._locator.locate(address),
            agent=agent,
            language=read_language(language[:128].decode("latin-1")) if language else None,
            address=self._kept(address),
            tracked=not opted_out,
            provisional=self._fingerprinter.provisional,
        )
        visitor = Visitor(identity, none_yet(now), self._new_actor(agent), self._known.network(network))
        self._known.add(visitor)
        return visitor

    def _network_key(self, address: str) -> bytes:
        return self._fingerprinter.fingerprint(b"network\0" + network_of(address))

    def _kept(self, address: str) -> str | None:
        if self._privacy.address == "none" or not address:
            return None
        return address if self._privacy.address == "full" else shorten(address)

    def _by_cookie(
        self,
        cookie: VisitorCookie,
        alike: Visitor,
        scope: Mapping[str, Any],
        headers: Headers,
        now: float,
        time_ns: int,
    ) -> Visitor:
        """Return the visitor that the cookie tells; `alike` is who the request looks like without it."""
        secure = self._client.is_secure(scope, headers)
        wall = (time_ns - self._fingerprinter.calendar.jump_ns) // 1_000_000_000
        if b"cookie" in headers and (ticket := cookie.read(scope["headers"], secure, wall)) is not None:
            return self._returned(cookie, ticket, alike, secure, now, wall)
        if not is_navigation(scope.get("method", ""), headers):
            return alike
        name, fresh = alike.unsent or (b"", alike)
        if not name or fresh.cookie_sent or not fresh.known:
            if not name or fresh.cookie_sent:  # else forgotten before an answer could take its cookie along
                if alike.unreturned >= MAX_UNRETURNED:
                    return alike
                alike.unreturned += 1
            name = random_bytes(16)
            fresh = self._twin(self._fingerprinter.named(name), alike, alike.actor, now)
            fresh.borrows = True
            alike.unsent = name, fresh
        elif fresh.identity.network != alike.identity.network:  # another day
            fresh.identity = _with(alike.identity, fresh.identity.fingerprint, alike.identity.network, False)
            fresh.row_tail = None
        fresh.cookie = cookie.issue(name, secure, wall)
        return fresh

    def _returned(
        self, cookie: VisitorCookie, ticket: Ticket, alike: Visitor, secure: bool, now: float, wall: int
    ) -> Visitor:
        fingerprint = self._fingerprinter.named(ticket.visitor)
        visitor = self._known.get(fingerprint)
        if visitor is None:  # new to this worker, or forgotten since the cookie was given
            alike.unreturned = max(0, alike.unreturned - 1)
            visitor = self._twin(fingerprint, alike, self._new_actor(alike.identity.agent), now)
        elif visitor.borrows:
            # Until it came back, the cookie bought no quota of its own. It may come back from another place.
            if visitor.actor is alike.actor:
                alike.unreturned = max(0, alike.unreturned - 1)
            visitor.come_back(self._new_actor(alike.identity.agent))
            self._known.name_actors(visitor)
        before, here = visitor.identity, alike.identity
        if before.network != here.network or before.agent is not here.agent or before.language != here.language:
            # Another place or day, an update of the browser, or a program that has its cookie.
            visitor.identity = _with(here, fingerprint, here.network, False)
            visitor.row_tail = visitor.cached_refusal = None
        visitor.network = alike.network
        visitor.cookie = cookie.issue(ticket.visitor, secure, wall, ticket.issued_s) if ticket.outdated else None
        return visitor

    def _twin(self, fingerprint: bytes, alike: Visitor, actor: Actor, now: float) -> Visitor:
        identity = _with(alike.identity, fingerprint, alike.identity.network, False)
        visitor = Visitor(identity, none_yet(now), actor, alike.network)
        self._known.add(visitor)
        return visitor


def _with(identity: Identity, fingerprint: bytes, network: bytes, provisional: bool) -> Identity:
    return Identity(
        fingerprint,
        network,
        identity.place,
        identity.agent,
        identity.language,
        identity.address,
        identity.tracked,
        provisional,
    )
