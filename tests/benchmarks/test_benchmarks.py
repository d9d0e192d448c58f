"""Each benchmark runs; what it measures is for `python -m tests.benchmarks.<name>` to tell."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module

import pytest


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Leave our log as it was: a benchmark silences it, as it may for a process of its own."""
    log = logging.getLogger("asgi_analytics")
    level = log.level
    yield
    log.setLevel(level)


@pytest.mark.parametrize("name", ["overhead", "served", "writer", "memory", "detect", "replay", "shared", "refused"])
def test_benchmark_runs(
    name: str, dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_BENCHMARK_DSN", dsn)
    import_module(f"tests.benchmarks.{name}").main(["--quick"])
    assert "bar" in capsys.readouterr().out
