"""Log files, and `asgi-analytics replay` run on them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import cli


def write(path: Path, *lines: str, newline: str = "\n") -> str:
    path.write_bytes("".join(line + newline for line in lines).encode("utf-8", "surrogateescape"))
    return str(path)


def replay(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["replay", *arguments, "--export", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


class Pipe(io.BytesIO):
    """Gives what it holds line by line, as a pipe may."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.readline()
