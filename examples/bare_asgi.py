"""A bare ASGI app behind AnalyticsMiddleware.

Run: ASGI_ANALYTICS_DSN=postgresql://… uvicorn examples.bare_asgi:app, or python examples/bare_asgi.py
"""

from __future__ import annotations

import uvicorn

from asgi_analytics import Analytics, AnalyticsMiddleware
from asgi_analytics.middleware import Receive, Scope, Send


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Greet a visitor with what is known of it."""
    if scope["type"] != "http":  # without lifespan events the first request starts the writer
        raise NotImplementedError(scope["type"])
    found: Analytics = scope["state"]["analytics"]
    body = f"Hello {found.agent.browser or 'stranger'}, level {found.level.label}, score {found.score}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = AnalyticsMiddleware(hello)

if __name__ == "__main__":
    uvicorn.run(app)
