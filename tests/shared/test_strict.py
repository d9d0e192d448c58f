"""Strict quotas where who answers is no Valkey, or one that says what nobody asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_analytics.shared.strict import ValkeyStrict
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
