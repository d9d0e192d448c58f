"""Shapes of traffic that are known to be taken for something else, through the real middleware on a virtual clock."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Thread
from types import FunctionType, ModuleType
from typing import Any

import pytest

from asgi_analytics.testing import FakeClock
from tests.benchmarks.detect import people, places, programs
from tests.benchmarks.detect.browsers import DESKTOPS, MOBILES, Browser, draw
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.site import Reply, Site
from tests.benchmarks.detect.surfer import Surfer
from tests.benchmarks.detect.traffic import Request, merged

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
BUSY = 150  # strangers whose visits teach the middleware how large the site is
PAGE = Reply(200)
JSON = Reply(200, b"application/json")


class Stage:
    """A site that others visit too, behind the middleware as installed."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.site = Site.build("shapes", DAY)
        self.site.outages = ()
        self.dice = random.Random("shapes")
        self.ours = Ours(str(folder), **options)

    def play(self, requests: Iterable[Request]) -> list[Verdict]:
        """Send requests in order of time; return what became of each."""
        return [self.ours.judge(one, self.site.answer(one)) for one in sorted(requests, key=lambda one: one.at)]

    def browser(self, mobile: bool = False) -> Browser:
        return draw(self.dice, MOBILES if mobile else DESKTOPS, version=156)

    def surfer(self, start: float = 0.0, address: str = "84.130.9.9", browser: Browser | None = None) -> Surfer:
        return Surfer(self.dice, self.site, browser or self.browser(), address, start)

    def program(self, agent: str, address: str, start: float = 0.0) -> programs.Program:
        return programs.Program(self.dice, [address], programs.headers_of(agent), start)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    visits = [people.reader(stage.site, float(number), random.Random(number)) for number in range(BUSY)]
    pages = (request for visit in visits for request in visit.sent if request.path in stage.site.links)
    stage.play(request for request in pages if request.at < HOUR)
    yield stage
    stage.ours.close()


def untouched(verdicts: list[Verdict]) -> bool:
    """Nobody was refused, slowed down or taken for a bot."""
    assert verdicts
    assert not any(verdict.refused for verdict in verdicts), "refused"
    assert not any(verdict.slowed for verdict in verdicts), "slowed down"
    assert not any(verdict.flagged for verdict in verdicts), f"flagged: {verdicts[-1].signals}"
    return True


# People


def test_five_reloads_in_a_minute_are_a_person(stage: Stage) -> None:
    surfer = stage.surfer(2 * HOUR)
    surfer.enter("/")
    for _ in range(5):
        surfer.wait(10.0)
        surfer.reload()
    assert untouched(stage.play(surfer.sent))


def test_home_and_then_links_in_alphabetical_order_are_a_person(stage: Stage) -> None:
    surfer = stage.surfer(2 * HOUR)
    surfer.enter("/")
    for path in sorted(stage.site.links["/"]):
        surfer.think(12.0, 0.7)
        surfer.page = "/"
        surfer.follow(path)
    assert untouched(stage.play(surfer.sent))


@pytest.mark.parametrize("path", ["/api/status", "/api/fragment", "/api/me", "/live"])
def test_a_page_that_polls_every_two_seconds_for_ten_minutes_is_a_person(stage: Stage, path: str) -> None:
    """JSON, a fragment of HTML, a call that is answered 401 because the person was logged out, and the page itself."""
    surfer = stage.surfer(2 * HOUR)
    surfer.enter("/live")
    for _ in range(300):
        surfer.wait(2.0)
        surfer.call(path, valid=False)
    verdicts = stage.play(surfer.sent)
    assert len(verdicts) >= 300
    assert untouched(verdicts)


@pytest.mark.parametrize("seed", range(3))
def test_200_people_behind_one_address_with_five_browsers_are_people(stage: Stage, seed: int) -> None:
    dice = random.Random(f"office {seed}")
    staff = people.office(stage.site, DAY, dice, size=200, builds=5)
    for number, actor in enumerate(staff):
        actor.seed = f"{seed}/{number}"
    verdicts = stage.play(request for _, request in merged(staff, DAY))
    assert len(verdicts) > 2_000
    assert untouched(verdicts)


def test_200_people_of_an_office_who_come_within_one_hour_are_people(stage: Stage) -> None:
    staff = people.office(stage.site, 2.5 * HOUR, random.Random("meeting"), size=200, builds=5)
    requests = [request for number, actor in enumerate(staff) for request in actor.visit(random.Random(number))]
    assert untouched(stage.play(request._replace(at=request.at + 2 * HOUR) for request in requests))


def test_one_person_with_three_devices_is_a_person(stage: Stage) -> None:
    """A desktop, a tablet and a phone at one address, in turns for an evening; then the phone leaves the house."""
    devices = [stage.browser(), stage.browser(mobile=True), stage.browser(mobile=True)]
    surfers = [stage.surfer(2 * HOUR + 300.0 * place, browser=one) for place, one in enumerate(devices)]
    surfers.append(stage.surfer(5 * HOUR, "37.80.4.4", devices[2]))
    for surfer in surfers:
        surfer.enter(stage.site.entry(stage.dice))
        people.browse(surfer, 15)
    assert untouched(stage.play(request for surfer in surfers for request in surfer.sent))


def test_a_screen_reader_that_goes_through_a_list_is_a_person(stage: Stage) -> None:
    for seed in range(10):
        surfer = people.screen_reader(stage.site, (2 + seed) * HOUR, random.Random(seed))
        assert untouched(stage.play(surfer.sent))


# Programs that are welcome


@pytest.mark.parametrize("agent", [declared[0] for declared in programs.FEED_READERS])
def test_a_feed_reader_every_quarter_of_an_hour_for_a_week_is_welcome(stage: Stage, agent: str) -> None:
    program, requests = stage.program(agent, "8.29.198.26", 2 * HOUR), []
    for look in range(7 * 24 * 4):
        program.now = 2 * HOUR + look * 15 * MINUTE
        requests.append(program.get("/feed", conditional=look % 9 > 0))
        if look % 9 == 0:
            program.now += 1.0
            requests.append(program.get(stage.site.entry(stage.dice)))
    assert untouched(stage.play(requests))


MONITORS = [declared[0] for declared in programs.MONITORS]


@pytest.mark.parametrize(("agent", "days"), [(MONITORS[0], 7), *((agent, 1) for agent in MONITORS[1:])])
def test_a_monitor_every_30_seconds_for_a_week_is_welcome(stage: Stage, agent: str, days: int) -> None:
    program, requests = stage.program(agent, "216.144.248.19", 2 * HOUR), []
    for _ in range(days * 24 * 120):
        requests.append(program.get("/"))
        program.now += 30.0
    assert untouched(stage.play(requests))


@pytest.mark.parametrize("gap", [0.3, 1.0])
def test_a_monitor_of_six_pages_every_30_seconds_for_a_day_is_welcome(stage: Stage, gap: float) -> None:
    program, requests = stage.program(programs.MONITORS[2][0], "95.216.5.5", 2 * HOUR), []
    watched = ["/", *stage.dice.sample(stage.site.articles(), 5)]
    for look in range(24 * 120):
        for place, path in enumerate(watched):
            program.now = 2 * HOUR + look * 30.0 + place * gap
            requests.append(program.get(path))
    assert untouched(stage.play(requests))


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize(
    "agent", [programs.CRAWLERS[0][0], programs.CRAWLERS[7][0], "SmallSearch/0.9 (+https://s.example)"]
)
def test_a_crawler_that_reads_robots_txt_and_a_page_every_five_seconds_is_never_refused(
    stage: Stage, agent: str, order: str
) -> None:
    program, pages = stage.program(agent, "66.249.66.1", 2 * HOUR), sorted(stage.site.articles())
    if order == "shuffled":
        stage.dice.shuffle(pages)
    requests = [program.get("/robots.txt")]
    for path in pages:
        program.now += 5.0
        requests.append(program.get(path))
    assert len(requests) > 300
    refused = [verdict.refused for verdict in stage.play(requests)]
    assert (sum(refused), len(refused)) == (0, len(requests))


# Rotation: the outer bound holds


def admitted(ours: Ours, requests: Iterable[Request], reply: Reply = JSON) -> int:
    return sum(not ours.judge(request, reply).refused for request in requests)


def within_a_minute(count: int) -> Iterator[float]:
    """Times in one minute of the windows' clock, evenly."""
    start = MINUTE - FakeClock().monotonic() % MINUTE
    return (start + MINUTE * number / count for number in range(count))


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[Ours]:
    ours = Ours(str(tmp_path), limits="600/minute", network_limits="2000/minute")
    yield ours
    ours.close()


def test_10_000_addresses_of_one_ipv6_network_get_what_one_visitor_gets(bounded: Ours) -> None:
    dice, headers = random.Random(1), draw(random.Random(2)).call("/")
    requests = [
        Request(at, places.inside(dice, "2003:e7:1:2"), "GET", "/api/items/1", b"", headers)
        for at in within_a_minute(10_000)
    ]
    assert len({request.address for request in requests}) == 10_000
    assert admitted(bounded, requests) == 600


def test_10_000_addresses_of_one_ipv6_network_with_other_user_agents_get_what_a_network_gets(bounded: Ours) -> None:
    dice = random.Random(1)
    requests = [
        Request(
            at, places.inside(dice, "2003:e7:1:2"), "GET", "/api/items/1", b"", programs.headers_of(f"tool/{number}")
        )
        for number, at in enumerate(within_a_minute(10_000))
    ]
    assert admitted(bounded, requests) == 2_000


def test_random_user_agents_from_one_address_get_what_a_network_gets(bounded: Ours) -> None:
    dice = random.Random(1)
    requests = [
        Request(at, "45.140.1.1", "GET", "/api/items/1", b"", draw(dice, version=dice.randint(90, 158)).call("/"))
        for at in within_a_minute(5_000)
    ]
    assert admitted(bounded, requests) == 2_000


def test_dropping_the_cookie_each_time_buys_no_quota(tmp_path: Path) -> None:
    ours = Ours(
        str(tmp_path), session_cookie=True, secret="correct horse battery staple", limits="600/minute",
        network_limits="2000/minute", bot_score=1000, signal_thresholds={"high_request_count": 100_000},
    )  # fmt: skip
    headers = draw(random.Random(2)).page(typed=True)
    requests = (Request(at, "45.140.1.1", "GET", "/", b"", headers) for at in within_a_minute(5_000))
    assert admitted(ours, requests, PAGE) <= 600
    ours.close()


# Colliding keys

PRIME = (1 << 61) - 1  # numbers that many apart have one hash


@pytest.mark.parametrize("step", [PRIME, 9 * PRIME], ids=["eight to a network", "one to a network"])
def test_addresses_whose_numbers_collide_cost_no_more_than_others(tmp_path: Path, step: int) -> None:
    """With one hash for all of 1,500 keys each look-up would walk over a thousand: no map of ours has such keys."""
    colliding = [(0x2003_00E7 << 96) + number * step for number in range(1_500)]
    assert len({number % PRIME for number in colliding}) == 1
    ours, headers = Ours(str(tmp_path)), draw(random.Random(2)).call("/")
    for number in colliding:
        text = ":".join(f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16))
        ours.judge(Request(0.0, text, "GET", "/api/items/1", b"", headers), JSON)
    grown = [keys for keys in maps_within(ours.middleware._engine) if len(keys) >= 1_500 // 8]
    ours.close()
    assert sum(len(keys) >= 1_500 for keys in grown) >= 2, "visitors are kept by more than one key"
    hashes = [(len(set(map(hash, keys))), len(keys)) for keys in grown]
    assert all(different > 0.99 * count for different, count in hashes), hashes


def maps_within(root: object) -> Iterator[list[object]]:
    """The keys of each dict and the members of each set that an object leads to, caches of functions included."""
    seen, ahead = {id(root)}, [root]
    while ahead:
        one = ahead.pop()
        if isinstance(one, (dict, set)):
            yield list(one)
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, (type, ModuleType, FunctionType, Thread)):
                seen.add(id(other))
                ahead.append(other)


def test_a_shape_that_is_no_persons_is_refused(stage: Stage) -> None:
    """The counter-test: what the others are not taken for."""
    program, requests = stage.program("python-requests/2.32.5", "45.140.1.1", 2 * HOUR), []
    for path in sorted(stage.site.articles()):
        program.now += 0.5
        requests.append(program.get(path))
    verdicts = stage.play(requests)
    assert verdicts[199].refused
    assert all(verdict.refused for verdict in verdicts[199:])
