"""Real servers, real sockets, real Postgres: a wrapped app answers as the bare one, and all of it is stored."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from ..drive import rows
from ..servers import free_port, server, stop
from ..waiting import wait_until
from . import frameworks
from .frameworks import CHUNKS

SERVERS = {
    "uvicorn-h11": ["-m", "uvicorn", "--http", "h11", "--loop", "asyncio", "--port", "{port}"],
    "uvicorn-httptools": ["-m", "uvicorn", "--http", "httptools", "--port", "{port}"],
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:{port}"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "{port}"],
    "gunicorn": ["-m", "gunicorn", "-k", "asgi", "-b", "127.0.0.1:{port}"],
}
HTTP2 = {
    "hypercorn": SERVERS["hypercorn"],
    "gunicorn": [*SERVERS["gunicorn"], "--http-protocols", "h2,h1", "--http2-cleartext", "both"],
}
OURS = {"ratelimit", "ratelimit-policy", "x-throttle-level", "x-rate-multiplier"}
REQUESTS = [
    ("GET", "/plain"),
    ("HEAD", "/plain"),
    ("POST", "/plain"),
    ("GET", "/stream"),
    ("HEAD", "/stream"),
    ("GET", "/file"),
    ("GET", "/background?mark=left"),
    ("GET", "/nowhere"),
    ("GET", "/api/items/7"),
    ("GET", "/api/items/seven"),
    ("DELETE", "/plain"),
    ("GET", "/fail"),  # the last, for uvicorn closes the connection without saying so
]


@dataclass
class Served:
    """The same app twice on one kind of server."""

    http2: bool
    bare: int
    wrapped: int
    marks: Path
    stop: Any


@pytest.fixture(params=[*SERVERS.values(), *HTTP2.values()], ids=[*SERVERS, *(f"{name}-http2" for name in HTTP2)])
def served(request: pytest.FixtureRequest, dsn: str, tmp_path: Path) -> Iterator[Served]:
    http2 = "http2" in request.node.callspec.id
    with ExitStack() as stack:
        ports = {app: free_port() for app in ("bare", "wrapped")}
        processes = {}
        for app, port in ports.items():
            (tmp_path / app).mkdir()
            command = [*(part.format(port=port) for part in request.param), f"tests.acceptance.frameworks:{app}"]
            environment = {"DSN": dsn, "MARKS": str(tmp_path / app), "PYTHONHASHSEED": "0"}
            started = server(command, port, tmp_path / f"{app}.log", environment)
            processes[app] = stack.enter_context(started)
        yield Served(http2, ports["bare"], ports["wrapped"], tmp_path, lambda: stop(processes["wrapped"]))


def visitor(port: int, http2: bool) -> httpx2.Client:
    """A client that knows one version of HTTP alone."""
    return httpx2.Client(base_url=f"http://127.0.0.1:{port}", http1=not http2, http2=http2)


def answers(port: int, http2: bool) -> list[tuple[Any, ...]]:
    """What a client gets for each of REQUESTS: status, headers that do not tell the time, body."""
    told = []
    with visitor(port, http2) as client:
        for method, path in REQUESTS:
            reply = client.request(method, path, content=b"x" * 100_000 if method == "POST" else None)
            headers = sorted((name, value) for name, value in reply.headers.multi_items() if name != "date")
            told.append((method, path, reply.status_code, headers, reply.content))
    return told


def read_events(port: int, reset: bool) -> bytes:
    """Read the first events of an endless stream, then leave: in order or with a reset."""
    with socket.create_connection(("127.0.0.1", port), 10) as wire:
        wire.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while b"data: 2" not in got:
            got += wire.recv(4096)
        if reset:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return got


def leave(port: int, http2: bool) -> None:
    """Leave an endless stream, and what is not answered yet, as a client does."""
    with visitor(port, http2) as client, client.stream("GET", "/events") as stream:
        assert b"data:" in next(stream.iter_raw())
    with visitor(port, http2) as client, pytest.raises(httpx2.ReadTimeout):
        client.get("/patient", timeout=httpx2.Timeout(30, read=1.5))


def talk(port: int) -> tuple[str | None, list[str]]:
    """Say two things over a websocket; return the subprotocol and what came back."""
    with connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["chat"]) as wire:  # type: ignore[list-item]
        said = []
        for text in ("one", "zwölf"):
            wire.send(text)
            said.append(str(wire.recv(10)))
        return wire.subprotocol, said


def without_ours(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    method, path, status, headers, body = answer
    return method, path, status, [pair for pair in headers if pair[0] not in OURS], body


def test_a_wrapped_app_answers_as_the_bare_one_and_all_is_stored(served: Served, dsn: str) -> None:
    bare, wrapped = answers(served.bare, served.http2), answers(served.wrapped, served.http2)
    assert [without_ours(answer) for answer in wrapped] == bare
    # Where the app raised before its answer began, the answer is the server's own.
    told = [{name for name, _ in headers} >= OURS for _, _, _, headers, _ in wrapped]
    assert told == [True] * len(REQUESTS)
    assert wrapped[3][4].count(b"\n") == CHUNKS
    wait_until((served.marks / "wrapped" / "left").exists, what="the background task, which runs after its answer")
    assert talk(served.wrapped) == talk(served.bare) == ("chat", ["ONE", "ZWÖLF"])
    for reset in (False, True):
        assert b"text/event-stream" in read_events(served.wrapped, reset)
    leave(served.wrapped, served.http2)
    wait_until((served.marks / "wrapped" / "given-up").exists, what="an app that gives up")
    served.stop()
    stored(dsn, [(method, path.partition("?")[0]) for method, path in REQUESTS])


def stored(dsn: str, requests: list[tuple[str, str]]) -> None:
    """One row for each request, websocket and stream, whatever ended it."""
    hits = rows(dsn)
    expected = [*requests, ("WEBSOCKET", "/ws"), *[("GET", "/events")] * 3, ("GET", "/patient")]
    assert sorted((hit["method"], hit["path"]) for hit in hits) == sorted(expected)
    by_path = {hit["path"]: hit for hit in hits if hit["method"] != "HEAD"}
    assert (by_path["/fail"]["status"], by_path["/ws"]["status"]) == (500, 101)
    assert (by_path["/patient"]["outcome"], by_path["/patient"]["status"]) == ("aborted", None)
    assert by_path["/stream"]["outcome"] == "complete"
    assert by_path["/file"]["bytes_sent"] == Path(frameworks.__file__).stat().st_size  # granian sends it by itself
    assert by_path["/api/items/7"]["status"] == 200
    assert {hit["outcome"] for hit in hits if hit["path"] == "/events"} <= {"complete", "aborted"}
