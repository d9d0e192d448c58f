"""A request as it arrives: who asks, and whether it is admitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..clock import MINUTE_NS, uuid7
from ..decide.actor import adopt_level, begin_session, count_session, start_like_pool
from ..decide.admission import admit, admit_strictly, charge
from ..decide.explain import inputs_of_admission, inputs_of_ban
from ..decide.rulings import is_pardon_due, pardon, refusal
from ..engine import Engine
from ..errors import AnalyticsError
from ..facts import Claims, ThrottleLevel
from ..identify.client import network_of
from ..identify.consistency import read_claims
from ..inputs import BORROWED, FORGIVEN
from ..model import Analytics, CachedRefusal, ClaimStatus, Decision, Hit, Merged, Ruling, Verification, Visitor
from ..protocols import Receive, Scope, Send, StrictAnswer

STATE_KEY: Final = "analytics"  # in scope["state"]
NAME_TAKEN = f"the app keeps something of its own in state['{STATE_KEY}'], which stays: it is not told what was found"
CACHED_FOR = 1.0  # seconds, at most, that a refusal is sent again unchanged: its numbers are whole seconds


class Arrival(Hit):
    """A request that is identified and decided on. All its state on the way lives here, too."""

    # Defaults here rather than in __init__: most requests change few of them.
    recorded = False
    _session_claims: Claims | None = None
    _ruling: Ruling | None = None  # the ban that refuses
    _cached: CachedRefusal | None = None  # the refusal that this request gets again
    scope: Scope  # the server's own, passed on to the app: outer middlewares see what it writes there

    def __init__(self, engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
        """Identify who asks."""
        self._engine = engine
        self.receive = receive
        self._send = send
        self.started_at = now = engine.monotonic()
        self.time_ns = time_ns = engine.time_ns()
        # Read now, for the app may rewrite its scope: the row has what was asked for.
        self.path = scope["path"]
        try:
            self._query = scope["query_string"] or b""
        except KeyError:  # of a websocket
            self._query = b""
        # Some servers pass on a method in lower case, which some apps take for the same.
        method = scope.get("method", "WEBSOCKET")
        self.method = method if method == "GET" else method.upper()
        lines = scope.get("headers") or ()
        if not isinstance(lines, list) and iter(lines) is iter(lines):  # an iterator, which the app reads, too
            scope["headers"] = lines = list(lines)
        self._headers = headers = dict(lines)
        if not engine.started:
            engine.start()
        visitor, began = engine.identifier.visitor(scope, headers, now, time_ns)
        self.visitor, self.session, self.identity = visitor, visitor.session, visitor.identity
        if engine.keeps_address:
            self.address = engine.identifier.address(scope, headers) or None
        if visitor.borrows:
            self.inputs |= BORROWED
        if began:
            self._begin_session(scope)
        if visitor.merged is not None:
            self._learn_of_others(visitor.merged, began)

    def _begin_session(self, scope: Scope) -> None:
        visitor, engine, now = self.visitor, self._engine, self.started_at
        count_session(visitor.actor, now) if visitor.borrows else begin_session(visitor.actor, now)
        if visitor.identity.agent.bot_class is None:
            self._session_claims = self._claims(scope)
            start_like_pool(visitor.actor, visitor.network, self._session_claims, engine.site, engine.policy, now)

    def _learn_of_others(self, merged: Merged, began: bool) -> None:
        """Apply what other workers saw of the visitor; a session that has just begun keeps its own id."""
        visitor, engine, now = self.visitor, self._engine, self.started_at
        visitor.merged, visitor.cached_refusal = None, None
        if not began:
            visitor.session.id = merged.session
            visitor.row_tail = None
        # Among several workers, leases account for what others admit; without leases each keeps to its own part.
        if merged.remote > 0 and not engine.leases.connected and engine.leases.workers < 2:
            charge(visitor.actor, merged.remote, engine.policy, now)
        # Each change is applied once: told again after the wall clock went back, it would seem to come from the future.
        # One from before this worker's own last change is applied, too: more of that level may be left.
        if merged.level_changed_us > visitor.level_told_us:
            visitor.level_told_us = merged.level_changed_us
            changed_at = now - max(0.0, self.time_ns / 1e9 - merged.level_changed_us / 1e6)
            adopt_level(visitor.actor, ThrottleLevel(merged.level), changed_at, engine.policy.cooldown, now)
            engine.state.level_changed(visitor)

    def decide(self, scope: Scope, strict: StrictAnswer | None = None) -> None:
        """Admit or refuse, and leave the findings for the app. `strict`: in strict mode, what StrictQuotas answered."""
        self.decision = decision = self._decision(scope, strict)
        self.scope = scope
        findings = Analytics(self.visitor, decision, self.session, self.verification)
        state = scope.get("state")
        try:
            if state is None:
                scope["state"] = {STATE_KEY: findings}
            elif STATE_KEY not in state or _is_of(state[STATE_KEY], self.visitor):
                state[STATE_KEY] = findings
            elif isinstance(state[STATE_KEY], Analytics):
                # A server may share one dict among requests: this one gets a copy, which the others cannot see.
                scope["state"] = {**state, STATE_KEY: findings}
            else:
                self._engine.failed("findings", AnalyticsError(NAME_TAKEN))
        except Exception as error:  # noqa: BLE001 - a state that is read-only, or no mapping at all
            if isinstance(state, Mapping):
                scope["state"] = {**state, STATE_KEY: findings}
            else:
                self._engine.failed("findings", error)

    def _decision(self, scope: Scope, strict: StrictAnswer | None) -> Decision:
        """Decide: an operator's ruling comes first, then quotas and level."""
        engine, visitor, now = self._engine, self.visitor, self.started_at
        ruling = None if engine.rulings.current is None else self._ruled(scope)
        cached = visitor.cached_refusal
        if cached is not None and strict is None and self._still_holds(cached, ruling):
            self._cached = cached
            return cached.decision
        exempt = False
        if visitor.identity.agent.bot_class is not None or b"signature-input" in self._headers:
            exempt = self._is_search_crawler(scope)
            if exempt and visitor.actor.throttle.level:  # from before its claim was verified
                self._forgive()
        elif visitor.verification is not None:
            self._verified(None)
        if ruling is not None:
            if ruling.kind == "ban":
                return self._banned(ruling)
            exempt = True
        if strict is not None:
            decision = admit_strictly(visitor.actor, visitor.network, engine.policy, strict, now)
        else:
            decision = admit(visitor.actor, visitor.network, engine.own_policy, now)
        if exempt:
            decision.exempt = True
        if decision.refused or decision.previous_level is not None:
            decision.id = uuid7(self.time_ns)
            decision.findings = visitor.actor.signals
            decision.inputs = inputs_of_admission(visitor.actor, visitor.network, decision, engine.policy, now)
            engine.state.level_changed(visitor)
        return decision

    def _is_search_crawler(self, scope: Scope) -> bool:
        """Check what a crawler claims, once per request. Returns whether it is an operator's search crawler."""
        verifier, visitor = self._engine.verifier, self.visitor
        if verifier is None:
            return False
        agent, address = visitor.identity.agent, self._engine.identifier.address(scope, self._headers)
        found = verifier.status(agent, address, scope, self._headers, self._wall())
        self._verified(found)
        verified = found.status == ClaimStatus.VERIFIED and found.operator == agent.operator
        return verified and agent.purpose == "search"

    def _verified(self, found: Verification | None) -> None:
        visitor, before = self.visitor, self.visitor.verification
        if before is None or found is None or before.status != found.status:
            visitor.row_tail = None
            visitor.actor.behaviour.quiet_until = -1
        elif before.operator != found.operator:  # another signer, with the same browser
            visitor.row_tail = None
        # A signature is of its request, not of those that look alike and may come while this one is answered.
        self.verification = visitor.verification = found
        self._session_claims = None  # read before this was known

    def is_banned(self, scope: Scope) -> bool:
        """Tell whether a ban refuses, whatever the quotas are: it charges none."""
        ruling = None if self._engine.rulings.current is None else self._ruled(scope)
        return ruling is not None and ruling.kind == "ban"

    def _ruled(self, scope: Scope) -> Ruling | None:
        """Apply a pardon that is due, and return the ruling in force on the visitor."""
        engine, visitor, now = self._engine, self.visitor, self.started_at
        fingerprint, actor = visitor.identity.fingerprint, visitor.actor
        network = network_of(engine.identifier.address(scope, self._headers))
        ruling = engine.rulings.ruling_for(fingerprint, network, now)
        allowed = ruling is not None and ruling.kind == "allow"
        pardoned = is_pardon_due(actor, engine.rulings.pardoned_at(fingerprint, network, now))
        if pardoned or (allowed and actor.throttle.level):
            self._forgive()
        return ruling

    def _forgive(self) -> None:
        pardon(self.visitor.actor, self.visitor.network, self._engine.site, self.started_at)
        self.inputs |= FORGIVEN
        self.visitor.cached_refusal = None
        self._engine.state.level_changed(self.visitor)

    def _wall(self) -> float:
        return (self.time_ns - self._engine.calendar.jump_ns) / 1e9

    def _still_holds(self, cached: CachedRefusal, ruling: Ruling | None) -> bool:
        """Tell whether a cached refusal still holds; one from the future, since a clock went back, does not."""
        return (
            0.0 < cached.until - self.started_at <= CACHED_FOR
            and cached.minute == self.time_ns // MINUTE_NS
            and cached.ruling is ruling
        )

    def _banned(self, ruling: Ruling) -> Decision:
        now = self.started_at
        decision = refusal(ruling, len(self._engine.policy.quotas), self.visitor.actor.score, now)
        decision.id, decision.inputs = uuid7(self.time_ns), inputs_of_ban(ruling, now)
        decision.findings = self.visitor.actor.signals
        decision.holds_until, self._ruling = ruling.until, ruling
        return decision

    def _claims(self, scope: Scope) -> Claims:
        visitor, found, headers = self.visitor, self.verification, self._headers
        identity, secure = visitor.identity, self._engine.identifier.is_secure
        is_false = found is not None and found.status == ClaimStatus.FALSE
        claims = read_claims(
            scope, headers, identity.agent, identity.place, identity.network, is_false, secure, self._shows_pages()
        )
        if identity.tracked:
            self.claims = claims
        return claims

    def _shows_pages(self) -> bool:
        """Tell whether the visitor has loaded a page."""
        actor = self.visitor.actor
        return actor.loaded or actor.behaviour.page_loads > 0

    def _level_changed(self) -> None:
        decision = self.decision
        if decision.id is None:
            decision.id = uuid7(self.time_ns)
        self._engine.state.level_changed(self.visitor)

    def _elapsed_us(self) -> int:
        return int((self._engine.monotonic() - self.started_at) * 1e6)


def _is_of(findings: object, visitor: Visitor) -> bool:
    """Tell whether findings are of the same visitor: an outer middleware may call the app again."""
    return isinstance(findings, Analytics) and findings._visitor is visitor
