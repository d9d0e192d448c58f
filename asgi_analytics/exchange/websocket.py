"""A websocket on its way: accepted, refused or closed, it is one row."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import Any

from ..engine import Engine
from ..inputs import UNABLE
from ..protocols import Headers, Message, Receive, Scope, Send
from .http import Exchange

GONE = 1006  # without a close frame, RFC 6455 section 7.4.1
ACCEPTED = 101
# An error, a restart, too much to do, another server's fault (IANA, WebSocket Close Code Number Registry): as 5xx.
OWN_FAULTS = (1011, 1012, 1013, 1014)


class WebSocketExchange(Exchange):
    """A websocket from handshake to close: one row, written when either side closes it."""

    _held: Message | None  # the start of a denial, which is sent with the message after it

    def __init__(self, engine: Engine, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(engine, scope, receive, send)
        # No functions made here, of which each open websocket would hold its own.
        self._servers_receive, self._servers_send, self._held = receive, send, None
        self.receive, self._send = self._received, self._send_denial_at_once if engine.syncs else self._sent

    async def _received(self) -> Message:
        """The app's `receive`, which notes when the visitor has gone."""
        message = await self._servers_receive()
        if message["type"] == "websocket.disconnect":
            self._note_leaving(message.get("code", 1005))
        return message

    async def _sent(self, message: Message) -> None:
        """The server's `send`, which notes when it tells that the visitor has gone: some apps never receive."""
        try:
            await self._servers_send(message)
        except OSError:
            self._note_leaving(GONE)
            raise

    def _note_leaving(self, code: Any) -> None:
        if not self.recorded:
            self.close_code = _code(code)
            self.end("complete" if self.status == ACCEPTED else "aborted")

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the app on, untouched."""
        try:
            is_last = self._note(message)
        except Exception as error:  # noqa: BLE001 - an invalid message is left to the server
            self._engine.failed("count", error)
            return self._send(message)
        if not is_last:
            return self._send(message)
        self.end("complete")
        return self._send_synced(message) if self._engine.syncs else self._send(message)

    async def finish(self, outcome: str = "aborted") -> None:
        """As for any request; no message follows one that is still held."""
        await super().finish(outcome)
        if not isinstance(sys.exception(), GeneratorExit):  # then nothing can be awaited any more
            await self._send_held()

    async def _send_denial_at_once(self, message: Message) -> None:
        """Send a denial's start with its body: uvicorn drops one whose body does not follow at once.

        The row is flushed to disk in between, which takes a while.
        """
        await self._send_held()
        if message["type"] == "websocket.http.response.start" and not self.recorded:
            self._held = message
        else:
            await self._sent(message)

    async def _send_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._sent(held)

    def _note(self, message: Message) -> bool:
        """Note what a message says; returns whether it is the last one."""
        kind = message["type"]
        if kind == "websocket.send":
            self.bytes_sent += _size(message.get("text") or message.get("bytes") or b"")
        elif kind == "websocket.accept":
            self.status, self.first_byte_us = ACCEPTED, self._elapsed_us()
        elif kind == "websocket.http.response.start":
            self.status, self.first_byte_us = message.get("status"), self._elapsed_us()
            self._judge_handshake()
        elif kind == "websocket.close":
            self.close_code = _code(message.get("code", 1000))
            if self.status is None:
                self.status, self.first_byte_us = 403, self._elapsed_us()
                if self.close_code in OWN_FAULTS:
                    self.inputs |= UNABLE
                else:
                    self._judge_handshake()
            return True
        elif kind == "websocket.http.response.body":
            self.bytes_sent += len(message.get("body") or b"")
            return not message.get("more_body")
        return False

    def _judge_handshake(self) -> None:
        """Judge a handshake that the app refuses, as an error of HTTP; one that it accepts tells nothing."""
        try:
            if not self.recorded and isinstance(self.status, int) and self.status >= 400:
                self._judge(self.status, {})
        except Exception as error:  # noqa: BLE001 - as in HTTP
            self._engine.failed("judge", error)

    def _is_linked(self) -> bool:
        return b"origin" in self._headers  # which browsers send with each, of whatever page it is

    def _refused_attempt(self, status: Any, names: Headers) -> None:
        """Return None: a close does not say why, and devices behind one address have a token each."""


def _code(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _size(data: Any) -> int:
    """Return the bytes of a message on the wire, where text is UTF-8."""
    return len(data.encode("utf-8", "surrogatepass")) if isinstance(data, str) and not data.isascii() else len(data)
