"""Calls the live stages for recorded requests; when exchange/ calls them in another way, this changes, too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import blake2b

from ..decide.actor import begin_session, count_session, new_actor, new_network, program_of, start_like_pool
from ..decide.admission import admit
from ..decide.behaviour import comes_between, with_order
from ..decide.failures import Failure, guess_of
from ..decide.policy import Policy
from ..decide.rulings import pardon
from ..decide.site import Site
from ..decide.verdict import Judge
from ..facts import Actor, Claims
from ..identify.client import packed_address
from ..identify.crawlers import UNKNOWN_CLASS
from ..identify.credentials import refused_attempt
from ..identify.fingerprint import Fingerprinter
from ..identify.request import referring_page
from ..identify.session import goes_on, none_yet
from ..identify.useragent import AgentReader
from ..identify.visitor import Identifier
from ..model import Agent, ClaimStatus, Decision, Identity, Place, Session, Variant, Verification, Visitor
from ..protocols import Headers
from ..settings import Settings
from ..state import State
from ..variants import Variants

MAX_PATH = 1024  # characters
_NOWHERE = Place()
_VERIFICATIONS = {str(status): Verification(status) for status in ClaimStatus}
# Visitors of a log are told apart by their addresses, which the log has anyway: a fixed key hides nothing less, and
# the same log gives the same ids every time.
_KEY = b"asgi-analytics replay".ljust(32, b"\0")
agents: Callable[[], AgentReader] = cache(AgentReader)


class Pipeline:
    """One worker's state, its policy, and the way of a request through them. Times are seconds of one clock."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.policy = Policy.of(settings)
        self.site = Site()
        self._judge = Judge(self.site, self.policy)
        self._timeout = settings.session_timeout
        quotas, networks = len(settings.limits), len(settings.network_limits)
        fingerprinter = Fingerprinter(settings.site, _KEY)
        self.state = State(
            max_visitors=settings.max_visitors,
            max_networks=settings.max_networks,
            max_flagged=settings.max_flagged,
            new_network=lambda: new_network(networks),
            learn_salts=fingerprinter.learn,
        )
        self._identifier = Identifier(
            settings,
            self.state,
            fingerprinter,
            agents().read,
            _Nowhere(),
            lambda agent: new_actor(quotas, agent.outdated, program_of(agent)),
        )
        self._quotas = quotas
        self._variants = Variants(_KEY)
        self._alike: dict[tuple[bytes, object], Actor] = {}
        self._same_networks: dict[bytes, bytes] = {}  # today's name of a network → the one it is kept under

    def meet(self, address: str, agent: str, forwarded: str, now: float) -> Visitor:
        """Return the visitor behind a log line, its session brought up to date at `now`, seconds since 1970."""
        headers = _headers(agent, forwarded)
        visitor, began = self._identifier.visitor(_scope(address, headers), headers, now, int(now * 1e9))
        if began:
            begin_session(visitor.actor, now)
        return visitor

    def meet_again(self, fingerprint: bytes, now: float) -> Visitor | None:
        """Return a visitor that `meet` returned before, as `meet` does; None where it has been forgotten."""
        known = self.state.get(fingerprint)
        if known is not None:
            self._go_on(known, now)
        return known

    def client(self, address: str, forwarded: str) -> str:
        """Return the address that a log line is counted for; of a peer that the log names by its host, that name."""
        if not forwarded and ":" not in address:  # neither a header nor a port
            return address
        headers = _headers("", forwarded)
        found = self._identifier.address(_scope(address, headers), headers)
        is_peer = packed_address(found) == packed_address(_address(address))
        return address if not found or (is_peer and _address(address) != address) else found

    def recall(
        self,
        fingerprint: bytes,
        network: bytes,
        agent: Agent,
        now: float,
        claims: Claims | None = None,
        borrowed: bool = False,
    ) -> Visitor:
        """Return the visitor behind a recorded hit, its session brought up to date at `now`; `borrowed`: as inputs."""
        network = self._same_networks.get(network, network)
        visitor = self.state.get(fingerprint)
        if visitor is None:
            identity = Identity(fingerprint, network, _NOWHERE, agent)
            session = none_yet(now)
            actor = new_actor(self._quotas, agent.outdated, program_of(agent))
            if borrowed:
                actor = self._shared(network, claims.agent if claims else agent.crawler, actor)
            visitor = Visitor(identity, session, actor, self.state.network(network))
            self.state.add(visitor)
        elif visitor.identity.network != network:  # a cookie that travels
            visitor.identity = Identity(fingerprint, network, _NOWHERE, visitor.identity.agent)
            visitor.network = self.state.network(network)
        if visitor.borrows and not borrowed:
            visitor.come_back(new_actor(self._quotas, agent.outdated, program_of(agent)))
        visitor.borrows = borrowed
        if self._go_on(visitor, now) and claims is not None and agent.bot_class is None:
            start_like_pool(visitor.actor, visitor.network, claims, self.site, self.policy, now)
        return visitor

    def _go_on(self, visitor: Visitor, now: float) -> bool:
        """Bring the visitor's session up to date; tell whether another one has begun."""
        session = visitor.session
        if session.ordinal and goes_on(session, now, self._timeout):
            session.last_seen_at = now
            return False
        visitor.session = Session(b"", now, now, session.ordinal + 1)  # nobody asks for its id
        count_session(visitor.actor, now) if visitor.borrows else begin_session(visitor.actor, now)
        return True

    def _shared(self, network: bytes, agent: object, actor: Actor) -> Actor:
        """Return the actor of all who look alike and have yet to return a cookie: `actor`, where this is the first."""
        if len(self._alike) >= self.settings.max_visitors:
            self._alike.clear()
        return self._alike.setdefault((network, agent), actor)

    def verified(self, visitor: Visitor, status: str | None) -> None:
        """Note what was found of a crawler's claim; when that changes, the next page load is judged in full."""
        found = _VERIFICATIONS.get(status or "")
        if visitor.verification != found:
            visitor.verification = found
            visitor.actor.behaviour.quiet_until = -1

    def forgive(self, visitor: Visitor, now: float) -> None:
        """Reset what an operator pardoned."""
        pardon(visitor.actor, visitor.network, self.site, now)
        self.state.level_changed(visitor)

    def rename(self, older: bytes, fingerprint: bytes, network: bytes) -> None:
        """Let a visitor go on under a new fingerprint, as one does at midnight."""
        visitor = self.state.get(older)
        if visitor is None:
            return
        before = visitor.identity
        if network != before.network:
            self._same_networks[network] = before.network
        visitor.identity = Identity(fingerprint, before.network, _NOWHERE, before.agent)
        self.state.rename(older, visitor)

    def admit(self, visitor: Visitor, now: float) -> Decision:
        """Decide before the app would have run."""
        decision = admit(visitor.actor, visitor.network, self.policy, now)
        if decision.previous_level is not None:
            self.state.level_changed(visitor)
        return decision

    def take_page(
        self,
        visitor: Visitor,
        decision: Decision,
        page: str | Variant,
        inner: bool,
        now: float,
        claims: Claims | None = None,
        bare: bool = False,
    ) -> None:
        """Take in a page; `inner`: a page of this site linked it, `bare`: it was asked for without a query.

        Without `claims`, nobody forges headers.
        """
        before, actor = (decision.previous_level, decision.level), visitor.actor
        loads = actor.behaviour.page_loads
        if actor.behaviour.steps < actor.behaviour.quiet_until:  # as in exchange.answered: nothing else is read then
            self._judge.page(actor, page, inner, decision, now, bare=bare)
        else:
            known = actor.claims if claims is None else claims
            self._judge.page(actor, page, inner, decision, now, known, visitor.network, bare)
        if visitor.borrows:
            visitor.borrowed_loads += actor.behaviour.page_loads - loads
        if (decision.previous_level, decision.level) != before:
            self.state.level_changed(visitor)

    def take_failure(
        self, visitor: Visitor, decision: Decision, failure: Failure, now: float, claims: Claims | None = None
    ) -> None:
        """Take in an error. Without `claims`, a refused POST counts as one try, and nobody forges headers."""
        before, actor = (decision.previous_level, decision.level), visitor.actor
        if claims is None:
            claims = actor.claims
            attempt = refused_attempt(failure.method, {}, failure.status, failure.path)
            failure = failure._replace(attempt=attempt, guess=None if attempt is not None else failure.guess)
        self._judge.failure(actor, failure, decision, now, claims, visitor.network)
        if (decision.previous_level, decision.level) != before:
            self.state.level_changed(visitor)

    def page_variant(self, visitor: Visitor, path: str, query: str, inner: bool) -> Variant | None:
        """Return what a query makes of a page that is answered now; `inner`: a page of this site linked it."""
        variant = self._variants.page(path, query, inner)
        return None if variant is None else with_order(variant, visitor.actor.behaviour)

    def note_referring(self, visitor: Visitor, referer: str, now: float) -> None:
        """Take in which page of this site linked the one that is answered now."""
        facts = visitor.actor.behaviour
        if facts.people < facts.entries:
            comes_between(facts, *referring_page(referer), self._variants, now)

    def data_variant(self, path: str, query: str) -> Variant | None:
        """Return what a query makes of an answer with data."""
        return self._variants.data(path, query)

    def guess(self, path: str, query: str, status: int) -> Variant | None:
        """Return what a query makes of an error."""
        return guess_of(self._variants, path, query, status)

    def take_data(
        self,
        visitor: Visitor,
        decision: Decision,
        path: str,
        now: float,
        data: bool = True,
        excused: bool = False,
        variant: Variant | None = None,
        form: bool = False,
        login: int = 0,
    ) -> None:
        """Take in an answer with data, such as JSON, or (`data` false) one to something that was sent."""
        before = decision.previous_level, decision.level
        self._judge.data_or_post(visitor.actor, data, path, decision, now, excused, variant, form, login)
        if (decision.previous_level, decision.level) != before:
            self.state.level_changed(visitor)

    def pass_by(self, visitor: Visitor, decision: Decision) -> None:
        """Take in any other answer."""
        if not decision.refused:
            visitor.actor.behaviour.requests += 1


def declared_class(crawler: str | None, before: str | None) -> str | None:
    """Return the class that today's list gives a crawler of this name, `before` where it does not know it."""
    # As crawlers write themselves: much of the list knows a name by the version behind it.
    found = agents().read(f"{crawler}/1.0").bot_class if crawler and before else None
    return before if found is None or found == UNKNOWN_CLASS else found


class _Nowhere:
    """A Locator for those who do not ask where."""

    def locate(self, address: str) -> Place:
        """Return Place()."""
        return _NOWHERE


def _headers(agent: str, forwarded: str) -> dict[bytes, bytes]:
    sent = {b"user-agent": agent, b"x-forwarded-for": forwarded}
    return {name: _bytes(text) for name, text in sent.items() if text}


def _scope(address: str, headers: Headers) -> dict[str, object]:
    return {"type": "http", "client": (_address(address), 0), "headers": list(headers.items())}


def _bytes(text: str) -> bytes:
    """Return what was sent: the bytes that are no UTF-8, too; JSON may have surrogates that stand for none."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _address(text: str) -> str:
    """Return an address as it is, and for a host name one of its own in fd00::/8 (RFC 4193), a /64 each."""
    if ":" in text or text.replace(".", "").isdecimal():
        return text
    digest = blake2b(_bytes(text.lower()), digest_size=7).hexdigest()
    whole = f"fd{digest}"
    return ":".join(whole[place : place + 4] for place in range(0, 16, 4)) + "::1"
