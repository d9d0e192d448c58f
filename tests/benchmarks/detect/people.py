"""People: what each kind of them does in a visit. Every parameter is drawn from a distribution."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from . import browsers, places
from .browsers import Browser
from .site import LIVE, SPA, Site
from .surfer import Surfer
from .traffic import Actor, Kind, Label

READER = Kind("readers", Label.HUMAN)
TABS = Kind("openers of tabs in bursts", Label.HUMAN)
RESEARCHER = Kind("researchers of an afternoon", Label.HUMAN)
POLLING = Kind("tabs that poll every 2 s", Label.HUMAN)
SPA_USER = Kind("users of a single-page app", Label.HUMAN)
OFFICE = Kind("office of 200 behind one address", Label.HUMAN)
CLASS = Kind("school class on one link", Label.HUMAN)
CARRIER = Kind("phones that change address", Label.HUMAN)
CROWD = Kind("phones of one build behind one address", Label.HUMAN)
KIOSK = Kind("kiosks, old browser, same page", Label.HUMAN)
SCREEN_READER = Kind("screen readers, fast and in order", Label.HUMAN)
VPN = Kind("VPN exit shared with a scraper", Label.HUMAN)


def day_time(dice: random.Random, seconds: float) -> float:
    """Return when a visit begins: more by day than by night."""
    return min(seconds * 0.98, max(0.0, dice.triangular(0, seconds, seconds * 0.58)))


def reader(site: Site, start: float, dice: random.Random, address: str = "", browser: Browser | None = None) -> Surfer:
    """A visit as most are: a few pages, now and then many."""
    phone = dice.random() < 0.45
    browser = browser or browsers.draw(dice, browsers.MOBILES if phone else browsers.DESKTOPS)
    surfer = Surfer(dice, site, browser, address or (places.mobile(dice) if phone else places.home(dice)), start)
    surfer.enter(site.entry(dice), b"utm_source=newsletter&utm_medium=email" if dice.random() < 0.06 else b"")
    browse(surfer, min(80, int(dice.lognormvariate(0.9, 0.9))))
    return surfer


def browse(surfer: Surfer, pages: int, median: float = 20.0) -> None:
    """Follow links, with all that people do in between."""
    dice = surfer.dice
    for _ in range(pages):
        surfer.think(median)
        chance = dice.random()
        if chance < 0.08:
            tabs(surfer, 2 + int(dice.expovariate(0.4)))
        elif chance < 0.14:
            for _ in range(1 + int(dice.expovariate(1.2))):
                surfer.reload()
                surfer.wait(dice.lognormvariate(1.2, 0.8))
        elif chance < 0.20:
            back(surfer)
        elif chance < 0.23:
            surfer.call("/api/suggest", b"q=gar", after=0.3)
            surfer.follow("/search", b"q=garden")
        elif chance < 0.24:
            surfer.log_in(min(6, int(dice.expovariate(0.8))))
        elif chance < 0.241:
            surfer.load(dice.choice(("/admin", "/wp-login.php", "/sitemap.xml")), "", typed=True)
        else:
            surfer.follow(surfer.link())


def tabs(surfer: Surfer, count: int) -> None:
    """Open links in new tabs within seconds, then read them one after the other."""
    page = surfer.page
    opened = []
    for _ in range(min(count, 25)):
        surfer.page = page
        surfer.follow(surfer.link())
        opened.append(surfer.page)
        surfer.wait(surfer.dice.lognormvariate(-0.2, 0.6))
    for one in opened:
        surfer.page = one
        surfer.think(30.0)
        surfer.beacon()


def back(surfer: Surfer) -> None:
    """Go to a list, look at an entry, go back, look at the next."""
    index = surfer.page
    for _ in range(surfer.dice.randint(1, 6)):
        surfer.page = index
        surfer.follow(surfer.link())
        surfer.glance()
        if surfer.dice.random() < 0.4:  # the others come from the browser's own memory
            surfer.follow(index)
            surfer.glance()


def researcher(site: Site, start: float, dice: random.Random) -> Surfer:
    """Dozens of pages over hours, such as of somebody who works with the documentation."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS), places.home(dice), start)
    surfer.enter(site.entry(dice))
    browse(surfer, min(220, int(dice.lognormvariate(4.0, 0.6))), median=dice.lognormvariate(3.4, 0.5))
    return surfer


def opener(site: Site, start: float, dice: random.Random) -> Surfer:
    """A list, many tabs, and again."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS), places.home(dice), start)
    surfer.enter(dice.choice(["/", *(f"/{name}" for name in site.sections)]))
    for _ in range(dice.randint(1, 4)):
        surfer.glance()
        tabs(surfer, 4 + int(dice.expovariate(0.2)))
        surfer.page = dice.choice([f"/{name}" for name in site.sections])
    return surfer


def polling(site: Site, start: float, dice: random.Random) -> Surfer:
    """A page that asks for news every two seconds, JSON or a fragment of HTML."""
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(LIVE)
    path = dice.choice(("/api/status", "/api/status", "/api/fragment", "/api/me"))  # the last one: logged out meanwhile
    for _ in range(dice.randint(1, 3)):
        surfer.poll(min(5_400.0, dice.lognormvariate(6.0, 0.9)), 2.0, path)
        browse(surfer, dice.randint(0, 3))
    return surfer


def spa_user(site: Site, start: float, dice: random.Random) -> Surfer:
    """One page, then calls: bursts of them with each click."""
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(SPA)
    surfer.call("/api/me", after=0.4, valid=False)
    for _ in range(int(dice.lognormvariate(3.2, 0.7))):
        surfer.think(8.0, 0.9)
        for _ in range(dice.randint(1, 6)):
            path = dice.choice(
                ("/api/search", "/api/orders", "/api/prices", f"/api/items/{dice.randint(1, site.items)}")
            )
            surfer.call(path, b"page=1", after=dice.uniform(0, 0.5))
    return surfer


def carrier(site: Site, start: float, dice: random.Random, gateways: tuple[str, ...]) -> Surfer:
    """A phone on the way: its address changes every few minutes; some share gateways."""
    shared = dice.random() < 0.6
    addresses = [dice.choice(gateways) if shared else places.six(dice, places.CARRIERS_6) for _ in range(50)]
    stay = dice.uniform(20, 400)
    surfer = Surfer(
        dice, site, browsers.draw(dice, browsers.MOBILES), lambda at: addresses[int((at - start) / stay) % 50], start
    )
    surfer.enter(site.entry(dice))
    browse(surfer, min(60, int(dice.lognormvariate(1.6, 0.8))))
    return surfer


def kiosk(site: Site, start: float, dice: random.Random, until: float) -> Surfer:
    """A screen in a hall: the home page again and again by its own timer, and passers-by who press links."""
    browser = browsers.draw(dice, browsers.DESKTOPS[:1], version=dice.randint(72, 96))
    surfer = Surfer(dice, site, browser, places.four(dice, places.HOMES), start)
    every = dice.choice((30.0, 60.0, 120.0, 300.0, 600.0))
    surfer.load("/", "", typed=True)
    while surfer.now < until:
        surfer.wait(every + dice.gauss(0, 0.05))
        if dice.random() < every / 7200:
            browse(surfer, dice.randint(1, 6), median=10.0)
        surfer.load("/", "", typed=True, reload=dice.random() < 0.5)
    return surfer


def screen_reader(site: Site, start: float, dice: random.Random) -> Surfer:
    """Headings are jumped through by key: seconds per page, and the links of a list in their order."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS), places.home(dice), start)
    surfer.enter("/")
    median = dice.uniform(3.0, 9.0)
    for _ in range(dice.randint(1, 3)):
        name = dice.choice(list(site.sections))
        surfer.wait(dice.lognormvariate(0.0, 0.6) * median)
        surfer.follow(f"/{name}")
        first = dice.randrange(len(site.sections[name]))
        for path in site.sections[name][first : first + dice.randint(4, 18)]:
            surfer.wait(dice.lognormvariate(0.0, 0.7) * median)
            surfer.page = f"/{name}"
            surfer.follow(path)
        surfer.think(40.0)
    return surfer


def pupil(site: Site, start: float, dice: random.Random, path: str, address: str, browser: Browser) -> Surfer:
    """Opens what the teacher says, and looks around."""
    surfer = Surfer(dice, site, browser, address, start)
    surfer.load(path, "", typed=True)
    browse(surfer, dice.randint(1, 8), median=25.0)
    return surfer


def lone(kind: Kind, site: Site, seconds: float, dice: random.Random) -> Actor:
    """Return one visitor of a kind that comes alone."""
    start = day_time(dice, seconds)
    if kind is KIOSK:
        return _actor(kind, start * 0.3, partial(kiosk, site, start * 0.3, until=seconds))
    return _actor(kind, start, partial(LONE[kind], site, start))


def colleague(site: Site, start: float, dice: random.Random, address: str, browser: Browser) -> Surfer:
    """Reads as others do; a third log in, and not all know their password."""
    surfer = reader(site, start, dice, address, browser)
    if dice.random() < 0.3:
        surfer.log_in(min(6, int(dice.expovariate(0.8))))
        browse(surfer, dice.randint(0, 6))
    return surfer


def office(site: Site, seconds: float, dice: random.Random, size: int = 200, builds: int = 0) -> list[Actor]:
    """People with a few centrally managed browser builds and one language behind one address."""
    language = dice.choice(browsers.LANGUAGES)[0]
    installed = [browsers.draw(dice, browsers.DESKTOPS, language) for _ in range(builds or dice.randint(4, 12))]
    address = places.four(dice, places.HOMES)
    starts = [seconds * (0.3 + 0.4 * dice.betavariate(2, 2)) for _ in range(size)]
    return [
        _actor(OFFICE, start, partial(colleague, site, start, address=address, browser=dice.choice(installed)))
        for start in starts
    ]


def school_class(site: Site, seconds: float, dice: random.Random) -> list[Actor]:
    """The same tablets, the same link, within a minute or two."""
    browser, address = browsers.draw(dice, browsers.MOBILES), places.four(dice, places.HOMES)
    begin, path = dice.uniform(seconds * 0.3, seconds * 0.6), site.entry(dice)
    starts = [begin + dice.weibullvariate(50, 1.3) for _ in range(dice.randint(18, 31))]
    return [
        _actor(CLASS, start, partial(pupil, site, start, path=path, address=address, browser=browser))
        for start in starts
    ]


def carriers(site: Site, seconds: float, dice: random.Random, count: int) -> list[Actor]:
    """Phones of one carrier."""
    gateways = tuple(places.four(dice, places.CARRIERS) for _ in range(dice.randint(2, 40)))
    starts = [day_time(dice, seconds) for _ in range(count)]
    return [_actor(CARRIER, start, partial(carrier, site, start, gateways=gateways)) for start in starts]


def passer_by(site: Site, start: float, dice: random.Random, address: str, browser: Browser) -> Surfer:
    """Comes from a search to anything that the site has, and goes on to anything else."""
    surfer = Surfer(dice, site, browser, address, start)
    surfer.enter(dice.choice(site.articles()))
    for _ in range(int(dice.expovariate(0.3))):
        surfer.think(14.0)
        surfer.follow(dice.choice(site.articles()))
    return surfer


def crowd(site: Site, seconds: float, dice: random.Random, count: int) -> list[Actor]:
    """Phones of one build and language behind one gateway, within an hour; hardly two load the same."""
    phones = tuple(build for build in browsers.BUILDS if build[1].startswith("iPhone"))
    browser, address = browsers.draw(dice, phones), places.four(dice, places.CARRIERS)
    begin = dice.uniform(seconds * 0.3, seconds * 0.6)
    starts = [begin + dice.uniform(0.0, min(3_600.0, seconds * 0.3)) for _ in range(count)]
    return [_actor(CROWD, start, partial(passer_by, site, start, address=address, browser=browser)) for start in starts]


def vpn(site: Site, seconds: float, dice: random.Random, address: str, count: int) -> list[Actor]:
    """People who come by the address that a scraper comes by too."""
    starts = [day_time(dice, seconds) for _ in range(count)]
    return [_actor(VPN, start, partial(reader, site, start, address=address)) for start in starts]


def _actor(kind: Kind, start: float, visit: Callable[[random.Random], Surfer]) -> Actor:
    return Actor(kind, start, lambda own: visit(own).sent)


LONE: dict[Kind, Callable[[Site, float, random.Random], Surfer]] = {
    READER: reader,
    TABS: opener,
    RESEARCHER: researcher,
    POLLING: polling,
    SPA_USER: spa_user,
    SCREEN_READER: screen_reader,
}
