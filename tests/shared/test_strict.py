"""Strict quotas where who answers is no Valkey, or one that says what nobody asked."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asgi_analytics.shared.strict import PAUSE, ValkeyStrict
from asgi_analytics.testing import FakeClock

QUOTAS = [(b"a" * 16, [(60.0, 10)])]


@pytest.mark.parametrize("answer", [b"+OK\r\n", b":1\r\n", b"*-1\r\n", b"*1\r\n" * 5_000, b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_whatever_the_server_answers_it_is_asked_once_in_a_while_and_no_error_escapes(answer: bytes) -> None:
    questions: list[bytes] = []
    escaped: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            questions.extend([data] * data.count(b"EVALSHA"))
            writer.write(b"+OK\r\n" * data.count(b"CLIENT") + answer * data.count(b"EVALSHA"))
        writer.close()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, told: escaped.append(told))
        server = await asyncio.start_server(serve, "127.0.0.1")
        quotas = ValkeyStrict(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 2.0, FakeClock())
        assert [await quotas.take(QUOTAS) for _ in range(20)] == [None] * 20
        await quotas.close()
        server.close()
        await server.wait_closed()

    asyncio.run(run())
    assert len(questions) <= 2
    assert escaped == []


def test_while_its_name_cannot_be_looked_up_the_threads_of_the_app_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    let, asked = threading.Event(), list[str]()

    def look_up(host: str, *more: Any, **named: Any) -> list[Any]:
        asked.append(host)
        let.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        clock = FakeClock()
        quotas = ValkeyStrict("redis://valkey.example/0", 0.02, clock)
        for _ in range(5):
            assert await asyncio.gather(*(quotas.take(QUOTAS) for _ in range(5))) == [None] * 5
            clock.advance(PAUSE)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "served"), 20) == "served"
        let.set()
        await quotas.close()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        asyncio.run(run())
    finally:
        let.set()
    assert asked == ["valkey.example"]
