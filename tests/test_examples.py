"""Each example is started as its first lines say, asked over HTTP, and has stored what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from .drive import BROWSER, rows
from .servers import HOUSE, eventually, free_port, server

EXAMPLES = sorted(path.stem for path in (HOUSE / "examples").glob("*.py") if path.stem != "__init__")
ARGUMENTS = {"behind_proxy": ["--no-proxy-headers"]}
HEADERS = {"user-agent": BROWSER, "x-forwarded-for": "203.0.113.7", "connection": "close"}
ASKED: dict[str, tuple[str, int, str, dict[str, object]]] = {
    "bare_asgi": ("/", 200, "Hello Chrome, level normal, score 0\n", {"address": None, "path": "/"}),
    "starlette_app": ("/articles/7", 200, "<h1>7</h1>", {"path": "/articles/7", "page_view": True}),
    "fastapi_app": ("/search?q=x", 200, '"query":"x"', {"path": "/search", "route": "/search", "page_view": False}),
    "behind_proxy": ("/", 200, '{"country":', {"address": "203.0.113.0/24"}),
}


@contextmanager
def running(name: str, dsn: str, folder: Path) -> Iterator[httpx2.Client]:
    port = free_port()
    environment = {"ASGI_ANALYTICS_DSN": dsn, "ASGI_ANALYTICS_JOURNAL_DIR": str(folder / "journal")}
    command = ["-m", "uvicorn", f"examples.{name}:app", "--port", str(port), *ARGUMENTS.get(name, [])]
    with (
        server(command, port, folder / "log", environment),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as client,
    ):
        yield client


def test_every_example_is_driven() -> None:
    assert sorted(ASKED) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_answers_and_stores_the_hit(name: str, dsn: str, tmp_path: Path) -> None:
    path, status, text, stored = ASKED[name]
    with running(name, dsn, tmp_path) as client:
        reply = client.get(path)
        assert (reply.status_code, text in reply.text) == (status, True), reply.text
        assert reply.headers["x-throttle-level"] == "normal"
        # Without lifespan events SIGTERM leaves what is not yet delivered to the next start, so wait before it.
        (row,) = eventually(lambda: rows(dsn))
    assert stored.items() <= row.items()
    assert (row["browser"], row["status"], row["outcome"]) == ("Chrome", status, "complete")


def test_the_health_check_of_the_fastapi_example_is_not_stored(dsn: str, tmp_path: Path) -> None:
    with running("fastapi_app", dsn, tmp_path) as client:
        reply = client.get("/health")
        assert (reply.json(), reply.headers.get("x-throttle-level")) == ({"status": "ok"}, None)
    assert rows(dsn) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_runs_as_a_script(name: str) -> None:
    source = (HOUSE / "examples" / f"{name}.py").read_text()
    assert source.count("\n") <= 40
    assert 'if __name__ == "__main__":\n    uvicorn.run(app' in source
    assert f"uvicorn {' '.join([*ARGUMENTS.get(name, []), f'examples.{name}:app'])}" in source
    assert f"python examples/{name}.py" in source


def test_a_script_serves_on_the_port_that_uvicorn_takes_by_itself(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    code = f"import runpy, uvicorn; run = uvicorn.run; uvicorn.run = lambda app, **more: run(app, port={port}, **more);"
    code += "runpy.run_path('examples/bare_asgi.py', run_name='__main__')"
    environment = {"ASGI_ANALYTICS_DSN": dsn, "ASGI_ANALYTICS_JOURNAL_DIR": str(tmp_path / "journal")}
    with server(["-c", code], port, tmp_path / "log", environment):
        assert httpx2.get(f"http://127.0.0.1:{port}/", headers=HEADERS).status_code == 200
        assert len(eventually(lambda: rows(dsn))) == 1
