"""The apps that test_servers.py serves, bare and wrapped: `python -m uvicorn tests.acceptance.frameworks:wrapped`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from asgi_analytics import AnalyticsMiddleware

CHUNKS = 20


async def plain(request: Request) -> PlainTextResponse:
    """Answer with the body that came."""
    return PlainTextResponse(f"{request.method} ".encode() + await request.body(), headers={"x-app": "1"})


async def stream(request: Request) -> StreamingResponse:
    """Send chunks one by one."""

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(CHUNKS):
            yield b"%03d\n" % number
            await asyncio.sleep(0)

    return StreamingResponse(chunks(), media_type="text/plain")


async def events(request: Request) -> StreamingResponse:
    """Server-sent events without an end."""

    async def ticks() -> AsyncIterator[str]:
        number = 0
        while True:
            yield f"data: {number}\n\n"
            number += 1
            await asyncio.sleep(0.02)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def file(request: Request) -> FileResponse:
    """Send this very file."""
    return FileResponse(Path(__file__), media_type="text/x-python")


async def background(request: Request) -> Response:
    """Answer, then leave a mark."""
    mark = Path(os.environ["MARKS"]) / request.query_params["mark"]
    return PlainTextResponse("soon", background=BackgroundTask(mark.touch))


async def fail(request: Request) -> Response:
    """Raise before the answer begins."""
    raise LookupError("on purpose")


class Patient:
    """Gives up when the client leaves, without an answer, as Django and Quart do."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        (Path(os.environ["MARKS"]) / "given-up").touch()


async def echo(socket: WebSocket) -> None:
    """Send back what comes, until the client leaves."""
    await socket.accept(subprotocol="chat")
    async for text in socket.iter_text():
        await socket.send_text(text.upper())


part = FastAPI()


@part.get("/items/{number}")
async def item(number: int, tasks: BackgroundTasks) -> dict[str, int]:
    """A FastAPI route that validates its path."""
    tasks.add_task(lambda: None)
    return {"number": number}


bare = Starlette(
    routes=[
        Route("/plain", plain, methods=["GET", "POST"]),
        Route("/stream", stream),
        Route("/events", events),
        Route("/file", file),
        Route("/background", background),
        Route("/fail", fail),
        Route("/patient", Patient()),
        WebSocketRoute("/ws", echo),
        Mount("/api", app=part),
    ]
)
wrapped = AnalyticsMiddleware(bare, dsn=os.environ.get("DSN", "postgresql://127.0.0.1:1/none"))
