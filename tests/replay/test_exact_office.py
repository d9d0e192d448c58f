"""What honest people and programs are let off, and what scanners try, is judged again as it was."""

from __future__ import annotations

import asyncio
import random
from collections.abc import MutableMapping
from hashlib import sha256
from typing import Any, Literal

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.inputs import BETWEEN, IS_LED, REDIRECTED, TRIED, TYPED, login_of
from tests.replay.mix import SENT, Mix

from .test_exact import differing, hits_of, known, recording

__all__ = ["known"]  # a fixture
PEOPLE = {**SENT, "sec-fetch-site": "same-origin"}
TOKEN = {"user-agent": "AcmeNotes/4.1", "x-api-key": "k"}
DIGESTS = [sha256(b"%d" % number).hexdigest() for number in range(60)]


async def office(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """A queue that leads on from form to form, a login that lets nobody in, notes, and much that is gone."""
    path, headers, status = scope["path"], [(b"content-type", b"text/html")], 200
    if scope["method"] == "POST" and path == "/login":
        status = 401
    elif path == "/checkout":
        status = 422
    elif scope["method"] == "POST":
        status = 303
        headers.append((b"location", b"/queue/%d?view=b" % (int(path.rpartition("/")[2]) + 1)))
    elif path.startswith("/notes/"):
        headers = [(b"content-type", b"application/json")]
    elif path.startswith("/text/"):
        headers = [(b"content-type", b"text/plain")]
    elif path.startswith("/led/"):
        status = 302
        headers.append((b"location", b"/login"))
    elif path.startswith("/on/"):
        status = 302
        headers.append((b"location", b"/gone" + path.encode()))
    elif path.startswith(("/objects/", "/avatars/", "/gone/", "/broken")):
        status = 500 if path == "/broken" else 404
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"x"})


async def work(mix: Mix, app: AnalyticsMiddleware, turns: int) -> None:
    for turn in range(turns):
        await mix.ask(app, "198.51.100.1", f"/queue/{turn}", PEOPLE, "POST")
        await mix.ask(app, "198.51.100.1", f"/queue/{turn + 1}", PEOPLE, query="view=b")
        await mix.ask(app, "198.51.100.2", "/login", {**PEOPLE, "content-length": "40"}, "POST")
        await mix.ask(app, "198.51.100.2", ("/login", "/site.css", "/site.js")[turn % 3], PEOPLE)
        await mix.ask(app, "198.51.100.2", "/logo", {**PEOPLE, "sec-fetch-dest": "image"})
        for address, length in (("10", 40 + turn % 60), ("11", 40 + turn * turn % 61)):
            typed = {**PEOPLE, "sec-fetch-dest": "empty", "content-length": f"{length}"}
            await mix.ask(app, f"198.51.100.{address}", "/checkout", typed, "POST")
        if turn % 3 == 0:
            await mix.ask(app, "198.51.100.12", f"/read/{turn:04}", {**SENT, "sec-fetch-site": "cross-site"})
            await mix.ask(app, "198.51.100.12", "/logo", {**PEOPLE, "sec-fetch-dest": "image"})
        await mix.ask(app, "198.51.100.3", f"/notes/{turn}", TOKEN)
        await mix.ask(app, "198.51.100.4", f"/notes/{turn}", {**PEOPLE, "sec-fetch-dest": "empty"})
        await mix.ask(app, "198.51.100.4", "/queue/0", PEOPLE)
        await mix.ask(
            app, "198.51.100.5", f"/objects/{DIGESTS[turn % 60]}{turn // 60 or ''}", {"user-agent": "git/2.51.0"}
        )
        await mix.ask(app, "198.51.100.6", f"/avatars/{DIGESTS[turn % 60]}-{turn}", {"user-agent": "okhttp/5.1.0"})
        await mix.ask(app, "198.51.100.7", f"/gone/{turn % 150}", {"user-agent": "Uptime-Kuma/2.0.2"})
        for _ in range(4):
            await mix.ask(app, "198.51.100.8", "/search", PEOPLE, query=f"q={turn}")
            await mix.ask(app, "198.51.100.9", "/sale", PEOPLE)
            mix.clock.advance(0.1)
        mix.clock.advance(1.0 if turn % 80 else 2_400.0)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_what_honest_people_and_programs_are_let_off_is_judged_as_it_was(
    known: dict[str, Any], mode: Literal["enforce", "observe"]
) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known, office, mode=mode)
    asyncio.run(work(mix, app, 240))
    assert app.stats()["failures"] == {}
    hits = hits_of(app)
    redirected = [hit for hit in hits if hit.page_view and (hit.inputs or 0) & REDIRECTED]
    assert len(redirected) == 240
    assert {hit.score >= 50 for hit in hits if hit.page_view and (hit.inputs or 0) & IS_LED} == {False}
    typed = [hit for hit in hits if (hit.inputs or 0) & TRIED and (hit.inputs or 0) & TYPED]
    assert 230 < len(typed) < 300
    assert {hit.level for hit in hits} >= {0, 1, 2}
    assert list(differing(hits)) == []


async def scan(mix: Mix, app: AnalyticsMiddleware) -> None:
    for number in range(200):
        await mix.ask(app, "198.51.100.1", "/gone/item", {"user-agent": "sqlmap/1.9"}, query=f"id={number}%27")
        await mix.ask(app, "198.51.100.2", "/broken", SENT, query=f"id={number}+union+select+1")
        await mix.ask(app, "198.51.100.3", "/broken", SENT, query=f"id={number}")
        await mix.ask(app, "198.51.100.4", f"/text/{number}", {**SENT, "sec-fetch-dest": "empty"})
        await mix.ask(app, "198.51.100.5", f"/page/{number}", {"user-agent": "Amazon CloudFront"})
        await mix.ask(app, "198.51.100.6", f"/led/{number}.php", {"user-agent": "wget/1.21"})
        for address, headers in (("198.51.100.8", {"user-agent": "wget/1.21"}), ("198.51.100.9", SENT)):
            await mix.ask(app, address, f"/on/{number}", headers)
            await mix.ask(app, address, f"/gone/on/{number}", headers)
        await mix.ask(app, "198.51.100.10", f"/on/{number}", {**SENT, "sec-fetch-dest": "image"})
        await mix.ask(app, "198.51.100.7", f"/gone/{number}", SENT)  # as a person follows dead links
        mix.clock.advance(2.0 if number % 50 else 700.0)


def test_parameters_that_scanners_try_text_and_a_gateways_people_are_judged_as_they_were(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known, office)
    asyncio.run(scan(mix, app))
    hits = hits_of(app)
    levels = {
        network: max(hit.level for hit in hits if hit.network == network) for network in {h.network for h in hits}
    }
    assert sorted(levels.values()) == [0, 0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert list(differing(hits)) == []


async def shop(mix: Mix, app: AnalyticsMiddleware) -> None:
    """Each third comes to the site, the others follow links of what somebody loaded before."""
    for number in range(200):
        led = {**PEOPLE, "referer": f"https://shop.example/page/{max(0, number - number % 7)}"}
        await mix.ask(app, "198.51.100.1", f"/page/{number}", led if number % 3 else SENT)
        await mix.ask(app, "198.51.100.1", "/logo", {**PEOPLE, "sec-fetch-dest": "image"})
        mix.clock.advance(1.0 + number % 5)


def test_people_who_come_in_between_are_counted_as_they_were(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known, office)
    asyncio.run(shop(mix, app))
    hits = hits_of(app)
    assert sum(bool(hit.page_view and (hit.inputs or 0) & BETWEEN) for hit in hits) == 4
    assert list(differing(hits)) == []


async def look_up(mix: Mix, app: AnalyticsMiddleware) -> None:
    """Sixteen in an app elsewhere, who log in by a cookie, a token or nothing; then somebody walks by many cookies."""
    for number in range(800):
        who = mix.draw.randrange(16)
        login = {"cookie": f"sessionid={who:032}"} if who < 9 else {"authorization": f"Bearer {who:032}"}
        called = {**PEOPLE, "sec-fetch-dest": "empty", **(login if who else {})}
        await mix.ask(app, "198.51.100.1", f"/notes/{number}", called)
        mix.clock.advance(mix.draw.choice((0.3, 1.1)))
    for number in range(400):
        called = {**PEOPLE, "sec-fetch-dest": "empty", "cookie": f"sessionid={number // 30:032}"}
        await mix.ask(app, "198.51.100.2", f"/notes/{number}", called)
        mix.clock.advance(0.65)


async def learn(mix: Mix, app: AnalyticsMiddleware) -> None:
    """A class whose answers are wrong half of the time."""
    for number in range(700):
        login = {"cookie": f"sessionid={mix.draw.randrange(20):032}", "content-length": str(mix.draw.randrange(24, 64))}
        path = "/checkout" if mix.draw.random() < 0.5 else f"/task/{number % 9}"
        await mix.ask(app, "198.51.100.1", path, {**PEOPLE, "sec-fetch-dest": "empty", **login}, "POST")
        mix.clock.advance(mix.draw.choice((0.7, 1.6)))


def test_a_class_that_sends_answers_is_told_apart_as_it_was(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known, office)
    asyncio.run(learn(mix, app))
    hits = hits_of(app)
    assert len({login_of(hit.inputs or 0, hit.numbers) for hit in hits}) == 21
    assert {hit.level for hit in hits} == {0}
    assert list(differing(hits)) == []


def test_logins_that_take_turns_are_told_apart_as_they_were(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known, office)
    asyncio.run(look_up(mix, app))
    hits = hits_of(app)
    parts = (hits[:800], hits[800:])
    logins = [{login_of(hit.inputs or 0, hit.numbers) for hit in part} for part in parts]
    assert (len(logins[0]), len(logins[1]) > 5) == (16, True)
    assert [max(hit.level for hit in part) for part in parts] == [0, 2]
    assert list(differing(hits)) == []
