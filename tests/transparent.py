"""An app driven with and without us, message by message."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

from .drive import OURS


@dataclass
class Seen:
    """All that a server can notice of an app."""

    sent: list[Message] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)
    raised: BaseException | None = None


async def serve(app: ASGIApp, scope: Scope, incoming: list[Message]) -> Seen:
    """Run an app to its end; `incoming` is what there is to receive."""
    seen, waiting = Seen(), iter(incoming)

    async def receive() -> Message:
        seen.received.append(next(waiting))
        return seen.received[-1]

    async def send(message: Message) -> None:
        seen.sent.append(message)

    try:
        await app(scope, receive, send)
    except BaseException as error:  # noqa: BLE001 - what the app raised is what the tests compare
        seen.raised = error
    return seen


def without_ours(messages: list[Message]) -> list[Message]:
    """The messages as a bare app sends them; those that begin an answer must carry all of our headers."""
    told = []
    for message in messages:
        if message["type"] == "http.response.start":
            headers = [pair for pair in message["headers"] if pair[0] not in OURS]
            assert {name for name, _ in message["headers"]} >= OURS
            message = {**message, "headers": headers}
        told.append(message)
    return told


def normal(messages: list[Message]) -> list[Message]:
    """Header iterables as lists: what a server makes of them."""
    return [
        {**message, "headers": list(message.get("headers") or ())}
        if message["type"] == "http.response.start"
        else message
        for message in messages
    ]


def sending(*messages: Any, error: BaseException | None = None) -> Callable[[], ASGIApp]:
    """A maker of apps that send messages (or what a function makes), then raise."""

    def make() -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in messages:
                await send(message() if callable(message) else copy.copy(message))
            if error is not None:
                raise error

        return app

    return make
