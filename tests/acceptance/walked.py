"""A site whose pages lead a browser on by themselves, as a reader goes: `uvicorn tests.acceptance.walked:app`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_analytics import AnalyticsMiddleware

PAGES = 8
PIXEL = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
WORKER = os.environ.get("WORKER", "")  # one of WORKERS, or none
FRESH = {"cache-control": "no-store"}  # else what was fetched ahead is shown without a request
# What each page asks for by itself; then the reader reloads it, sends its form, or follows its link.
SCRIPT = """
const seen = JSON.parse(sessionStorage.seen || "[]");
seen.push(location.pathname);
sessionStorage.seen = JSON.stringify(seen);
const step = seen.length;
addEventListener("load", async () => {
  if (BY_WORKER) {
    navigator.serviceWorker.register("/worker.js");
    await navigator.serviceWorker.ready;
  }
  const item = await fetch(`/api/items?id=${step}`);
  await fetch(`/api/missing/${step}`);
  navigator.sendBeacon("/beacon", "x");
  const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/live`);
  await new Promise((done) => { socket.onmessage = socket.onclose = done; });
  socket.close();
  if (step >= PAGES) {
    const told = {seen, agent: navigator.userAgent, quota: item.headers.get("RateLimit"), cookie: document.cookie};
    await fetch("/ledger", {method: "POST", body: JSON.stringify(told)});
  } else if (step % 6 == 3) location.reload();
  else if (step % 6 == 5) document.forms[0].submit();
  else document.querySelector("#next").click();
});
""".replace("PAGES", str(PAGES)).replace("BY_WORKER", json.dumps(bool(WORKER)))
# What comes between pages and network in apps that work without one.
WORKERS = {
    "passes on": "fetch(event.request)",
    "asks itself": "event.request.mode == 'navigate' && event.request.method == 'GET'"
    " ? fetch(event.request.url, {headers: event.request.headers}) : fetch(event.request)",
}
WORKER_SCRIPT = """
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => event.respondWith(FETCHED));
""".replace("FETCHED", WORKERS.get(WORKER, ""))


async def page(request: Request) -> Response:
    """Return a page with files of its own, a form, and a link that a browser may fetch ahead."""
    number = request.path_params.get("number", 0)
    frame = "" if WORKER else '<iframe src="/frame"></iframe>'  # a worker does not say what is one
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><title>{number}</title>
        <link rel="stylesheet" href="/site.css"><link rel="prefetch" href="/articles/{number + 2}">
        <script src="/site.js"></script><img src="/pixel.gif?{number}" alt="">{frame}
        <a id="next" href="/articles/{number + 1}">next</a>
        <form method="post" action="/form/{number + 1}"><input name="text"></form>""",
        headers=FRESH,
    )


async def form(request: Request) -> Response:
    """Take a form in, and lead on."""
    await request.body()
    return RedirectResponse(f"/articles/{request.path_params['number']}", 303)


async def ledger(request: Request) -> Response:
    """Write down what the browser says that it has shown."""
    await run_in_threadpool(Path(os.environ["LEDGER"]).write_bytes, await request.body())
    return Response(status_code=204)


async def beacon(request: Request) -> Response:
    """Take a beacon in."""
    await request.body()
    return Response(status_code=204)


async def live(socket: WebSocket) -> None:
    """Say something and wait until the page has heard it."""
    await socket.accept()
    await socket.send_text("here")
    await socket.receive()


def _fixed(content: bytes, media_type: str) -> Any:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=FRESH)

    return answer


async def _item(request: Request) -> Response:
    return JSONResponse({"id": request.query_params["id"]})


async def _missing(request: Request) -> Response:
    return JSONResponse({"detail": "not found"}, 404)


site = Starlette(
    routes=[
        Route("/", page),
        Route("/articles/{number:int}", page),
        Route("/frame", _fixed(b"<!doctype html><p>framed", "text/html")),
        Route("/form/{number:int}", form, methods=["POST"]),
        Route("/site.css", _fixed(b"body { margin: 1em }", "text/css")),
        Route("/site.js", _fixed(SCRIPT.encode(), "text/javascript")),
        Route("/worker.js", _fixed(WORKER_SCRIPT.encode(), "text/javascript")),
        Route("/pixel.gif", _fixed(PIXEL, "image/gif")),
        Route("/api/items", _item),
        Route("/api/missing/{number:int}", _missing),
        Route("/beacon", beacon, methods=["POST"]),
        Route("/ledger", ledger, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]
)
# The database and the journal come from the environment, as for any app.
app = AnalyticsMiddleware(site, **json.loads(os.environ.get("OPTIONS", "{}")))
