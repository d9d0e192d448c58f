"""A framework's own tests, with each app that they drive wrapped, as a plugin of pytest.

In a clone of Starlette or FastAPI, with this folder on PYTHONPATH: `pytest -p wrapped`.
"""

from __future__ import annotations

from typing import Any

import starlette.testclient

from asgi_analytics import AnalyticsMiddleware

NOWHERE = "postgresql://127.0.0.1:1/none"
_client = starlette.testclient.TestClient
_init = _client.__init__
_wrapped = 0


def _init_wrapped(test_client: Any, /, *arguments: Any, **options: Any) -> None:
    global _wrapped
    _init(test_client, *arguments, **options)
    test_client.app = AnalyticsMiddleware(test_client.app, durability="memory", dsn=NOWHERE, mode="observe")
    test_client._transport.app = test_client.app
    _wrapped += 1


def pytest_configure() -> None:
    """Have each client wrap its app."""
    setattr(_client, "__init__", _init_wrapped)  # noqa: B010 - it says less of its parameters


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many apps were wrapped."""
    terminalreporter.write_line(f"{_wrapped} apps wrapped by asgi-analytics")
