"""Random mixes of people, forgers, scrapers, scanners and guessers on a live middleware with a clock of its own."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from asgi_analytics.middleware import ASGIApp, Message, Receive, Scope, Send
from asgi_analytics.testing import START_NS, FakeClock
from tests import drive
from tests.identify.test_geoip import write

LIMITS = ("20/second", "100/minute")
NAME = "Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
BROWSER = NAME.format("X11; Linux x86_64", 130)
SENT = {"accept-language": "de", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FALSE = {"user-agent": "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)"}
TRUE = {"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
PROBES = (
    *("/.env", "/.git/config", "/wp-login.php", "/..;/manager/html", "/a;/../b", "http://other.example/.env"),
    *("/x\0y", "/a/../../etc/passwd", f"/missing/{'a1' * 30}", "/c;d=1/wp-config.php.bak", "/missing/\udcff"),
)


def places(folder: Path) -> dict[str, Any]:
    """Return the options of a site that knows a network of servers, and the ranges of two operators' crawlers."""
    system = {"autonomous_system_number": 24940, "autonomous_system_organization": "Hetzner Online GmbH"}
    asn = write(folder / "asn.mmdb", {"5.9.0.0/16": system}, kind="GeoLite2-ASN")
    for name in ("google-common-crawlers", "openai-gptbot"):
        (folder / f"{name}.json").write_text(json.dumps({"prefixes": [{"ipv4Prefix": "66.249.66.0/24"}]}))
        os.utime(folder / f"{name}.json", (START_NS / 1e9, START_NS / 1e9))
    return {"geoip_asn": asn, "crawler_dir": folder, "limits": LIMITS}


@dataclass
class Mix:
    """A site and its visitors, drawn from a seed; `statuses` is a ledger of what was answered."""

    draw: random.Random
    clock: FakeClock = field(default_factory=FakeClock)
    statuses: list[int] = field(default_factory=list)
    waiting: list[asyncio.Event] = field(default_factory=list)  # answers that their requests wait for
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    count: int = 0
    queries: bool = False  # some of what comes is told apart by queries

    async def site(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An app with pages, data, a login, and nothing of what scanners hope for."""
        if scope["type"] == "lifespan":
            await drive.answer_lifespan(receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        if scope["type"] == "websocket":
            self.clock.advance(self.draw.uniform(0.001, 0.05))
            await _answer_socket(path, send)
            return
        if path.startswith("/slow"):
            self.waiting.append(event := asyncio.Event())
            await event.wait()
        self.clock.advance(self.draw.uniform(0.001, 0.05))
        status, kind = 200, b"text/html; charset=utf-8"
        if scope["method"] not in ("GET", "POST", "PUT") or not path.startswith(
            ("/slow", "/page", "/api", "/login", "/reset")
        ):
            status = 404
        elif b"x-wrong" in headers:
            shown_again = scope["method"] == "POST" and headers[b"x-wrong"] == b"2"
            status = 200 if shown_again else 500 if headers[b"x-wrong"] == b"5" else 401
        elif scope["method"] == "POST":
            status, kind = 303, b""
        elif path.startswith("/api"):
            kind = b"application/json"
        fields = [(b"content-type", kind)] if kind else []
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": b"x"})

    async def ask(
        self,
        app: ASGIApp,
        address: str,
        path: str,
        headers: dict[str, str],
        method: str = "GET",
        inner: bool = False,
        query: str = "",
    ) -> None:
        """Send one request over https; `headers` without a name are a browser's."""
        given = {"host": "shop.example", "user-agent": BROWSER, **headers}
        if inner:
            given["referer"] = "https://shop.example/from"
        scope = drive.http_scope(path, method, scheme="https", client=(address, 4000), query_string=query.encode())
        scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
        self.statuses.append((await drive.ask(app, scope)).status)

    async def visit(self, app: ASGIApp, steps: int) -> None:
        """Let somebody do something, again and again."""
        acts: list[Callable[[ASGIApp], Any]] = [
            *(self.read, self.read, self.read, self.arrive, self.forge, self.rotate, self.guess, self.scrape),
            *(self.crawl, self.host, self.scan, self.scan_aged, self.burst, self.slow, self.hide, self.poll),
        ]
        if self.queries:
            acts += [self.leaf, self.leaf, self.walk, self.turn, self.forge_by_query, self.guess_by_query, self.knock]
            acts += [self.send_form]
        favourites = self.draw.choices(acts, k=4)
        for _ in range(steps):
            await self.draw.choice(self.draw.choice((acts, favourites)))(app)
            self.clock.advance(self.draw.choice((0.01, 0.3, 2.0)) * self.draw.uniform(0.5, 1.5))
            if self.draw.random() < 0.01:
                self.clock.advance(self.draw.choice((200.0, 700.0, 2500.0)) * self.draw.uniform(0.9, 1.1))
            if self.waiting and self.draw.random() < 0.3:
                await self.release()
        while self.waiting:
            await self.release()
        await asyncio.gather(*self.tasks)

    async def tour(self, app: ASGIApp, times: int) -> None:
        """Let each do what they do often enough to be noticed."""
        queried = (self.leaf, self.walk, self.turn, self.forge_by_query, self.guess_by_query, self.knock)
        more = (*queried, self.send_form) if self.queries else ()
        for act in (
            *more,
            self.arrive,
            self.forge,
            self.rotate,
            self.guess,
            self.scrape,
            self.crawl,
            self.host,
            self.scan,
            self.scan_aged,
        ):
            for _ in range(times):
                await act(app)
                self.clock.advance(self.draw.uniform(0.1, 0.5))

    async def release(self) -> None:
        """Let one of the slow answers go."""
        self.waiting.pop(self.draw.randrange(len(self.waiting))).set()
        for _ in range(5):
            await asyncio.sleep(0)

    def next(self) -> int:
        """Return a number that was not drawn before."""
        self.count += 1
        return self.count

    async def read(self, app: ASGIApp) -> None:
        """One of six people loads a page."""
        site = self.draw.choice(("none", "same-origin", "same-origin"))
        headers = {**SENT, "sec-fetch-site": site}
        await self.ask(app, f"198.51.100.{self.draw.randrange(6)}", f"/page/{self.draw.randrange(40)}", headers)

    async def arrive(self, app: ASGIApp) -> None:
        """Some new people come."""
        for _ in range(self.draw.randrange(1, 6)):
            address = f"10.1.{self.next() // 200}.{self.count % 200}"
            await self.ask(app, address, "/page/1", {**SENT, "sec-fetch-site": "none"})
            self.clock.advance(0.1)

    async def forge(self, app: ASGIApp) -> None:
        """Scrape under many names from one network."""
        for _ in range(self.draw.randrange(1, 12)):
            agent = NAME.format("Windows NT 10.0", 100 + self.draw.randrange(40))
            headers = {"user-agent": agent, **self.draw.choice(({}, {"accept-language": "en"}))}
            await self.ask(app, "198.51.100.60", f"/page/{self.draw.randrange(400)}", headers)
            self.clock.advance(self.draw.uniform(0.1, 1.0))

    async def rotate(self, app: ASGIApp) -> None:
        """Scrape under one name from many networks."""
        headers = {"accept-language": "fr", "sec-ch-ua": '"Chromium";v="99"'}
        for _ in range(self.draw.randrange(1, 12)):
            address = f"203.0.{self.draw.randrange(30)}.1"
            await self.ask(app, address, f"/page/{self.next()}", headers)
            self.clock.advance(self.draw.uniform(0.1, 1.0))

    async def guess(self, app: ASGIApp) -> None:
        """Try credentials: a form, a script's calls, a token; now and then one is right."""
        address = self.draw.choice(("198.51.100.70", f"203.1.{self.draw.randrange(60)}.1"))
        for _ in range(self.draw.randrange(1, 15)):
            headers = {"x-wrong": self.draw.choice("12")} if self.draw.random() < 0.9 else {}
            method = self.draw.choice(("POST", "POST", "GET", "PUT"))
            if method == "GET":
                headers["authorization"] = f"Basic {self.draw.randrange(30)}"
            else:
                headers["content-length"] = str(self.draw.randrange(10, 30))
                headers |= self.draw.choice(({}, {"sec-fetch-dest": "document"}))
            await self.ask(app, address, "/login", headers, method)
            self.clock.advance(self.draw.uniform(0.1, 3.0))

    async def scrape(self, app: ASGIApp) -> None:
        """Ask for one item of data after the other."""
        for _ in range(self.draw.randrange(10, 60)):
            name = self.next() if self.draw.random() < 0.8 else sha256(str(self.next()).encode()).hexdigest()
            headers = {"user-agent": "python-requests/2.32"}
            if self.draw.random() < 0.1:
                headers["purpose"] = "prefetch"
            await self.ask(app, "198.51.100.71", f"/api/items/{name}", headers)
            self.clock.advance(0.4)

    async def crawl(self, app: ASGIApp) -> None:
        """Crawl under an operator's name, rightly or not."""
        who, address = self.draw.choice(((FALSE, "93.184.216.34"), (TRUE, "66.249.66.1"), (TRUE, "93.184.216.35")))
        for _ in range(self.draw.randrange(1, 10)):
            await self.ask(app, address, f"/page/{self.next()}", who)
            self.clock.advance(0.7)

    async def host(self, app: ASGIApp) -> None:
        """Browse from a network of servers."""
        headers = {**SENT, "sec-fetch-site": "same-origin"}
        address = f"5.9.0.{self.draw.randrange(3)}"
        for _ in range(9):
            await self.ask(app, address, f"/page/{self.draw.randrange(90)}", headers)

    async def scan(self, app: ASGIApp) -> None:
        """Ask for what scanners hope for."""
        method = self.draw.choice(("GET", "GET", "TRACE", "A-METHOD-OF-ITS-OWN"))
        path = self.draw.choice((*PROBES, f"/missing/{self.next()}"))
        inner = self.draw.random() < 0.2
        await self.ask(app, f"198.51.100.{80 + self.draw.randrange(3)}", path, SENT, method, inner)

    async def scan_aged(self, app: ASGIApp) -> None:
        """Scan by the name of another old browser each time."""
        for _ in range(self.draw.randrange(1, 12)):
            agent = NAME.format("Windows NT 10.0", 40 + self.draw.randrange(45))
            path = self.draw.choice((*PROBES, f"/missing/{self.next()}", f"/page/{self.draw.randrange(90)}"))
            headers = {"user-agent": agent, "accept": "*/*", "accept-language": "en"}
            await self.ask(app, "198.51.100.61", path, headers)
            self.clock.advance(self.draw.uniform(0.1, 1.0))

    async def burst(self, app: ASGIApp) -> None:
        """Use up a quota."""
        for _ in range(30):
            await self.ask(app, "198.51.100.90", "/api/burst", SENT)

    async def slow(self, app: ASGIApp) -> None:
        """Begin a request that is answered after others."""
        address = self.draw.choice(("198.51.100.1", "198.51.100.91"))
        headers = {**SENT, "sec-fetch-site": "none"}
        self.tasks.append(asyncio.create_task(self.ask(app, address, f"/slow/{self.draw.randrange(30)}", headers)))
        await asyncio.sleep(0)

    async def hide(self, app: ASGIApp) -> None:
        """Load pages with tokens and parameters in their paths, which are not stored."""
        name = sha256(str(self.draw.randrange(60)).encode()).hexdigest()
        for path in self.draw.choices((f"/reset/{name}", f"/page/1;session={name}", "/page/1", "/page/2"), k=3):
            await self.ask(app, "198.51.100.92", path, {**SENT, "sec-fetch-site": "same-origin"})
            self.clock.advance(self.draw.uniform(0.3, 2.0))

    async def poll(self, app: ASGIApp) -> None:
        """Ask for the same again and again."""
        await self.ask(app, "198.51.100.93", self.draw.choice(("/api/poll", "/page/3")), SENT)

    async def leaf(self, app: ASGIApp) -> None:
        """Leaf through a shop as people do: things, lists, filters, and back."""
        query = self.draw.choice(
            (
                *(f"id={self.draw.randrange(60)}", f"id={self.draw.randrange(9)}&utm_source=x", "sort=price", "q=gar"),
                *(f"page={self.draw.randrange(9)}", f"topic={self.draw.randrange(30)}&start={self.draw.randrange(90)}"),
            )
        )
        headers = {**SENT, "sec-fetch-site": self.draw.choice(("none", "same-origin", "same-origin"))}
        path = self.draw.choice(("/page/item", "/page/item;session=12", "/page/list"))
        await self.ask(app, f"198.51.100.{120 + self.draw.randrange(3)}", path, headers, query=query)

    async def walk(self, app: ASGIApp) -> None:
        """Walk through the things of a site by number, or by a hand's shuffle, from outside.

        A token sorts here as what is stored of it does, among other pages: how it does by itself, no row tells.
        """
        for _ in range(self.draw.randrange(5, 30)):
            name = self.next() if self.draw.random() < 0.7 else self.draw.randrange(10_000)
            query = f"id={name}" if self.draw.random() < 0.7 else f"page={name % 50}"
            path = self.draw.choice(("/page/item", f"/page/item/{sha256(b'x').hexdigest()}"))
            address = self.draw.choice(("198.51.100.124", "198.51.100.125"))
            await self.ask(app, address, path, {**SENT, "sec-fetch-site": "none"}, query=query)
            self.clock.advance(self.draw.uniform(0.2, 1.5))

    async def turn(self, app: ASGIApp) -> None:
        """Scroll, poll and walk through data."""
        kind = self.draw.choice(("page={}", "cursor=c{}abc", "id={}", "id={}&page=2", "q=a{}", "since={}"))
        path = self.draw.choice(("/api/list", f"/api/{sha256(b'y').hexdigest()}"))
        for _ in range(self.draw.randrange(10, 120)):
            headers = {**SENT, "sec-fetch-dest": "empty", "sec-fetch-site": "same-origin"}
            await self.ask(app, "198.51.100.126", path, headers, query=kind.format(self.next()))
            self.clock.advance(0.15)

    async def forge_by_query(self, app: ASGIApp) -> None:
        """Scrape things under many names from one network."""
        for _ in range(self.draw.randrange(1, 12)):
            agent = NAME.format("Windows NT 10.0", 100 + self.draw.randrange(40))
            await self.ask(app, "198.51.100.127", "/page/item", {"user-agent": agent}, query=f"id={self.next()}")
            self.clock.advance(self.draw.uniform(0.1, 1.0))

    async def guess_by_query(self, app: ASGIApp) -> None:
        """Guess tokens in the query of a link, of which some are stored otherwise, as a library or as a page."""
        name = sha256(str(self.draw.randrange(9)).encode()).hexdigest()
        paths = (
            "/missing/reset",
            "/missing/reset;x=1",
            f"/missing/{name}/reset",
            f"/missing/{name}",
            "/wp-login.php;x",
        )
        path, headers = self.draw.choice(paths), {**SENT, "sec-fetch-site": "same-origin"}
        if self.draw.random() < 0.6:
            headers = {"user-agent": "python-requests/2.32", **self.draw.choice(({}, {"authorization": "Bearer x"}))}
        for _ in range(self.draw.randrange(5, 40)):
            query = f"a=1&{self.draw.choice(('token', 'invite_code', 'id'))}={self.draw.randrange(300)}"
            method = self.draw.choice(("GET", "GET", "POST"))
            await self.ask(app, f"198.51.100.{130 + self.draw.randrange(2)}", path, headers, method, query=query)
            self.clock.advance(self.draw.uniform(0.1, 1.0))

    async def send_form(self, app: ASGIApp) -> None:
        """Send one form again and again, as a browser or as a library: it is shown, or the app fails."""
        agent = self.draw.choice(({}, {"user-agent": "python-requests/2.32"}, {"referer": "https://shop.example/page"}))
        for _ in range(self.draw.randrange(10, 90)):
            form = {"content-type": "application/x-www-form-urlencoded", "x-wrong": self.draw.choice("225")}
            await self.ask(app, f"198.51.100.{134 + self.draw.randrange(2)}", "/page/form", {**agent, **form}, "POST")
            self.clock.advance(self.draw.uniform(0.01, 0.3))

    async def knock(self, app: ASGIApp) -> None:
        """Open websockets, as a page, a library or a device: some are accepted, others are closed or denied."""
        agent: dict[str, str] = self.draw.choice(
            ({}, {"origin": "https://shop.example"}, {"user-agent": "websockets/15"})
        )
        for _ in range(self.draw.randrange(5, 40)):
            paths = ("/open", "/closed", "/denied", f"/closed/{self.next()}", f"/denied;x={self.count}")
            path = self.draw.choice((*paths, f"/busy/{self.count}"))
            headers = {"host": "shop.example", "user-agent": BROWSER, **agent}
            if self.draw.random() < 0.2:
                headers["authorization"] = f"Basic {self.draw.randrange(30)}"
            scope = drive.socket_scope(path, scheme="wss", client=(f"198.51.100.{132 + self.draw.randrange(2)}", 4000))
            del scope["method"]
            scope["query_string"] = b"token=%d" % self.draw.randrange(300) + self.draw.choice((b"", b"", b"&id=1%27"))
            scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
            await app(scope, _connected, _ignored)
            self.clock.advance(self.draw.uniform(0.1, 1.0))


async def _answer_socket(path: str, send: Send) -> None:
    if path.startswith("/denied"):
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    if path.startswith("/open"):
        await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1013 if path.startswith("/busy") else 1000})


async def _connected() -> Message:
    return {"type": "websocket.connect"}


async def _ignored(message: Message) -> None: ...
