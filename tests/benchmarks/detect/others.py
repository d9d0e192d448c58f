"""Others that sites know: people at work, in apps and small browsers, with links fetched ahead, logged out, filling in
forms, or in a hurry; programs that open the links in mails; and those that guess codes and cards, come back for the
same pages, or follow links.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial

from . import attackers, browsers, people, places
from .browsers import Browser
from .programs import headers_of
from .site import COUPON, DESK, FIND, INVITE, ORIGIN, PAY, REPORTS, SOCKET, SPA, Site
from .surfer import JSON_BODY, Surfer
from .traffic import Actor, Headers, Kind, Label, Request

CLERK = Kind("people at work, from form to form", Label.HUMAN)
IN_APP = Kind("readers in apps and small browsers", Label.HUMAN)
AHEAD = Kind("readers whose links are fetched ahead", Label.HUMAN)
LEFT_OPEN = Kind("tabs whose websocket is refused", Label.HUMAN)
TYPIST = Kind("people whose forms are checked key by key", Label.HUMAN)
SKIMMER = Kind("tabs reopened, albums skimmed, lists gone through", Label.HUMAN)
MAIL = Kind("scanners of links in mails", Label.GOOD)
REPORTER = Kind("servers that report by form", Label.GOOD)
INJECTOR = Kind("scanners of a form", Label.BAD)
GUESSER = Kind("guessers of codes and cards", Label.BAD)
INVITER = Kind("guessers by link or websocket", Label.BAD)
WATCHER = Kind("price watchers, the same each hour", Label.BAD)
LINKED = Kind("scrapers that follow links, no files", Label.BAD)

_IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
_PHONE = "Mozilla/5.0 (Linux; Android 16; SM-S936B Build/BP2A; wv) AppleWebKit/537.36 (KHTML, like Gecko)"
_CHROME = "Chrome/157.0.7390.44"
# Family, which tells the headers, and user agent.
IN_APPS = (
    ("safari", f"{_IPHONE} Mobile/22H31 Instagram 402.0.0.28.82 (iPhone15,2; iOS 18_7; de_DE; de; scale=3.00)"),
    ("safari", f"{_IPHONE} Mobile/22H31 [FBAN/FBIOS;FBAV/531.0.0.42.74;FBDV/iPhone15,2;FBMD/iPhone;FBSN/iOS;FBLC/de]"),
    ("safari", f"{_IPHONE} GSA/392.0.825331274 Mobile/15E148 Safari/604.1"),
    ("safari", f"{_IPHONE} Mobile/22H31 Safari Line/15.18.0"),
    ("chromium", f"{_PHONE} Version/4.0 {_CHROME} Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/531.0.0.46.70;]"),
    ("chromium", f"{_PHONE} Version/4.0 {_CHROME} Mobile Safari/537.36 MicroMessenger/8.0.62.2900(0x28003E31)"),
    ("chromium", f"{_PHONE} Version/4.0 {_CHROME} Mobile Safari/537.36"),
    ("chromium", "Mozilla/5.0 (SMART-TV; LINUX; Tizen 8.0) AppleWebKit/537.36 (KHTML, like Gecko) "
     "108.0.5359.1/8.0 TV Safari/537.36"),
    ("chromium", "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/108.0.5359.211 "
     "Safari/537.36 WebAppManager"),
    ("safari", "Mozilla/5.0 (PlayStation; PlayStation 5/11.20) AppleWebKit/605.1.15 (KHTML, like Gecko) "
     "Version/16.0 Safari/605.1.15"),
    ("text", "w3m/0.5.3+git20230121"),
    ("text", "Lynx/2.9.2 libwww-FM/2.14 SSL-MM/1.4.1 OpenSSL/3.0.15"),
    ("text", "ELinks/0.17.1.1 (textmode; Linux 6.12.48 x86_64; 158x46-2)"),
)  # fmt: skip


class TextBrowser(Browser):
    """One that shows text: it fetches no files, and says little beside where it comes from."""

    def page(self, referer: str = "", *, typed: bool = False, reload: bool = False, tagged: bool = False) -> Headers:
        """Return a navigation's headers, as Browser.page."""
        return self.call("", () if typed or not referer else (("referer", referer),))

    def file(self, path: str, page: str, *, tagged: bool = False) -> Headers:
        """Return what no such browser sends; see in_app."""
        return self.call(page)

    def call(self, page: str, extra: tuple[tuple[str, str], ...] = ()) -> Headers:
        """Likewise."""
        return headers_of(self.agent, ("accept-language", self.language), *extra)


def clerk(site: Site, start: float, dice: random.Random) -> Surfer:
    """A decision every few seconds, whose form leads on to the next case, or back to the list; some for hours."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS), places.home(dice), start)
    surfer.load(DESK, "", typed=True)
    case, median, goes_on = dice.randrange(100_000), dice.lognormvariate(2.3, 0.5), dice.random() < 0.6
    for _ in range(min(500, int(dice.lognormvariate(4.0, 0.9)))):
        if surfer.page == DESK:
            surfer.glance()
            case += dice.choice((1, 1, 1, 2, 5))
            surfer.follow(f"{DESK}/{case}")
        surfer.think(median, 0.8)
        headers = (*surfer.browser.page(f"{ORIGIN}{surfer.page}"), (b"content-length", b"%d" % dice.randint(90, 900)))
        if dice.random() < 0.04:  # something was left out: the form is shown again
            surfer.send("POST", surfer.page, headers)
            surfer.think(median, 0.8)
        case += 1
        target = f"{DESK}/{case}" if goes_on else DESK
        surfer.send("POST", surfer.page, headers, query=f"to={target}".encode(), valid=True)
        surfer.wait(0.2)
        surfer.follow(target)
    return surfer


def in_app(site: Site, start: float, dice: random.Random) -> Surfer:
    """Reads as others do; some have a browser in a post, on a television, or in a terminal."""
    family, agent = dice.choice(IN_APPS)
    language = dice.choice(browsers.LANGUAGES)[0]
    browser = TextBrowser(family, agent, (), language) if family == "text" else Browser(family, agent, (), language)
    surfer = people.reader(site, start, dice, "", browser)
    if dice.random() < 0.2:
        people.browse(surfer, min(120, int(dice.lognormvariate(3.5, 0.7))))
    if family == "text":
        unasked = ("/static", "/api", "/favicon", "/apple-touch")
        surfer.sent = [one for one in surfer.sent if one.method == "GET" and not one.path.startswith(unasked)]
    return surfer


def ahead(site: Site, start: float, dice: random.Random) -> Surfer:
    """Links are fetched when they come into view or under the pointer: said so by Chrome and Firefox, not by Safari."""
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(site.entry(dice))
    eager = dice.random() < 0.4  # all links in view, not only the one under the pointer
    for _ in range(min(100, int(dice.lognormvariate(1.8, 0.9)))):
        links = site.links.get(surfer.page) or site.articles()
        view = links[:30] if eager else dice.sample(links, min(len(links), dice.randint(1, 4)))
        for path in view:
            surfer.send("GET", path, _prefetch(surfer), after=dice.uniform(0.2, 4.0))
        surfer.think()
        path = surfer.link()
        if path in view:  # it is there already; its files are not
            surfer.page = path
            surfer._files(path, False)
        else:
            surfer.follow(path)
    return surfer


def _prefetch(surfer: Surfer) -> Headers:
    said = () if surfer.browser.family == "safari" else (("sec-purpose", "prefetch"),)
    return surfer.browser.call(surfer.page, said)


def left_open(site: Site, start: float, dice: random.Random) -> Surfer:
    """Tabs that were logged out and try for hours to get their websocket back, some with a token that is new each time.

    Chromium does not say what page opens one.
    """
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(SPA)
    told = (b"host", b"user-agent", b"accept-language", *((b"sec-fetch-site",) * (surfer.browser.family != "chromium")))
    lines = tuple(line for line in surfer.browser.call(SPA) if line[0] in told)
    headers = (*lines, (b"origin", ORIGIN.encode()))
    wait, until = 1.0, start + min(20_000.0, dice.lognormvariate(7.5, 0.9))
    manner = dice.choice(("the same", "made up", "asked for"))
    while surfer.now < until:
        if manner == "asked for":
            surfer.call("/api/me")
        token = 7 if manner == "the same" else dice.getrandbits(32)
        surfer.send("WEBSOCKET", SOCKET, headers, query=b"token=%08x" % token, after=0.1)
        surfer.wait(wait * dice.uniform(0.8, 1.2))
        wait = min(30.0, 1.5 * wait)
    return surfer


def mail(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """A gateway that opens the links in the mails of an office, some twice, and each works once."""
    headers = headers_of("Mozilla/5.0 (compatible; MailGuard/2.1; +https://mailguard.example)")
    address, now = places.hosting(dice), start
    for number in range(int(dice.lognormvariate(3.5, 1.0)) + 1):
        for turn in range(1 if dice.random() < 0.3 else 2):
            yield Request(now, address, "GET", INVITE, b"code=%08x" % (number * 7919), headers, valid=not turn)
            now += dice.lognormvariate(0.5, 1.0)


def guesser(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Codes of coupons, or stolen cards for a small sum; one in three hundred is right."""
    browser, now, address = browsers.draw(dice, browsers.DESKTOPS), start, places.hosting(dice)
    headers = browser.call(DESK, (("content-type", "application/json"),)) if dice.random() < 0.6 else headers_of(
        dice.choice(attackers.TOOLS), ("content-type", "application/json")
    )  # fmt: skip
    path, pause = dice.choice((COUPON, PAY)), attackers._pause(dice, dice.lognormvariate(0.3, 0.9))
    for number in range(int(dice.lognormvariate(6.0, 0.6)) + 60):
        length = (b"content-length", b"%d" % (28 + dice.randrange(2 if path == COUPON else 40)))
        yield Request(now, address, "POST", path, b"", (*headers, length), valid=number % 300 == 200)
        now += pause()


def inviter(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Codes of invitations or tokens, one link or one handshake after the other; one in three hundred is right."""
    browser, now, address = browsers.draw(dice, browsers.DESKTOPS), start, places.hosting(dice)
    headers = headers_of(dice.choice(attackers.TOOLS)) if dice.random() < 0.6 else attackers._claimed(dice, browser)
    asked = (("GET", INVITE, b"code"), ("GET", INVITE, b"code"), ("WEBSOCKET", SOCKET, b"token"))
    method, path, name = dice.choice(asked)
    pause = attackers._pause(dice, dice.lognormvariate(-0.5, 0.9))
    for number in range(int(dice.lognormvariate(6.0, 0.6)) + 60):
        yield Request(now, address, method, path, b"%s=%06d" % (name, number), headers, valid=number % 300 == 200)
        now += pause()


def reporter(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Another company's servers tell what became of each message, hundreds at once; the app says "OK"."""
    form = ("content-type", "application/x-www-form-urlencoded")
    headers, address, now = headers_of(dice.choice(attackers.TOOLS), form), places.hosting(dice), start
    for _ in range(dice.randint(1, 6)):
        gap = dice.lognormvariate(-1.5, 0.8)
        for _ in range(int(dice.lognormvariate(4.5, 1.0)) + 10):
            yield Request(now, address, "POST", REPORTS, b"", headers)
            now += gap * dice.lognormvariate(0.0, 0.5)
        now += dice.expovariate(1 / 3_000)


def injector(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """One form with ever other content, at which some apps fail; the page of the form is loaded before, or not."""
    form, browser = (b"content-type", b"application/x-www-form-urlencoded"), browsers.draw(dice, browsers.DESKTOPS)
    address, now, manner = places.hosting(dice), start, dice.random()
    headers: Headers = headers_of(dice.choice((*attackers.TOOLS, *attackers.SCANNERS)))
    if manner < 0.3:
        headers = headers_of(browser.agent, ("accept-language", browser.language))
    elif manner < 0.5:
        headers = browser.page(f"{ORIGIN}{FIND}")
    if dice.random() < 0.3:
        yield Request(now - 3.0, address, "GET", FIND, b"", headers)
    pause, fails = attackers._pause(dice, dice.lognormvariate(-1.5, 0.8)), dice.choice((0.0, 0.0, 0.5))
    for _ in range(int(dice.lognormvariate(6.0, 0.6)) + 60):
        yield Request(now, address, "POST", FIND, b"", (*headers, form), valid=dice.random() >= fails)
        now += pause()


def watcher(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """The same pages again each hour or so, all day, from one address."""
    pages, address, now = dice.sample(site.articles(), min(120, 25 + int(dice.expovariate(1 / 60)))), "", start
    browser, address = browsers.draw(dice, browsers.DESKTOPS), places.hosting(dice)
    tool = headers_of(dice.choice(attackers.TOOLS))
    headers = tool if dice.random() < 0.4 else attackers._claimed(dice, browser)
    every, pause = dice.choice((1_800.0, 3_600.0, 10_800.0)), attackers._pause(dice, dice.lognormvariate(0.7, 0.8))
    for _ in range(int(dice.uniform(4.0, 20.0))):
        dice.shuffle(pages)
        for path in pages:
            yield Request(now, address, "GET", path, b"", headers)
            now += pause()
        now += every


def linked(site: Site, start: float, dice: random.Random) -> Iterable[Request]:
    """Link by link through the site with all that a browser sends, and the page that links as Referer; no files."""
    browser, address, now = browsers.draw(dice, browsers.DESKTOPS), places.hosting(dice), start
    waiting: list[tuple[str, str]] = [("/", "")]
    seen, pause = {"/"}, attackers._pause(dice, dice.lognormvariate(0.7, 0.9))
    for _ in range(int(dice.lognormvariate(6.0, 0.6))):
        if not waiting:
            return
        path, referer = waiting.pop(0 if dice.random() < 0.5 else dice.randrange(len(waiting)))
        yield Request(now, address, "GET", path, b"", browser.page(referer, typed=not referer))
        now += pause()
        fresh = [one for one in site.links.get(path, ()) if one not in seen]
        seen.update(fresh)
        waiting += [(one, f"{ORIGIN}{path}") for one in fresh]


def typist(site: Site, start: float, dice: random.Random) -> Surfer:
    """Buys something; the form is sent to be checked at each key, or when the keys rest, and is not yet complete."""
    surfer = Surfer(dice, site, browsers.draw(dice), places.home(dice), start)
    surfer.enter(site.entry(dice))
    people.browse(surfer, 1 + int(dice.expovariate(0.3)))
    surfer.follow(f"{PAY}/form")
    length, keys, mistakes = dice.randint(50, 300), dice.choice((1, 1, 1, 4)), dice.uniform(0.0, 0.1)
    for field in (dice.randint(12, 30), dice.randint(10, 30), dice.randint(4, 20), 19, 5, 3):
        length, end = length + 12, length + 12 + field
        while length < end:
            back = length > end - field + 2 and dice.random() < mistakes
            length = length - 1 if back else min(end, length + dice.randint(1, keys))
            checked = (*surfer.browser.call(surfer.page, JSON_BODY), (b"content-length", b"%d" % length))
            surfer.send("POST", f"{PAY}/check", checked)
            surfer.wait(keys * dice.lognormvariate(-1.6, 0.6))
        surfer.wait(dice.lognormvariate(0.3, 0.8))
    paid = (*surfer.browser.call(surfer.page, JSON_BODY), (b"content-length", b"%d" % length))
    surfer.send("POST", PAY, paid, valid=True)
    return surfer


def skimmer(site: Site, start: float, dice: random.Random) -> Surfer:
    """A browser that is started again, a key that is held down, or links one after the other, in a list elsewhere."""
    surfer = Surfer(dice, site, browsers.draw(dice, browsers.DESKTOPS), places.home(dice), start)
    manner, count = dice.choice(("tabs", "album", "list")), dice.randint(15, 40)
    if manner == "tabs":
        if dice.random() < 0.5:  # it has most files from before
            surfer._cached.update(file for files in site.files.values() for file in files)
        for path in dice.sample(site.articles(), count):
            surfer.load(path, "", typed=True)
            surfer.wait(dice.expovariate(4))
    elif manner == "list":
        pages = dice.sample(site.articles(), min(2 * count, len(site.articles())))
        for path in sorted(pages) if dice.random() < 0.5 else pages:
            surfer.load(path, "https://sheets.example/")
            surfer.think(9.0, 0.8)
    else:
        photo, pace = dice.randrange(100_000), dice.uniform(0.5, 2.0)
        for _ in range(dice.randint(1, 6)):
            surfer.load(DESK, f"{ORIGIN}/")
            surfer.glance()
            for _ in range(count):
                photo += 1
                surfer.follow(f"{DESK}/{photo}")
                surfer.send("GET", f"/static/photo/{photo}.webp", surfer.browser.file("/a.webp", surfer.page))
                surfer.wait(pace * dice.lognormvariate(0.0, 0.3))
            surfer.think(30.0)
    people.browse(surfer, 1 + int(dice.expovariate(0.2)))
    return surfer


def lone(kind: Kind, site: Site, seconds: float, dice: random.Random) -> Actor:
    """Return one visitor of a kind."""
    if kind.label is Label.HUMAN:
        start = people.day_time(dice, seconds)
        return Actor(kind, start, lambda own: PEOPLE[kind](site, start, own).sent)
    start = dice.uniform(0, seconds * (0.3 if kind is WATCHER else 0.8))
    return Actor(kind, start, partial(PROGRAMS[kind], site, start))


PEOPLE: dict[Kind, Callable[[Site, float, random.Random], Surfer]] = {
    CLERK: clerk,
    IN_APP: in_app,
    AHEAD: ahead,
    LEFT_OPEN: left_open,
    TYPIST: typist,
    SKIMMER: skimmer,
}
PROGRAMS: dict[Kind, Callable[[Site, float, random.Random], Iterable[Request]]] = {
    GUESSER: guesser,
    WATCHER: watcher,
    LINKED: linked,
    MAIL: mail,
    REPORTER: reporter,
    INJECTOR: injector,
    INVITER: inviter,
}
