"""One request on its way: identified and judged, then what is sent passes here, is measured, and becomes a row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anyio import to_thread

from .clock import uuid7
from .decide.explain import detail, inputs_of_admission, inputs_of_ban
from .decide.rulings import refusal
from .decide.verdict import accept, admit, admit_told, begin_session, count_session, join, judge
from .engine import Engine
from .identify.consistency import read_claims, tried
from .identify.referral import clean_query, read_referral
from .identify.request import is_data, is_inner, is_page, is_shared, route_template
from .model import Analytics, Claims, Decision, Hit, Referral, Visitor
from .protocols import ClaimStatus, Told
from .respond import CLOSED_STATUS, OURS, with_fields

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

KEY = "analytics"  # in scope["state"]
INSIDE = "asgi_analytics"  # in the scope handed on: somebody further out has this request already


def begin(engine: Engine, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
    """Identify and decide, without I/O. None when we failed: then the app is served as if we were not there."""
    try:
        now, time_ns = engine.monotonic(), engine.clock.time_ns()
        headers: dict[bytes, bytes] = dict(scope.get("headers") or ())
        visitor = _identify(engine, scope, headers, now, time_ns)
        decision = _decide(engine, visitor, scope, headers, now, time_ns)
        return _begun(engine, scope, headers, receive, send, visitor, decision, now, time_ns)
    except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
        engine.failed("identify and decide", error)
        return None


async def begin_strictly(engine: Engine, scope: Scope, receive: Receive, send: Send) -> Exchange | None:
    """As `begin`, by what one server says that counts the requests of all workers: with one round trip to it."""
    try:
        now, time_ns = engine.monotonic(), engine.clock.time_ns()
        headers: dict[bytes, bytes] = dict(scope.get("headers") or ())
        visitor = _identify(engine, scope, headers, now, time_ns)
        told = await engine.told(visitor)
        decision = _decide(engine, visitor, scope, headers, now, time_ns, told)
        return _begun(engine, scope, headers, receive, send, visitor, decision, now, time_ns)
    except Exception as error:  # noqa: BLE001 - as above
        engine.failed("identify and decide", error)
        return None


def _identify(engine: Engine, scope: Scope, headers: Mapping[bytes, bytes], now: float, time_ns: int) -> Visitor:
    if not engine.started:
        engine.start()
    visitor, began = engine.identifier.visitor(scope, headers, now, time_ns)
    if began:
        begin_session(visitor.actor, now) if visitor.cookie is None else count_session(visitor.actor, now)
        if visitor.identity.agent.bot_class is None:
            claims = _claims(visitor, scope, headers)
            join(visitor.actor, visitor.network, claims, engine.site, engine.policy, now)
    if visitor.learnt is not None:
        engine.take_in(visitor, began, now, time_ns)
    return visitor


def _begun(
    engine: Engine,
    scope: Scope,
    headers: Mapping[bytes, bytes],
    receive: Receive,
    send: Send,
    visitor: Visitor,
    decision: Decision,
    now: float,
    time_ns: int,
) -> Exchange:
    inner = _with_findings(scope, Analytics(visitor, decision))
    if scope["type"] == "websocket":
        socket = WebSocketExchange(engine, inner, headers, receive, send, visitor, decision, now, time_ns)
        socket.receive = socket.receiving()
        return socket
    if engine.steps.are_due():
        timed = TimedExchange(engine, inner, headers, receive, send, visitor, decision, now, time_ns)
        timed.began()
        return timed
    return Exchange(engine, inner, headers, receive, send, visitor, decision, now, time_ns)


def _decide(
    engine: Engine,
    visitor: Visitor,
    scope: Scope,
    headers: Mapping[bytes, bytes],
    now: float,
    time_ns: int,
    told: Told | None = None,
) -> Decision:
    """Admit or refuse: what an operator ruled comes first, then quotas and level. `told`: in strict mode."""
    exempt, rulings = False, engine.rulings.current
    if visitor.identity.agent.bot_class is not None or b"signature-input" in headers:
        exempt = engine.check_claim(visitor, scope, headers, time_ns)
    if rulings is not None:
        ruling = engine.ruled(visitor, rulings, scope, headers, now, time_ns)
        if ruling is not None and ruling.kind == "ban":
            wall = (time_ns - engine.calendar.leap_ns) / 1e9
            decision = refusal(ruling, len(engine.policy.quotas), visitor.actor.score, wall)
            decision.id, decision.inputs = uuid7(time_ns), inputs_of_ban(ruling, wall)
            return decision
        exempt = exempt or ruling is not None
    if told is not None:
        decision = admit_told(visitor.actor, visitor.network, engine.policy, told, now)
    else:
        policy = engine.policy if engine.strict is None else engine.policy_alone
        decision = admit(visitor.actor, visitor.network, policy, now)
    if exempt:
        decision.exempt = True
    if decision.refused or decision.previous_level is not None:
        decision.id = uuid7(time_ns)
        decision.findings = visitor.actor.signals
        decision.inputs = inputs_of_admission(visitor.actor, visitor.network, decision, engine.policy, now)
        engine.state.level_changed(visitor)
    return decision


def _claims(visitor: Visitor, scope: Scope, headers: Mapping[bytes, bytes]) -> Claims:
    identity, found = visitor.identity, visitor.verification
    is_false = found is not None and found.status == ClaimStatus.FALSE
    return read_claims(scope, headers, identity.agent, identity.place, identity.network, is_false)


def _with_findings(scope: Scope, findings: Analytics) -> Scope:
    """Return a copy of the scope with our findings in its state; the scope itself stays as it was.

    The state dict is shared with whoever is further out, as request.state is meant to be. Where our key is in it
    already, a server shares one dict among requests: then this request gets a copy.
    """
    inner = dict(scope)
    state = scope.get("state")
    if state is None:
        inner["state"] = {KEY: findings}
    elif KEY in state:
        inner["state"] = {**state, KEY: findings}
    else:
        state[KEY] = findings
    inner[INSIDE] = True
    return inner


class Exchange(Hit):
    """An HTTP request and its answer. All state of the request lives here; at its end it becomes a row."""

    # Defaults here rather than in __init__: most requests change few of them.
    _recorded = False

    def __init__(
        self,
        engine: Engine,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        visitor: Visitor,
        decision: Decision,
        now: float,
        time_ns: int,
    ) -> None:
        self.visitor = visitor
        self.decision = decision
        self.time_ns = time_ns
        # Now, for the app may rewrite its scope: the row tells what was asked for.
        self.path = scope["path"]
        self.method = scope.get("method", "WEBSOCKET")
        self.scope = scope
        self.receive = receive
        self._engine = engine
        self._headers = headers
        self._send = send
        self.clock = now

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the app on; the row is in the journal before the last one is."""
        kind = message["type"]
        if kind == "http.response.start":
            return self._send(self._answered(message))
        if kind == "http.response.body":
            body = message.get("body")
            if body:
                self.bytes_sent += len(body)
            if message.get("more_body"):
                return self._send(message)
        elif kind not in _LAST or message.get("more_body"):
            return self._send(message)
        self.end("complete")
        return self._last(message)

    async def refuse(self) -> None:
        """Answer in the app's stead: 429 with the reasons."""
        try:
            self._engine.recorder.refuse(self)
        except Exception as error:  # noqa: BLE001 - as above
            self._engine.failed("count refusals", error)
        try:
            refusal = await self._engine.responder.refuse(self.scope, self._refused, self.decision)
        finally:
            self.end("refused")
        if refusal.error is not None:
            self._engine.failed("refine_refusal", refusal.error)

    def _refused(self, message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.close":
            self.status = CLOSED_STATUS
        self.status = message.get("status", self.status)
        self.bytes_sent += len(message.get("body", b""))
        if not message["type"].endswith(".start"):
            self.first_byte_us = self._elapsed_us()
            self.end("refused")
            return self._last(message)
        return self._send(message)

    def end(self, outcome: str | None = None) -> None:
        """Record the request, once. Without an outcome the app returned: before its last message is "aborted"."""
        if self._recorded:
            return
        self._recorded = True
        try:
            self.outcome = outcome or ("error" if self.status is None else "aborted")
            self._record()
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            self._engine.failed("record", error)

    def _answered(self, message: Message) -> Message:
        """The answer begins: judge by it, and tell the client. Our own failure leaves the message as it was."""
        engine = self._engine
        try:
            now = engine.monotonic()
            self.first_byte_us = int((now - self.clock) * 1e6)
            self.status = status = message["status"]
            headers = list(message.get("headers") or ())
            names = dict(headers)
            page = self.method == "GET" and is_page(self._headers, status, names)
            if page or (type(status) is int and status >= 400):
                self.page_view = page
                self._judge(status, page, now)
            elif is_data(names) or (self.method == "POST" and engine.site.routes):
                data = self.method != "POST"
                self._accepted(data, now)
            elif not self.decision.refused:
                self.visitor.actor.behaviour.requests += 1
            fields = engine.responder.fields(self.decision)
            if self.visitor.cookie is not None and status != 304 and not is_shared(names):
                fields.append((b"set-cookie", self.visitor.cookie))
            if OURS.isdisjoint(names):
                headers += fields
                message = {**message, "headers": headers}
            else:
                message = with_fields({**message, "headers": headers}, fields)
        except Exception as error:  # noqa: BLE001 - as above
            engine.failed("judge and respond", error)
        return message

    def _judge(self, status: int, page: bool, now: float) -> None:
        decision, visitor, engine = self.decision, self.visitor, self._engine
        self.from_inside = inner = is_inner(self._headers)
        before, actor = decision.previous_level, visitor.actor
        if page and actor.behaviour.steps < actor.behaviour.quiet_until:  # nothing that is read here could matter
            judge(actor, status, page, self.path, inner, engine.site, engine.policy, decision, now)
        else:
            judge(
                actor, status, page, self.path, inner, engine.site, engine.policy, decision, now,
                method=self.method,
                attempt=None if page else tried(self.method, self._headers, status),
                claims=_claims(visitor, self.scope, self._headers),
                network=visitor.network,
            )  # fmt: skip
        if decision.previous_level is not before:
            self._tell_level()

    def _accepted(self, data: bool, now: float) -> None:
        engine, decision = self._engine, self.decision
        before = decision.previous_level
        accept(self.visitor.actor, data, self.path, engine.site, engine.policy, decision, now)
        if decision.previous_level is not before:
            self._tell_level()

    def _tell_level(self) -> None:
        decision = self.decision
        if decision.id is None:
            decision.id = uuid7(self.time_ns)
        self._engine.state.level_changed(self.visitor)

    def _elapsed_us(self) -> int:
        return int((self._engine.monotonic() - self.clock) * 1e6)

    def _record(self) -> None:
        scope, engine = self.scope, self._engine
        if not engine.started:  # stopped while the app was at it
            engine.start()
        self.duration_us = int((engine.monotonic() - self.clock) * 1e6)
        query = scope.get("query_string")
        if "route" in scope or "path_template" in scope:
            self.route = route_template(scope)
        if query and engine.keeps_query:
            self.query = clean_query(query)
        # A page that was linked from this site, without a campaign, came from nowhere new.
        if self.page_view and (query or not self.from_inside):
            self.referral = self._referral(query or b"")
        if self.status is None and self.outcome == "error":
            self.status = 500
        decision = self.decision
        if decision.id is not None and self.counted is None:
            self.detail = detail(decision, decision.findings, decision.inputs, engine.policy_version)
        engine.recorder.hit(self)

    def _referral(self, query: bytes) -> Referral:
        referer, host = self._headers.get(b"referer"), self._headers.get(b"host")
        return read_referral(
            query,
            referer.decode("latin-1") if referer else None,
            host.decode("latin-1") if host else None,
        )

    def _last(self, message: Message) -> Awaitable[None]:
        """Pass the message on that ends the answer: the row is in the journal, and with "fsync" on the disk."""
        return self._send_synced(message) if self._engine.syncs else self._send(message)

    async def _send_synced(self, message: Message) -> None:
        journal = self._engine.recorder.journal
        if journal is not None:
            try:
                await to_thread.run_sync(journal.sync)
            except OSError as error:  # a disk that fails must not cost the visitor the answer
                self._engine.failed("sync", error)
        await self._send(message)


class TimedExchange(Exchange):
    """One in many requests is timed, so that `stats()` can tell what our own steps cost."""

    def began(self) -> None:
        """Take in what identifying and deciding cost."""
        self._engine.steps.add("identify_and_decide", self._engine.monotonic() - self.clock)

    def _answered(self, message: Message) -> Message:
        began = self._engine.monotonic()
        message = super()._answered(message)
        self._engine.steps.add("judge_and_respond", self._engine.monotonic() - began)
        return message

    def _record(self) -> None:
        began = self._engine.monotonic()
        super()._record()
        self._engine.steps.add("record", self._engine.monotonic() - began)


# Messages that can end an answer, beside http.response.body.
_LAST = frozenset(("http.response.pathsend", "http.response.zerocopysend"))


class WebSocketExchange(Exchange):
    """A websocket from handshake to close: one row, written when either side closes it."""

    def receiving(self) -> Receive:
        """Return what the app receives by: it tells us when the visitor has gone."""
        receive = self.receive

        async def received() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.close_code = message.get("code", 1005)
                self.end("complete")
            return message

        return received

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the app on, untouched."""
        kind = message["type"]
        if kind == "websocket.send":
            self.bytes_sent += len(message.get("text") or message.get("bytes") or "")
        elif kind == "websocket.accept":
            self.status, self.first_byte_us = 101, self._elapsed_us()
        elif kind == "websocket.http.response.start":
            self.status, self.first_byte_us = message.get("status"), self._elapsed_us()
        elif kind == "websocket.close":
            self.close_code = message.get("code", 1000)
            if self.status is None:
                self.status, self.first_byte_us = 403, self._elapsed_us()
            self.end("complete")
            return self._last(message)
        return self._send(message)
