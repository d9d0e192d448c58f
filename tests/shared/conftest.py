"""A Valkey or Redis server of a test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .valkey import Server, running


@pytest.fixture
def server() -> Iterator[Server]:
    """A server to be killed."""
    with running() as server:
        yield server
