"""One request on its way through the app: what is sent passes here, is measured, and becomes a row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anyio import to_thread

from .clock import uuid7
from .decide.verdict import judge, pass_by
from .engine import Engine
from .identify.referral import clean_query, read_referral
from .identify.request import content_type, is_inner, is_page, is_shared, route_template
from .model import Answer, Decision, Referral, Visitor
from .respond import CLOSED_STATUS, OURS, with_fields

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Exchange:
    """An HTTP request and its answer. All state of the request lives here."""

    # Defaults here rather than in __init__: most requests change few of them.
    _status: Any = None
    _first_byte: int | None = None
    _page = False
    _inner = False
    _recorded = False
    bytes_sent = 0

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
        self._engine = engine
        self.scope = scope
        # Now, for the app may rewrite its scope: the row tells what was asked for.
        self._path, self._method = scope["path"], scope.get("method", "WEBSOCKET")
        self._headers = headers
        self.receive = receive
        self._send = send
        self._visitor = visitor
        self.decision = decision
        self._started_at = now
        self._time_ns = time_ns

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
            refusal = await self._engine.responder.refuse(self.scope, self._refused, self.decision)
        finally:
            self.end("refused")
        if refusal.error is not None:
            self._engine.failed("refine_refusal", refusal.error)

    def _refused(self, message: Message) -> Awaitable[None]:
        if message["type"] == "websocket.close":
            self._status = CLOSED_STATUS
        self._status = message.get("status", self._status)
        self.bytes_sent += len(message.get("body", b""))
        if not message["type"].endswith(".start"):
            self._first_byte = self._elapsed_us()
            self.end("refused")
            return self._last(message)
        return self._send(message)

    def end(self, outcome: str | None = None) -> None:
        """Record the request, once. Without an outcome the app returned: before its last message is "aborted"."""
        if self._recorded:
            return
        self._recorded = True
        try:
            self._record(outcome or ("error" if self._status is None else "aborted"))
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            self._engine.failed("record", error)

    def _answered(self, message: Message) -> Message:
        """The answer begins: judge by it, and tell the client. Our own failure leaves the message as it was."""
        engine = self._engine
        try:
            now = engine.monotonic()
            self._first_byte = int((now - self._started_at) * 1e6)
            self._status = status = message["status"]
            headers = list(message.get("headers") or ())
            names = dict(headers)
            self._page = page = is_page(self._method, self._headers, status, content_type(names))
            if page or (isinstance(status, int) and status >= 400):
                self._judge(status, now)
            else:
                pass_by(self._visitor.actor, self.decision)
            fields = engine.responder.fields(self.decision)
            if self._visitor.cookie is not None and status != 304 and not is_shared(names):
                fields.append((b"set-cookie", self._visitor.cookie))
            if OURS.isdisjoint(names):
                headers += fields
                message = {**message, "headers": headers}
            else:
                message = with_fields({**message, "headers": headers}, fields)
        except Exception as error:  # noqa: BLE001 - as above
            engine.failed("judge and respond", error)
        return message

    def _judge(self, status: int, now: float) -> None:
        decision, visitor, engine, page = self.decision, self._visitor, self._engine, self._page
        self._inner = inner = is_inner(self._headers)
        answer = Answer(status, page, self._path, page and not inner, inner)
        before = decision.previous_level
        judge(visitor.actor, answer, engine.site, engine.policy, decision, now)
        if decision.previous_level is not before:
            if decision.id is None:
                decision.id = uuid7(self._time_ns)
            engine.state.level_changed(visitor)

    def _elapsed_us(self) -> int:
        return int((self._engine.monotonic() - self._started_at) * 1e6)

    def _record(self, outcome: str) -> None:
        scope, engine = self.scope, self._engine
        if not engine.started:  # stopped while the app was at it
            engine.start()
        query = scope.get("query_string")
        status = self._status
        engine.recorder.hit(
            self._visitor,
            self.decision,
            self._time_ns,
            self._method,
            self._path,
            outcome,
            self._page,
            500 if status is None and outcome == "error" else status,
            int((engine.monotonic() - self._started_at) * 1e6),
            self._first_byte,
            self.bytes_sent,
            route=route_template(scope) if "route" in scope or "path_template" in scope else None,
            query=clean_query(query) if query and engine.keeps_query else None,
            # A page that was linked from this site, without a campaign, came from nowhere new.
            referral=self._referral(query or b"") if self._page and (query or not self._inner) else None,
            close_code=self._close_code(),
        )

    def _referral(self, query: bytes) -> Referral:
        referer, host = self._headers.get(b"referer"), self._headers.get(b"host")
        return read_referral(
            query,
            referer.decode("latin-1") if referer else None,
            host.decode("latin-1") if host else None,
        )

    def _close_code(self) -> int | None:
        return None

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

    def __init__(self, engine: Engine, *rest: Any) -> None:
        super().__init__(engine, *rest)
        engine.steps.add("identify_and_decide", engine.monotonic() - self._started_at)

    def _answered(self, message: Message) -> Message:
        began = self._engine.monotonic()
        message = super()._answered(message)
        self._engine.steps.add("judge_and_respond", self._engine.monotonic() - began)
        return message

    def _record(self, outcome: str) -> None:
        began = self._engine.monotonic()
        super()._record(outcome)
        self._engine.steps.add("record", self._engine.monotonic() - began)


# Messages that can end an answer, beside http.response.body.
_LAST = frozenset(("http.response.pathsend", "http.response.zerocopysend"))


class WebSocketExchange(Exchange):
    """A websocket from handshake to close: one row, written when either side closes it."""

    def __init__(self, engine: Engine, scope: Scope, headers: Any, receive: Receive, *rest: Any) -> None:
        super().__init__(engine, scope, headers, receive, *rest)
        self._code: int | None = None
        self._receive = receive
        self.receive = self._received

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the app on, untouched."""
        kind = message["type"]
        if kind == "websocket.send":
            self.bytes_sent += len(message.get("text") or message.get("bytes") or "")
        elif kind == "websocket.accept":
            self._status, self._first_byte = 101, self._elapsed_us()
        elif kind == "websocket.http.response.start":
            self._status, self._first_byte = message.get("status"), self._elapsed_us()
        elif kind == "websocket.close":
            self._code = message.get("code", 1000)
            if self._status is None:
                self._status, self._first_byte = 403, self._elapsed_us()
            self.end("complete")
            return self._last(message)
        return self._send(message)

    async def _received(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._code = message.get("code", 1005)
            self.end("complete")
        return message

    def _close_code(self) -> int | None:
        return self._code
