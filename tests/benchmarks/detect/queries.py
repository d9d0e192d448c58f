"""Those whose queries say what they want: people with filters, lists, searches and polls, and programs that walk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count

from . import attackers, browsers, people, places
from .programs import headers_of
from .site import BOARD, CALENDAR, SHOP, SPA, THING, TOPIC, Site
from .surfer import Surfer
from .traffic import Actor, Headers, Kind, Label, Request

SHOPPER = Kind("shoppers: things by ?id=, filters, lists", Label.HUMAN)
FORUM = Kind("forum readers, page by page", Label.HUMAN)
SCROLLER = Kind("infinite scroll, live search, maps", Label.HUMAN)
WATCHER = Kind("dashboards that poll with ?since=", Label.HUMAN)
PAGER = Kind("API clients that page through lists", Label.GOOD)
SCROLLING_APP = Kind("mobile apps that scroll and poll", Label.GOOD)
WALKER = Kind("scrapers by ?id= or ?page=", Label.BAD)
CLICKER = Kind("headless browsers by ?id= or ?page=", Label.BAD)
API_WALKER = Kind("scrapers of the API by query", Label.BAD)

SORTS = (b"price", b"-price", b"name", b"rating", b"newest")


def shopper(site: Site, start: float, dice: random.Random) -> Surfer:
    """Narrows a list down, looks at things in it, in tabs or one after the other, and goes back."""
    phone = dice.random() < 0.5
    address = places.mobile(dice) if phone else places.home(dice)
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.MOBILES if phone else browsers.DESKTOPS), address, start)
    if dice.random() < 0.4:
        surfer.enter(THING, b"id=%d&gclid=Cj0%08x" % (_thing(site, dice), dice.getrandbits(32)))
    else:
        surfer.enter(SHOP)
    filters: dict[bytes, bytes] = {}
    for _ in range(min(200, int(dice.lognormvariate(2.3, 1.0)))):
        surfer.think(10.0, 1.0)
        chance = dice.random()
        if chance < 0.45:
            name, value = _filter(site, dice)
            filters[name] = value
            if dice.random() < 0.2:
                filters.clear()
            surfer.follow(SHOP, b"&".join(b"%s=%s" % one for one in filters.items()))
        elif chance < 0.75:
            for _ in range(1 if dice.random() < 0.7 else dice.randint(2, 6)):
                surfer.follow(THING, b"id=%d&from=list" % _thing(site, dice))
                surfer.glance()
        elif chance < 0.9:
            surfer.follow(SHOP, b"&".join(b"%s=%s" % one for one in filters.items()))  # back
        else:
            month = dice.randint(1, 12)
            for step in range(dice.randint(1, 14)):
                surfer.follow(CALENDAR, b"year=%d&month=%d" % (2026 + (month + step) // 12, (month + step) % 12 + 1))
                surfer.wait(dice.lognormvariate(0.5, 0.7))
    return surfer


def forum_reader(site: Site, start: float, dice: random.Random) -> Surfer:
    """Reads threads from one end to the other by "next", some of them for an afternoon."""
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(BOARD)
    pace = dice.lognormvariate(2.7, 0.7)
    for _ in range(dice.randint(1, 4)):
        topic = dice.randint(1, site.topics)
        by_number = dice.random() < 0.5
        for page in range(min(250, 1 + int(dice.lognormvariate(2.3, 1.2)))):
            place = b"page=%d" % (page + 1) if by_number else b"start=%d" % (page * 15)
            surfer.follow(TOPIC, b"t=%d&%s" % (topic, place) if page else b"t=%d" % topic)
            surfer.wait(dice.lognormvariate(0.0, 0.7) * pace)
        surfer.follow(BOARD, b"page=%d" % dice.randint(1, 9))
        surfer.think()
    return surfer


def scroller(site: Site, start: float, dice: random.Random) -> Surfer:
    """A page whose script fetches as somebody scrolls, types, pans: at times as fast as it is answered."""
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(SPA)
    for _ in range(1 + int(dice.lognormvariate(1.5, 0.8))):
        surfer.think(8.0, 0.9)
        act = dice.choice((_scroll, _scroll, _type, _pan, _look))
        act(surfer, site)
    return surfer


def _scroll(surfer: Surfer, site: Site) -> None:
    dice = surfer.dice
    by_number, held = dice.random() < 0.5, dice.random() < 0.1  # the key that leads to the end
    for page in range(2, 2 + min(400, int(dice.lognormvariate(2.6, 1.0)))):
        surfer.call(
            "/api/list", b"page=%d&size=20" % page if by_number else b"cursor=eyJ%08xIn0" % dice.getrandbits(32)
        )
        surfer.wait(dice.uniform(0.15, 0.5) if held else dice.lognormvariate(0.8, 0.8))


def _type(surfer: Surfer, site: Site) -> None:
    word = surfer.dice.choice(("garden chair", "oak table 120", "lamp", "copper kettle", "x200 cable"))
    for end in range(1, len(word) + 1):
        surfer.call("/api/find", b"q=%s&page=1" % word[:end].replace(" ", "+").encode())
        surfer.wait(surfer.dice.lognormvariate(-1.6, 0.5))


def _pan(surfer: Surfer, site: Site) -> None:
    dice = surfer.dice
    north, east = dice.uniform(40, 55), dice.uniform(0, 20)
    for _ in range(int(dice.lognormvariate(3.0, 0.8))):
        north, east = north + dice.gauss(0, 0.01), east + dice.gauss(0, 0.01)
        surfer.call("/api/find", b"lat=%.5f&lng=%.5f&zoom=%d" % (north, east, dice.randint(9, 16)))
        surfer.wait(dice.lognormvariate(-0.7, 0.7))


def _look(surfer: Surfer, site: Site) -> None:
    surfer.call("/api/thing", b"id=%d" % _thing(site, surfer.dice))


def watcher(site: Site, start: float, dice: random.Random) -> Surfer:
    """A dashboard or a chat that is left open: what is new since, every few seconds, for hours."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS), places.home(dice), start)
    surfer.enter(SPA)
    every, until = dice.choice((1.0, 2.0, 2.0, 5.0, 10.0)), start + min(30_000.0, dice.lognormvariate(8.2, 0.9))
    manner, place, epoch = dice.randrange(5), dice.randrange(10_000, 99_999), 1_795_564_800
    busy = dice.random()
    while surfer.now < until:
        surfer.wait(every + dice.expovariate(20))
        place += int(dice.random() < busy)  # something came meanwhile
        at = int(epoch + surfer.now)
        query = (
            b"since=%d" % at,
            b"from=%d&to=%d&step=15&panelId=%d" % (at - 3600, at, dice.randint(1, 6)),
            b"after_id=%d" % place,
            b"cursor=s%d_%d" % (place, place * 7),
            b"room_id=7&_=%d" % (at * 1000),
        )[manner]
        surfer.call("/api/events", query)
    return surfer


def pager(site: Site, start: float, dice: random.Random, until: float) -> Iterable[Request]:
    """A job with a token that reads a whole list by pages every hour or so."""
    address = places.hosting(dice)
    headers = headers_of(
        dice.choice(("python-requests/2.32.5", "AcmeSync/4.1", "Go-http-client/2.0")), ("authorization", "Bearer 5f3a")
    )
    pages, now = int(dice.lognormvariate(4.5, 1.0)) + 2, start
    while now < until:
        for page in range(1, pages):
            yield Request(now, address, "GET", "/api/list", b"page=%d&per_page=100" % page, headers, valid=True)
            now += dice.lognormvariate(-1.2, 0.5)
        now += dice.choice((900.0, 3_600.0, 21_600.0))


def scrolling_app(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A person with a phone whose app fetches lists by pages or cursors, and what is new every few seconds."""
    headers = headers_of(dice.choice(("okhttp/5.1.0", "Shop/7.2 CFNetwork/3826.500.131 Darwin/25.1.0")))
    address, now, place = places.mobile(dice), start, dice.randrange(9_999)
    by_number = dice.random() < 0.5
    for _ in range(1 + int(dice.lognormvariate(1.0, 0.7))):
        for page in range(2, 3 + int(dice.lognormvariate(2.3, 0.9))):
            query = b"page=%d" % page if by_number else b"cursor=%08x_%d" % (dice.getrandbits(32), page)
            yield Request(now, address, "GET", "/api/list", query, headers)
            now += dice.lognormvariate(0.9, 0.8)
        for _ in range(dice.randint(0, 300)):
            place += dice.randrange(3)
            yield Request(now, address, "GET", "/api/events", b"last_id=%d" % place, headers)
            now += 2.0 + dice.expovariate(5)
        now += dice.lognormvariate(3.0, 1.0)


def _filter(site: Site, dice: random.Random) -> tuple[bytes, bytes]:
    return dice.choice((
        (b"category_id", b"%d" % dice.randint(1, 40)),
        (b"brand", b"%d" % dice.randint(1, 60)),
        (b"price_max", b"%d" % (dice.randint(1, 50) * 10)),
        (b"sort", dice.choice(SORTS)),
        (b"page", b"%d" % dice.randint(1, 15)),
        (b"colour", dice.choice((b"red", b"oak", b"white"))),
        (b"q", b"%x" % dice.getrandbits(16)),
    ))  # fmt: skip


def _thing(site: Site, dice: random.Random) -> int:
    """The popular ones are looked at most."""
    return 1 + min(site.things - 1, int(dice.expovariate(1 / (site.things / 6))))


def _queries(site: Site, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Walk through all there is, in order or shuffled, as tools do: some with what else the site's links have."""
    manner = dice.choice(("thing", "thing", "topic", "list"))
    if manner == "list":
        more = b"&sort=name" if dice.random() < 0.5 else b""
        yield from ((SHOP, b"page=%d%s" % (page, more)) for page in count(1))
    names = list(range(1, (site.things if manner == "thing" else site.topics) + 1))
    if dice.random() < 0.5:
        dice.shuffle(names)
    path, name = (THING, b"id") if manner == "thing" else (TOPIC, b"t")
    while True:
        yield from ((path, b"%s=%d" % (name, number)) for number in names)


def walker(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A program that makes up the addresses: fast or slow, under a library's name or a browser's."""
    address, now, order = places.hosting(dice), start, _queries(site, dice)
    browser = browsers.draw(dice, browsers.DESKTOPS)
    headers: Headers = (
        headers_of(dice.choice(attackers.TOOLS)) if dice.random() < 0.4 else attackers._claimed(dice, browser)
    )
    pause = attackers._pause(dice, dice.lognormvariate(0.5, 1.5))
    for _ in range(int(dice.lognormvariate(6.5, 0.6))):
        path, query = next(order)
        yield Request(now, address, "GET", path, query, headers)
        now += pause()


def clicker(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A real browser under a script, which clicks from thing to thing, or on "next"."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS[:3]), places.hosting(dice), start)
    pause, order = attackers._pause(dice, dice.lognormvariate(1.3, 0.6)), _queries(site, dice)
    surfer.load(SHOP, "", typed=True)
    for _ in range(min(600, int(dice.lognormvariate(5.3, 0.5)))):
        surfer.wait(pause())
        path, query = next(order)
        surfer.follow(path, query)
    return surfer.sent


def api_walker(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """All of the API by query, as the site's own script would ask, or under a library's name."""
    browser, now, address = browsers.draw(dice, browsers.DESKTOPS), start, places.hosting(dice)
    headers = browser.call(SPA) if dice.random() < 0.6 else headers_of(dice.choice(attackers.TOOLS))
    pause, manner = attackers._pause(dice, dice.lognormvariate(-1.0, 0.8)), dice.choice(("id", "id", "page", "cursor"))
    for number in range(1, int(dice.lognormvariate(7.0, 0.5))):
        path, query = {
            "id": ("/api/thing", b"id=%d" % number),
            "page": ("/api/list", b"page=%d&size=50" % number),
            "cursor": ("/api/list", b"cursor=eyJ%08xIn0" % dice.getrandbits(32)),
        }[manner]
        yield Request(now, address, "GET", path, query, headers)
        now += pause()


def lone(kind: Kind, site: Site, seconds: float, dice: random.Random) -> Actor:
    """Return one visitor of a kind."""
    if kind.label is Label.HUMAN:
        start = people.day_time(dice, seconds)
        return Actor(kind, start, lambda own: PEOPLE[kind](site, start, own).sent)
    start = dice.uniform(0, seconds * (0.1 if kind is PAGER else 0.8))
    if kind is PAGER:
        return Actor(kind, start, partial(pager, site, start, until=seconds))
    return Actor(kind, start, partial(PROGRAMS[kind], site, start))


PEOPLE: dict[Kind, Callable[[Site, float, random.Random], Surfer]] = {
    SHOPPER: shopper,
    FORUM: forum_reader,
    SCROLLER: scroller,
    WATCHER: watcher,
}
PROGRAMS: dict[Kind, Callable[[Site, float, random.Random], Iterable[Request]]] = {
    SCROLLING_APP: scrolling_app,
    WALKER: walker,
    CLICKER: clicker,
    API_WALKER: api_walker,
}
