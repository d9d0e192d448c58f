"""Tests of the store make partitions, or see what becomes of hits without any."""

from __future__ import annotations

import pytest


@pytest.fixture
def dsn(new_dsn: str) -> str:
    return new_dsn
