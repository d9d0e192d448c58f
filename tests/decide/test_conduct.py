from __future__ import annotations

import json
import random
from typing import Any

import pytest

from asgi_analytics import Signal
from asgi_analytics.decide import explain
from asgi_analytics.decide.actor import new_actor, program_of, start_like_pool
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.attempts import MAX_ROUTES
from asgi_analytics.decide.conduct import CRAWLER, TOOL
from asgi_analytics.decide.failures import Failure, count_failure
from asgi_analytics.decide.items import count_data
from asgi_analytics.decide.policy import Policy
from asgi_analytics.decide.pools import MAX_POOLS, pool_of
from asgi_analytics.decide.site import Route, Site
from asgi_analytics.facts import Actor, Behaviour, Claims, Program, Throttle, ThrottleLevel
from asgi_analytics.model import Agent, Decision
from asgi_analytics.settings import Settings

from .conduct import FORGED, TRUE, attack, experienced, send
from .visits import START, Visit, known_site, policy_of


# Data
def ask(visit: Visit, path: str, after: float, prefetched: bool = False) -> None:
    visit.now += after
    decision = Decision(visit.visitor.throttle.level, 0, (0, 1, 0, 1))
    visit.judge.data_or_post(visit.visitor, True, path, decision, visit.now, prefetched)


def test_a_walk_over_the_items_of_an_api_is_blocked() -> None:
    visit = Visit()
    for number in range(500):
        ask(visit, f"/api/items/{number}", 0.4)
    assert (visit.codes, visit.level) == ({"distinct_items_per_minute"}, ThrottleLevel.BLOCKED)


def test_people_of_an_app_ask_for_the_same_again() -> None:
    visit = Visit()
    for number in range(900):
        ask(visit, f"/api/items/{number}" if number % 4 == 0 else "/api/me", 0.4)
    assert visit.visitor.score == 0


def test_a_walk_is_seen_whatever_stands_behind_the_ids() -> None:
    visit = Visit()
    for number in range(500):
        ask(visit, f"/v1/users/{number}/orders", 0.4)
    assert visit.level == ThrottleLevel.BLOCKED


def test_a_list_that_fetches_its_items_is_one_view() -> None:
    """A single-page app: thirty items at once, a list each twenty seconds for an hour."""
    visit = Visit()
    for number in range(180 * 30):
        ask(visit, f"/api/items/{number}", 0.03 if number % 30 else 20.0)
    assert (visit.visitor.score, visit.level) == (0, 0)


def test_a_burst_that_does_not_end_is_none() -> None:
    visit = Visit()
    for number in range(600):
        ask(visit, f"/api/items/{number}", 0.05)
    assert visit.level == ThrottleLevel.BLOCKED


@pytest.mark.parametrize(("items", "level"), [(600, ThrottleLevel.NORMAL), (1600, ThrottleLevel.BLOCKED)])
def test_links_that_come_into_view_are_fetched_ahead_but_not_for_ever(items: int, level: ThrottleLevel) -> None:
    """A page of Next.js fetches the data of each link that a person scrolls past."""
    visit = Visit()
    for number in range(items):
        ask(visit, f"/_next/data/products/{number}.json", 0.4, prefetched=True)
    assert visit.level == level


@pytest.mark.parametrize("batches", [40, 10])
def test_a_walk_in_batches_is_seen_and_hides_no_walk_after_it(batches: int) -> None:
    """Forty at once, then a pause of five seconds, as programs fetch that mean to be gentle; then all the time."""
    visit = Visit()
    for number in range(batches * 40):
        ask(visit, f"/api/items/{number}", 0.04 if number % 40 else 5.0)
    for number in range(500):
        ask(visit, f"/api/more/{number}", 0.4)
    assert visit.level == ThrottleLevel.BLOCKED


@pytest.mark.parametrize(
    ("options", "asked"),
    [({}, 151), ({"signal_thresholds": {"distinct_items_per_minute": 2}}, 11),
     ({"signal_points": {"distinct_items_per_minute": 0}}, None)],
)  # fmt: skip
def test_the_signal_of_items_says_how_many_raise_the_level(options: dict[str, Any], asked: int | None) -> None:
    visit = Visit(policy_of(**options))
    raised = None
    for number in range(280):
        ask(visit, f"/api/items/{number}", 1.0)
        if visit.level and raised is None:
            raised = number + 1
    # Of as many different paths, some share a bit.
    assert raised is asked is None or (raised and asked and asked <= raised <= 1.15 * asked)


def test_a_signal_that_is_switched_off_raises_no_level_either() -> None:
    codes = ("probing", "credential_stuffing", "distributed_stuffing", "odd_method_or_path")
    visit = Visit(policy_of(signal_points=dict.fromkeys(codes, 0)))
    for number in range(10):
        for _ in range(5):
            send(visit, "/login", 401, method="POST", attempt=0)
        for _ in range(20):
            send(visit, "/", 200)
        send(visit, f"/{number}/.env", 404, after=60.0)
    assert visit.level == 0


def test_a_sync_of_sixty_items_every_five_minutes_is_welcome() -> None:
    visit = Visit()
    for number in range(3000):
        ask(visit, f"/api/items/{number}", 0.5 if number % 60 else 270.0)
    assert visit.visitor.score == 0


# Programs
@pytest.mark.parametrize(("agent", "program"), [
    (Agent(browser="Chrome"), Program.NONE), (Agent(), TOOL), (Agent(bot_class="http-library"), TOOL),
    (Agent(bot_class="search-engine", browser="Googlebot"), CRAWLER), (Agent(bot_class="monitoring"), CRAWLER),
])  # fmt: skip
def test_programs_are_told_by_their_names(agent: Agent, program: Program) -> None:
    assert program_of(agent) is program


def program(kind: Program) -> Visit:
    visit = Visit()
    visit.visitor.program = kind
    return visit


@pytest.mark.parametrize("kind", [CRAWLER, TOOL])
def test_a_monitor_of_six_pages_is_not_judged_as_a_person(kind: Program) -> None:
    visit = program(kind)
    for number in range(3000):
        send(visit, f"/{number % 6}", after=5.0)
    assert (visit.visitor.score, visit.level) == (0, 0)


def test_a_crawler_in_order_at_a_steady_pace_is_welcome_and_a_tool_is_not() -> None:
    crawler, tool = program(CRAWLER), program(TOOL)
    for number in range(300):
        send(crawler, f"/page/{number}", after=5.0)
        send(tool, f"/page/{number}", after=5.0)
    assert (crawler.visitor.score, crawler.level) == (0, 0)
    assert (tool.codes, tool.level) == ({"many_pages_by_a_tool"}, ThrottleLevel.BLOCKED)


@pytest.mark.parametrize("kind", [CRAWLER, TOOL])
def test_a_program_in_a_hurry_or_with_a_false_claim_is_slowed_down(kind: Program) -> None:
    hurried, liar = program(kind), program(kind)
    for number in range(250):
        send(hurried, f"/page/{number}", after=0.5)
    send(liar, "/", claims=Claims(false_claim=True))
    assert hurried.level == ThrottleLevel.BLOCKED
    assert "false_crawler_claim" in liar.codes


# Links
@pytest.mark.parametrize(("pages", "found"), [(6, False), (400, True)])
def test_a_screen_that_reloads_its_tabs_in_turn_is_none_of_those_who_follow_no_link(pages: int, found: bool) -> None:
    """A wall screen in an office shows six pages, each from its own tab, reloaded every half minute for three hours."""
    visit = Visit()
    for number in range(360):
        send(visit, f"/boards/{number * 7 % pages}", after=30.0)
    assert ("links_never_followed" in visit.codes, visit.level > 0) == (found, found)


@pytest.mark.parametrize(("gap", "found"), [(70.0, False), (20.0, True)])
def test_who_comes_from_a_search_engine_now_and_then_all_day_is_a_reader(gap: float, found: bool) -> None:
    visit, dice = Visit(), random.Random(1)
    for number in range(100):
        send(visit, f"/questions/{number * 7919 % 10007}", after=gap * dice.uniform(0.3, 1.7))
    assert ("links_never_followed" in visit.codes, visit.visitor.score >= 50) == (found, found)


def test_a_pool_that_follows_no_link_is_seen_however_late_it_came() -> None:
    site, network = experienced(), Visit().network
    for number in range(60):
        visit = Visit(site=site, now=START * 10)
        visit.network, visit.now = network, START * 10 + number
        send(visit, f"/{number * 7919 % 10007}", claims=FORGED._replace(tells_origin=True))
    assert "links_never_followed" in {finding.signal for finding in network.signals}


# Forged headers
def test_forged_headers_mean_nothing_until_true_ones_have_been_seen() -> None:
    visits = [Visit(site=known_site()), Visit(site=experienced())]
    for visit in visits:
        send(visit, "/", claims=FORGED)
    assert [visit.codes for visit in visits] == [set(), {"inconsistent_headers"}]
    assert visits[1].visitor.signals[0].text.endswith("name: no Sec-Fetch-Site, which Chrome 158 sends")


def test_a_proxy_that_strips_headers_makes_no_forgers() -> None:
    site = known_site()
    for number in range(3000):
        visit = Visit(site=site)
        send(visit, "/", claims=TRUE if number % 100 == 0 else FORGED)
        assert visit.visitor.score == 0
    assert (site.witnesses, site.faulty) == (30, 2970)


def test_a_session_witnesses_once_and_its_pages_are_counted_once_whoever_else_is_judged_by_them() -> None:
    site, visit = experienced(), Visit(site=known_site())
    visit.site, before = site, site.loads
    for path in ("/", "/a", "/b", "/c"):
        send(visit, path, claims=FORGED)
    assert (site.faulty, site.loads - before) == (1, 4)


def test_reloads_in_a_rush_witness_nothing_and_take_no_loads_away() -> None:
    site, visit = experienced(), Visit(site=known_site())
    visit.site, before = site, site.loads
    for _ in range(10):
        send(visit, "/", claims=FORGED, after=0.2)
    assert (site.faulty, site.loads - before) == (1, 1)


def rotated(agents: int, networks: int, loads: int, inner: bool = False) -> tuple[Site, Actor, Visit]:
    """Page loads with forged headers, each by a name and from a network of the given numbers at random."""
    site, rng, last = experienced(), random.Random(4), Visit()
    visits = {(a, n): Visit(site=site) for a in range(agents) for n in range(networks)}
    pools = [Visit().network for _ in range(networks)]
    for number in range(loads):
        key = rng.randrange(agents), rng.randrange(networks)
        last = visits[key]
        last.network, last.now = pools[key[1]], START + 1.5 * number
        claims = FORGED._replace(agent=key[0], network=key[1])
        send(last, f"/page/{rng.randrange(5000)}", claims=claims, after=0.0, inner=inner)
    return site, pools[0], last


def test_names_that_change_in_one_network_are_judged_as_one() -> None:
    _, network, last = rotated(agents=60, networks=1, loads=150)
    assert {"inconsistent_headers", "agent_rotation"} <= {finding.signal for finding in network.signals}
    assert last.level == ThrottleLevel.BLOCKED


def test_networks_that_change_under_one_name_are_judged_as_one() -> None:
    site, _, last = rotated(agents=1, networks=60, loads=150)
    (pool,) = site.pools.values()
    assert "residential_proxy_rotation" in {finding.signal for finding in pool.signals}
    assert last.level == ThrottleLevel.BLOCKED


def test_somebody_new_with_forged_headers_begins_at_the_level_of_the_others_and_a_true_browser_does_not() -> None:
    site, network, _ = rotated(agents=60, networks=1, loads=150)
    policy, now = policy_of(), START + 230.0
    forger, person = new_actor(2), new_actor(2)
    start_like_pool(forger, network, FORGED._replace(agent=999), site, policy, now)
    start_like_pool(person, network, TRUE, site, policy, now)
    assert (forger.throttle.level, person.throttle.level) == (ThrottleLevel.BLOCKED, ThrottleLevel.NORMAL)
    start_like_pool(forger := new_actor(2), network, FORGED, site, policy, now + 10 * 600.0)
    assert forger.throttle.level == ThrottleLevel.NORMAL


def test_one_of_many_networks_is_kept_down_with_the_others_as_its_own_level_cools_down() -> None:
    """What the others did meanwhile counts for it, too, and not only once it has been let in again."""
    site, policy, name = experienced(), policy_of(), FORGED._replace(agent=7)
    visits = [Visit(policy, site, START) for _ in range(60)]
    for turn in range(1000):
        visit = visits[turn % 30]
        visit.now = START + 1.5 * turn
        send(visit, f"/page/{turn}", claims=name._replace(network=turn % 30), after=0.0)
    early, now = visits[0].visitor, START + 3600.0
    assert early.throttle.level == ThrottleLevel.BLOCKED
    for turn in range(200):
        visit = visits[30 + turn % 30]
        visit.now = now + turn
        send(visit, f"/page/{turn}", claims=name._replace(network=30 + turn % 30), after=0.0)
    decision = admit(early, visits[0].network, policy, now + 201.0)
    assert (decision.refused, decision.level) == (True, ThrottleLevel.BLOCKED)


def test_an_office_whose_proxy_strips_headers_browses_and_is_no_rotation() -> None:
    _, network, last = rotated(agents=20, networks=1, loads=150, inner=True)
    assert "agent_rotation" not in {finding.signal for finding in network.signals}
    assert last.visitor.score < 50


def test_a_rise_that_a_pool_caused_is_told_once_and_reproduced() -> None:
    """Eighty names from one network, each asking for what does not exist: two pools and the visitor see the same."""
    site, policy, rises = experienced(), policy_of(), []
    network = Visit(policy, site).network
    for number in range(80):
        visit = Visit(policy, site, START + number)
        visit.network = network
        claims = FORGED._replace(agent=number % 40)
        start_like_pool(visit.visitor, network, claims, site, policy, visit.now)
        decision = send(visit, f"/{number}/.env", 404, claims)
        if decision.previous_level is not None:
            rises.append(decision)
    assert rises
    for decision in rises:
        assert len(set(decision.reasons)) == len(decision.reasons)
        stored = explain.detail(decision, decision.findings, decision.inputs, "policy")
        told = explain.reproduce(json.loads(json.dumps(stored)))
        assert told == explain.Verdict(False, int(decision.level), decision.score, ())


def test_a_rise_to_the_level_that_a_pool_had_reached_is_reproduced() -> None:
    """The others of the network were blocked while this one was silent, and what it asks for next is enough itself."""
    site, policy = experienced(), policy_of()
    visit = Visit(policy, site, START)
    for number in range(3):
        send(visit, f"/{number}/.env", 404, FORGED)
    visit.network.throttle = Throttle(ThrottleLevel.BLOCKED, visit.now, ("what others did",), spent_score=1000)
    decision = send(visit, "/3/.env", 404, FORGED)
    assert (decision.previous_level, decision.level) == (ThrottleLevel.WARNING, ThrottleLevel.BLOCKED)
    assert "what others did" in decision.reasons
    stored = explain.detail(decision, decision.findings, decision.inputs, "policy")
    assert explain.reproduce(stored) == explain.Verdict(False, 3, decision.score, ())


# Bounds
def test_pools_routes_and_traces_stay_few_and_small() -> None:
    site, visitor = Site(), Actor([], behaviour=Behaviour())
    for number in range(2 * MAX_POOLS):
        pool_of(site, FORGED._replace(agent=number))
        count_failure(visitor, Failure(404, "POST", f"/{number}/.env", False, number), site, START)
        count_data(visitor, f"/api/{number}", Site(), START)
    traces = visitor.behaviour.traces
    assert traces is not None
    assert (len(site.pools), len(site.routes)) == (MAX_POOLS, MAX_ROUTES)
    assert max(traces.probes_bitmap, traces.items_bitmap) < 1 << 1024


def test_routes_that_are_made_up_meanwhile_have_no_attack_forgotten() -> None:
    site, others = experienced(), Visit()
    others.site = site
    for _ in range(8):
        found = attack(site, 5)
        for number in range(MAX_ROUTES):
            send(others, f"/login/{number}", 404, method="POST", attempt=0, after=0.01)
    assert {"distributed_stuffing"} == found[-1].codes


def test_an_attack_is_over_when_nobody_tries_any_more() -> None:
    site = known_site()
    attack(site, 40)
    (route,) = site.routes.values()
    assert isinstance(route, Route)
    assert (route.is_attacked(START), route.is_attacked(START + 1500.0)) == (True, False)


def test_a_signal_of_the_sites_own_that_fails_costs_its_value_only() -> None:
    failures: list[str] = []

    def broken(visitor: Actor, site: Site, pages: int, now: float) -> float | None:
        raise ZeroDivisionError

    own = Signal("own", broken, "{value:g}", points=60, threshold=1)
    settings = Settings.build(limits="100/second", network_limits="1000/second", signals=[own])
    visit = Visit(Policy.of(settings, lambda where, error: failures.append(f"{where}: {type(error).__name__}")))
    for number in range(40):
        visit.load(f"/{number:03}", after=0.5)
    assert failures[0] == "signal own: ZeroDivisionError"
    assert "sequential_navigation" in visit.codes


def test_a_signal_of_the_sites_own_counts() -> None:
    own = Signal(
        "own", lambda visitor, site, pages, now: visitor.behaviour.page_loads, "{value:g}", points=60, threshold=1
    )
    visit = Visit(policy_of(signals=[own]))
    for number in range(2):
        send(visit, f"/{number}")
    assert (visit.codes, visit.level) == ({"own"}, ThrottleLevel.WARNING)
