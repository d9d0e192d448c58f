"""A small app under the middleware, as a server imports it: `uvicorn tests.acceptance.app:app`."""

from __future__ import annotations

import json
import os
from typing import Any

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import Receive, Scope, Send

BODY = b"<h1>here</h1>"


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each request with the same page; /process tells which worker it is, /status/N answers N."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path: str = scope["path"]
    status: Any = int(path[8:]) if path.startswith("/status/") else 200
    body = json.dumps(_own()).encode() if path == "/process" else BODY
    headers = [(b"content-type", b"text/html"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _own() -> dict[str, Any]:
    return {"pid": os.getpid(), "stats": app.stats()}


# The database and the journal come from the environment, as for any app.
app = AnalyticsMiddleware(bare, **json.loads(os.environ.get("RIG_OPTIONS", "{}")))
