"""A row that could not be made when it was due is made when the app has returned, once."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.memory import MemoryJournal

from .build import interpreted_only
from .drive import ask, get, http_scope, page, rows, wrapped

Call = Callable[..., Coroutine[Any, Any, None]]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
ODD: dict[str, tuple[str, Any]] = {
    "no path": ("path", None),
    "bytes as path": ("path", b"/p"),
    "no method": ("method", None),
    "bytes as method": ("method", b"GET"),
    "a bytearray as query": ("query_string", bytearray(b"utm_source=x")),
    "a number as query": ("query_string", 7),
    "texts as headers": ("headers", [(b"user-agent", "tool/1"), (b"host", "shop.example")]),
    "buffers as headers": ("headers", [(bytearray(b"user-agent"), memoryview(b"tool/1"))]),
    "views as headers": ("headers", [(memoryview(b"user-agent"), memoryview(b"tool/1"))]),
    "a header of three": ("headers", [(b"a", b"b", b"c")]),
    "a number as headers": ("headers", 5),
    "a list as address": ("client", (["192.0.2.1"], 1)),
    "bytes as root": ("root_path", b"/site"),
    "a number as root": ("root_path", 7),
}


@pytest.mark.parametrize("options", [{}, {"exclude": "/health"}], ids=["all", "some"])
@pytest.mark.parametrize("odd", ODD)
def test_a_scope_in_other_types_than_asgi_asks_for_is_answered_as_bare_and_is_one_row(
    dsn: str, odd: str, options: dict[str, Any]
) -> None:
    key, value = ODD[odd]
    scope = {**http_scope("/p", state={}), key: value}
    bare = asyncio.run(ask(page(), dict(scope)))
    with wrapped(page(), dsn, **options) as wrap:
        reply = asyncio.run(ask(wrap, scope))
        assert (reply.status, reply.headers[:1], reply.body) == (bare.status, bare.headers, bare.body)
    (row,) = rows(dsn)
    assert (row["path"], row["outcome"]) == ("/" if odd == "no path" else "/p", "complete")


def nested(depth: int, end: Call) -> Call:
    """A call that needs that many frames of the stack."""

    async def go(left: int, *arguments: Any) -> None:
        await (end(*arguments) if left == 0 else go(left - 1, *arguments))

    return lambda *arguments: go(depth, *arguments)


def deep(room: int) -> ASGIApp:
    """An app that answers with only so many frames left."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer() -> None:
            await send(dict(START))
            await send({"type": "http.response.body", "body": b"x"})

        frame, used = sys._getframe(), 0
        while (above := frame.f_back) is not None:
            frame, used = above, used + 1
        await nested(sys.getrecursionlimit() - used - room, answer)()

    return app


def answered(app: ASGIApp) -> tuple[type[BaseException] | None, int]:
    """What the app raised, and how many messages it got out."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def run() -> type[BaseException] | None:
        try:
            await app(http_scope(), receive, nested(1, send))
        except RecursionError as error:
            return type(error)
        return None

    return asyncio.run(run()), len(sent)


@interpreted_only
def test_an_app_that_answers_with_its_stack_nearly_full_is_answered_as_bare_and_each_answer_is_one_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("asgi_analytics"), "disabled", True)
    rooms = range(5 if sys.version_info >= (3, 15) else 4, 130)  # one less is too little for any `send` around another
    with wrapped(page(), limits=()) as wrap:
        get(wrap)
        for room in rooms:
            wrap.app = deep(room)
            queued = wrap.stats()["queued"]
            assert answered(wrap) == answered(deep(room)), room
            assert wrap.stats()["queued"] == queued + 1, room
        assert wrap.stats()["failures"]["record"] > 0, "the stack was never full where a row is made"


@pytest.mark.parametrize("kind", [FileJournal, MemoryJournal])
@pytest.mark.parametrize("is_in", [False, True], ids=["before", "after"])
def test_a_row_whose_append_a_signal_handler_interrupts_goes_in_once(
    dsn: str, kind: type[FileJournal | MemoryJournal], is_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pending = kind.append, [LookupError("a signal handler of the app's")]

    def append(journal: Any, data: bytes) -> None:
        if is_in or not pending:
            whole(journal, data)
        if pending:
            raise pending.pop()

    with wrapped(page(), dsn, durability="journal" if kind is FileJournal else "memory") as wrap:
        get(wrap, "/first")
        monkeypatch.setattr(kind, "append", append)
        get(wrap, "/second")
    assert sorted(row["path"] for row in rows(dsn)) == ["/first", "/second"]


class Route:
    """A route whose template is read, and by which the engine is stopped, while a row is made."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop

    @property
    def path(self) -> str:
        self._stop()
        return "/route"


def test_a_route_that_cannot_be_read_costs_no_row(dsn: str) -> None:
    with wrapped(page(), dsn) as wrap:
        assert get(wrap, "/wild", route=Route(lambda: next(iter(())))).status == 200
        assert get(wrap, "/odd", endpoint=page, app_root_path="", path_params=None).status == 200
        assert wrap.stats()["failures"] == {"record": 2}
    assert [(row["path"], row["route"], row["status"]) for row in rows(dsn)] == [
        ("/wild", None, 200),
        ("/odd", None, 200),
    ]


def test_an_engine_that_stops_while_a_row_is_made_is_started_again_for_it(dsn: str) -> None:
    """As by another thread that closes the middleware, or that has had the lifespan end."""
    with wrapped(page(), dsn) as wrap:
        get(wrap, "/first")
        get(wrap, "/second", route=Route(wrap.close))
    assert [row["path"] for row in rows(dsn)] == ["/first", "/second"]


@pytest.mark.parametrize(("durability", "journal"), [("journal", FileJournal), ("memory", MemoryJournal)])
def test_a_row_that_its_journal_no_longer_takes_goes_into_the_next(
    dsn: str, monkeypatch: pytest.MonkeyPatch, durability: str, journal: type[Any]
) -> None:
    whole = journal.append

    def append(closing: Any, data: bytes) -> None:
        patched.undo()
        wrap.close()
        whole(closing, data)

    with wrapped(page(), dsn, durability=durability) as wrap:
        get(wrap, "/first")
        with monkeypatch.context() as patched:
            patched.setattr(journal, "append", append)
            get(wrap, "/second")
        assert (wrap.stats()["queued"], wrap.stats()["failures"]) == (2, {})
    assert [row["path"] for row in rows(dsn)] == ["/first", "/second"]
