from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_analytics.decide import actor
from asgi_analytics.decide.actor import adopt_level, begin_session, count_session, new_actor
from asgi_analytics.decide.admission import admit, admit_strictly
from asgi_analytics.decide.site import Site
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.model import Decision
from asgi_analytics.protocols import StrictAnswer

from .levels import BLOCKED, NORMAL, SEVERE, WARNING, blocked, crawl
from .visits import START, Answer, Visit, known_site, policy_of


# --- people ---
def test_five_reloads_in_a_minute_raise_nothing() -> None:
    visit = Visit()
    for _ in range(6):
        visit.load("/prices", after=12.0)
    assert (visit.visitor.score, visit.level, visit.visitor.behaviour.page_loads) == (0, NORMAL, 1)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, True, "/status", False),
        Answer(200, False, "/api/status", True),
        Answer(401, False, "/api/me", True),
        Answer(404, False, "/api/me", False),
        Answer(429, False, "/api/me", False),
        Answer(503, False, "/api/me", False),
    ],
)
def test_a_tab_that_polls_for_an_hour_stays_at_zero(answer: Answer) -> None:
    visit = Visit()
    decisions = [visit.request(answer, after=2.0) for _ in range(1800)]
    assert (visit.visitor.score, visit.level) == (0, NORMAL)
    assert not any(decision.refused for decision in decisions)


def test_a_page_that_refreshes_itself_every_second_stays_at_zero() -> None:
    visit = Visit()
    for _ in range(3600):
        visit.load("/ticker", after=1.0)
    assert (visit.visitor.score, visit.level) == (0, NORMAL)


def test_a_reader_of_eighty_pages_in_a_quarter_of_an_hour_is_not_flagged() -> None:
    for seed in range(10):
        visit, rng = Visit(), random.Random(seed)
        visit.load("/", referer="outer")
        for _ in range(80):
            visit.load(f"/article/{rng.randrange(400)}", after=rng.expovariate(80 / 900), referer="inner")
        assert visit.visitor.score < 50
        assert visit.level == NORMAL


def test_eight_tabs_opened_at_once_raise_nothing() -> None:
    visit, rng = Visit(), random.Random(8)
    visit.load("/", referer="outer")
    visit.now += 40
    for article in rng.sample(range(300), 8):
        visit.load(f"/article/{article}", after=rng.uniform(0.005, 0.4), referer="inner")
    assert (visit.visitor.score, visit.level) == (0, NORMAL)


@pytest.mark.parametrize("seed", range(5))
def test_an_office_of_alike_browsers_behind_one_address_is_left_alone(seed: int) -> None:
    """200 people, 40 fingerprints, 20 pages each within half an hour, 15 files a page, a site of 60 pages."""
    visits = [Visit(site=Site()) for _ in range(40)]
    for visit in visits:
        visit.network, visit.site = visits[0].network, visits[0].site
    for now, person, path, referer in _office(random.Random(seed), people=200):
        visit = visits[person % 40]
        visit.now = now
        assert not visit.load(path, referer=referer).refused
        assert not any(visit.call(f"/static/{n}").refused for n in range(15))
    assert max(visit.visitor.score for visit in visits) < 50
    assert {visit.level for visit in visits} == {NORMAL}


def _office(rng: random.Random, people: int) -> Iterator[tuple[float, int, str, str]]:
    pages = [f"/wiki/{name}" for name in range(60)]
    weights = [1 / rank for rank in range(1, 61)]
    ways = [_way(rng, person, pages, weights) for person in range(people)]
    return iter(heapq.merge(*ways))


def _way(
    rng: random.Random, person: int, pages: list[str], weights: list[float]
) -> Iterator[tuple[float, int, str, str]]:
    now = START + rng.uniform(0, 300)
    for place, path in enumerate(rng.choices(pages, weights, k=20)):
        yield now, person, path, "inner" if place else "outer"
        now += rng.lognormvariate(4.0, 0.8)


# --- scrapers ---
def test_a_fast_scraper_is_blocked_level_by_level_on_new_evidence() -> None:
    visit = Visit()
    changes = [(n, d) for n, d in enumerate(crawl(visit, 300)) if d.previous_level is not None]
    assert [(decision.previous_level, decision.level) for _, decision in changes] == [
        (NORMAL, WARNING),
        (WARNING, SEVERE),
        (SEVERE, BLOCKED),
    ]
    assert changes[-1][0] < 150
    assert all(decision.reasons for _, decision in changes)


def test_a_scraper_of_random_gaps_and_order_is_blocked_too() -> None:
    visit, rng = Visit(), random.Random(4)
    for _ in range(300):
        visit.load(f"/article/{rng.randrange(5000)}", after=rng.expovariate(1.0))
    assert visit.level == BLOCKED


def test_a_loop_over_one_page_is_blocked_for_its_pace_alone() -> None:
    visit = Visit()
    decisions = [visit.load("/", after=0.05) for _ in range(150)]
    assert [d.level for d in decisions if d.previous_level is not None] == [WARNING, SEVERE, BLOCKED]
    assert visit.visitor.score == 0


def test_a_scanner_of_missing_paths_is_blocked() -> None:
    visit = Visit()
    levels = [visit.fail(f"/probe/{n}.php", after=0.2).level for n in range(80)]
    assert levels[19:21] == [NORMAL, WARNING]
    assert visit.level == BLOCKED


@pytest.mark.parametrize("status", [200, 304, 429, 500, 503, 999])
def test_other_answers_than_4xx_are_no_errors_and_429_is_none(status: int) -> None:
    visit = Visit()
    for n in range(100):
        visit.fail(f"/api/{n}", status, after=0.2)
    assert (visit.visitor.behaviour.errors, visit.visitor.behaviour.requests, visit.level) == (0, 100, NORMAL)


def test_the_request_that_crosses_the_line_is_charged_at_the_new_level() -> None:
    visit = Visit()
    before, *_, crossing = _until_change(visit)
    assert before.level == NORMAL
    assert (crossing.level, crossing.previous_level, crossing.refused) == (WARNING, NORMAL, False)
    assert [limit for limit, left in zip((50, 750), crossing.remaining, strict=True) if 0 < left < limit] == [50, 750]
    assert crossing.score == visit.visitor.score >= 50


def _until_change(visit: Visit) -> list[Decision]:
    decisions: list[Decision] = []
    while not decisions or decisions[-1].previous_level is None:
        decisions += crawl(visit, 1, first=len(decisions))
    return decisions


def test_the_request_that_blocks_shows_nothing_left_until_the_cool_down() -> None:
    visit = Visit()
    (last,) = (decision for decision in crawl(visit, 150) if decision.previous_level == SEVERE)
    assert (last.refused, last.remaining, last.reset) == (False, (0, 0), (601, 601))


def test_three_more_page_views_do_not_escalate_again() -> None:
    visit, rng = Visit(), random.Random(6)
    while visit.level == NORMAL:
        visit.load(f"/article/{rng.randrange(5000)}", after=rng.expovariate(1 / 8))
    for _ in range(3):
        visit.load(f"/article/{rng.randrange(5000)}", after=rng.expovariate(1 / 8))
    assert visit.level == WARNING


def test_the_slack_that_forged_referers_buy_ends() -> None:
    visit, rng = Visit(), random.Random(7)
    for n in range(6000):
        visit.load(f"/article/{rng.randrange(50_000)}", after=1.0, referer="inner" if n % 2 else "outer")
    assert "high_request_count" in visit.codes


# --- levels over time ---
def test_a_blocked_visitor_is_refused_until_the_rest_of_the_cool_down() -> None:
    visit = blocked()
    refusal = visit.call(after=100.0)
    assert (refusal.refused, refusal.violated, refusal.remaining) == (True, ("throttle",), (0, 0))
    assert refusal.reasons == visit.visitor.throttle.reasons != ()
    visit.now += refusal.retry_after
    back = visit.call()
    assert (back.refused, back.level, back.previous_level) == (False, SEVERE, BLOCKED)


def test_a_level_cools_down_step_by_step_and_says_so() -> None:
    visit = blocked()
    visit.now = visit.visitor.throttle.changed_at
    changes = [visit.call(after=600.0) for _ in range(4)]
    assert [(one.previous_level, one.level) for one in changes[:3]] == [
        (BLOCKED, SEVERE),
        (SEVERE, WARNING),
        (WARNING, NORMAL),
    ]
    assert changes[0].reasons == ("cooled down from blocked to severe, a level every 600 seconds",)
    assert (changes[3].previous_level, changes[3].reasons) == (None, ())


def test_several_cool_downs_pass_at_once() -> None:
    visit = blocked()
    decision = visit.call(after=1250.0)
    assert (decision.previous_level, decision.level) == (BLOCKED, WARNING)


def test_who_waits_as_told_passes_once_the_level_has_cooled_down() -> None:
    """A quota of an hour, a quarter of it in force: the level falls long before the hour is over."""
    visit = Visit(policy_of(limits="100/hour", network_limits="1000/hour"))
    visit.visitor.throttle.level, visit.visitor.throttle.changed_at = ThrottleLevel.SEVERE, visit.now
    refusal = next(decision for decision in (visit.call(after=0.1) for _ in range(100)) if decision.refused)
    assert 0.0 < refusal.retry_after <= 600
    assert max(refusal.reset) == refusal.retry_after
    visit.now += refusal.retry_after
    assert not visit.call().refused


def test_after_cooling_down_only_new_evidence_escalates() -> None:
    visit = blocked()
    visit.now += 600.0
    calm = [visit.load(f"/other/{n % 2}", after=40.0) for n in range(10)]
    assert {decision.level for decision in calm} == {SEVERE}
    again = crawl(visit, 60, first=1000)
    assert again[-1].level == BLOCKED


def test_refusals_never_feed_the_evidence() -> None:
    visit = blocked()
    facts = repr(visit.visitor.behaviour)
    crawl(visit, 400)
    for n in range(100):
        visit.fail(f"/probe/{n}", after=0.1)
    assert repr(visit.visitor.behaviour) == facts
    visit.now = visit.visitor.throttle.changed_at + 600.0
    assert visit.call().level == SEVERE


def test_in_observe_mode_a_would_be_refusal_teaches_nothing_either() -> None:
    visit = Visit(policy_of(mode="observe", limits="1/minute"))
    visit.call()
    decision = admit(visit.visitor, visit.network, visit.policy, visit.now)
    visit.judged(Answer(200, True, "/", False), decision)
    assert decision.refused
    assert visit.visitor.behaviour.page_loads == 0


def test_cooling_down_and_escalating_in_one_request_keeps_the_level_before() -> None:
    visit = Visit()
    crawl(visit, 33)
    visit.visitor.throttle.level, visit.visitor.throttle.changed_at = SEVERE, visit.now - 599.5
    decision = admit(visit.visitor, visit.network, visit.policy, visit.now + 1)
    assert (decision.previous_level, decision.level) == (SEVERE, WARNING)
    visit.visitor.score += 100
    visit.judged(Answer(200, True, "/x", False), decision, visit.now + 1)
    assert (decision.previous_level, decision.level) == (SEVERE, SEVERE)


def test_a_new_session_starts_clean_but_keeps_its_level() -> None:
    visit = blocked()
    begin_session(visit.visitor, visit.now + 2000)
    assert (visit.visitor.score, visit.visitor.signals, visit.level) == (0, (), BLOCKED)
    assert (visit.visitor.throttle.spent_score, visit.visitor.throttle.spent_page_loads) == (0, 0)
    visit.now += 1200.0
    assert visit.call().level == WARNING
    assert crawl(visit, 40)[-1].level > WARNING


def test_the_sixth_session_within_an_hour_is_a_signal() -> None:
    visit = Visit(now=100_800.0)
    for _ in range(5):
        visit.now += 300.0
        assert "multiple_fingerprint_sessions" not in visit.codes
        begin_session(visit.visitor, visit.now)
        visit.load("/", referer="outer")
    assert visit.codes == {"multiple_fingerprint_sessions"}


def test_shared_facts_outlive_a_session_but_not_half_an_hour_of_silence() -> None:
    visit = Visit()
    crawl(visit, 20)
    count_session(visit.visitor, visit.now + 60)
    assert visit.visitor.behaviour.page_loads == 20
    count_session(visit.visitor, visit.now + actor.IDLE + 1)
    assert (visit.visitor.behaviour.page_loads, visit.visitor.score) == (0, 0)


def test_sessions_of_those_judged_together_are_looked_at_with_the_next_page() -> None:
    visit = Visit(now=100_800.0)
    visit.load("/", referer="outer")
    for _ in range(5):
        count_session(visit.visitor, visit.now)
    visit.load("/prices", after=20.0, referer="inner")
    assert visit.codes == {"multiple_fingerprint_sessions"}


def test_a_level_adopted_meanwhile_shows_in_the_answer() -> None:
    visit = Visit()
    decision = admit(visit.visitor, visit.network, visit.policy, START)
    adopt_level(visit.visitor, WARNING, START)
    visit.judged(Answer(200, True, "/", False), decision, START)
    assert (decision.level, decision.previous_level, decision.remaining) == (WARNING, None, (49, 749))


@pytest.mark.parametrize(("left", "shown"), [(900, 150), (800, 50), (749, 0), (10, 0)])
def test_of_a_level_adopted_meanwhile_as_much_is_left_as_others_have_left(left: int, shown: int) -> None:
    """In strict mode the server counts; this worker has counted one request."""
    visit = Visit(policy_of(limits="1500/minute"))
    decision = admit_strictly(visit.visitor, visit.network, visit.policy, StrictAnswer(True, [left + 1], [0.0]), START)
    adopt_level(visit.visitor, WARNING, START)
    visit.judged(Answer(200, True, "/", False), decision, START)
    assert decision.remaining == (shown,)


def test_a_visitor_nobody_knows_was_never_changed() -> None:
    assert new_actor(2).throttle.changed_at == -inf


ANSWERS = st.builds(
    Answer,
    st.sampled_from([200, 200, 200, 304, 404, 401, 429, 500, 999]),
    st.booleans(),
    st.one_of(st.integers(0, 300).map("/page/{}".format), st.text(st.characters(), max_size=20)),
    st.booleans(),
)
STRETCHES = st.tuples(ANSWERS, st.floats(0, 2), st.integers(1, 25), st.sampled_from([0.0, 0.0, 700.0, -50.0]))


@settings(deadline=None, max_examples=60)
@given(st.lists(STRETCHES, max_size=25))
def test_a_verdict_moves_one_level_at_most_and_leaves_no_negative_units(
    stretches: list[tuple[Answer, float, int, float]],
) -> None:
    visit = Visit(policy_of(limits=["3/second", "60/minute"]), known_site(30))
    for answer, gap, repeats, pause in stretches:
        visit.now += pause
        for n in range(repeats):
            visit.now += gap
            decision = admit(visit.visitor, visit.network, visit.policy, visit.now)
            assert decision.refused == bool(decision.retry_after) == bool(decision.violated)
            before, spent = visit.level, repr(visit.visitor.behaviour)
            varied = answer._replace(path=f"{answer.path}{n}")
            visit.judged(varied, decision)
            assert visit.level - before in (0, 1)
            assert min(decision.remaining) >= 0
            assert min(decision.reset) >= 1
            assert not decision.refused or repr(visit.visitor.behaviour) == spent


def test_a_page_with_missing_files_is_not_its_readers_fault() -> None:
    visit = Visit(policy_of())
    for number in range(60):
        decision = visit.request(Answer(404, False, f"/assets/{number}.js", True))
        assert decision.level == ThrottleLevel.NORMAL
