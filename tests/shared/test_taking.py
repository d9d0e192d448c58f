"""What asks Valkey or Redis before the app runs, by itself: what it answers, and what it does where none answers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_analytics.clock import SystemClock, random_bytes
from asgi_analytics.decide import window
from asgi_analytics.facts import Window
from asgi_analytics.protocols import Ask, StrictAnswer
from asgi_analytics.shared.scripts import GIVE_BACK
from asgi_analytics.shared.strict import PAUSE, ValkeyStrict
from asgi_analytics.shared.valkey import counter_key, in_scheme
from asgi_analytics.testing import FakeClock

from .valkey import Server, SlowDoor, become_replica, needs_server, running

pytestmark = needs_server
DAY = 86_400.0  # seconds
LONG = SystemClock().time_ns() // 17_500_000_000 * 1.0  # half of it is over, for as long as a test runs
ALONE = [(DAY, 10)]
Take = Callable[[bytes, Sequence[tuple[float, int]]], Awaitable[StrictAnswer | None]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def key_of(actor: bytes, size: float) -> str:
    return "s:" + counter_key(actor + int(size).to_bytes(4, "big"))


def client_of(server: Server) -> Any:
    return valkey.Valkey.from_url(in_scheme(server.url))


def run(strict: ValkeyStrict, way: Callable[[Take], Awaitable[None]]) -> list[str]:
    """Run something in an event loop of its own; what asyncio was told of that nobody caught."""
    uncaught = list[str]()

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context["message"]))
        await way(lambda actor, limits: strict.take([(actor, limits)]))
        await asyncio.sleep(0.05)
        await strict.close()

    asyncio.run(whole())
    return uncaught


async def left(take: Take, actor: bytes, limits: Sequence[tuple[float, int]] = ALONE) -> list[int]:
    answer = await take(actor, limits)
    assert answer is not None
    return list(answer.left)


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 0, 1, 2]), st.sampled_from([LONG, 2 * LONG]), st.integers(1, 8)), max_size=25
)


@given(steps=STEPS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_it_counts_as_a_worker_does(server: Server, steps: list[tuple[int, float, int]]) -> None:
    """Units by decide.window, of two quotas that are charged together or not at all."""
    strict, client = ValkeyStrict(server.url, 5.0, SystemClock()), client_of(server)
    actor, counts = random_bytes(16), {LONG: Window(), 2 * LONG: Window()}

    async def way(take: Take) -> None:
        for windows, size, limit in steps:
            # The server's clock is real: what it has counted is made older.
            if client.exists(key_of(actor, size)):
                client.hincrby(key_of(actor, size), "w", -windows)
                counts[size].ends_at -= windows * size
            answer = await take(actor, [(LONG, limit), (2 * LONG, limit)])
            assert answer is not None
            now = time.time()
            ours = [window.remaining(one, size, limit, now) for size, one in counts.items()]
            waits = [window.wait(one, size, limit, now) for size, one in counts.items()]
            assert list(answer.left) == ours
            assert list(answer.waits) == pytest.approx(waits, abs=9)
            assert answer.passes is (min(ours) > 0)
            for size, one in counts.items():
                if answer.passes:
                    window.charge(one, size, now)

    assert run(strict, way) == []
    client.close()


def test_a_unit_is_given_back_once_and_none_that_nobody_took(server: Server) -> None:
    client, actor = client_of(server), random_bytes(16)

    async def way(take: Take) -> None:
        assert await left(take, actor) == [10]
        assert await left(take, actor) == [9]
        for _ in range(3):
            client.eval(GIVE_BACK, 1, key_of(actor, DAY))
        assert await left(take, actor) == [10]

    run(ValkeyStrict(server.url, 5.0, SystemClock()), way)
    client.close()


def test_a_refusal_says_to_the_fraction_of_a_second_how_long_it_holds(server: Server) -> None:
    async def way(take: Take) -> None:
        actor, limits = random_bytes(16), [(DAY, 1)]
        assert await left(take, actor, limits) == [1]
        answer = await take(actor, limits)
        assert answer is not None
        assert (answer.passes, answer.waits[0] % 1.0 > 0) == (False, True)

    run(ValkeyStrict(server.url, 5.0, SystemClock()), way)


def test_a_clock_that_went_back_frees_no_unit(server: Server) -> None:
    client, actor = client_of(server), random_bytes(16)

    async def way(take: Take) -> None:
        assert await left(take, actor) == [10]
        for windows, rest in ((5, 9), (-5, 8)):
            client.hincrby(key_of(actor, DAY), "w", windows)
            assert await left(take, actor) == [rest]

    run(ValkeyStrict(server.url, 5.0, SystemClock()), way)
    client.close()


def test_what_was_counted_is_kept_for_two_windows(server: Server) -> None:
    client, actor = client_of(server), random_bytes(16)

    async def way(take: Take) -> None:
        assert await left(take, actor) == [10]

    run(ValkeyStrict(server.url, 5.0, SystemClock()), way)
    assert 2 * DAY - 60 <= client.ttl(key_of(actor, DAY)) <= 2 * DAY + 1
    client.close()


def test_leases_and_strict_quotas_of_one_actor_do_not_meet(server: Server) -> None:
    leases, actor = server.quotas(), random_bytes(16)
    leases.exchange(random_bytes(16), 0, [Ask(actor + int(DAY).to_bytes(4, "big"), DAY, 10, 5, 3, 0, 0)])
    leases.close()

    async def way(take: Take) -> None:
        assert await left(take, actor) == [10]

    run(ValkeyStrict(server.url, 5.0, SystemClock()), way)


def test_a_request_that_is_cancelled_takes_no_answer_from_others(server: Server) -> None:
    strict = ValkeyStrict(server.url, 5.0, SystemClock())

    async def way(take: Take) -> None:
        one, two = (asyncio.ensure_future(take(random_bytes(16), ALONE)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        answer = await two
        assert answer is not None
        assert (list(answer.left), strict.failures) == ([10], 0)

    assert run(strict, way) == []


def test_an_error_of_the_server_is_no_answer_and_no_exception(server: Server) -> None:
    strict, client, actor = ValkeyStrict(server.url, 5.0, SystemClock()), client_of(server), random_bytes(16)
    client.set(key_of(actor, DAY), "not ours", ex=60)
    client.close()

    async def way(take: Take) -> None:
        assert await take(actor, ALONE) is None
        assert strict.failures == 1

    assert run(strict, way) == []


def test_who_was_led_to_a_primary_that_is_a_replica_now_is_led_to_the_new_one(server: Server) -> None:
    with running() as before:
        door, clock = SlowDoor(before.port), FakeClock()
        strict = ValkeyStrict(door.url, 5.0, clock)

        async def way(take: Take) -> None:
            assert await take(b"c" * 16, ALONE) is not None
            door.port = server.port
            become_replica(before, server)
            assert await take(b"c" * 16, ALONE) is None
            clock.advance(PAUSE)
            assert await take(b"c" * 16, ALONE) is not None

        assert run(strict, way) == []
        door.close()


def test_to_connect_to_a_server_that_is_far_away_may_take_longer_than_a_request_waits(server: Server) -> None:
    door, clock = SlowDoor(server.port), FakeClock()
    door.delay = 1.2
    strict = ValkeyStrict(door.url, 2.0, clock)

    async def way(take: Take) -> None:
        while (answer := await take(b"d" * 16, ALONE)) is None:
            assert strict.failures < 10
            await asyncio.gather(*(flight for one in strict._askers.values() for flight in one._flights))
            clock.advance(PAUSE)
        assert list(answer.left) == [10], "those who did not wait are charged nothing"

    assert asyncio.run(ValkeyStrict(server.url, 5.0, clock).take([(random_bytes(16), ALONE)])), "the script is there"
    assert run(strict, way) == []
    door.close()


def test_where_nobody_listens_no_request_waits_and_nobody_asks_for_a_while(server: Server) -> None:
    clock, lost = FakeClock(), Server("none")
    strict, began = ValkeyStrict(lost.url, 60.0, clock), time.monotonic()

    async def way(take: Take) -> None:
        assert await take(b"a" * 16, ALONE) is None
        assert time.monotonic() - began < 30.0
        strict._askers.clear()
        strict._url = in_scheme(server.url)  # from now on there is one
        clock.advance(PAUSE - 0.01)
        assert await take(b"a" * 16, ALONE) is None
        assert strict.failures == 1
        clock.advance(0.01)
        assert await take(b"a" * 16, ALONE) is not None

    run(strict, way)


def test_a_server_that_does_not_answer_is_left_alone_and_nothing_is_left_uncaught(server: Server) -> None:
    strict, clock = ValkeyStrict(server.url, 0.2, FakeClock()), SystemClock()

    async def way(take: Take) -> None:
        server.signal(signal.SIGSTOP)
        began = clock.monotonic()
        assert await take(b"b" * 16, ALONE) is None
        await asyncio.sleep(0.4)
        assert await take(b"b" * 16, ALONE) is None
        assert (strict.failures, clock.monotonic() - began < 20.0) == (1, True)

    try:
        assert run(strict, way) == []
    finally:
        server.signal(signal.SIGCONT)


def test_what_asked_in_event_loops_that_are_gone_is_left(server: Server) -> None:
    strict = ValkeyStrict(server.url, 5.0, SystemClock())
    for _ in range(3):
        assert asyncio.run(strict.take([(random_bytes(16), ALONE)])) is not None
    assert len(strict._askers) == 1
