"""One request on its way: identified and judged, then what is sent passes here, is measured, and becomes a row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from .clock import MINUTE_NS, uuid7
from .decide.actor import begin_session, count_session, start_like_pool
from .decide.admission import admit, admit_strictly
from .decide.behaviour import with_order
from .decide.conduct import TOOL
from .decide.explain import detail, inputs_of_admission, inputs_of_ban
from .decide.probes import is_injection
from .decide.rulings import refusal
from .decide.traces import Failure, is_led, note_lead
from .decide.verdict import judge_data_or_post, judge_failure, judge_page, pass_led
from .engine import Engine
from .facts import Claims, Traces
from .identify.consistency import read_claims
from .identify.credentials import has_credentials, refused_attempt
from .identify.referral import clean_query, read_referral
from .identify.request import (
    is_data,
    is_inner,
    is_linked,
    is_page,
    is_precached_or_tile,
    is_prefetch,
    is_shared,
    led_to,
    route_template,
    target,
)
from .inputs import DATA, FORGIVEN, INJECTED, LED, PREFETCHED, QUERIED, TRUSTED
from .model import Analytics, CachedRefusal, ClaimStatus, Decision, Hit, Referral, Ruling, Variant, Visitor
from .protocols import StrictAnswer
from .respond import CLOSED, CLOSED_STATUS, OURS, messages, with_fields
from .threads import run_in_thread

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

STATE_KEY = "analytics"  # in scope["state"]
SCOPE_KEY = "asgi_analytics"  # in the scope while the app runs: a middleware further out has this request already

CACHED_FOR = 1.0  # seconds, at most, that a refusal is sent again unchanged: its numbers are whole seconds


class Exchange(Hit):
    """An HTTP request and its answer. All state of the request lives here; at its end it becomes a row."""

    # Defaults here rather than in __init__: most requests change few of them.
    recorded = False
    _session_claims: Claims | None = None
    _ruling: Ruling | None = None  # the ban that refuses
    _cached: CachedRefusal | None = None  # the refusal that this request gets again
    _length: Any = None  # of the answer, as its headers announce it
    scope: Scope  # the server's own, which the app gets: what it writes there is seen further out

    def __init__(self, engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
        """Identify who asks."""
        self._engine = engine
        self.receive = receive
        self._send = send
        self.started_at = now = engine.monotonic()
        self.time_ns = time_ns = engine.time_ns()
        # Now, for the app may rewrite its scope: the row tells what was asked for.
        self.path = scope["path"]
        try:
            self._query = scope["query_string"] or b""
        except KeyError:  # of a websocket
            self._query = b""
        self.method = scope.get("method", "WEBSOCKET")
        lines = scope.get("headers") or ()
        if lines.__class__ is not list and iter(lines) is iter(lines):  # read once, it is used up: the app reads it too
            scope["headers"] = lines = list(lines)
        self._headers = headers = dict(lines)
        if not engine.started:
            engine.start()
        visitor, began = engine.identifier.visitor(scope, headers, now, time_ns)
        self.visitor = visitor
        if began:
            self._begin_session(scope)
        if visitor.merged is not None:
            engine.apply_merged(visitor, began, now, time_ns)

    def _begin_session(self, scope: Scope) -> None:
        visitor, engine, now = self.visitor, self._engine, self.started_at
        begin_session(visitor.actor, now) if visitor.cookie is None else count_session(visitor.actor, now)
        if visitor.identity.agent.bot_class is None:
            self._session_claims = self._claims(scope)
            start_like_pool(visitor.actor, visitor.network, self._session_claims, engine.site, engine.policy, now)

    def decide(self, scope: Scope, strict: StrictAnswer | None = None) -> None:
        """Admit or refuse, and leave the findings for the app. `strict`: in strict mode, what StrictQuotas answered."""
        self.decision = decision = self._decision(scope, strict)
        self.scope = scope
        findings = Analytics(self.visitor, decision)
        state = scope.get("state")
        try:
            if state is None:
                scope["state"] = {STATE_KEY: findings}
            elif STATE_KEY not in state or _is_of(state[STATE_KEY], self.visitor):
                state[STATE_KEY] = findings
            else:
                # A server shares one dict among requests: this one gets a copy, or the others' apps would read of it.
                scope["state"] = {**state, STATE_KEY: findings}
        except Exception as error:  # noqa: BLE001 - one that takes nothing, or that is no mapping at all
            if isinstance(state, Mapping):
                scope["state"] = {**state, STATE_KEY: findings}
            else:
                self._engine.failed("findings", error)

    def _decision(self, scope: Scope, strict: StrictAnswer | None) -> Decision:
        """What an operator ruled comes first, then quotas and level."""
        engine, visitor, now = self._engine, self.visitor, self.started_at
        exempt, ruling, rulings = False, None, engine.rulings.current
        if visitor.identity.agent.bot_class is not None or b"signature-input" in self._headers:
            exempt = engine.check_claim(visitor, scope, self._headers, self.time_ns)
        if rulings is not None:
            facts = visitor.actor.behaviour
            ruling = engine.ruled(visitor, rulings, scope, self._headers, now, self.time_ns)
            if visitor.actor.behaviour is not facts:
                self.inputs |= FORGIVEN
                visitor.cached_refusal = None
        cached = visitor.cached_refusal
        if cached is not None and strict is None and self._still_holds(cached, ruling):
            self._cached = cached
            return cached.decision
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

    def _still_holds(self, cached: CachedRefusal, ruling: Ruling | None) -> bool:
        """Tell whether a cached refusal still holds; one from the future, since a clock went back, does not."""
        return (
            0.0 < cached.until - self.started_at <= CACHED_FOR
            and cached.minute == self.time_ns // MINUTE_NS
            and cached.ruling is ruling
        )

    def _banned(self, ruling: Ruling) -> Decision:
        wall = (self.time_ns - self._engine.calendar.leap_ns) / 1e9
        decision = refusal(ruling, len(self._engine.policy.quotas), self.visitor.actor.score, wall)
        decision.id, decision.inputs = uuid7(self.time_ns), inputs_of_ban(ruling, wall)
        decision.holds_until, self._ruling = self.started_at + ruling.until - wall, ruling
        return decision

    def _claims(self, scope: Scope) -> Claims:
        identity, found = self.visitor.identity, self.visitor.verification
        is_false = found is not None and found.status == ClaimStatus.FALSE
        claims = read_claims(scope, self._headers, identity.agent, identity.place, identity.network, is_false)
        if identity.tracked:
            self.claims = claims
        return claims

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the app on; the row is in the journal before the last one is."""
        kind = message["type"]
        if kind == "http.response.start":
            return self._send(self._respond(message))
        is_last = False
        try:
            if kind == "http.response.body":
                is_last = not message.get("more_body")
                body = message.get("body")
                if body:
                    self.bytes_sent += len(body)
            elif kind in _FILE_MESSAGES:
                is_last = not message.get("more_body")
                self._count_file(message)
        except Exception as error:  # noqa: BLE001 - a body that is none is the server's to judge
            self._engine.failed("count", error)
        if not is_last:
            return self._send(message)
        self.end("complete")
        return self._send_synced(message) if self._engine.syncs else self._send(message)

    def _count_file(self, message: Message) -> None:
        """Count what the server is asked to send by itself, as far as it is said: to ask the disk may take time."""
        if message["type"] == "http.response.pathsend":
            self.bytes_sent = int(self._length or 0)
        else:
            self.bytes_sent += int(message.get("count") or 0)

    async def refuse(self) -> None:
        """Answer in the app's stead: 429 with the reasons."""
        if self._cached is not None:
            return await self._refuse_again(self._cached)
        try:
            self._engine.recorder.refuse(self)
        except Exception as error:  # noqa: BLE001 - as above
            self._engine.failed("count refusals", error)
        try:
            refusal = await self._engine.responder.refuse(self.scope, self._send_refusal, self.decision)
        finally:
            self.end("refused")
        if refusal.error is not None:
            self._engine.failed("refine_refusal", refusal.error)
        if self.count_row is not None and refusal is not CLOSED:
            until = min(self.decision.holds_until, self.started_at + CACHED_FOR)
            minute = self.time_ns // MINUTE_NS
            cached = CachedRefusal(self.decision, refusal, self.count_row, until, minute, self._ruling)
            self._engine.state.cache_refusal(self.visitor, cached)

    async def _refuse_again(self, cached: CachedRefusal) -> None:
        """Send the cached answer. The refusal is counted before it is sent, as all are."""
        self.recorded = True
        try:
            self._engine.recorder.refuse_again(cached.count_row, self.time_ns)
        except Exception as error:  # noqa: BLE001 - as above
            self._engine.failed("count refusals", error)
        *first, last = messages(self.scope, cached.answer)
        for message in first:
            await self._send(message)
        await (self._send_synced(last) if self._engine.syncs else self._send(last))

    def _send_refusal(self, message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.close":
            self.status = CLOSED_STATUS
        self.status = message.get("status", self.status)
        self.bytes_sent += len(message.get("body", b""))
        if not message["type"].endswith(".start"):
            self.first_byte_us = self._elapsed_us()
            self.end("refused")
            return self._send_synced(message) if self._engine.syncs else self._send(message)
        return self._send(message)

    def end(self, outcome: str | None = None) -> None:
        """Record the request, once. Without an outcome the app returned: before its last message is "aborted"."""
        if self.recorded:
            return
        self.recorded = True
        try:
            self.outcome = outcome or ("error" if self.status is None else "aborted")
            self._record()
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            self._engine.failed("record", error)

    def _respond(self, message: Message) -> Message:
        """Judge the visitor by the answer that begins, and add our headers. A failure of ours adds none."""
        engine, headers = self._engine, None
        try:
            self.status = status = message["status"]
            headers = list(message.get("headers") or ())
            names = dict(headers)
            try:
                if not b"".join(names).islower():  # ASGI asks for lower case; not all apps listen
                    names = {name.lower(): value for name, value in headers}
            except TypeError:  # names that are no bytes are the server's to judge
                pass
            self._length = names.get(b"content-length")
            self._judge(status, names)
            fields = engine.responder.fields(self.decision)
            if self.visitor.cookie is not None and status != 304 and not is_shared(headers):
                fields.append((b"set-cookie", self.visitor.cookie))
                self.visitor.cookie_sent = True
            if OURS.isdisjoint(names):
                headers += fields
                message = {**message, "headers": headers}
            else:
                message = with_fields({**message, "headers": headers}, fields)
        except Exception as error:
            if headers is None and hasattr(message.get("headers"), "__next__"):
                raise  # the app's own error: its iterator has nothing left for the server
            engine.failed("judge and respond", error)
            if headers is not None:  # an iterator is used up by now
                return {**message, "headers": headers}
        return message

    def _judge(self, status: Any, names: Mapping[bytes, bytes]) -> None:
        engine, visitor = self._engine, self.visitor
        decision, headers = self.decision, self._headers
        actor, now = visitor.actor, engine.monotonic()
        self.first_byte_us = int((now - self.started_at) * 1e6)
        before = decision.previous_level
        if self.method == "GET" and is_page(headers, status, names, actor.program == TOOL):
            self.page_view = True
            self.from_inside = inner = is_inner(headers)
            facts = actor.behaviour
            # Else nothing that could be read of the headers would matter.
            claims = None if facts.steps < facts.quiet_until else self._session_claims or self._claims(self.scope)
            query = self._query
            page = (query and self._page_variant(inner)) or self.path
            if query:
                self.inputs |= QUERIED
            if facts.traces is not None and facts.traces.led_to and self._was_led(facts.traces, page, now):
                return
            judge_page(
                actor, page, inner, engine.site, engine.policy, decision, now, claims, visitor.network, not query
            )
        elif (isinstance(status, int) and status >= 400) or self._was_refused(status, names):
            self._judge_failure(status, names, now)
        elif (data := self.method not in _WRITES and is_data(names, status, self.path)) or self.method == "POST":
            self._judge_data_or_post(data, now)
            if status in (302, 303) and not decision.refused:
                note_lead(actor.behaviour, led_to(names), now)
        elif not decision.refused:
            actor.behaviour.requests += 1
        if decision.previous_level is not before:
            self._level_changed()

    def _was_led(self, traces: Traces, page: str | Variant, now: float) -> bool:
        """Tell whether the app chose this page, by its answer to a form, and take it in as such."""
        if not is_led(traces, target(self.path, self._query), now):
            return False
        self.inputs |= LED
        return pass_led(self.visitor.actor, page, self.decision, now)

    def _judge_failure(self, status: Any, names: Mapping[bytes, bytes], now: float) -> None:
        engine, visitor = self._engine, self.visitor
        self.from_inside = inner = is_linked(self._headers)
        self.attempt = refused_attempt(self.method, self._headers, status, self.path, names)
        trusted = self.attempt is None and has_credentials(self._headers)
        if trusted:
            self.inputs |= TRUSTED
        injected = bool(self._query) and is_injection(self._query)
        if injected:
            self.inputs |= INJECTED
        failure = Failure(status, self.method, self.path, inner, self.attempt, trusted, injected)
        claims = self._claims(self.scope)
        judge_failure(visitor.actor, failure, engine.site, engine.policy, self.decision, now, claims, visitor.network)

    def _judge_data_or_post(self, data: bool, now: float) -> None:
        engine, actor = self._engine, self.visitor.actor
        excused, variant = False, None
        if data:
            prefetched = is_prefetch(self._headers) or is_precached_or_tile(self.path, self._query)
            trusted = has_credentials(self._headers)
            self.inputs |= DATA | PREFETCHED * prefetched | TRUSTED * trusted
            excused = prefetched or trusted
            variant = self._data_variant() if self._query else None
        judge_data_or_post(actor, data, self.path, engine.site, engine.policy, self.decision, now, excused, variant)

    def _page_variant(self, inner: bool) -> Variant | None:
        """Return what the query makes of the page; who does not send where it comes from may have followed a link."""
        actor = self.visitor.actor
        says = b"sec-fetch-site" in self._headers or actor.program
        says = says or (actor.claims.is_browser and self._engine.site.knows_headers())
        variant = self._engine.variants.page(self.path, self._query, inner or not says)
        return None if variant is None else self._keep_for_row(with_order(variant, self.visitor.actor.behaviour))

    def _data_variant(self) -> Variant | None:
        """Return what the query makes of an answer with data; None where credentials came with the request."""
        if self.method != "GET" or has_credentials(self._headers):
            return None
        variant = self._engine.variants.data(self.path, self._query)
        return None if variant is None else self._keep_for_row(variant)

    def _keep_for_row(self, variant: Variant) -> Variant:
        if self.visitor.identity.tracked:
            self.variant = variant
        return variant

    def _was_refused(self, status: Any, names: Mapping[bytes, bytes]) -> bool:
        """Tell whether a form was shown again, though its answer is no error."""
        return self.method == "POST" and refused_attempt("POST", self._headers, status, self.path, names) is not None

    def _level_changed(self) -> None:
        decision = self.decision
        if decision.id is None:
            decision.id = uuid7(self.time_ns)
        self._engine.state.level_changed(self.visitor)

    def _elapsed_us(self) -> int:
        return int((self._engine.monotonic() - self.started_at) * 1e6)

    def _record(self) -> None:
        scope, engine = self.scope, self._engine
        if not engine.started:  # stopped while the app was at it
            engine.start()
        self.duration_us = int((engine.monotonic() - self.started_at) * 1e6)
        query = self._query
        if "route" in scope or "path_template" in scope:
            self.route = route_template(scope)
        if query:
            self._read_query(query)
        # A page that was linked from this site, without a campaign, came from nowhere new.
        if self.page_view and (query or not self.from_inside):
            self.referral = self._referral(query)
        if self.status is None and self.outcome == "error":
            self.status = 500
        decision = self.decision
        if decision.id is not None and self.count_row is None:
            self.detail = detail(decision, decision.findings, decision.inputs, engine.policy_version)
        engine.recorder.hit(self)

    def _read_query(self, query: bytes) -> None:
        if self._engine.keeps_query:
            self.query = clean_query(query)
        if self.outcome == "refused" and self.method == "GET":  # another policy might let it through, to a page
            self.inputs |= QUERIED
            self._page_variant(False)

    def _referral(self, query: bytes) -> Referral:
        referer, host = self._headers.get(b"referer"), self._headers.get(b"host")
        return read_referral(
            query,
            referer.decode("latin-1") if referer else None,
            host.decode("latin-1") if host else None,
            bool(self.from_inside),
        )

    async def _send_synced(self, message: Message) -> None:
        journal = self._engine.recorder.journal
        if journal is not None:
            try:
                await run_in_thread(journal.sync)
            except Exception as error:  # noqa: BLE001 - a disk that fails must not cost the visitor the answer
                self._engine.failed("sync", error)
        await self._send(message)


def _is_of(findings: object, visitor: Visitor) -> bool:
    """Tell whether findings are of the same visitor: somebody further out tries once more."""
    return isinstance(findings, Analytics) and findings._visitor is visitor


# Data in the answer to a write is what was sent: a phone that was offline saves all that changed, one by one.
_WRITES = frozenset(("POST", "PUT", "PATCH", "DELETE"))
# Beside http.response.body, what can end an answer.
_FILE_MESSAGES = frozenset(("http.response.pathsend", "http.response.zerocopysend"))
