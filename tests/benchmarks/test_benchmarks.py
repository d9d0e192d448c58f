"""Each benchmark runs; what it measures is for `python -m tests.benchmarks.<name>` to tell."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["overhead", "served", "writer", "memory", "detect", "replay", "shared", "refused"])
def test_benchmark_runs(
    name: str, dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_BENCHMARK_DSN", dsn)
    import_module(f"tests.benchmarks.{name}").main(["--quick"])
    assert "bar" in capsys.readouterr().out
