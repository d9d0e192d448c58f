"""A verifier for each test that asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..signing import Signer
from .rig import FILES, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, FILES, Signer())
