"""Addresses and keys of Valkey, and what an error of its is for those who exchange quotas."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import valkey

from asgi_analytics.clock import random_bytes
from asgi_analytics.decide.lease import name_of
from asgi_analytics.decide.lending import LIFE, believed
from asgi_analytics.errors import SharedUnavailable
from asgi_analytics.protocols import Ask
from asgi_analytics.shared.scripts import LEND
from asgi_analytics.shared.valkey import Call, ValkeyQuotas, counter_key, in_scheme, where
from tests.acceptance.secured import Authority
from tests.waiting import wait_until

from .aging import age, silence
from .valkey import Server, SlowDoor, become_replica, needs_server, running

COUNTER = random_bytes(16) + bytes([0, 0, 0, 60])


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://me:hunter2@db.example:6380/1", "db.example:6380"),
        ("rediss://db.example", "db.example:6379"),
        ("unix:///run/valkey.sock?db=1", "/run/valkey.sock"),
    ],
)
def test_an_address_is_told_without_user_and_password(url: str, address: str) -> None:
    assert where(url) == address


def test_tls_is_spoken_where_the_url_says_so() -> None:
    pool = valkey.ConnectionPool.from_url(in_scheme("rediss://db.example"))
    assert issubclass(pool.connection_class, valkey.SSLConnection)


@pytest.mark.parametrize(
    ("host", "more", "is_told"),
    [
        ("127.0.0.1", "", True),
        ("localhost", "", False),
        ("localhost", "&ssl_check_hostname=false", True),
        ("localhost", "&ssl_cert_reqs=none", True),
    ],
)
def test_a_password_is_told_to_nobody_whose_certificate_is_another_hosts(
    tmp_path: Path, host: str, more: str, is_told: bool
) -> None:
    authority = Authority(tmp_path)
    listening, told = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def answer() -> None:
        wire = listening.accept()[0]
        with contextlib.suppress(OSError), authority.context().wrap_socket(wire, server_side=True) as client:
            told.append(client.recv(1_000))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    quotas = ValkeyQuotas(f"rediss://:hunter2@{host}:{port}?ssl_ca_certs={authority.file}{more}", "site", 5.0)
    with pytest.raises(SharedUnavailable):
        quotas.exchange(random_bytes(16), 0, [])
    thread.join(10)
    listening.close()
    assert [b"hunter2" in one for one in told] == [True] * is_told


def test_quotas_of_one_actor_have_keys_of_their_own_in_one_slot_and_actors_do_not_meet() -> None:
    names = [actor + bytes([0, 0, 0, size]) for actor in (b"a" * 16, b"a" * 15 + b"b") for size in (1, 60)]
    keys = [counter_key(name) for name in names]
    assert len(set(keys)) == 4
    slots = [key[key.index("{") : key.index("}")] for key in keys]
    assert (slots[0], slots[2]) == (slots[1], slots[3])
    assert slots[0] != slots[2]


@needs_server
def test_an_error_of_the_server_means_that_quotas_cannot_be_shared(server: Server) -> None:
    client: Any = valkey.Valkey.from_url(in_scheme(server.url))
    client.lpush(counter_key(COUNTER), "not ours")
    client.close()
    quotas = server.quotas()
    with pytest.raises(SharedUnavailable, match="WRONGTYPE"):
        quotas.exchange(random_bytes(16), 0, [Ask(COUNTER, 60.0, 100, 10, 1, 0, 0)])
    quotas.close()


@needs_server
def test_what_was_told_and_not_answered_in_time_is_counted_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas, worker, year = server.quotas(), random_bytes(16), 31_536_000
    name = name_of(random_bytes(16), year)
    send = quotas._send

    def left(used: int) -> int:
        return quotas.exchange(worker, 0, [Ask(name, year, 1_000, 10, used, 0, 0)]).grants[0].left

    def send_and_miss(calls: Sequence[Call]) -> list[Any]:
        answers = send(calls)
        if any(script == LEND for script, *_ in calls):
            raise valkey.TimeoutError("late")
        return answers

    assert left(10) == 990
    with monkeypatch.context() as patch:
        patch.setattr(quotas, "_send", send_and_miss)
        for used in (5, 5, 8):
            with pytest.raises(SharedUnavailable, match="late"):
                left(used)
    assert [left(used) for used in (9, 9, 0)] == [981, 972, 972]
    quotas.close()


@needs_server
def test_who_was_led_to_a_primary_that_is_a_replica_now_is_led_to_the_new_one(server: Server) -> None:
    with running() as other:
        door = SlowDoor(server.port)
        quotas = ValkeyQuotas(door.url, "site", 5.0)
        quotas.exchange(random_bytes(16), 0, [])
        door.port = other.port
        become_replica(server, other)
        with pytest.raises(SharedUnavailable, match="read only"):
            quotas.exchange(random_bytes(16), 0, [])
        assert quotas.exchange(random_bytes(16), 0, []).workers == 1
        quotas.close()
        door.close()


@needs_server
def test_of_what_was_scarce_nothing_is_kept_when_all_have_forgotten_it(server: Server) -> None:
    quotas, one, two = server.quotas(), random_bytes(16), random_bytes(16)
    quotas.exchange(one, 0, [])
    assert quotas.exchange(two, 0, [Ask(COUNTER, 60.0, 100, 10, 100, 0, 0)]).scarce == {COUNTER: 1}
    age(quotas, COUNTER, 2, believed(60.0))
    quotas.exchange(one, 0, [])
    assert quotas._client.exists(*quotas._told) == 0
    quotas.close()


@needs_server
def test_what_an_older_version_left_as_scarce_gets_an_end(server: Server) -> None:
    quotas, one = server.quotas(), random_bytes(16)
    left = [COUNTER, *(random_bytes(16) + bytes([0, 0, 0, 60]) for _ in range(1_500))]
    for number, name in enumerate(left, start=1):
        quotas._client.zadd(quotas._told[0], {name.hex(): 4 * number + 1})
    assert COUNTER in quotas.exchange(one, 0, []).scarce  # as it may still be
    quotas.exchange(one, 0, [])
    ends = dict(quotas._client.zrange(quotas._told[1], 0, -1, withscores=True))
    assert len(ends) == 1_501
    assert ends[COUNTER.hex().encode()] == pytest.approx(server_time(quotas) + believed(60.0), abs=20)
    assert 0 < quotas._client.ttl(quotas._told[1]) <= 172_800
    for name in left:
        age(quotas, name, 0, believed(60.0))
    for _ in range(2):
        quotas.exchange(one, 0, [])
    assert quotas._client.zcard(quotas._told[0]) == 0
    quotas.close()


def server_time(quotas: ValkeyQuotas) -> float:
    seconds, microseconds = quotas._client.time()
    return float(seconds + microseconds / 1e6)


@needs_server
def test_a_counter_is_kept_for_two_windows_and_a_minute_and_nothing_of_a_worker_that_is_gone(server: Server) -> None:
    quotas, one, two = server.quotas(), random_bytes(16), random_bytes(16)
    quotas.exchange(one, 0, [])
    assert quotas.exchange(two, 0, [Ask(COUNTER, 60.0, 100, 10, 100, 0, 0)]).scarce
    assert 150 <= quotas._client.ttl(counter_key(COUNTER)) <= 180
    silence(quotas, one, LIFE + 1.0)
    quotas.exchange(two, 0, [])
    assert quotas._client.hkeys(quotas._workers) == [two.hex().encode()]
    quotas.close()


@needs_server
def test_of_what_is_scarce_the_oldest_is_forgotten_first(server: Server) -> None:
    quotas, one, two = server.quotas(), random_bytes(16), random_bytes(16)
    for key in quotas._told:
        quotas._client.zadd(key, {f"{number:040x}": 1e12 + number for number in range(20_000)})
    quotas._client.set(quotas._revision, 10**12)
    quotas.exchange(one, 0, [])
    quotas.exchange(two, 0, [Ask(COUNTER, 1e9, 100, 10, 100, 0, 0)])
    scarce, _ = quotas._told
    assert [quotas._client.zcard(key) for key in quotas._told] == [20_000, 20_000]
    assert quotas._client.zscore(scarce, f"{0:040x}") is None
    assert quotas._client.zscore(scarce, COUNTER.hex())
    quotas.close()


@needs_server
def test_who_closes_leaves_no_connection(server: Server) -> None:
    quotas, client = ValkeyQuotas(server.url, "site", 5.0), valkey.Valkey.from_url(in_scheme(server.url))

    def here() -> int:
        found: Any = client.client_list()
        return sum(one["name"] == "asgi-analytics" for one in found)

    quotas.exchange(random_bytes(16), 0, [])
    assert here() == 1
    quotas.close()
    wait_until(lambda: here() == 0)
    client.close()
