"""One request in progress, with all its state: as it arrives, as the app answers, by HTTP or a websocket."""

from __future__ import annotations

from contextlib import suppress

from asgiref.sync import markcoroutinefunction

from .http import Exchange
from .websocket import WebSocketExchange

# asgiref, by which WSGI apps and consumers of Channels are served, warns of a `send` that is no coroutine function.
for _send in (Exchange.send, WebSocketExchange.send):
    with suppress(AttributeError):  # compiled, it takes no mark
        markcoroutinefunction(_send)
