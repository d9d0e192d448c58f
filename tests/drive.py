"""Drives ASGI apps in process, message by message, and reads what became of it in Postgres."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

import psycopg
from asgiref.testing import ApplicationCommunicator
from psycopg.rows import dict_row

from asgi_analytics import Analytics, AnalyticsMiddleware, cli
from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

NOWHERE = "postgresql://127.0.0.1:1/none"  # refuses at once; what is recorded stays in the journal
Communicator: Any = ApplicationCommunicator  # which has no annotations
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
OURS = frozenset((b"ratelimit", b"ratelimit-policy", b"x-throttle-level", b"x-rate-multiplier"))
OLD = {"user-agent": "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0 Safari/537.36"}
# With an outdated browser each further page raises the level: three pages to Blocked.
STRICT: dict[str, Any] = {"bot_score": 1, "signal_thresholds": {"high_request_count": 1}}
COOKIE: dict[str, Any] = {"session_cookie": True, "secret": "correct horse battery staple"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server would have sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, None where there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name.encode()), None)

    @property
    def cookies(self) -> list[str]:
        """All Set-Cookie values."""
        return [value.decode() for name, value in self.headers if name == b"set-cookie"]


def http_scope(path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None, **more: Any) -> Scope:
    """The scope of a browser's request; `more` replaces keys."""
    given = {"host": "shop.example", "user-agent": BROWSER, "accept-language": "de-DE,de;q=0.9", **(headers or {})}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("198.51.100.7", 40000),
        "server": ("127.0.0.1", 8000),
        **more,
    }


def socket_scope(path: str = "/ws", **more: Any) -> Scope:
    """The scope of a browser's websocket."""
    return {**http_scope(path), "type": "websocket", "scheme": "ws", "subprotocols": [], **more}


async def ask(app: ASGIApp, scope: Scope) -> Reply:
    """Send one request without a body; return the answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return Reply(start["status"], list(start.get("headers", ())), body)


def get(app: ASGIApp, path: str = "/", headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
    """GET a path in an event loop of its own."""
    return asyncio.run(ask(app, http_scope(path, headers=headers, **more)))


def called(*arguments: str) -> CompletedProcess[str]:
    """Run a command of ours in this process: what takes a new one most of its time is to import it all."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            status: Any = cli.main(list(arguments))
        except SystemExit as end:
            status = end.code
    printed = [stream.buffer.getvalue().decode() for stream in streams]
    return CompletedProcess(arguments, status, *printed)


def start(app: ASGIApp) -> None:
    """Send the lifespan start-up, which waits for the salts of all workers; the shutdown never comes."""

    async def run() -> None:
        server = Communicator(app, {"type": "lifespan", "asgi": {"version": "3.0"}})
        await server.send_input({"type": "lifespan.startup"})
        assert await server.receive_output(timeout=10) == {"type": "lifespan.startup.complete"}
        server.stop(exceptions=False)

    asyncio.run(run())


def page(
    body: bytes = b"<h1>hello</h1>", status: int = 200, kind: bytes = b"text/html", headers: Iterable[Any] = ()
) -> ASGIApp:
    """An app that answers every path with one page, and understands lifespan events."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]})
        await send({"type": "http.response.body", "body": body})

    return app


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Complete whatever the server asks for."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def look(app: ASGIApp, into: Callable[[Scope], object]) -> ASGIApp:
    """Call `into` with the scope that the app gets."""

    async def looked(scope: Scope, receive: Receive, send: Send) -> None:
        into(scope)
        await app(scope, receive, send)

    return looked


@contextmanager
def wrapped(app: ASGIApp, dsn: str = NOWHERE, **options: Any) -> Iterator[AnalyticsMiddleware]:
    """Wrap an app; at the end everything is delivered."""
    options = {"shutdown_timeout": 10 if dsn != NOWHERE else 0.5, "batch_age": 0.05, **options}
    middleware = AnalyticsMiddleware(app, dsn=dsn, **options)
    try:
        yield middleware
    finally:
        delivered = middleware.close()
        assert delivered or dsn == NOWHERE


def rows(dsn: str, query: str = "SELECT * FROM analytics.hits ORDER BY id") -> list[dict[str, Any]]:
    """Run a query; each row is a dict."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def block(app: ASGIApp) -> list[Reply]:
    """Load three pages, which is what STRICT takes to Blocked."""
    return [get(app, f"/{path}", OLD) for path in "abc"]


def found(app: ASGIApp, into: list[Analytics]) -> ASGIApp:
    """Collect what the app is told of each request."""
    return look(app, lambda scope: into.append(scope["state"]["analytics"]) if scope["type"] == "http" else None)
