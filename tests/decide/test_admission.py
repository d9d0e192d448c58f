from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.decide import throttle, window
from asgi_analytics.decide.actor import adopt_level
from asgi_analytics.decide.admission import SHARED_REFUSAL_HOLDS, admit, admit_strictly, charge
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.model import Decision
from asgi_analytics.protocols import Exchanged, StrictAnswer

from .levels import BLOCKED, NORMAL, SEVERE, WARNING, blocked
from .visits import START, Visit, policy_of


# --- how long a refusal holds ---
@given(
    waits=st.lists(st.sampled_from([0.0, 0.01, 0.2, 0.7, 1.0, 4.0, 31.0, 90.0]), min_size=5, max_size=40),
    limits=st.sampled_from([("3/second",), ("2/second", "12/minute"), ("9/minute",)]),
    network=st.sampled_from(["5/second", "20/minute"]),
    level=st.sampled_from(list(ThrottleLevel)),
    part=st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_refusal_holds_for_as_long_as_it_says_and_no_longer(
    waits: list[float], limits: tuple[str, ...], network: str, level: ThrottleLevel, part: float
) -> None:
    visit = Visit(policy_of(limits=limits, network_limits=network, cooldown=45))
    adopt_level(visit.visitor, level, visit.now)
    for wait in waits:
        visit.now += wait
        decision = admit(visit.visitor, visit.network, visit.policy, visit.now)
        if not decision.refused:
            continue
        rest = decision.holds_until - visit.now
        assert 0.0 <= rest <= decision.retry_after
        again = copy.deepcopy((visit.visitor, visit.network))
        assert not rest or admit(*again, visit.policy, visit.now + rest * part * 0.999).refused
        after = admit(visit.visitor, visit.network, visit.policy, decision.holds_until + 1e-6)
        assert not after.refused or after.level < decision.level
        visit.now = decision.holds_until + 1e-6


@pytest.mark.parametrize(
    ("cools_in", "lent", "seconds"),
    [
        (None, False, 60.0),
        (None, True, SHARED_REFUSAL_HOLDS),
        (2.0, False, 2.0),
        (2.0, True, SHARED_REFUSAL_HOLDS),
        (SHARED_REFUSAL_HOLDS / 5, True, SHARED_REFUSAL_HOLDS / 5),
    ],
)
def test_a_refusal_holds_no_longer_than_the_level_and_hardly_where_others_give_units_back(
    cools_in: float | None, lent: bool, seconds: float
) -> None:
    visit = Visit(policy_of(limits="4/minute", network_limits=(), cooldown=600), now=60_000.0)
    for _ in range(4):
        visit.call()
    if cools_in is not None:
        adopt_level(visit.visitor, WARNING, visit.now + cools_in - 600.0)
    if lent:
        visit.visitor.key = b"k" * 16
        visit.policy.leases.open(visit.visitor, visit.policy.limits[visit.level], visit.now)
    decision = visit.call()
    assert decision.refused
    assert decision.holds_until - visit.now == pytest.approx(seconds)


# --- quotas ---
def test_remaining_falls_with_every_request_and_then_refuses() -> None:
    visit = Visit(policy_of(limits="5/minute"))
    assert [visit.call().remaining for _ in range(5)] == [(4,), (3,), (2,), (1,), (0,)]
    refusal = visit.call()
    assert (refusal.refused, refusal.remaining, refusal.violated) == (True, (0,), ("minute",))
    assert refusal.reasons == ('quota "minute" is used up (5 requests per 60 seconds)',)
    assert refusal.retry_after >= refusal.reset[0] >= 1


def test_who_waits_as_told_is_admitted() -> None:
    visit = Visit(policy_of(limits=["3/second", "20/minute"]))
    for _ in range(60):
        decision = visit.call()
        visit.now += decision.retry_after
        assert not decision.refused or not visit.call().refused


def test_a_refusal_charges_no_quota() -> None:
    visit = Visit(policy_of(limits=["1/second", "100/minute"], network_limits="1000/minute"))
    for _ in range(50):
        visit.call()
    assert [counter.count for counter in (*visit.visitor.windows, *visit.network.windows)] == [1, 1, 1]


def test_a_network_is_an_outer_bound_of_many_visitors() -> None:
    policy = policy_of(limits="10/minute", network_limits="25/minute")
    visits = [Visit(policy) for _ in range(10)]
    for visit in visits:
        visit.network = visits[0].network
    decisions = [visit.call() for _ in range(5) for visit in visits]
    assert sum(not decision.refused for decision in decisions) == 25
    assert decisions[-1].violated == ("network-minute",)
    assert decisions[-1].remaining[0] > 0


def test_a_network_keeps_its_whole_quota_whatever_its_visitors_do() -> None:
    visit = blocked()
    other = Visit(visit.policy, now=visit.now)
    other.network = visit.network
    assert not other.call().refused
    assert visit.network.throttle.level == NORMAL


def test_a_refusal_by_one_shared_quota_tells_of_the_others_what_is_left_to_all() -> None:
    visit = Visit(policy_of(limits=["2/second", "100/hour"], network_limits=()))
    visit.visitor.key = b"k" * 16
    visit.policy.leases.take_in(Exchanged(2, 1, {}, []), visit.now, visit.now)
    visit.policy.leases.open(visit.visitor, visit.policy.limits[0], visit.now)
    decisions = [visit.call() for _ in range(2)]
    assert [decision.refused for decision in decisions] == [False, True]
    assert [decision.remaining for decision in decisions] == [(1, 99), (0, 99)]


def test_no_quotas_are_fine() -> None:
    visit = Visit(policy_of(limits=[], network_limits=[]))
    decision = visit.load("/")
    assert (decision.refused, decision.remaining, decision.reset) == (False, (), ())


def test_a_quota_of_one_request_is_told_as_one() -> None:
    visit = Visit(policy_of(limits="1/second"))
    assert [visit.call().reasons for _ in range(2)] == [(), ('quota "second" is used up (1 request per second)',)]


def test_a_level_multiplies_every_quota() -> None:
    visit = Visit(policy_of(limits=["10/second", "100/minute"]))
    adopt_level(visit.visitor, SEVERE, START)
    assert visit.call().remaining == (1, 24)
    assert [visit.call().refused for _ in range(2)] == [False, True]
    assert visit.call().reasons[0] == ('quota "second" is used up (2 requests per second, 25% of 10 at level severe)')


def ask(visit: Visit, way: str, fits: bool = True) -> Decision:
    """Admit a request: by what this worker counts, by what it was lent, or by what one server counts for all."""
    if way == "strict":
        answer = StrictAnswer(fits, [int(fits)], [0.0 if fits else 9.0])
        return admit_strictly(visit.visitor, visit.network, visit.policy, answer, visit.now)
    if not fits:
        charge(visit.visitor, 99, visit.policy, visit.now)
    if way == "shared":
        visit.visitor.key = b"k" * 16
        visit.policy.leases.open(visit.visitor, visit.policy.limits[visit.level], visit.now)
    return visit.call()


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("way", ["alone", "shared", "strict"])
def test_a_level_that_has_cooled_down_is_told_with_the_next_decision(way: str, fits: bool) -> None:
    visit = Visit(policy_of(limits="40/minute", network_limits=(), cooldown=600))
    adopt_level(visit.visitor, SEVERE, visit.now - 600.0)
    decision = ask(visit, way, fits)
    assert (decision.previous_level, decision.level, decision.refused) == (SEVERE, WARNING, not fits)
    assert decision.reasons[-1] == "cooled down from severe to warning, a level every 600 seconds"
    assert ask(visit, way, fits).previous_level is None


@pytest.mark.parametrize("way", ["alone", "shared", "strict"])
def test_the_blocked_are_refused_whatever_their_quotas(way: str) -> None:
    visit = Visit(policy_of(limits="40/minute", network_limits=(), cooldown=600))
    adopt_level(visit.visitor, BLOCKED, visit.now)
    decision = ask(visit, way)
    assert (decision.refused, decision.violated, decision.retry_after) == (True, ("throttle",), 601)
    assert decision.holds_until == visit.now + 600.0


def test_whose_units_fit_two_levels_down_only_is_told_to_wait_for_both() -> None:
    visit = Visit(policy_of(limits="100/hour", network_limits=(), cooldown=600), now=36_000.0)
    charge(visit.visitor, 60, visit.policy, visit.now)
    adopt_level(visit.visitor, SEVERE, visit.now)
    assert visit.call().retry_after == 1201
    visit.now += 1201
    assert not visit.call().refused


def test_units_of_other_workers_count() -> None:
    visit = Visit(policy_of(limits="10/minute"))
    charge(visit.visitor, 7, visit.policy, START)
    assert visit.call().remaining == (2,)
    charge(visit.visitor, 70, visit.policy, START)
    assert visit.call().remaining == (0,)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(ThrottleLevel)), max_size=60))
def test_admit_agrees_with_the_window_functions(requests: list[tuple[float, ThrottleLevel]]) -> None:
    visit = Visit(policy_of(limits=["4/second", "30/minute"], network_limits="40/minute"))
    for gap, level in requests:
        visit.now = now = visit.now + gap
        visit.visitor.throttle.level, visit.visitor.throttle.changed_at = level, now
        limits = [(float(q.window), throttle.effective_limit(q.limit, level)) for q in visit.policy.quotas]
        pairs = list(zip(visit.visitor.windows, limits, strict=True))
        left = [window.remaining(counter, size, limit, now) for counter, (size, limit) in pairs]
        network = window.remaining(visit.network.windows[0], 60.0, 40, now)
        decision = admit(visit.visitor, visit.network, visit.policy, now)
        assert decision.refused == (min(*left, network) == 0)
        assert decision.remaining == tuple(units - (not decision.refused) for units in left)
        if not decision.refused:
            assert decision.reset == tuple(window.reset(counter, size, now) for counter, (size, _) in pairs)


@given(st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 30)), max_size=40))
def test_no_window_of_the_clock_admits_more_than_its_limit(bursts: list[tuple[float, int]]) -> None:
    visit = Visit(policy_of(limits=["10/second", "40/minute"]))
    admitted: list[float] = []
    for gap, requests in bursts:
        visit.now += gap
        admitted += [visit.now for _ in range(requests) if not visit.call().refused]
    for size, limit in ((1, 10), (60, 40)):
        windows = [now // size for now in admitted]
        assert all(windows.count(one) <= limit for one in set(windows))
        assert all(sum(now - size < other <= now for other in admitted) <= 2 * limit for now in admitted)
