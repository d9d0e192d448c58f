"""Folders that nobody may use any more when their test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import data_folder
from tests.waiting import wait_until

from .rig import idle


@pytest.fixture
def folder() -> Iterator[Path]:
    with data_folder() as path:
        yield path
        wait_until(lambda: idle(path))


@pytest.fixture
def made(cluster_folder: Path) -> Iterator[Path]:
    """A folder whose cluster was made before: most tests are not about initdb."""
    yield cluster_folder
    wait_until(lambda: idle(cluster_folder))
