"""One request on its way through the app: what is sent passes here, is measured, and becomes a row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from anyio import to_thread

from .clock import uuid7
from .decide.verdict import judge
from .engine import Engine
from .identify.referral import clean_query, read_referral
from .identify.request import content_type, is_inner, is_page, route_template
from .model import Answer, Decision, Referral, Visitor
from .respond import CLOSED_STATUS, with_fields

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_NO_REFERRAL = Referral()


class Exchange:
    """An HTTP request and its answer. All state of the request lives here."""

    __slots__ = (
        "_engine",
        "_first_byte",
        "_headers",
        "_method",
        "_page",
        "_path",
        "_recorded",
        "_sent",
        "_send",
        "_started_at",
        "_status",
        "_time_ns",
        "_visitor",
        "bytes_sent",
        "decision",
        "receive",
        "scope",
    )

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
        self._path, self._method = scope["path"], str(scope.get("method", "WEBSOCKET"))
        self._headers = headers
        self.receive = receive
        self._send = send
        self._visitor = visitor
        self.decision = decision
        self._started_at = now
        self._time_ns = time_ns
        self._status: Any = None
        self._first_byte: int | None = None
        self._page = False
        self._recorded = False
        self.bytes_sent = 0
        engine.steps[0].add(engine.clock.monotonic() - now)

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
        if self._engine.syncs:
            return self._send_synced(message)
        return self._send(message)

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
        return self._send(message)

    def end(self, outcome: str | None = None) -> None:
        """Record the request, once. Without an outcome the app returned: before its last message is "aborted"."""
        if self._recorded:
            return
        self._recorded = True
        engine = self._engine
        try:
            began = engine.clock.monotonic()
            self._record(outcome or ("error" if self._status is None else "aborted"))
            engine.steps[2].add(engine.clock.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            engine.failed("record", error)

    def _answered(self, message: Message) -> Message:
        """The answer begins: judge by it, and tell the client. Our own failure leaves the message as it was."""
        engine = self._engine
        try:
            now = engine.clock.monotonic()
            self._first_byte = int((now - self._started_at) * 1e6)
            self._status = status = message["status"]
            headers = list(message.get("headers") or ())
            message = {**message, "headers": headers}
            self._judge(status, content_type(headers), now)
            message = with_fields(message, self._fields(headers))
            engine.steps[1].add(engine.clock.monotonic() - now)
        except Exception as error:  # noqa: BLE001 - as above
            engine.failed("judge and respond", error)
        return message

    def _judge(self, status: int, kind: bytes, now: float) -> None:
        headers, decision = self._headers, self.decision
        self._page = page = is_page(self._method, headers, status, kind)
        inner = page and is_inner(headers)
        before = decision.previous_level
        answer = Answer(status, page, self._path, page and not inner, inner)
        judge(self._visitor.actor, answer, self._engine.site, self._engine.policy, decision, now)
        if decision.previous_level is not before:
            if decision.id is None:
                decision.id = uuid7(self._time_ns)
            self._engine.state.level_changed(self._visitor)

    def _fields(self, headers: list[Any]) -> list[tuple[bytes, bytes]]:
        fields = self._engine.responder.fields(self.decision)
        cookie = self._visitor.cookie
        if cookie is not None and self._status != 304 and not _is_shared(headers):
            fields.append((b"set-cookie", cookie))
        return fields

    def _elapsed_us(self) -> int:
        return int((self._engine.clock.monotonic() - self._started_at) * 1e6)

    def _record(self, outcome: str) -> None:
        scope, engine, visitor = self.scope, self._engine, self._visitor
        privacy = engine.settings.privacy
        if privacy.signals == "drop" and not visitor.identity.tracked:
            return engine.recorder.drop("privacy_signal")
        query = scope.get("query_string") or b""
        page = self._page
        engine.recorder.hit(
            visitor,
            self.decision,
            hit_id=uuid7(self._time_ns),
            time_us=self._time_ns // 1000,
            method=self._method,
            path=engine.stored_path(self._path),
            outcome=outcome,
            page_view=page,
            status=500 if outcome == "error" and self._status is None else self._status,
            duration_us=self._elapsed_us(),
            first_byte_us=self._first_byte,
            bytes_sent=self.bytes_sent,
            route=route_template(scope),
            query=clean_query(query) if query and privacy.query == "redacted" else None,
            referral=self._referral(query) if page else _NO_REFERRAL,
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

    async def _send_synced(self, message: Message) -> None:
        journal = self._engine.recorder.journal
        if journal is not None:
            await to_thread.run_sync(journal.sync)
        await self._send(message)


# Messages that can end an answer, beside http.response.body.
_LAST = frozenset(("http.response.pathsend", "http.response.zerocopysend"))


class WebSocketExchange(Exchange):
    """A websocket from handshake to close: one row, written when either side closes it."""

    __slots__ = ("_code", "_receive")

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
        return self._send(message)

    async def _received(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._code = message.get("code", 1005)
            self.end("complete")
        return message

    def _close_code(self) -> int | None:
        return self._code


def _is_shared(headers: list[Any]) -> bool:
    """Tell whether a shared cache may keep the answer: a cookie in it would go to others (RFC 9111, section 5.2.2)."""
    for name, value in headers:
        if name.lower() == b"cache-control":
            directives = value.lower()
            if b"public" in directives or b"s-maxage" in directives:
                return True
    return False
