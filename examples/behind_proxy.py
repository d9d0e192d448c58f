"""Behind a reverse proxy on this machine: whose X-Forwarded-For is believed is said once, to the middleware.

Run: ASGI_ANALYTICS_DSN=postgresql://… uvicorn --no-proxy-headers examples.behind_proxy:app
or: python examples/behind_proxy.py
Try: curl -H "X-Forwarded-For: 84.130.1.2" http://127.0.0.1:8000/
"""

from __future__ import annotations

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asgi_analytics import AnalyticsMiddleware, Privacy


async def whoami(request: Request) -> JSONResponse:
    """Tell the visitor where it seems to come from."""
    place = request.state.analytics.place
    return JSONResponse({"country": place.country, "asn": place.asn})


app = AnalyticsMiddleware(
    Starlette(routes=[Route("/", whoami)]),
    trusted_proxies=["127.0.0.1", "::1", "10.0.0.0/8"],
    privacy=Privacy(address="network"),  # keeps 84.130.1.0/24 of 84.130.1.2
)

if __name__ == "__main__":
    uvicorn.run(app, proxy_headers=False)  # one of the two may rewrite the client, not both
