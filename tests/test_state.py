from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.facts import Actor, ThrottleLevel
from asgi_analytics.model import Agent, CachedRefusal, Decision, Identity, Merged, Place, Session, Visitor
from asgi_analytics.protocols import Salt
from asgi_analytics.state import MAX_CACHED_REFUSALS, MAX_CHANCES, State

NORMAL, WARNING, SEVERE, BLOCKED = ThrottleLevel


def state(most: int = 10, flagged: int = 3) -> State:
    return State(
        max_visitors=most,
        max_networks=4,
        max_flagged=flagged,
        new_network=lambda: Actor([]),
        learn_salts=lambda salts: None,
    )


def visitor(number: int, level: ThrottleLevel = NORMAL) -> Visitor:
    name = number.to_bytes(16, "big")
    found = Visitor(Identity(name, b"n" * 16, Place(), Agent()), Session(name, 0.0, 0.0), Actor([]), Actor([]))
    found.actor.throttle.level = level
    return found


def added(kept: State, number: int, level: ThrottleLevel = NORMAL) -> Visitor:
    one = visitor(number)
    kept.add(one)
    set_level(kept, one, level)
    return one


def set_level(kept: State, one: Visitor, level: ThrottleLevel) -> None:
    one.actor.throttle.level = level
    kept.level_changed(one)


def merged(number: int, remote: int, level: int = 0, changed: int = 0, session: bytes = b"s") -> Merged:
    return Merged(number.to_bytes(16, "big"), session, remote, level, changed)


def test_the_visitor_not_seen_for_longest_goes_first() -> None:
    kept = state(most=3)
    for number in range(3):
        added(kept, number)
    assert kept.get(bytes(16)) is not None
    added(kept, 3)
    assert kept.get((1).to_bytes(16, "big")) is None
    assert kept.get(bytes(16)) is not None


def test_who_was_seen_gets_one_more_chance() -> None:
    kept = state(most=3)
    visitors = [added(kept, number) for number in range(3)]
    kept.get(bytes(16))
    visitors += [added(kept, number) for number in range(3, 6)]
    assert [one.known for one in visitors] == [False] * 3 + [True] * 3


def test_where_everybody_was_seen_somebody_goes_all_the_same() -> None:
    kept = state(most=2 * MAX_CHANCES)
    for number in range(3 * MAX_CHANCES):
        added(kept, number).seen = True
    assert kept.counts()["visitors"] == 2 * MAX_CHANCES


def test_a_blocked_visitor_survives_a_flood_of_new_ones() -> None:
    kept = state()
    blocked = added(kept, 1, BLOCKED)
    for number in range(100, 5000):
        added(kept, number)
    assert kept.get(blocked.identity.fingerprint) is blocked
    assert kept.counts()["visitors"] == 10


def test_a_blocked_visitor_survives_a_flood_of_flagged_ones() -> None:
    kept = state()
    blocked = added(kept, 1, BLOCKED)
    for number in range(100, 500):
        added(kept, number, WARNING)
        added(kept, number + 1000, SEVERE)
    assert kept.get(blocked.identity.fingerprint) is blocked
    assert kept.counts()["flagged"] == 3


def test_among_blocked_visitors_the_one_blocked_first_goes() -> None:
    kept = state(flagged=2)
    visitors = [added(kept, number, BLOCKED) for number in range(3)]
    assert [kept.get(one.identity.fingerprint) for one in visitors] == [None, *visitors[1:]]
    assert [one.known for one in visitors] == [False, True, True]


def test_a_visitor_that_has_cooled_down_is_one_of_many_again() -> None:
    kept = state()
    one = added(kept, 1, SEVERE)
    set_level(kept, one, NORMAL)
    assert kept.counts() == {"visitors": 1, "flagged": 0, "networks": 0}
    assert kept.get(one.identity.fingerprint) is one


def test_who_rises_after_it_was_evicted_is_known_again_and_nobody_else_under_its_name() -> None:
    """By an answer that was on its way meanwhile."""
    kept = state(most=3)
    one = added(kept, 1)
    for number in range(2, 6):
        added(kept, number)
    back = added(kept, 1)
    assert (one.known, back.known) == (False, True)
    set_level(kept, one, BLOCKED)
    assert (one.known, back.known, kept.get(one.identity.fingerprint)) == (True, False, one)


def test_a_renamed_visitor_is_found_under_its_new_name_only() -> None:
    for level in ThrottleLevel:
        kept = state()
        one = added(kept, 1, level)
        one.identity = visitor(2).identity
        kept.rename((1).to_bytes(16, "big"), one)
        assert kept.get((1).to_bytes(16, "big")) is None
        assert kept.get((2).to_bytes(16, "big")) is one
        assert sum(kept.counts().values()) == 1
        assert (one.actor.key, kept.actor(one.actor.key)) == (one.identity.fingerprint, (one.actor, False))


def test_who_shares_quotas_keeps_the_name_that_others_use_too() -> None:
    kept = state()
    one = added(kept, 1)
    one.actor.loans = []
    one.identity = visitor(2).identity
    kept.rename((1).to_bytes(16, "big"), one)
    assert one.actor.key == (1).to_bytes(16, "big")


def test_who_shares_quotas_has_a_name_of_today_to_go_on_under() -> None:
    kept = state()
    one = added(kept, 1)
    for actor in (one.actor, one.network):
        actor.loans = []
    one.identity = replace(visitor(2).identity, network=b"m" * 16)
    kept.rename((1).to_bytes(16, "big"), one)
    assert (one.actor.next_key, one.network.next_key) == (one.identity.fingerprint, b"m" * 16)
    for key, actor in ((one.identity.fingerprint, one.actor), (b"m" * 16, one.network)):
        found = kept.actor(key)
        assert found is not None
        assert found[0] is actor


def test_networks_are_bounded_and_made_once() -> None:
    kept = state()
    first = kept.network(b"a")
    assert kept.network(b"a") is first
    for number in range(100):
        kept.network(b"%d" % number)
    assert kept.counts()["networks"] == 4
    assert kept.network(b"a") is not first


def test_networks_that_all_workers_know_are_bounded_too() -> None:
    kept = state()
    visitors = [visitor(number) for number in range(10)]
    for number, one in enumerate(visitors):
        one.identity = replace(one.identity, network=b"%016d" % number)
        kept.add(one)
    assert [actor for actor, is_network in kept.actors() if is_network] == [one.network for one in visitors[-4:]]


def refusal() -> CachedRefusal:
    return CachedRefusal(Decision(NORMAL, 0, (), refused=True), None, b"", 0.0, 0, None)


def test_so_many_refusals_stand_and_no_more() -> None:
    kept = state(most=2 * MAX_CACHED_REFUSALS)
    visitors = [added(kept, number) for number in range(MAX_CACHED_REFUSALS + 10)]
    for one in visitors:
        kept.cache_refusal(one, refusal())
    assert [one.cached_refusal is not None for one in visitors] == [False] * 10 + [True] * MAX_CACHED_REFUSALS


def test_a_refusal_that_is_made_anew_does_not_end_with_the_one_before() -> None:
    kept = state()
    hammering, newest = added(kept, 1), refusal()
    for cached in (refusal(), newest):
        kept.cache_refusal(hammering, cached)
    for number in range(2, MAX_CACHED_REFUSALS + 1):
        kept.cache_refusal(added(kept, number), refusal())
    assert hammering.cached_refusal is newest


def test_what_others_saw_is_summed_until_it_is_taken_in() -> None:
    kept = state()
    one, blocked = added(kept, 1), added(kept, 2, BLOCKED)
    kept.merge([merged(1, 5), merged(2, 1), merged(9, 7)])
    kept.merge([merged(1, 3, session=b"t")])
    assert one.merged == merged(1, 8, session=b"t")
    assert blocked.merged == merged(2, 1)


def test_a_later_total_without_a_level_does_not_hide_one() -> None:
    kept = state()
    one = added(kept, 1)
    kept.merge([merged(1, 5, level=2, changed=1000), merged(1, 0)])
    assert one.merged == merged(1, 5, level=2, changed=1000)


def test_salts_are_passed_on() -> None:
    told: list[list[Salt]] = []
    kept = State(
        max_visitors=1,
        max_networks=1,
        max_flagged=1,
        new_network=lambda: Actor([]),
        learn_salts=lambda salts: told.append(list(salts)),
    )
    salts = [Salt("2026-01-01", b"k" * 32)]
    kept.learn_salts(salts)
    assert told == [salts]


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(ThrottleLevel)), max_size=200))
def test_bounds_hold_whatever_levels_change(steps: list[tuple[int, ThrottleLevel]]) -> None:
    kept = state(most=5, flagged=4)
    for number, level in steps:
        one = kept.get(number.to_bytes(16, "big")) or added(kept, number)
        set_level(kept, one, level)
        counts = kept.counts()
        assert counts["visitors"] <= 5
        assert counts["flagged"] <= 4
        assert kept.get(one.identity.fingerprint) is one
