"""A verifier of crawlers whose name server and key directories are made up."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asgi_analytics.errors import DataFileError
from asgi_analytics.jobs.verification import Verifier
from asgi_analytics.model import Agent, Verification
from asgi_analytics.protocols import Fetched
from asgi_analytics.replay.pipeline import agents
from asgi_analytics.testing import FakeClock, FixedResolver

from ..signing import NOW, Signer, make_scope

READER = agents()


def named(crawler: str) -> Agent:
    return READER.read(f"Mozilla/5.0 (compatible; {crawler}/1.0; +https://crawler.example/bot)")


CLAUDE_CODE = READER.read("Claude-User (claude-code/1.0.60; +https://support.anthropic.com/)")
NOVA_ACT = READER.read(
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/138.0.0.0 Safari/537.36 Agent-NovaAct/0.9"
)
GOOGLEBOT, BINGBOT, GPTBOT, CHATGPT = map(named, ("Googlebot", "bingbot", "GPTBot", "ChatGPT-User"))
BROWSER = READER.read("Mozilla/5.0 (Windows NT 10.0; rv:132.0) Gecko/20100101 Firefox/132.0")
CRAWL, EVIL = "66.249.66.1", "93.184.216.34"
NAMES = {CRAWL: ["crawl-66-249-66-1.googlebot.com"], EVIL: ["host.evil.example"], "93.184.216.35": ["x.googlebot.com"]}
ADDRESSES = {"crawl-66-249-66-1.googlebot.com": [CRAWL], "x.googlebot.com": ["66.249.66.9"]}
FILES = {
    "google-common-crawlers": (
        b'{"prefixes": [{"ipv4Prefix": "66.249.64.0/27"}, {"ipv6Prefix": "2001:4860:4801::/64"}]}'
    ),
    "anthropic-bots": b'{"prefixes": [{"ipv4Prefix": "160.79.104.0/23"}]}',
    "openai-gptbot": b'{"prefixes": [{"ipv4Prefix": "52.230.152.0/24"}]}',
}


class Web:
    """Serves key directories by URL, and counts."""

    def __init__(self, *signers: Signer) -> None:
        self.asked: list[str] = []
        self.max_age: float | None = None
        self.signers = {f"https://{one.host}/.well-known/http-message-signatures-directory": one for one in signers}

    def __call__(self, url: str) -> Fetched:
        self.asked.append(url)
        if url not in self.signers:
            raise DataFileError(url)
        return Fetched(self.signers[url].directory(), self.max_age)


class Waiting(FixedResolver):
    """A resolver of these names that tells when it has answered."""

    def __init__(self) -> None:
        super().__init__(NAMES, ADDRESSES)
        self.answered = threading.Event()

    def addresses(self, name: str) -> Sequence[str]:
        try:
            return super().addresses(name)
        finally:
            self.answered.set()


class Rig:
    """A verifier whose background work is done when told to."""

    def __init__(self, folder: Path, files: Mapping[str, bytes], *signers: Signer) -> None:
        for name, data in files.items():
            (folder / f"{name}.json").write_bytes(data)
            os.utime(folder / f"{name}.json", (NOW, NOW))
        self.clock = FakeClock(NOW * 1_000_000_000)
        self.resolver = FixedResolver(NAMES, ADDRESSES)
        self.web = Web(*signers)
        self.verifier = Verifier(self.clock, folder, self.resolver, self.web)
        self.verifier.refresh(self.clock.monotonic())

    def ask(self, agent: Agent, address: str, scope: dict[str, Any] | None = None) -> Verification:
        scope = scope or make_scope()
        now = self.clock.time_ns() / 1e9
        return self.verifier.status(agent, address, scope, dict(scope["headers"]), now)

    def settled(self, agent: Agent, address: str, scope: dict[str, Any] | None = None) -> Verification:
        self.ask(agent, address, scope)
        self.verifier.work_off()
        return self.ask(agent, address, scope)


def brief(found: Verification) -> tuple[str, str | None, str | None]:
    return found.status.value, found.method, found.operator
