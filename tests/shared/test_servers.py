from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.testclient import TestClient

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.commands.doctor.options import shared_checks
from asgi_analytics.errors import ConfigurationError
from tests.drive import NOWHERE, ask, http_scope, page, start, wrapped
from tests.waiting import delay, wait_until

from .valkey import Server, SlowDoor, become_replica, needs_server, running

App = AnalyticsMiddleware
_addresses = itertools.count(1)


@pytest.fixture
def fleet(dsn: str, tmp_path: Path) -> Iterator[Callable[..., list[App]]]:
    """Makes workers: middlewares that know of each other."""
    with ExitStack() as stack:

        def made(count: int, **options: Any) -> list[App]:
            apps = []
            for number in range(count):
                folder = tmp_path / f"{len(stack._exit_callbacks)} {number}"  # type: ignore[attr-defined]
                given: dict[str, Any] = {"dsn": dsn, "journal_dir": folder, "batch_age": 0.05, **options}
                app = App(page(kind=b"application/json"), **given)
                start(app)
                stack.callback(app.close)
                apps.append(app)
            wait_until(lambda: all(app.stats()["shared"]["workers"] == count for app in apps))
            return apps

        yield made


def somebody() -> tuple[str, int]:
    return (f"198.51.100.{next(_addresses)}", 4000)


async def send(apps: list[App], count: int, client: tuple[str, int], pause: float = 0.0) -> int:
    """Send requests to one worker after the other; how many were admitted."""
    admitted = 0
    for number in range(count):
        admitted += (await ask(apps[number % len(apps)], http_scope("/api", client=client))).status == 200
        if pause:
            await asyncio.sleep(pause)
    return admitted


@needs_server
@pytest.mark.parametrize("workers", [1, 4])
def test_a_strict_quota_is_exact_over_all_workers(
    server: Server, fleet: Callable[..., list[App]], workers: int
) -> None:
    apps = fleet(workers, shared=server.url, shared_mode="strict", shared_timeout=2.0, limits="200/day")
    assert asyncio.run(send(apps, 150, somebody())) == 150

    async def burst() -> int:
        who = somebody()
        return sum(await asyncio.gather(*(send(apps[n % workers :], 1, who) for n in range(600))))

    assert 198 <= asyncio.run(burst()) <= 202


@needs_server
def test_threads_with_an_event_loop_each_are_all_told(server: Server, fleet: Callable[..., list[App]]) -> None:
    apps = fleet(1, shared=server.url, shared_mode="strict", shared_timeout=2.0, limits="80/day")
    who, admitted = somebody(), list[int]()
    threads = [
        threading.Thread(target=lambda: admitted.append(asyncio.run(send(apps, 15, who, 0.002)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(admitted), apps[0].stats()["shared"]["unanswered"]) == (80, 0)


@needs_server
def test_with_the_lifespan_the_connections_of_strict_mode_end(server: Server, dsn: str) -> None:
    options: dict[str, Any] = {"shared": server.url, "shared_mode": "strict", "shared_timeout": 2.0}
    gc.collect()  # what the tests before have left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            with TestClient(App(page(), dsn=dsn, **options)) as client:
                assert client.get("/").status_code == 200
            gc.collect()
    assert [str(one.message) for one in caught if "unclosed" in str(one.message)] == []


def test_in_an_event_loop_of_trio_strict_quotas_hold_per_worker() -> None:
    options: dict[str, Any] = {"shared": "redis://127.0.0.1:1/0", "shared_mode": "strict"}
    with wrapped(page(), limits="3/day", **options) as app:
        statuses = [trio.run(ask, app, http_scope("/api")).status for _ in range(4)]
        assert (app.stats()["failures"], app.stats()["shared"]["unanswered"]) == ({}, 4)
    assert statuses == [200, 200, 200, 429]


@needs_server
def test_a_strict_refusal_says_what_the_fleet_has_left(server: Server, fleet: Callable[..., list[App]]) -> None:
    apps = fleet(2, shared=server.url, shared_mode="strict", shared_timeout=2.0, limits="3/hour")

    async def answers() -> list[Any]:
        who = somebody()
        return [await ask(apps[n % 2], http_scope("/api", client=who)) for n in range(4)]

    replies = asyncio.run(answers())
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert [str(reply.header("ratelimit")).split(";")[1] for reply in replies] == ["r=2", "r=1", "r=0", "r=0"]
    assert int(replies[-1].header("retry-after")) > 1


@needs_server
def test_a_network_that_is_full_charges_no_visitor(server: Server, fleet: Callable[..., list[App]]) -> None:
    apps = fleet(
        1, shared=server.url, shared_mode="strict", shared_timeout=2.0, limits="5/hour", network_limits="4/hour"
    )
    client = somebody()

    async def run() -> list[Any]:
        return [await ask(apps[0], http_scope("/api", client=client)) for _ in range(8)]

    replies = asyncio.run(run())
    assert [reply.status for reply in replies] == [200] * 4 + [429] * 4
    assert str(replies[-1].header("ratelimit")).split(";")[1] == "r=1"


@needs_server
def test_leases_through_valkey_keep_to_the_limit(server: Server, fleet: Callable[..., list[App]]) -> None:
    apps = fleet(4, shared=server.url, shared_timeout=2.0, limits="200/day", network_limits="100000/second")
    admitted = asyncio.run(send(apps, 1200, somebody(), 0.001))
    assert 150 <= admitted <= 200


@needs_server
@pytest.mark.parametrize("mode", ["lease", "strict"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_server_costs_no_request_and_limits_hold_per_worker(
    server: Server,
    fleet: Callable[..., list[App]],
    mode: str,
    how: signal.Signals,
    caplog: pytest.LogCaptureFixture,
) -> None:
    apps = fleet(2, shared=server.url, shared_mode=mode, shared_timeout=0.5, limits="100/day")
    assert asyncio.run(send(apps, 10, somebody())) == 10
    caplog.set_level(logging.WARNING, "asgi_analytics")
    server.kill() if how == signal.SIGKILL else server.signal(how)
    wait_until(lambda: not any(app.stats()["shared"]["connected"] for app in apps))
    began = time.monotonic()
    unanswered = [app.stats()["shared"]["unanswered"] for app in apps]
    assert asyncio.run(send(apps, 400, somebody())) == 100
    assert time.monotonic() - began < 5 + delay()
    assert [app.stats()["shared"]["unanswered"] for app in apps] == unanswered, (
        "nobody waits for what is known to be lost"
    )
    assert sum("hold per worker" in record.message for record in caplog.records) == 2, "once for each worker"
    assert all(app.stats()["shared"]["outages"] == 1 for app in apps)
    assert all(app.stats()["failures"] == {} for app in apps)
    server.start() if how == signal.SIGKILL else server.signal(signal.SIGCONT)
    wait_until(lambda: all(app.stats()["shared"]["connected"] for app in apps))
    wait_until(lambda: all(app.stats()["shared"]["workers"] == 2 for app in apps))
    time.sleep(0.6)  # in which strict mode does not ask
    admitted = asyncio.run(send(apps, 400, somebody(), 0.002))
    assert (99 if mode == "strict" else 75) <= admitted <= 101


@needs_server
@pytest.mark.parametrize("mode", ["lease", "strict"])
def test_while_workers_have_no_salts_to_agree_on_limits_hold_per_worker(
    server: Server, fleet: Callable[..., list[App]], mode: str
) -> None:
    """They know each other, but not each other's visitors."""
    apps = fleet(2, dsn=NOWHERE, shared=server.url, shared_mode=mode, shared_timeout=2.0, limits="100/day")
    assert asyncio.run(send(apps, 300, somebody())) == 100


@needs_server
def test_a_server_that_answers_late_holds_a_request_up_no_longer_than_the_time_out(
    server: Server, fleet: Callable[..., list[App]]
) -> None:
    door = SlowDoor(server.port)
    (app,) = fleet(1, shared=door.url, shared_mode="strict", shared_timeout=0.1, limits="1000/day")
    assert asyncio.run(send([app], 10, somebody())) == 10
    door.delay = 3.0
    began = time.monotonic()
    assert asyncio.run(send([app], 50, somebody())) == 50
    assert time.monotonic() - began < 1.5 + delay()
    assert app.stats()["shared"]["unanswered"] >= 1
    door.close()


@needs_server
def test_a_server_that_forgot_its_scripts_is_told_them_again(server: Server, fleet: Callable[..., list[App]]) -> None:
    import valkey

    apps = fleet(2, shared=server.url, shared_mode="strict", shared_timeout=2.0, limits="100/day")
    who = somebody()
    assert asyncio.run(send(apps, 10, who)) == 10
    client: Any = valkey.Valkey.from_url(server.url.replace("redis", "valkey"))
    client.script_flush()
    assert asyncio.run(send(apps, 100, who)) == 90
    assert all(app.stats()["shared"]["failures"] == 0 for app in apps)
    keys = client.keys()
    client.close()
    assert keys
    assert not any(b"198.51" in key for key in keys)


@needs_server
def test_every_key_in_valkey_expires(server: Server, fleet: Callable[..., list[App]]) -> None:
    import valkey

    for mode in ("lease", "strict"):
        apps = fleet(2, shared=server.url, shared_mode=mode, shared_timeout=2.0, limits="50/minute", site=mode)
        asyncio.run(send(apps, 200, somebody(), 0.001))
    client: Any = valkey.Valkey.from_url(server.url.replace("redis", "valkey"))
    lives = {key: client.ttl(key) for key in client.scan_iter()}
    client.close()
    assert len(lives) >= 4
    assert min(lives.values()) > 0


@pytest.mark.parametrize(
    "options",
    [{"shared": "http://x"}, {"shared": 5}, {"shared_mode": "strict"}, {"shared_mode": "x"}, {"shared_timeout": 0}],
)
def test_a_wrong_option_is_named_and_no_password_told(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        App(page(), dsn="postgresql://127.0.0.1:1/x", **options)


def test_network_quotas_hold_over_all_workers(fleet: Callable[..., list[App]]) -> None:
    apps = fleet(4, limits="100000/second", network_limits="400/day")
    client = somebody()

    async def run() -> int:
        admitted = 0
        for number in range(2000):
            scope = http_scope("/api", client=client, headers={"user-agent": f"agent {number % 300}"})
            admitted += (await ask(apps[number % 4], scope)).status == 200
            await asyncio.sleep(0.001)
        return admitted

    assert 340 <= asyncio.run(run()) <= 400


def test_levels_and_loans_of_a_refusal_replay_to_the_same_verdict(fleet: Callable[..., list[App]]) -> None:
    from asgi_analytics.decide.explain import reproduce

    apps = fleet(2, limits="50/day")
    found: list[Any] = []

    async def run() -> None:
        who = somebody()
        for number in range(200):
            scope = http_scope("/api", client=who, state={})
            await ask(apps[number % 2], scope)
            decision = scope["state"]["analytics"].decision
            if decision.refused:
                found.append(decision)
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert found
    for decision in found:
        verdict = reproduce({"inputs": decision.inputs, "signals": []})
        assert (verdict.refused, verdict.violated) == (True, ("day",))


# What a request waits for


class Watch:
    """Sees each call into a socket, a wait or the database driver that this thread makes in the block."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __enter__(self) -> None:
        gc.disable()  # a collection here would run the destructors of connections that other tests left
        sys.setprofile(self._profile)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and "/psycopg" in frame.f_code.co_filename:
            self.seen.append(frame.f_code.co_qualname)
        if event != "c_call" or argument.__name__ in ("inet_pton", "inet_ntop"):  # these read an address, and wait not
            return
        module = str(getattr(argument, "__module__", "") or "")
        waits = argument.__name__ in ("select", "poll", "epoll", "sleep", "getaddrinfo")
        if waits or isinstance(argument.__self__, socket.socket) or module.startswith(("psycopg", "_socket", "select")):
            self.seen.append(argument.__qualname__)


def test_no_request_makes_a_round_trip(fleet: Callable[..., list[App]]) -> None:
    apps = fleet(2, limits="300/day")
    watch, here = Watch(), socket.socketpair()

    async def run() -> int:
        admitted, who = 0, somebody()
        for number in range(900):
            with watch:
                reply = await ask(apps[number % 2], http_scope("/api", client=who))
            admitted += reply.status == 200
            await asyncio.sleep(0.0005)
        return admitted

    admitted = asyncio.run(run())
    assert 200 <= admitted <= 300, "leases were at work"
    assert all(app.stats()["shared"]["exchanges"] > 3 for app in apps)
    assert watch.seen == []
    with watch:
        here[0].send(b"this would be seen")
    assert watch.seen == ["socket.send"]


@needs_server
def test_strict_mode_makes_one_round_trip_for_each_request(server: Server, fleet: Callable[..., list[App]]) -> None:
    (app,) = fleet(1, shared=server.url, shared_mode="strict", shared_timeout=2.0, limits="300/day")
    watch = Watch()

    async def run() -> None:
        who = somebody()
        await ask(app, http_scope("/api", client=who))
        with watch:
            for _ in range(50):
                await ask(app, http_scope("/api", client=who))

    asyncio.run(run())
    # One buffer or several at once, as asyncio writes them from Python 3.12 on.
    assert sum(watch.seen.count(call) for call in ("socket.send", "socket.sendmsg")) == 50


@needs_server
def test_in_strict_mode_a_scope_in_other_types_than_asgi_asks_for_is_judged_and_recorded(
    server: Server, fleet: Callable[..., list[App]]
) -> None:
    (app,) = fleet(1, shared=server.url, shared_mode="strict", shared_timeout=2.0)
    reply = asyncio.run(ask(app, {**http_scope(), "headers": 5}))
    assert (reply.status, app.stats()["queued"]) == (200, 1)
    assert app.stats()["failures"] == {"identify and decide": 1}


@needs_server
def test_doctor_says_that_a_server_answers_but_takes_no_writes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_SHARED", server.url)
    with running() as other:
        become_replica(server, other)
        (replica,) = shared_checks()
    assert replica.mark == "WRONG"
    assert "read only" in replica.text


@needs_server
def test_doctor_says_whether_the_server_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(shared_checks()) == []
    monkeypatch.setenv("ASGI_ANALYTICS_SHARED", server.url.replace("127.0.0.1", "me:hunter2@127.0.0.1"))
    (wrong_password,) = shared_checks()
    monkeypatch.setenv("ASGI_ANALYTICS_SHARED", server.url)
    (fine,) = shared_checks()
    server.kill()
    (lost,) = shared_checks()
    assert (fine.mark, fine.text) == ("ok", f"through 127.0.0.1:{server.port}, which answers")
    assert (wrong_password.mark, lost.mark) == ("WRONG", "WRONG")
    assert "hunter2" not in wrong_password.text
