"""Converts a scope to the types that ASGI asks for: some servers, tests and frameworks use others."""

from __future__ import annotations

from ..protocols import Scope


def coerced(scope: Scope) -> Scope:
    """Return a copy that can be read; what cannot be converted is left empty."""
    client = scope.get("client")
    return {
        **scope,
        "path": text(scope.get("path")),
        "method": text(scope.get("method")),
        "query_string": data(scope.get("query_string")),
        "headers": _pairs(scope.get("headers")),
        "client": (text(client[0]), 0) if isinstance(client, (tuple, list)) and client else None,
    }


def text(value: object) -> str:
    """Return a text; "" for what is none."""
    return value if isinstance(value, str) else data(value).decode("utf-8", "replace")


def data(value: object) -> bytes:
    """Return bytes; b"" for what is neither bytes nor text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else b""


def _pairs(headers: object) -> list[tuple[bytes, bytes]]:
    lines = headers if isinstance(headers, (list, tuple)) else ()
    return [
        (data(line[0]).lower(), data(line[1])) for line in lines if isinstance(line, (list, tuple)) and len(line) == 2
    ]
