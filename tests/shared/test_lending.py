from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_analytics.decide.lending import unasked
from asgi_analytics.errors import SharedUnavailable

from .fleet import Fleet

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
    _, admitted = fleet.stream(load, 3, one)
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
    for _ in range(3):
        admitted.append(burst(fleet, 100, 0.05, 0))
        fleet.pass_until(fleet.clock.monotonic() + 620.0)
    assert admitted == [100] * 3


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
