"""What is compared: ours, the documented seven rules counted naively, and the list of crawler user agents alone."""

from __future__ import annotations

import re
from bisect import insort
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cache
from math import sqrt
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from asgi_analytics import Analytics, AnalyticsMiddleware
from asgi_analytics.jobs.verification import Verifier
from asgi_analytics.testing import FakeClock

from ..peers import NOWHERE, Message, Receive, Scope, Send
from .places import name_of
from .site import Reply
from .traffic import Request

START_NS = 1_795_564_800_000_000_000  # 25 November 2026, 00:00 UTC
BOT_SCORE = 50
IDLE = 1800.0  # seconds


class Verdict(NamedTuple):
    """What a column makes of one request. `flagged`: a bot or slowed down, by score, level or name."""

    flagged: bool
    slowed: bool
    refused: bool
    bot_class: str | None = None
    signals: tuple[str, ...] = ()


class Column(Protocol):
    """One of those compared."""

    name: str
    classes: bool  # whether it tells classes of crawlers

    def judge(self, request: Request, reply: Reply) -> Verdict: ...


class _Names:
    """The names of the modelled net's addresses: nobody outside is asked."""

    def names(self, address: str) -> list[str]:
        return [name_of(address)]

    def addresses(self, name: str) -> list[str]:
        return [name.partition(".")[0].removeprefix("host-").replace("-", ".")]


class _Verifier(Verifier):
    """Answers between two requests rather than in a thread, so that the same seed gives the same figures."""

    def start(self) -> None:
        self.refresh(self._clock.monotonic())


class Ours:
    """The middleware as installed, driven by ASGI scopes; only what every app can read is read."""

    name, classes = "asgi-analytics", True

    def __init__(self, folder: str, **options: Any) -> None:
        self.clock = FakeClock(START_NS)
        self.middleware = AnalyticsMiddleware(
            self._app,
            dsn=NOWHERE,
            journal_dir=folder,
            durability="memory",
            clock=self.clock,
            shutdown_timeout=0,
            **options,
        )
        self._verifier = _Verifier(self.clock, Path(folder) / "crawlers", _Names())
        self.middleware._engine.verifier = self._verifier
        self._now = 0.0
        self._reply = Reply(200)
        self._status = 0
        self._level = b""
        self.closes_with = 1000  # a websocket

    def judge(self, request: Request, reply: Reply) -> Verdict:
        """Send one request through, at its time."""
        if request.at > self._now:
            self.clock.advance(request.at - self._now)
            self._now = request.at
        self._reply = reply
        self._verifier.work_off()
        scope = http_scope(request)
        finish(self.middleware(scope, _receive, self._send))
        found = scope["state"]["analytics"]
        assert isinstance(found, Analytics)
        refused, slowed = self._status == 429, self._level != b"normal"
        if scope["type"] == "websocket":  # a close tells neither
            refused, slowed = found.decision.refused, found.level > 0
        codes = tuple(finding.signal for finding in found.signals)
        return Verdict(slowed or found.score >= BOT_SCORE, slowed, refused, found.agent.bot_class, codes)

    def close(self) -> None:
        """Stop the middleware; raises AssertionError where it failed inside."""
        failures = self.middleware.stats()["failures"]
        self.middleware.close()
        failures.pop("stuck", None)  # the clock leaps by minutes while the writer connects
        assert not failures, failures

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if self._reply.status < 400:
                await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": self.closes_with})
            return
        await send({"type": "http.response.start", "status": self._reply.status, "headers": self._reply.headers})
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._level = dict(message["headers"])[b"x-throttle-level"]


def http_scope(request: Request) -> Scope:
    """Return what a server hands on of a request; WEBSOCKET is the method of one that opens a websocket."""
    is_socket = request.method == "WEBSOCKET"
    return {
        "type": "websocket" if is_socket else "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "server": ("127.0.0.1", 8000),
        "client": (request.address, 50_000),
        "scheme": "wss" if is_socket else "https",
        **({} if is_socket else {"method": request.method}),
        "root_path": "",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "headers": list(request.headers),
        "state": {},
    }


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end what never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


@dataclass(slots=True)
class _Session:
    started_at: float
    last_seen_at: float = 0.0
    endpoints: list[str] = field(default_factory=list)
    in_order: list[str] = field(default_factory=list)
    distinct: set[str] = field(default_factory=set)
    gaps: int = 0
    gap_sum: float = 0.0  # milliseconds
    gap_squares: float = 0.0
    level: int = 0


class NaiveSeven:
    """The documented points and limits, each request counted: files, calls, polls, reloads.

    A session is an address, a user agent and a language, with gaps up to half an hour. That is kinder than merging all
    who share a user agent and a language, wherever they are. The level rises by one with every request whose score is
    50 or more and never falls within a session; Blocked refuses.
    """

    name, classes = "seven rules, counted naively", False

    def __init__(self, site_pages: int) -> None:
        self._site_pages = site_pages
        self._sessions: dict[tuple[str, bytes, bytes], _Session] = {}
        self._starts: dict[tuple[str, bytes, bytes], deque[float]] = {}

    def judge(self, request: Request, reply: Reply) -> Verdict:
        """Count a request and judge its session."""
        headers = dict(request.headers)
        agent = headers.get(b"user-agent", b"")
        key = (request.address, agent, headers.get(b"accept-language", b""))
        session = self._session(key, request.at)
        if session.level == 3:
            session.last_seen_at = request.at
            return Verdict(True, True, True)
        _count(session, f"{request.method} {request.path}", request.at)
        score = self._score(session, agent.decode("latin-1"), len(self._starts[key]))
        if score >= BOT_SCORE:
            session.level += 1
        return Verdict(session.level > 0, session.level > 0, False)

    def _session(self, key: tuple[str, bytes, bytes], now: float) -> _Session:
        session = self._sessions.get(key)
        if session is None or now - session.last_seen_at > IDLE:
            session = self._sessions[key] = _Session(now)
            starts = self._starts.setdefault(key, deque())
            while starts and starts[0] < now - 86_400.0:
                starts.popleft()
            starts.append(now)
        return session

    def _score(self, session: _Session, agent: str, sessions: int) -> int:
        endpoints = session.endpoints
        count = len(endpoints)
        score = 30 * (count > 50)
        score += 25 * (100.0 * len(session.distinct) / self._site_pages > 60.0)
        score += 20 * (count >= 5 and sum(map(eq, endpoints, session.in_order)) > 0.7 * count)
        score += 20 * (sessions > 5)
        score += 15 * (count >= 5 and _variation(session) < 0.1)
        minutes = int(session.last_seen_at - session.started_at) / 60
        score += 15 * (minutes > 0 and count / minutes > 5.0)
        return score + 10 * _outdated(agent)


def _count(session: _Session, endpoint: str, now: float) -> None:
    if session.endpoints:
        gap = float(int((now - session.last_seen_at) * 1000))
        session.gaps += 1
        session.gap_sum += gap
        session.gap_squares += gap * gap
    session.endpoints.append(endpoint)
    insort(session.in_order, endpoint)
    session.distinct.add(endpoint)
    session.last_seen_at = now


def _variation(session: _Session) -> float:
    mean = session.gap_sum / session.gaps
    return sqrt(max(0.0, session.gap_squares / session.gaps - mean * mean)) / mean if mean > 0 else 1.0


@cache
def _outdated(agent: str) -> bool:
    if chrome := re.search(r"Chrome/(\d+)", agent):
        return int(chrome[1]) < 90
    firefox = re.search(r"Firefox/(\d+)", agent)
    return firefox is not None and int(firefox[1]) < 88


class UserAgentList:
    """The open list of crawler user agents, and nothing else.

    What it knows as an HTTP library, an automated browser or a scanner, and a missing user agent, is refused from the
    first request on; other names are classed and served.
    """

    name, classes = "user-agent list alone", True
    unwanted = frozenset(("http-library", "browser-automation", "scanner"))

    def judge(self, request: Request, reply: Reply) -> Verdict:
        """Look the name up."""
        agent = next((value for name, value in request.headers if name == b"user-agent"), b"").decode("latin-1")
        bot_class = _listed(agent)
        bad = not agent or bot_class in self.unwanted
        return Verdict(bad, bad, bad, bot_class)


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA

    return [(re.compile(entry["pattern"]), (entry.get("tags") or ["crawler"])[0]) for entry in CRAWLER_USER_AGENTS_DATA]


@cache
def _listed(agent: str) -> str | None:
    return next((bot_class for pattern, bot_class in _patterns() if pattern.search(agent)), None)
