"""Whatever an app sends, in whatever order or at once, the server gets as from the bare app; it is one row, in time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send

from .drive import OURS, http_scope, page, wrapped

PAIRS = [(b"content-type", b"text/html"), (b"X-Empty", b"")]
LENGTHS: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "zero": [(b"content-length", b"0")],
    "three": [(b"Content-Length", b"3")],
}
KINDS: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "iterator": iter}


def start(status: int, length: str, kind: str) -> Callable[[], Message]:
    return lambda: {
        "type": "http.response.start",
        "status": status,
        "headers": KINDS[kind]([*PAIRS, *LENGTHS[length]]),
    }


def body(data: Any, more: bool) -> Callable[[], Message]:
    return lambda: {"type": "http.response.body", "body": data, "more_body": more}


def other(kind: str) -> Callable[[], Message]:
    return lambda: {"type": f"http.response.{kind}", "path": "/data/file", "headers": [], "links": []}


MESSAGES = st.one_of(
    st.builds(
        start,
        st.sampled_from([200, 204, 206, 302, 304, 404, 500, 999]),
        st.sampled_from([*LENGTHS]),
        st.sampled_from([*KINDS]),
    ),
    st.builds(body, st.sampled_from([b"", b"a", b"abc", bytearray(b"ab"), memoryview(b"abc"), None]), st.booleans()),
    st.builds(other, st.sampled_from(["pathsend", "trailers", "early_hint", "tea"])),
)
ERRORS: dict[str, Callable[[], BaseException] | None] = {
    "none": None,
    "error": lambda: LookupError("the app's"),
    "cancelled": asyncio.CancelledError,
    "group": lambda: ExceptionGroup("both", [ValueError(1)]),
    "left": lambda: OSError("gone"),
}


def app_of(messages: list[Callable[[], Message]], at_once: bool, error: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if at_once:
            await asyncio.gather(*(send(make()) for make in messages))
        else:
            for make in messages:
                await send(make())
        if (raised := ERRORS[error]) is not None:
            raise raised()

    return app


async def served(
    app: ASGIApp, method: str, fails_at: int, error: str, count: Callable[[], int]
) -> tuple[Any, Any, list[int]]:
    """What a server gets whose send fails once, what it is raised, and how many rows there were at each message."""
    got: list[Message] = []
    queued: list[int] = []
    turns = itertools.count(1)

    async def send(message: Message) -> None:
        if next(turns) == fails_at and (raised := ERRORS[error]) is not None:
            raise raised()
        queued.append(count())
        headers = [pair for pair in message.get("headers") or () if pair[0] not in OURS]
        got.append({**message, "headers": headers} if message["type"].endswith("start") else message)
        await asyncio.sleep(0)

    try:
        await app(http_scope(method=method), None, send)  # type: ignore[arg-type]
    except BaseException as raised:  # noqa: BLE001 - compared
        return got, repr(raised), queued
    return got, None, queued


def whole_at(messages: list[Message], method: str) -> int | None:
    """The place of the message with which a visitor has all of an answer; None where it is none, or begun anew."""
    starts = [place for place, message in enumerate(messages) if message["type"].endswith("start")]
    if not starts or any(message["type"].endswith("body") for message in messages[: starts[0]]):
        return None
    status, sent = messages[starts[0]]["status"], 0
    length = next(
        (int(value) for name, value in messages[starts[0]]["headers"] if name.lower() == b"content-length"), None
    )
    if method == "HEAD" or status in (204, 304) or length == 0:
        return starts[0]
    for place, message in enumerate(messages[starts[0] + 1 :], starts[0] + 1):
        if message["type"].endswith("start"):
            return None
        if message["type"].endswith("pathsend"):
            return place
        if message["type"].endswith("body"):
            sent += len(message["body"] or b"")
            if not message["more_body"] or sent == length:
                return place
    return None


@pytest.mark.parametrize("durability", ["journal", "fsync"])
def test_whatever_an_app_sends_the_server_gets_and_is_one_row_in_time(durability: Any) -> None:
    with wrapped(page(), limits="100000/second", mode="observe", durability=durability) as wrap:

        @settings(max_examples=100, deadline=None)
        @given(
            messages=st.lists(MESSAGES, max_size=5),
            at_once=st.just(False) if durability == "fsync" else st.booleans(),  # a flush lets others go ahead
            method=st.sampled_from(["GET", "HEAD", "POST"]),
            errors=st.tuples(st.sampled_from([*ERRORS]), st.sampled_from([*ERRORS])),
            fails_at=st.integers(0, 4),
        )
        def check(messages: Any, at_once: bool, method: str, errors: tuple[str, str], fails_at: int) -> None:
            def queued() -> int:
                return int(wrap.stats()["queued"]) - before

            app = app_of(messages, at_once, errors[0])
            before = 0
            bare = asyncio.run(served(app, method, fails_at, errors[1], queued))
            wrap.app, before = app, queued()
            ours = asyncio.run(served(wrap, method, fails_at, errors[1], queued))
            assert ours[:2] == bare[:2]
            assert (queued(), wrap.stats()["failures"]) == (1, {})
            whole = whole_at(ours[0], method)
            assert whole is None or ours[2][whole] == 1

        check()
