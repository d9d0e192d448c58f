"""One contract for each SharedQuotas: in memory, in Postgres, in Valkey or Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_analytics.clock import SystemClock, random_bytes
from asgi_analytics.decide.lease import MAX_UNITS
from asgi_analytics.decide.lending import LIFE, believed, unasked
from asgi_analytics.protocols import Ask, SharedQuotas
from asgi_analytics.shared import postgres, valkey
from asgi_analytics.shared.bounds import MAX_ASKS
from asgi_analytics.shared.postgres import PostgresQuotas
from asgi_analytics.testing import MemoryQuotas

from .aging import age, silence
from .valkey import Server, found_servers

LONG = SystemClock().time_ns() // 17_500_000_000 * 1.0  # seconds of a window: half is over, for as long as a test runs


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
    asked = ask(counter, 5, MAX_UNITS, MAX_UNITS, limit, unasked(limit, 2))
    (grant,) = quotas.exchange(me, 0, [asked]).grants
    assert (grant.units, grant.left) == (MAX_UNITS, limit - 5)
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
    asks = [ask(random_bytes(16), used=number % 100, wanted=1) for number in range(2 * MAX_ASKS + 1)]
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
        monkeypatch.setattr(module, "MAX_SCARCE", 2)
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
