"""Commands meet databases that no worker has been at yet."""

from __future__ import annotations

import pytest


@pytest.fixture
def dsn(new_dsn: str) -> str:
    return new_dsn
