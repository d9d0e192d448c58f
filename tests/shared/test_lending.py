from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_analytics.clock import SystemClock, random_bytes
from asgi_analytics.decide.lease import MOST_UNITS
from asgi_analytics.decide.lending import LIFE, believed, unasked
from asgi_analytics.errors import SharedUnavailable
from asgi_analytics.protocols import Ask, SharedQuotas
from asgi_analytics.shared import postgres, valkey
from asgi_analytics.shared.bounds import MOST_ASKS
from asgi_analytics.shared.postgres import PostgresQuotas
from asgi_analytics.testing import MemoryQuotas

from .aging import age, silence
from .fleet import Fleet
from .valkey import Server, found_servers

LONG = SystemClock().time_ns() // 17_500_000_000 * 1.0  # seconds of a window: half is over, for as long as a test runs
LOADS = (0.5, 1.0, 1.5, 10.0)


def bound(limit: int, workers: int) -> int:
    """What README.md states."""
    return max(0, (workers - 1) * unasked(limit, workers) - limit // 2)


# What a fleet admits, in made-up time


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("one", [False, True], ids=["spread", "one worker"])
@pytest.mark.parametrize("limit", ["20/second", "300/10 seconds"])
def test_all_workers_together_keep_to_the_limit(limit: str, workers: int, load: float, one: bool) -> None:
    fleet = Fleet(workers, limit)
    _, admitted = fleet.stream(load, 5, one)
    assert max(admitted.values()) <= fleet.limit.limit + bound(fleet.limit.limit, workers)


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("one", [False, True], ids=["spread", "one worker"])
def test_a_fleet_refuses_nobody_at_half_the_limit_and_few_at_the_limit(workers: int, one: bool) -> None:
    for load, most in ((0.5, 0), (1.0, 0.04)):
        offered, admitted = Fleet(workers, "300/10 seconds").stream(load, 5, one)
        assert offered.total() - admitted.total() <= most * offered.total()


@pytest.mark.parametrize("workers", [2, 8])
def test_who_stays_on_one_worker_gets_the_whole_quota(workers: int) -> None:
    fleet = Fleet(workers, "1500/day")
    admitted = 0
    for _ in range(1600):
        fleet.pass_until(fleet.clock.monotonic() + 0.01)
        admitted += not fleet.send(0).refused
    assert admitted == 1500


@pytest.mark.parametrize("workers", [2, 3, 5, 8, 16, 64])
@pytest.mark.parametrize("limit", [1, 5, 20, 100, 1500])
def test_a_burst_before_workers_know_of_each_other_keeps_to_the_bound(limit: int, workers: int) -> None:
    fleet = Fleet(workers, f"{limit}/day")
    admitted = 0
    for turn in range(6 * limit // workers + 60):
        for worker in range(workers):
            admitted += not fleet.send(worker).refused
        if turn % 5 == 4:
            fleet.pass_until(fleet.clock.monotonic() + 0.02)
    assert admitted <= limit + bound(limit, workers)


@given(
    st.integers(2, 6),
    st.sampled_from([3, 20, 200]),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30), st.floats(0, 0.6)), max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_no_order_of_bursts_and_exchanges_breaks_the_bound(
    workers: int, limit: int, bursts: list[tuple[int, int, float]]
) -> None:
    fleet, admitted = Fleet(workers, f"{limit}/day"), 0
    for worker, requests, pause in bursts:
        admitted += sum(not fleet.send(worker % workers).refused for _ in range(requests))
        fleet.pass_until(fleet.clock.monotonic() + pause)
    assert admitted <= limit + bound(limit, workers)


@pytest.mark.parametrize("limit", [20, 60, 1500])
@pytest.mark.parametrize("used", [0.1, 0.5, 0.9])
def test_what_a_worker_admitted_while_it_was_alone_counts_for_one_that_starts_later(limit: int, used: float) -> None:
    fleet, admitted = Fleet(1, f"{limit}/day"), int(used * limit)
    assert not any(fleet.send(0).refused for _ in range(admitted))
    fleet.grow()
    for _ in range(2 * limit):
        admitted += not fleet.send(1).refused
        fleet.pass_until(fleet.clock.monotonic() + 0.02)
    assert admitted <= limit


def test_without_a_server_each_worker_keeps_to_its_part_and_all_is_well_again_afterwards() -> None:
    fleet = Fleet(4, "100/10 seconds")
    fleet.stream(10, 1)
    fleet.quotas.error = SharedUnavailable()
    _, during = fleet.stream(10, 3)
    fleet.quotas.error = None
    fleet.pass_until(fleet.clock.monotonic() + 20)
    _, after = fleet.stream(10, 3)
    assert max(during.values()) <= 100 + 25
    assert max(after.values()) <= 100
    assert after.total() >= 270


def test_a_worker_that_dies_takes_no_more_than_it_was_lent() -> None:
    fleet = Fleet(2, "100/day")
    for _ in range(20):
        fleet.send(0)
        fleet.pass_until(fleet.clock.monotonic() + 0.05)
    fleet.workers.pop(0)
    admitted = 0
    for _ in range(400):
        admitted += not fleet.send(0).refused
        fleet.pass_until(fleet.clock.monotonic() + 0.05)
    assert 20 <= admitted <= 80
    assert fleet.workers[0].leases.workers == 1


def test_a_worker_that_leaves_gives_back_what_it_does_not_need() -> None:
    fleet = Fleet(2, "100/day")
    for _ in range(20):
        fleet.send(0)
        fleet.pass_until(fleet.clock.monotonic() + 0.05)
    gone = fleet.workers.pop(0)
    gone.quotas.exchange(gone.name, gone.leases.revision, gone.leases.returns(fleet.clock.monotonic()))
    gone.quotas.leave(gone.name)
    admitted = 0
    for _ in range(200):
        admitted += not fleet.send(0).refused
        fleet.pass_until(fleet.clock.monotonic() + 0.05)
    assert admitted == 80


def burst(fleet: Fleet, count: int, pause: float, *workers: int) -> int:
    """Send requests to one worker after the other; how many were admitted."""
    admitted = 0
    for number in range(count):
        admitted += not fleet.send(workers[number % len(workers)]).refused
        fleet.pass_until(fleet.clock.monotonic() + pause)
    return admitted


def begin_window(fleet: Fleet) -> None:
    """Let time pass to the beginning of a window of the clock."""
    size = fleet.limit.window
    fleet.pass_until(fleet.clock.monotonic() + size + 1.0 - fleet.clock.time_ns() / 1e9 % size)


def test_who_comes_now_and_then_gets_all_of_a_long_quota() -> None:
    fleet, admitted = Fleet(2, "1000/hour"), []
    begin_window(fleet)
    for _ in range(5):
        admitted.append(burst(fleet, 100, 0.05, 0))
        fleet.pass_until(fleet.clock.monotonic() + 620.0)
    assert admitted == [100] * 5


def test_who_hammers_at_a_used_up_quota_for_hours_gets_none_of_it_and_no_less_afterwards() -> None:
    fleet = Fleet(2, "100/day")
    assert burst(fleet, 400, 0.02, 0, 1) == 100
    assert burst(fleet, 200, 10.0, 0, 1) == 0
    (counter,) = fleet.quotas._counters.values()
    assert counter.count == 100


def test_what_was_lent_and_not_used_before_a_pause_is_there_after_it() -> None:
    fleet = Fleet(8, "1500/minute")
    begin_window(fleet)
    for _ in range(2):
        assert burst(fleet, 1200, 0.02, *range(8)) >= 1180
        fleet.pass_until(fleet.clock.monotonic() + 150.0)


def test_after_an_outage_of_minutes_only_the_use_of_the_last_one_counts() -> None:
    fleet = Fleet(4, "1500/minute")
    fleet.quotas.error = SharedUnavailable()
    assert burst(fleet, 4500, 1 / 15, 0, 1, 2, 3) == 4500
    fleet.quotas.error = None
    assert burst(fleet, 900, 1 / 15, 0, 1, 2, 3) > 300
    assert burst(fleet, 900, 1 / 15, 0, 1, 2, 3) > 850


def test_who_comes_from_a_network_that_is_shared_shares_its_own_quota_too() -> None:
    fleet = Fleet(4, "100/day", network=["1000/day"])
    for number in range(160):
        fleet.send(number % 4, b"%016d" % number)
        fleet.pass_until(fleet.clock.monotonic() + 0.02)
    assert all(worker.network.loans for worker in fleet.workers)
    assert burst(fleet, 800, 0.02, 0, 1, 2, 3) <= 100


def test_what_is_lent_is_not_lost_by_who_pauses_while_an_exchange_is_on_its_way() -> None:
    fleet = Fleet(2, "1000/day")
    assert burst(fleet, 100, 0.05, 0) == 100
    worker = fleet.workers[0]
    rests_at = (worker.actors[b"k" * 16].loans or [])[0].used_at + 605.0
    fleet.pass_until(rests_at - 0.3)
    asks = worker.leases.asks(rests_at - 0.1)
    answer = worker.quotas.exchange(worker.name, worker.leases.revision, asks)
    worker.leases.take_in(answer, rests_at - 0.1, rests_at + 0.1)
    fleet.pass_until(rests_at + 15.0)
    assert burst(fleet, 1000, 0.05, 1) == 900


# One contract for each SharedQuotas

BACK_ENDS = ["memory", "postgres", *(f"{name}" for name in found_servers())]
Quotas = Callable[[], SharedQuotas]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """The Valkey and Redis servers that there are, started."""
    started = {name: Server(program) for name, program in found_servers().items()}
    for server in started.values():
        server.start()
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(params=BACK_ENDS)
def quotas(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Iterator[SharedQuotas]:
    made: SharedQuotas
    if request.param == "memory":
        made = MemoryQuotas(SystemClock())
    elif request.param == "postgres":
        dsn: str = request.getfixturevalue("dsn")
        made = PostgresQuotas(lambda: dsn)
    else:
        made = servers[request.param].quotas()
    yield made
    made.close()


def ask(counter: bytes, used: int = 0, keep: int = 0, wanted: int = 0, limit: int = 100, share: int = 10) -> Ask:
    return Ask(counter + int(LONG).to_bytes(4, "big"), LONG, limit, share, used, keep, wanted)


def test_a_worker_alone_is_lent_what_it_wants_up_to_the_limit(quotas: SharedQuotas) -> None:
    me, counter = random_bytes(16), random_bytes(16)
    (grant,) = quotas.exchange(me, 0, [ask(counter, used=30, wanted=50)]).grants
    assert (grant.units, grant.left, grant.wait) == (50, 70, 0.0)
    (grant,) = quotas.exchange(me, 0, [ask(counter, used=50, wanted=50)]).grants
    assert (grant.units, grant.left) == (20, 20)
    answer = quotas.exchange(me, 0, [ask(counter, used=20, wanted=5)])
    (grant,) = answer.grants
    assert (grant.units, grant.left) == (0, 0)
    assert 0 < grant.wait <= 2 * LONG
    assert grant.wait % 1.0, "not in whole seconds"
    assert answer.scarce == {}, "there is nobody to be told"


def test_a_quota_without_measure_is_lent_like_others(quotas: SharedQuotas) -> None:
    me, other, counter = random_bytes(16), random_bytes(16), random_bytes(16)
    quotas.exchange(other, 0, [])
    limit = 10**15 - 1
    asked = ask(counter, 5, MOST_UNITS, MOST_UNITS, limit, unasked(limit, 2))
    (grant,) = quotas.exchange(me, 0, [asked]).grants
    assert (grant.units, grant.left) == (MOST_UNITS, limit - 5)
    for worker in (me, other):
        quotas.leave(worker)


def test_workers_are_counted_until_they_leave(quotas: SharedQuotas) -> None:
    one, two = random_bytes(16), random_bytes(16)
    assert quotas.exchange(one, 0, []).workers == 1
    assert quotas.exchange(two, 0, []).workers == 2
    quotas.leave(one)
    assert quotas.exchange(two, 0, []).workers == 1
    quotas.leave(two)


@pytest.mark.parametrize(("share", "units"), [(10, 30), (7, 33)])  # the others are the other worker's
def test_what_is_scarce_is_told_to_all_once_and_what_they_admit_unasked_is_lent_when_they_know(
    quotas: SharedQuotas, share: int, units: int
) -> None:
    one, two, counter = random_bytes(16), random_bytes(16), random_bytes(16)
    quotas.exchange(two, 0, [])
    (grant,) = quotas.exchange(one, 0, [ask(counter, used=60, wanted=40, share=share)]).grants
    assert grant.units == units
    told = quotas.exchange(two, 0, [])
    assert dict(told.scarce) == {ask(counter).counter: 1}
    assert quotas.exchange(two, told.revision, []).scarce == {}
    answer = quotas.exchange(one, told.revision, [ask(counter, keep=units, wanted=40, share=share)])
    assert answer.grants[0].units == 39
    told = quotas.exchange(two, told.revision, [])
    assert dict(told.scarce) == {ask(counter).counter: 2}
    quotas.exchange(two, told.revision, [])
    (grant,) = quotas.exchange(one, told.revision, [ask(counter, keep=39, wanted=40, share=share)]).grants
    assert grant.units == 40
    for worker in (one, two):
        quotas.leave(worker)


def test_who_knows_of_more_than_the_server_is_told_all_again(quotas: SharedQuotas) -> None:
    """As after a fail-over that lost keys, a backup that was restored, or a week in which nothing was to be told."""
    one, two, counter = random_bytes(16), random_bytes(16), random_bytes(16)
    before = 10**12
    quotas.exchange(two, before, [])
    (grant,) = quotas.exchange(one, before, [ask(counter, used=60, wanted=40)]).grants
    assert grant.units == 30
    (grant,) = quotas.exchange(one, before, [ask(counter, keep=30, wanted=40)]).grants
    assert grant.units == 30, "the other one has yet to be told"
    told = quotas.exchange(two, before, [])
    assert dict(told.scarce) == {ask(counter).counter: 1}
    assert 0 < told.revision < before
    assert quotas.exchange(two, told.revision, []).scarce == {}
    (grant,) = quotas.exchange(one, told.revision, [ask(counter, keep=30, wanted=40)]).grants
    assert grant.units == 39
    for worker in (one, two):
        quotas.leave(worker)


# Windows, and seconds, that pass before a step: nothing, a loan's life, one that ends with a window, two windows.
PASSED = [(0, 0.0), (0, 0.0), (0, 0.0), (0, LIFE), (1, 1.0), (1, LONG), (2, believed(LONG)), (-1, 0.0)]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 1),
        st.sampled_from([0, 0, 5, 20, 60]),
        st.integers(0, 15),
        st.integers(0, 40),
        st.sampled_from(PASSED),
    ),
    max_size=25,
)


@given(steps=STEPS)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_every_back_end_lends_as_the_rule_says(
    quotas: SharedQuotas, steps: list[tuple[int, int, int, int, int, tuple[int, float]]]
) -> None:
    """The rule is lending.lend, in Python; Postgres and Valkey have it in their own languages."""
    rule = MemoryQuotas(SystemClock())
    workers, counters = [random_bytes(16) for _ in range(3)], [random_bytes(16) for _ in range(2)]
    known = {}
    for name in workers:
        known[name] = (quotas.exchange(name, 0, []).revision, rule.exchange(name, 0, []).revision)
    try:
        for who, which, used, keep, wanted, passed in steps:
            worker = workers[who]
            limit, share = ((100, 10), (24, 7))[which]
            wish = [ask(counters[which], used, keep, max(keep, wanted), limit, share)]
            for one in (quotas, rule):
                age(one, wish[0].counter, *passed)
            real = quotas.exchange(worker, known[worker][0], wish)
            ruled = rule.exchange(worker, known[worker][1], wish)
            assert [grant[:3] for grant in real.grants] == [grant[:3] for grant in ruled.grants]
            assert [grant.wait for grant in real.grants] == pytest.approx([grant.wait for grant in ruled.grants], abs=9)
            ours = {name: stage for name, stage in real.scarce.items() if name[:16] in counters}
            assert ours == dict(ruled.scarce)
            known[worker] = (real.revision, ruled.revision)
    finally:  # a worker that stays would count in the next run
        for worker in workers:
            quotas.leave(worker)


def test_who_is_not_heard_of_for_a_life_is_no_worker_any_more(quotas: SharedQuotas) -> None:
    one, two = random_bytes(16), random_bytes(16)
    quotas.exchange(one, 0, [])
    quotas.exchange(two, 0, [])
    silence(quotas, one, LIFE - 2.0)
    assert quotas.exchange(two, 0, []).workers == 2
    silence(quotas, one, 2.0)
    assert quotas.exchange(two, 0, []).workers == 1
    assert quotas.exchange(one, 0, []).workers == 2
    for worker in (one, two):
        quotas.leave(worker)


def test_what_was_scarce_is_told_to_nobody_when_all_have_forgotten_it(quotas: SharedQuotas) -> None:
    one, two, new, counter = random_bytes(16), random_bytes(16), random_bytes(16), random_bytes(16)
    quotas.exchange(two, 0, [])
    (name,) = quotas.exchange(one, 0, [ask(counter, used=100)]).scarce
    age(quotas, name, 2, believed(LONG) - 1.0)
    assert dict(quotas.exchange(new, 0, []).scarce) == {name: 1}
    age(quotas, name, 0, 1.0)
    assert quotas.exchange(new, 0, []).scarce == {}
    for worker in (one, two, new):
        quotas.leave(worker)


def test_in_a_window_of_less_than_two_seconds_a_stage_is_told_again_after_two(quotas: SharedQuotas) -> None:
    one, two, counter = random_bytes(16), random_bytes(16), random_bytes(16) + bytes([0, 0, 0, 1])
    scarce = Ask(counter, 1.0, 100, 10, 50, 0, 0)
    quotas.exchange(two, 0, [])
    told = quotas.exchange(one, 0, [scarce, ask(counter[:16])])
    age(quotas, counter, -600, 1.0)  # a window that lasts for the test
    full = replace(scarce, used=100)
    told = quotas.exchange(one, told.revision, [full])
    assert dict(told.scarce) == {counter: 1}
    age(quotas, counter, 0, 1.0)
    assert quotas.exchange(one, told.revision, [full]).scarce == {}
    age(quotas, counter, 0, 1.0)
    assert dict(quotas.exchange(one, told.revision, [full]).scarce) == {counter: 1}
    for worker in (one, two):
        quotas.leave(worker)


def test_more_counters_than_go_over_the_wire_at_once_are_all_lent(quotas: SharedQuotas) -> None:
    me, other = random_bytes(16), random_bytes(16)
    asks = [ask(random_bytes(16), used=number % 100, wanted=1) for number in range(2 * MOST_ASKS + 1)]
    quotas.exchange(other, 0, [])
    answer = quotas.exchange(me, 0, asks)
    left = {grant.counter: grant.left for grant in answer.grants}
    assert left == {one.counter: 100 - one.used for one in asks}
    assert dict(answer.scarce) == {one.counter: 1 for one in asks if one.used > 76}
    assert quotas.exchange(me, answer.revision, []).scarce == {}
    for worker in (me, other):
        quotas.leave(worker)


def test_of_much_that_is_scarce_a_part_is_told_at_a_time_and_all_in_the_end(
    quotas: SharedQuotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (postgres, valkey):
        monkeypatch.setattr(module, "MOST_SCARCE", 2)
    one, two, new = (random_bytes(16) for _ in range(3))
    full = [ask(random_bytes(16), used=100) for _ in range(5)]
    quotas.exchange(two, 0, [])
    for number in (0, 1, 2, 3, 4, 0):  # the first is told again
        quotas.exchange(one, 0, full[number : number + 1])
        age(quotas, full[number].counter, 0, LONG)
    revision, told = 0, dict[bytes, int]()
    for _ in range(3):
        answer = quotas.exchange(new, revision, [])
        revision, told = answer.revision, {**told, **answer.scarce}
    assert set(told) == {one.counter for one in full}
    for worker in (one, two, new):
        quotas.leave(worker)
