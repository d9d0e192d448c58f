from __future__ import annotations

import random
import re
from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics import decide
from asgi_analytics.decide import signals
from asgi_analytics.decide.actor import begin_session, new_actor
from asgi_analytics.decide.signal import Signal
from asgi_analytics.decide.site import Site
from asgi_analytics.facts import Actor, Behaviour, Program, Window
from asgi_analytics.settings import SIGNAL_POINTS, SIGNAL_THRESHOLDS

from .visits import START, Visit, known_site, policy_of

RULES = signals.rules(SIGNAL_POINTS, SIGNAL_THRESHOLDS)
END = 100_200.0  # a window of one minute, five minutes ends here; one of an hour at 100_800


def raised(site_pages: int = 0, site: Site | None = None, **facts: Any) -> set[str]:
    """The codes raised by a visitor of these facts at START; `outdated` and `hour` are the actor's."""
    actor = {name: facts.pop(name) for name in ("outdated", "hour") if name in facts}
    facts.setdefault("page_loads", 50)  # enough for every rule to be looked at
    visitor = Actor([], behaviour=Behaviour(**facts), **actor)
    signals.evaluate(visitor, RULES, site or Site(), site_pages, START)
    return {finding.signal for finding in visitor.signals}


def test_the_signal_of_ones_own_that_the_help_shows_is_raised_below_its_threshold() -> None:
    shown = re.search(r"\n    from asgi_analytics.*?limit.*?threshold=10\)\n", decide.__doc__ or "", re.DOTALL)
    assert shown is not None
    found: dict[str, Any] = {}
    exec(dedent(shown.group()), found)
    row: Signal = found["row"]
    visitor = Actor([], behaviour=Behaviour(page_loads=40, inner_steps=2))
    assert row.measure(visitor, Site(), 0, START) == 5.0
    assert (row.below, row.points, row.threshold) == (True, 20, 10)


@pytest.mark.parametrize(
    ("code", "edge", "beyond"),
    [
        ("high_request_count", {"page_loads": 50}, {"page_loads": 51}),
        ("high_request_count", {"page_loads": 100, "people": 2}, {"page_loads": 101, "people": 2}),
        ("high_page_coverage", {"distinct_pages": 60, "site_pages": 104}, {"distinct_pages": 60, "site_pages": 102}),
        ("sequential_navigation", {"steps": 20, "ascending": 16}, {"steps": 20, "ascending": 17}),
        ("sequential_navigation", {"steps": 11, "ascending": 11}, {"steps": 12, "ascending": 12}),
        ("multiple_fingerprint_sessions", {"hour": Window(100_800.0, 5)}, {"hour": Window(100_800.0, 6)}),
        (
            "regular_timing",
            {"gaps": 9, "gap_mean": 10.0, "gap_variance": 1.0},
            {"gaps": 9, "gap_mean": 10.0, "gap_variance": 0.99},
        ),
        ("regular_timing", {"gaps": 4, "gap_mean": 10.0}, {"gaps": 5, "gap_mean": 10.0}),
        ("regular_timing", {"gaps": 9, "gap_mean": 0.0}, {"gaps": 9, "gap_mean": 0.001}),
        ("high_pages_per_minute", {"five_minutes": Window(END, 25)}, {"five_minutes": Window(END, 26)}),
        ("outdated_browser", {"outdated": False}, {"outdated": True}),
    ],
)
def test_a_signal_is_raised_beyond_its_edge(code: str, edge: Mapping[str, Any], beyond: Mapping[str, Any]) -> None:
    assert raised(**edge) == set()
    assert raised(**beyond) == {code}


def test_a_size_that_was_set_for_paths_is_no_measure_of_pages_told_by_queries() -> None:
    many: dict[str, Any] = {"page_loads": 40, "distinct_pages": 40, "steps": 39}
    assert raised(site_pages=30, **many) == {"high_page_coverage"}
    assert raised(site_pages=30, variants=40, **many) == set()
    assert raised(site_pages=30, variants=40, site=known_site(5000), **many) == set()
    assert raised(site_pages=30, variants=40, site=known_site(45), **many) == {"high_page_coverage"}


@pytest.mark.parametrize(
    ("more", "watches"),
    [
        ({}, True),
        ({"page_loads": 2}, True),
        ({"page_loads": 3}, False),
        ({"distinct_pages": 2}, False),
        ({"last_page": "/news"}, False),
    ],
)
def test_a_home_tab_loads_the_home_page_and_nothing_else(more: dict[str, Any], watches: bool) -> None:
    facts = Behaviour(**{"page_loads": 1, "distinct_pages": 1, "last_page": "/", **more})
    visitor = Actor([], behaviour=facts, starts=5, start_gap_mean=86_400.0, start_gap_variance=1e9)
    rules = signals.rules({**SIGNAL_POINTS, "home_tab_watcher": 5}, SIGNAL_THRESHOLDS)
    signals.evaluate(visitor, rules, Site(), 0, START)
    assert ({finding.signal for finding in visitor.signals} == {"home_tab_watcher"}) is watches


@pytest.mark.parametrize(
    ("gap", "spread", "starts", "by_the_clock"),
    [
        (3600.0, 0.0, 5, True),
        (3600.0, 0.0, 4, False),
        (3600.0, 0.08, 9, True),
        (3600.0, 0.12, 9, False),
        (1800.0, 0.0, 5, True),
        (1799.0, 0.0, 5, False),
    ],
)
def test_sessions_that_begin_by_the_clock_are_told(gap: float, spread: float, starts: int, by_the_clock: bool) -> None:
    visitor, now = new_actor(2), START
    for number in range(starts):
        begin_session(visitor, now)
        now += gap * (1.0 + (spread if number % 2 else -spread))
    signals.evaluate(visitor, RULES, Site(), 0, now)
    assert ({finding.signal for finding in visitor.signals} == {"periodic_cadence"}) is by_the_clock


def test_coverage_of_a_learned_site_waits_until_others_loaded_more() -> None:
    assert raised(site=known_site(40), distinct_pages=30, page_loads=30) == {"high_page_coverage"}
    assert raised(site=Site(set(range(40)), loads=60), distinct_pages=30, page_loads=30) == set()
    assert raised(site=known_site(19), distinct_pages=19, page_loads=19) == set()


def test_people_who_come_back_to_a_few_pages_all_day_do_not_walk_the_site() -> None:
    """A tool of thirty screens, of which people at work need some more often than others."""
    screens = [f"/{name:x}" for name in range(0, 300, 10)]
    for seed in range(20):
        visit, rng = Visit(site=known_site(30)), random.Random(seed)
        for path in rng.choices(screens, [1 / (place + 1) for place in range(30)], k=300):
            visit.load(path, after=rng.lognormvariate(3.0, 1.0), referer="inner")
        assert "high_page_coverage" not in visit.codes
        assert visit.level == 0


def test_nobody_covers_more_than_the_whole_site() -> None:
    visitor = Actor([], behaviour=Behaviour(page_loads=40, distinct_pages=40))
    signals.evaluate(visitor, RULES, Site(), 10, START)
    assert visitor.signals[0].text == "100.0 % of the site's pages loaded (limit 60 %)"


def test_the_first_visitor_of_a_fresh_process_covers_nothing() -> None:
    visit = Visit(site=Site())
    rng = random.Random(5)
    for n in rng.sample(range(40), 40):
        visit.load(f"/{n}", after=rng.uniform(20, 90), referer="inner")
    assert visit.visitor.score == 0


def test_sessions_of_an_hour_ago_no_longer_count() -> None:
    assert raised(hour=Window(100_800.0, 0, 6)) == set()
    assert raised(hour=Window(START + 3599, 2, 6)) == {"multiple_fingerprint_sessions"}


def test_every_documented_signal_has_a_row() -> None:
    assert {row.code for row in signals.SIGNALS} == set(SIGNAL_POINTS) == set(SIGNAL_THRESHOLDS)


def test_a_signal_of_no_points_is_switched_off() -> None:
    policy = policy_of(signal_points={"outdated_browser": 0})
    assert "outdated_browser" not in {rule.signal.code for rule in policy.rules}
    assert len(policy.rules) == sum(points > 0 for points in SIGNAL_POINTS.values()) - 1


def test_points_and_thresholds_are_settings() -> None:
    visit = Visit(policy_of(signal_points={"high_request_count": 7}, signal_thresholds={"high_request_count": 2}))
    for place, path in enumerate(("/c", "/b", "/a")):
        visit.load(path, after=10.0 * place)
    assert (visit.visitor.score, visit.codes) == (7, {"high_request_count"})


def test_a_raised_signal_stays_until_the_session_ends() -> None:
    visitor = Actor([], behaviour=Behaviour(page_loads=50, five_minutes=Window(END, 26)))
    signals.evaluate(visitor, RULES, Site(), 0, START)
    signals.evaluate(visitor, RULES, Site(), 0, START + 10_000)
    assert (visitor.score, len(visitor.signals)) == (15, 1)


def test_a_finding_tells_a_person_what_was_measured() -> None:
    visitor = Actor([], behaviour=Behaviour(page_loads=54))
    signals.evaluate(visitor, RULES, Site(), 0, START)
    (finding,) = visitor.signals
    assert finding.text == "54 page loads in this session (limit 50)"
    assert (finding.value, finding.threshold, finding.points) == (54, 50, 30)


def test_a_refreshed_finding_tells_the_value_of_today_unless_it_went_back() -> None:
    visitor = Actor([], behaviour=Behaviour(page_loads=51, five_minutes=Window(END, 26)))
    signals.evaluate(visitor, RULES, Site(), 0, START)
    visitor.behaviour.page_loads = 90
    signals.refresh(visitor, RULES, Site(), 0, START + 10_000)
    assert sorted(finding.value for finding in visitor.signals) == [5.2, 90]


def test_what_is_measured_per_person_says_so() -> None:
    visitor = Actor([], behaviour=Behaviour(page_loads=153, people=3))
    signals.evaluate(visitor, RULES, Site(), 0, START)
    assert visitor.signals[0].text == "51 page loads for each of about 3 people in this session (limit 50)"


@pytest.mark.parametrize("links", [4, 11, 30])
def test_home_and_back_between_alphabetical_links_is_no_system(links: int) -> None:
    visit = Visit()
    rng = random.Random(1)
    for n in range(links):
        visit.load("/", after=rng.uniform(5, 60), referer="inner")
        visit.load(f"/{chr(97 + n)}-article", after=rng.uniform(20, 200), referer="inner")
    assert "sequential_navigation" not in visit.codes


def test_home_then_a_few_alphabetical_links_is_no_system() -> None:
    visit = Visit()
    rng = random.Random(2)
    for path in ("/", "/about", "/blog", "/contact", "/docs", "/faq", "/imprint", "/jobs", "/news"):
        visit.load(path, after=rng.uniform(5, 60), referer="inner")
    assert visit.visitor.score == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_random_walk_is_no_system(seed: int) -> None:
    visit, rng = Visit(), random.Random(seed)
    for _ in range(45):
        visit.load(f"/article/{rng.randrange(300)}", after=rng.expovariate(1 / 40), referer="inner")
    assert visit.visitor.score == 0


def test_a_crawl_in_numerical_order_is_a_system() -> None:
    visit, rng = Visit(), random.Random(3)
    for n in range(1, 15):
        visit.load(f"/page/{n}", after=rng.expovariate(1 / 60))
    assert visit.codes == {"sequential_navigation"}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0.05, 0.5, 2.0, 2.1, 10.0, 45.0, 400.0]), st.booleans())),
    st.sampled_from([0, 40, 2000]),
    st.sampled_from([{}, {"regular_timing": 0.4, "high_pages_per_minute": 1.0}, {"sequential_navigation": 100.0}]),
)
def test_no_page_load_is_passed_over_that_would_have_raised_a_signal(
    steps: list[tuple[int, float, bool]], pages: int, thresholds: dict[str, float]
) -> None:
    """`quiet_steps` is a bound: judging every page load in full gives the same, signal by signal."""
    policy = policy_of(signal_thresholds=thresholds)
    sparing, full = (Visit(policy, known_site(pages) if pages else Site()) for _ in range(2))
    for number, gap, inner in steps:
        referer = "inner" if inner else "outer"
        full.visitor.behaviour.quiet_until = -1
        for visit in (sparing, full):
            visit.load(f"/page/{number}", after=gap, referer=referer)
        assert (sparing.codes, sparing.level) == (full.codes, full.level)


@pytest.mark.parametrize("seed", range(12))
def test_a_long_visit_that_comes_to_hurry_is_caught_at_the_same_page_load(seed: int) -> None:
    policy, rng = policy_of(), random.Random(seed)
    sparing, full = Visit(policy, known_site(2000)), Visit(policy, known_site(2000))
    for number in range(200):
        gap, page = rng.expovariate(1 / 20) if number < 100 else rng.expovariate(2), rng.randrange(300)
        full.visitor.behaviour.quiet_until = -1
        for visit in (sparing, full):
            visit.load(f"/page/{page}", after=gap, referer="inner")
        assert (sparing.codes, sparing.level) == (full.codes, full.level)
    assert sparing.level


def test_a_calm_visit_is_judged_by_what_the_last_minute_holds_however_long_it_is() -> None:
    visit, judged = Visit(policy_of(), known_site(2000)), 0
    rng = random.Random(4)
    for _ in range(90):
        before = visit.visitor.behaviour.quiet_until
        visit.load(f"/page/{rng.randrange(60)}", after=rng.expovariate(1 / 40), referer="inner")
        judged += visit.visitor.behaviour.quiet_until != before
    assert judged < 30


@given(
    st.dictionaries(st.sampled_from(sorted(SIGNAL_THRESHOLDS)), st.floats(0.0, 100.0), max_size=4),
    st.sampled_from([0, 1, 20, 2000]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(Program),
)
def test_the_first_page_load_is_judged_by_all_that_it_can_raise(
    thresholds: dict[str, float], pages: int, inner: bool, outdated: bool, program: Program
) -> None:
    """`first_load_rules` leaves out only what a look at all signals would not find either."""
    visit = Visit(policy_of(signal_thresholds=thresholds, site_pages=pages), known_site(pages) if pages else Site())
    visit.visitor.outdated, visit.visitor.program = outdated, program
    visit.load("/", referer="inner" if inner else "outer")
    sparing, policy = visit.codes, visit.policy
    rules, first = (policy.program_rules, policy.program_first) if program else (policy.rules, policy.first)
    signals.evaluate(visit.visitor, rules, visit.site, policy.site_pages, visit.now)
    assert visit.codes == sparing
    assert first.quiet <= signals.quiet_steps(visit.visitor, rules, visit.site, policy.site_pages, visit.now)


def test_whoever_follows_links_to_the_next_page_keeps_no_order_of_its_own() -> None:
    """A reader of a long table, or of a comic: its pages have numbers."""
    visit = Visit()
    for number in range(200):
        visit.load(f"/pages/{number}", after=25.0, referer="inner")
    assert "sequential_navigation" not in visit.codes
