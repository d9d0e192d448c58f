"""A network to Postgres that loses, delays, reorders, doubles and spoils packets, or is pulled out."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.cable import FAIR, FAR, SILENCE, Cable, Weather, laid
from tests.acceptance.faults.house import House
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import UVICORN, WHOLE, AnyServer, some
from tests.acceptance.rig import Load
from tests.acceptance.wire import Wire
from tests.waiting import wait_until

STORM = Weather(loss=0.1, jitter=0.05, doubled=0.3, spoiled=0.1)
WEATHERS = {
    "far_and_lossy": (FAR, FAIR),  # as tc's netem on one end
    "far_and_lossy_both_ways": (FAR, FAR),
    "stormy": (STORM, STORM),
    "silent": (SILENCE, SILENCE),
    "deaf": (SILENCE, FAIR),
    "mute": (FAIR, SILENCE),
}
HOLD = 2.0 if WHOLE else 0.5  # seconds


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    with laid() as cable:
        yield cable


@pytest.fixture(scope="module")
def house(cable: Cable, fresh_cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House.open(fresh_cluster, tmp_path_factory.mktemp("house"), cable.listener) as house:
        yield house


@contextmanager
def holding(state: AbstractContextManager[None]) -> Iterator[None]:
    with state:
        yield
        time.sleep(HOLD)


@pytest.mark.parametrize("weather", some(WEATHERS, ["far_and_lossy"]))
def test_in_bad_weather_nothing_is_lost_and_nothing_doubled(
    cable: Cable, house: House, account: Account, weather: str
) -> None:
    before = cable.packets
    house.strike(account, lambda _: holding(cable.in_weather(*WEATHERS[weather])), 3 if WHOLE else 1)
    assert cable.packets > before
    assert house.do("SELECT count(*) FROM analytics.quarantine") == [(0,)]


def test_a_cable_that_is_pulled_out_loses_and_doubles_nothing(cable: Cable, house: House, account: Account) -> None:
    house.strike(account, lambda _: holding(cable.pulled_out()), 3 if WHOLE else 1)


def test_through_a_far_and_lossy_network_the_writer_keeps_up(cable: Cable, house: House, account: Account) -> None:
    """What some 60 requests a second leave behind is stored soon after the last one, in the same weather."""
    with cable.in_weather(FAR):
        with Load(house.server.port, clients=1, pause=0.015) as load:
            time.sleep(15 if WHOLE else 2)
        began = time.monotonic()
        account.settle(house.admin, load.answered)
        took = time.monotonic() - began
    account.round()
    assert took < 30


def test_the_end_is_quick_in_a_network_that_fell_silent(cable: Cable, house: House, account: Account) -> None:
    """With a transfer on its way, none of whose packets are acknowledged or refused."""
    with Load(house.server.port) as load:
        load.more(60)
        with cable.in_weather(SILENCE, SILENCE):
            load.more(60)
            house.server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            house.server.process.wait(20)
            took = time.monotonic() - began
    house.server.start()
    account.round()
    account.settle(house.admin, load.answered)
    assert took < 5


def test_a_host_name_that_moves_to_another_address_is_followed(dsn: str, tmp_path: Path, account: Account) -> None:
    """The server has a file of host names of its own, at the place of the system's."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no mount namespace of its own")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 database.test\n")
    with ExitStack() as stack:
        before = stack.enter_context(Wire(dsn))
        after = stack.enter_context(Wire(dsn, listener=socket.create_server(("127.0.0.2", before.port))))
        server = AnyServer(UVICORN, before.dsn.replace("127.0.0.1", "database.test"), tmp_path / "j")
        server.within("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts))
        stack.enter_context(server.alive())
        with Load(server.port) as load:
            load.more(60)
            wait_until(lambda: before.connections > 0, what="a connection to the first address")
            with before.broken("refuse"):
                load.more(60)
                assert not after.connections
                hosts.write_text("127.0.0.2 database.test\n")
                load.more(60)
                account.round()
                account.settle(dsn, load.answered[:120])
                assert after.connections
        account.settle(dsn, load.answered)
