"""A FastAPI app that sends behavioural bots away from one costly route, in observe mode for the rest.

Run: ASGI_ANALYTICS_DSN=postgresql://… uvicorn examples.fastapi_app:app, or python examples/fastapi_app.py
"""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from asgi_analytics import Analytics, AnalyticsMiddleware

app = FastAPI()
app.add_middleware(AnalyticsMiddleware, mode="observe", exclude="/health")


@app.get("/health")
async def health() -> dict[str, str]:
    """Excluded: neither judged nor stored."""
    return {"status": "ok"}


@app.get("/search")
async def search(request: Request, q: str = "") -> dict[str, object]:
    """Answer people and crawlers that say so, not bots that pretend to be people."""
    found: Analytics = request.state.analytics
    if found.score >= 50:
        raise HTTPException(403, detail=[signal.text for signal in found.signals])
    return {"query": q, "crawler": found.agent.crawler, "session": found.session}


if __name__ == "__main__":
    uvicorn.run(app)
