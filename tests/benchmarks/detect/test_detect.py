"""The generator is what it says, and the bars hold on seeds that no threshold was chosen on."""

from __future__ import annotations

import logging
import random
from itertools import pairwise

import pytest

from asgi_analytics.identify.useragent import AgentReader

from . import attackers, browsers, replay
from .columns import NaiveSeven, Ours, UserAgentList
from .mix import FURTHER, QUERIED, USUAL, draw
from .site import Reply, Site
from .tally import Record, Totals
from .traffic import Actor, Kind, Label, Request, merged

HELD_OUT = ("held out 1", "held out 2")
HOURS = 2 * 3_600.0


def traffic(seed: str) -> list[tuple[Actor, Request]]:
    _, actors = draw(seed, 0.03, 1_800.0)
    return list(merged(actors, 1_800.0))


# The generator


def test_the_same_seed_makes_the_same_traffic_and_another_seed_makes_another() -> None:
    first, again, other = ([request for _, request in traffic(seed)] for seed in ("a", "a", "b"))
    assert first == again
    assert len(first) > 1_000
    assert {request.path for request in first} != {request.path for request in other}


def test_the_site_of_a_seed_answers_the_same_again() -> None:
    answers = []
    for _ in range(2):
        site, actors = draw("a", 0.03, 1_800.0)
        answers.append([site.answer(request) for _, request in merged(actors, 1_800.0)])
    assert answers[0] == answers[1]
    assert {200, 204, 301, 304, 401, 404} <= {reply.status for reply in answers[0]}


def test_requests_of_all_actors_come_in_order_of_time() -> None:
    times = [request.at for _, request in traffic("a")]
    assert all(before <= after for before, after in pairwise(times))


def test_every_kind_comes_every_day() -> None:
    _, actors = draw("a", 0.01)
    assert {kind for _, kind, _ in USUAL + QUERIED + FURTHER} <= {actor.kind for actor in actors}
    assert {actor.kind.label for actor in actors} == set(Label)


def test_people_have_names_of_browsers_and_nothing_says_who_is_who() -> None:
    read = AgentReader().read
    for actor, request in traffic("a"):
        headers = dict(request.headers)
        if actor.kind.label is Label.HUMAN:
            agent = read(headers[b"user-agent"].decode())
            assert (agent.bot_class, bool(agent.browser)) == (None, True), headers[b"user-agent"]
        assert actor.kind.name.encode() not in b" ".join(headers.values())


@pytest.mark.parametrize(
    ("build", "first"),
    [
        (
            browsers.BUILDS[0],
            b"host sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform upgrade-insecure-requests user-agent",
        ),
        (browsers.BUILDS[6], b"host user-agent accept accept-language accept-encoding upgrade-insecure-requests"),
        (browsers.BUILDS[9], b"host sec-fetch-dest user-agent accept sec-fetch-site sec-fetch-mode"),
    ],
    ids=["chrome", "firefox", "safari"],
)
def test_a_browser_sends_its_headers_in_its_own_order(build: tuple[str, str, str, int], first: bytes) -> None:
    headers = browsers.draw(random.Random(1), (build,)).page(typed=True)
    assert b" ".join(name for name, _ in headers).startswith(first)


def test_a_login_that_is_tried_with_wrong_passwords_is_answered_401() -> None:
    site = Site.build("a", 60.0)
    site.outages = ()
    requests = [request for request in attackers.stuffing(site, 0.0, random.Random(1)) if not request.valid]
    assert len(requests) > 200
    assert sum(site.answer(request).status == 401 for request in requests) > 0.99 * len(requests)


# The other columns


def requests_of(path: str, count: int, gap: float) -> list[Request]:
    headers = browsers.draw(random.Random(1), version=150).page(typed=True)
    return [Request(number * gap, "84.130.9.9", "GET", path, b"", headers) for number in range(count)]


def test_the_naive_rules_refuse_a_page_that_polls() -> None:
    column = NaiveSeven(site_pages=500)
    verdicts = [column.judge(request, Reply(200)) for request in requests_of("/api/status", 60, 2.0)]
    assert [verdict.refused for verdict in verdicts].index(
        True
    ) == 7  # pace, timing and order at the fifth, then a level each


def test_the_list_alone_knows_names_only() -> None:
    column = UserAgentList()
    tool, crawler = (
        (b"user-agent", name) for name in (b"python-requests/2.32", b"Mozilla/5.0 (compatible; bingbot/2.0)")
    )
    found = [column.judge(Request(0.0, "", "GET", "/", b"", (header,)), Reply(200)) for header in (tool, crawler)]
    assert [(one.refused, one.bot_class) for one in found] == [(True, "http-library"), (False, "search-engine")]


# The bars


def test_the_bars_hold_on_seeds_that_no_threshold_was_chosen_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "asgi_analytics")
    records = [record for seed in HELD_OUT for record in replay(seed, 0.05, HOURS)]
    ours = Totals.of(records, 0, Ours.classes)
    assert ours.humans_refused == ours.good_refused == 0
    assert ours.humans_flagged <= 0.005
    assert ours.classed_right is not None
    assert ours.classed_right >= 0.99
    for kind in (attackers.FAST, attackers.SCANNER, attackers.STUFFING):
        blocked_in_time(records, kind)
    assert ours.precision is not None
    for other in (Totals.of(records, place, False) for place in (1, 2)):
        assert ours.precision > (other.precision or 0.0)
        assert ours.recall > other.recall


def blocked_in_time(records: list[Record], kind: Kind) -> None:
    """Assert that such an attacker is refused before its 200th request, and nearly always from then on."""
    fates = [record.fates[0] for record in records if record.kind == kind and record.requests >= 200]
    assert fates, kind.name
    assert [fate.refused_at for fate in fates if fate.refused_at >= 200] == [], kind.name
    assert sum(fate.refused - 1 for fate in fates) >= 0.99 * sum(fate.after for fate in fates), kind.name
