from __future__ import annotations

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.decide import behaviour
from asgi_analytics.decide.behaviour import MAX_PEOPLE, count_error, load_page, load_variant, page_facts, with_order
from asgi_analytics.decide.site import Site
from asgi_analytics.facts import Behaviour
from asgi_analytics.inputs import MAX_PATH
from asgi_analytics.model import Variant
from asgi_analytics.variants import Variants

ANY_TEXT = st.text(st.characters(), max_size=600)  # lone surrogates and NUL included


def walked(*times: float, pages: int = 6) -> Behaviour:
    facts = Behaviour()
    for place, now in enumerate(times):
        load_page(facts, f"/{place % pages}", False, Site(), now)
    return facts


def test_a_reload_changes_nothing() -> None:
    facts, once, site = Behaviour(), Behaviour(), Site()
    load_page(once, "/a", False, Site(), 1000.0)
    assert load_page(facts, "/a", False, site, 1000.0)
    for second in range(5):
        assert not load_page(facts, "/a", True, site, 1001.0 + second)
    once.last_answer_at = facts.last_answer_at
    assert (facts, site.loads) == (once, 1)


def test_reloads_in_a_rush_count_for_the_pace_only() -> None:
    facts, once, site = Behaviour(), Behaviour(), Site()
    load_page(once, "/a", False, Site(), 1000.0)
    for n in range(MAX_PEOPLE + 6):
        load_page(facts, "/a", False, site, 1000.0 + n / 10)
    assert (facts.paced_loads, facts.minute.count) == (6, 6)
    facts.paced_loads, facts.minute, facts.last_answer_at = once.paced_loads, once.minute, once.last_answer_at
    facts.entries, facts.returns = once.entries, once.returns
    for name in ("crowd", "crowd_at", "crowded", "crowded_until"):
        setattr(facts, name, getattr(once, name))
    assert (facts, site.loads) == (once, 1)


def test_coming_back_to_one_of_the_last_four_pages_is_a_step_but_no_page_load() -> None:
    facts = walked(0.0, 10.0, 30.0, pages=2)
    assert (facts.page_loads, facts.distinct_pages, facts.steps) == (2, 2, 2)


def test_coming_back_to_a_page_of_long_ago_is_a_page_load_but_no_further_page() -> None:
    facts = walked(0.0, 10.0, 30.0, 60.0, 70.0, 80.0, pages=5)
    assert (facts.page_loads, facts.distinct_pages, facts.steps) == (6, 5, 5)


def test_two_tabs_that_refresh_themselves_stay_silent() -> None:
    facts = walked(*(10.0 * n for n in range(400)), pages=2)
    assert (facts.page_loads, facts.paced_loads, facts.gaps) == (2, 2, 1)
    assert facts.ascending <= facts.steps * 0.51


@pytest.mark.parametrize(
    "paths",
    [
        ["/", "/a", "/b"],
        ["/page/1", "/page/2", "/page/9", "/page/10", "/page/11", "/page/100"],
        ["/2024/9/30", "/2024/10/1", "/2024/10/2"],
        ["/page/9", "/page/09a", "/page/10"],
        ["/v1", "/v" + "9" * 100, "/v1" + "0" * 100],
        ["/page/7", "/page/a"],
    ],
)
def test_paths_sort_as_people_number_them(paths: list[str]) -> None:
    assert all(page_facts(before).key < page_facts(after).key for before, after in pairwise(paths))


@given(ANY_TEXT, ANY_TEXT)
def test_any_path_counts_and_takes_bounded_room(first: str, second: str) -> None:
    facts, site = Behaviour(), Site()
    for path in (first, second, first * 50):
        load_page(facts, path, False, site, 5.0)
        count_error(facts, path)
    assert len(facts.last_page) <= 2 * MAX_PATH
    assert facts.pages_bitmap < 1 << behaviour.PAGE_BITS
    assert facts.errors_bitmap < 1 << behaviour.ERROR_BITS


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=behaviour.GAP_MEMORY))
def test_the_first_gaps_have_the_exact_mean_and_variance(gaps: list[float]) -> None:
    times = [1000.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    facts = walked(*times)
    exact = [after - before for before, after in pairwise(times)]
    assert facts.gap_mean == pytest.approx(statistics.fmean(exact), rel=1e-6)
    assert facts.gap_variance == pytest.approx(statistics.pvariance(exact), rel=1e-4, abs=1e-6)


def test_later_gaps_follow_what_the_visitor_does_now() -> None:
    times = [0.0, 300.0, 310.0, 500.0, 505.0, 900.0]
    facts = walked(*times, *(900.0 + 2.0 * n for n in range(1, 120)))
    assert facts.gap_mean == pytest.approx(2.0, rel=0.01)
    assert facts.gap_variance**0.5 / facts.gap_mean < 0.1


def test_a_url_that_keeps_failing_is_one_error() -> None:
    facts = Behaviour()
    assert [count_error(facts, "/api/me") for _ in range(3)] == [True, False, False]
    assert facts.errors == 1


def test_a_long_scan_stays_visible_and_a_polled_url_stays_few_errors() -> None:
    facts = Behaviour()
    new = sum(count_error(facts, f"/probe/{n}") for n in range(5000))
    assert new > 0.8 * 5000
    before = facts.errors
    for _ in range(5000):
        count_error(facts, "/api/me")
    assert facts.errors <= before + 1


@pytest.mark.parametrize(
    ("entries", "inner", "people"),
    [(0, 0, 1), (1, 0, 1), (80, 0, 1), (0, 80, 1), (1, 30, 1), (5, 95, 5), (9, 4, 4), (500, 500, 50)],
)
def test_people_are_as_many_as_entries_that_browse_on(entries: int, inner: int, people: int) -> None:
    """They find the same six pages, one after the other."""
    facts = Behaviour()
    for place in range(entries + inner):
        load_page(facts, f"/{place % 6}", place >= entries, Site(), float(place))
    assert facts.people == people


def test_forged_ways_in_make_no_people_of_a_walk_over_a_site() -> None:
    facts = Behaviour()
    for place in range(150):
        load_page(facts, f"/articles/{place * 7919}", place % 2 == 0, Site(), float(place))
    assert facts.people <= 2


@pytest.mark.parametrize("pages", [10, 60, 300, 1200, 3000])
def test_distinct_pages_are_told_far_beyond_the_bits_of_the_map(pages: int) -> None:
    facts = Behaviour()
    for n in range(pages):
        load_page(facts, f"/articles/{n * 7919}-title", False, Site(), float(n))
    assert behaviour.DISTINCT_PAGES[facts.distinct_pages] == pytest.approx(pages, rel=0.12)


def test_a_site_learns_a_bounded_number_of_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "MAX_SITE_PAGES", 100)
    facts, site = Behaviour(), Site()
    for n in range(300):
        load_page(facts, f"/{n}", False, site, float(n))
    assert (len(site.pages), site.loads) == (100, 300)


@pytest.mark.parametrize(("pages", "loads", "own", "size"), [(19, 1000, 1, 0), (20, 1000, 1, 20), (60, 120, 60, 0)])
def test_a_site_has_a_size_once_others_made_it_known(pages: int, loads: int, own: int, size: int) -> None:
    assert Site(set(range(pages)), loads).size(own) == size


VARIANTS = Variants(b"k")


def variant(name: object, path: str = "/item") -> Variant:
    found = VARIANTS.page(path, f"id={name}", inner=True)
    assert found is not None
    return found


def seen(facts: Behaviour, *names: object, inner: bool = False, gap: float = 10.0) -> list[bool]:
    """Load these variants of one path."""
    start = facts.last_answer_at + gap
    return [
        load_variant(facts, with_order(variant(name), facts), inner, Site(), start + gap * place)
        for place, name in enumerate(names)
    ]


def test_pages_that_their_queries_tell_apart_count_as_pages_do() -> None:
    by_query, by_path = Behaviour(), Behaviour()
    names = [7919 * n % 200 for n in range(100)]
    seen(by_query, *names)
    for place, name in enumerate(names):
        load_page(by_path, f"/item/{name}", False, Site(), 10.0 + 10.0 * place)
    assert (by_query.steps, by_query.entries, by_query.variants) == (
        by_path.steps,
        by_path.entries,
        by_query.page_loads,
    )
    # A few of so many are taken for others: their bits are the same.
    assert by_query.page_loads == pytest.approx(by_path.page_loads, rel=0.1)
    assert behaviour.DISTINCT_PAGES[by_query.distinct_pages] == pytest.approx(100, rel=0.1)


def test_coming_back_to_a_page_told_by_its_query_is_a_step_but_no_page_load() -> None:
    facts = Behaviour()
    assert seen(facts, *range(8), inner=True) == [True] * 8
    assert seen(facts, 0, 5, 0, 0, inner=True) == [False] * 4
    assert (facts.page_loads, facts.distinct_pages, facts.steps) == (8, 8, 10)


def test_a_display_that_goes_round_leads_on_no_more_than_once() -> None:
    facts = Behaviour()
    seen(facts, *list(range(20)) * 30, gap=30.0)
    assert (facts.page_loads, facts.distinct_pages, facts.ascending, facts.people) == (20, 20, 19, 1)
    assert facts.steps == 20 * 30 - 1


def test_a_walk_by_number_leads_on_and_a_shuffled_one_does_not() -> None:
    walk, shuffled = Behaviour(), Behaviour()
    seen(walk, *range(1, 101))
    seen(shuffled, *(7919 * n % 200 for n in range(100)))
    assert walk.ascending > 0.9 * walk.steps
    assert shuffled.ascending < 0.7 * shuffled.steps


def test_a_long_walk_by_query_stays_visible() -> None:
    facts = Behaviour()
    loads = seen(facts, *range(3000))
    assert sum(loads) > 2900
    assert facts.page_loads == sum(loads)


def test_reloads_in_a_rush_of_a_page_told_by_its_query_count_for_the_pace() -> None:
    facts = Behaviour()
    seen(facts, *[1] * (MAX_PEOPLE + 6), gap=0.5)
    assert (facts.page_loads, facts.paced_loads, facts.minute.count) == (1, 6, 6)


@pytest.mark.parametrize("people", [1, 5, 20])
def test_people_who_look_alike_load_as_much_each_by_queries_as_by_paths(people: int) -> None:
    """They come in turns, and most of them look at the popular things."""
    by_query, by_path, dice = Behaviour(), Behaviour(), random.Random(people)
    for place in range(40 * people):
        name, linked = min(300, int(dice.expovariate(1 / 40))), place % 10 > 2
        load_page(by_path, f"/item/{name}", linked, Site(), float(place))
        load_variant(by_query, with_order(variant(name), by_query), linked, Site(), float(place))
    assert by_query.page_loads / by_query.people <= 1.2 * by_path.page_loads / by_path.people
    assert by_query.people > people / 2
