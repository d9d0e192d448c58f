"""What the fault tests share: an account of each test, and a house: Postgres, a wire to it, a server, all breakable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.faults.house import House
from tests.acceptance.faults.ledger import Account


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Account:
    """The figures of this test for the table."""
    return Account(request.node)


@pytest.fixture(scope="module")
def house(fresh_cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all tests of a module: each fault ends before the next."""
    with House.open(fresh_cluster, tmp_path_factory.mktemp("house")) as house:
        yield house
