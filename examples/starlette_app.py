"""A Starlette app with a quota and a privacy-minded visitor cookie.

Run: ASGI_ANALYTICS_DSN=postgresql://… uvicorn examples.starlette_app:app, or python examples/starlette_app.py
"""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from asgi_analytics import AnalyticsMiddleware


async def article(request: Request) -> HTMLResponse:
    """Show a page; request.state.analytics knows who reads it."""
    found = request.state.analytics
    return HTMLResponse(f"<h1>{request.path_params['id']}</h1><p>from {found.place.country or 'somewhere'}</p>")


analytics = Middleware(
    AnalyticsMiddleware,
    limits=["20/second", "600/minute"],
    session_cookie=True,
    secret=os.environ.get("SECRET", "only for this example"),
)
app = Starlette(routes=[Route("/articles/{id:int}", article)], middleware=[analytics])

if __name__ == "__main__":
    uvicorn.run(app)
