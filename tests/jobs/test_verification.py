from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.errors import DataFileError, ResolverError
from asgi_analytics.identify import botauth
from asgi_analytics.identify.useragent import AgentReader
from asgi_analytics.jobs import signatures, verification
from asgi_analytics.jobs.verification import FRESH, MOST_LOOKUPS, MOST_WAITING, SocketResolver, Verifier
from asgi_analytics.model import Agent, ClaimStatus, Verification
from asgi_analytics.protocols import ClaimVerifier, Fetched
from asgi_analytics.testing import FakeClock, FixedResolver

from ..signing import NOW, Signer, change, make_scope

READER = AgentReader()


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


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, FILES, Signer())


def brief(found: Verification) -> tuple[str, str | None, str | None]:
    return found.status.value, found.method, found.operator


# Addresses


@pytest.mark.parametrize(
    ("agent", "address", "expected"),
    [
        (GOOGLEBOT, "66.249.64.5", ("verified", "ranges", "Google")),
        (GOOGLEBOT, "::ffff:66.249.64.5", ("verified", "ranges", "Google")),
        (GOOGLEBOT, "2001:4860:4801::7", ("verified", "ranges", "Google")),
        (GPTBOT, "52.230.152.9", ("verified", "ranges", "OpenAI")),
        (GPTBOT, "66.249.64.5", ("false", "ranges", "OpenAI")),
        (GPTBOT, EVIL, ("false", "ranges", "OpenAI")),
        (GPTBOT, "2001:db8:1::1", ("false", "ranges", "OpenAI")),
        (CHATGPT, EVIL, ("unverifiable", None, "OpenAI")),
        (GOOGLEBOT, CRAWL, ("pending", "dns", "Google")),
        (named("Bytespider"), EVIL, ("unverifiable", None, "ByteDance")),
        (named("FooBarBot"), EVIL, ("unverifiable", None, None)),
        (named("Claude-User"), EVIL, ("false", "ranges", "Anthropic")),
        (CLAUDE_CODE, EVIL, ("unverifiable", None, "Anthropic")),  # people run them on their own machines
        (NOVA_ACT, EVIL, ("unverifiable", None, "Amazon")),
        (GOOGLEBOT, "127.0.0.1", ("unverifiable", None, "Google")),
        (GOOGLEBOT, "10.1.2.3", ("unverifiable", None, "Google")),
        (GOOGLEBOT, "", ("unverifiable", None, "Google")),
        (GOOGLEBOT, "no address", ("unverifiable", None, "Google")),
        (BROWSER, EVIL, ("unclaimed", None, None)),
        (READER.read("curl/8.5.0"), EVIL, ("unclaimed", None, None)),
        (Agent(), EVIL, ("unclaimed", None, None)),
    ],
)
def test_the_first_answer_needs_no_waiting(rig: Rig, agent: Agent, address: str, expected: tuple[str, ...]) -> None:
    found = rig.ask(agent, address)
    assert brief(found) == expected
    assert found.text
    assert rig.resolver.asked == rig.web.asked == []


@pytest.mark.parametrize(
    ("agent", "address", "status"),
    [
        (GOOGLEBOT, CRAWL, "verified"),
        (GOOGLEBOT, "::ffff:66.249.66.1", "verified"),
        (GOOGLEBOT, EVIL, "false"),
        (GOOGLEBOT, "93.184.216.35", "false"),
        (BINGBOT, CRAWL, "false"),
    ],
)
def test_names_decide_a_moment_later(rig: Rig, agent: Agent, address: str, status: str) -> None:
    rig.resolver._names["::ffff:66.249.66.1"] = NAMES[CRAWL]
    assert rig.ask(agent, address).status == ClaimStatus.PENDING
    assert brief(rig.settled(agent, address))[:2] == (status, "dns")
    asked = len(rig.resolver.asked)
    rig.settled(agent, address)
    assert len(rig.resolver.asked) == asked


def test_a_name_server_without_an_answer_is_asked_again_and_changes_nothing(rig: Rig) -> None:
    rig.resolver.fails = True
    assert rig.settled(GOOGLEBOT, CRAWL).status == ClaimStatus.UNVERIFIABLE
    rig.resolver.fails = False
    rig.clock.advance(61)
    assert rig.settled(GOOGLEBOT, CRAWL).status == ClaimStatus.VERIFIED
    rig.resolver.fails = True
    rig.clock.advance(86_401)
    assert rig.settled(GOOGLEBOT, CRAWL).status == ClaimStatus.VERIFIED


def test_a_name_server_that_knows_no_names_accuses_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {})
    rig.resolver._names.clear()
    assert rig.settled(GOOGLEBOT, CRAWL).status == ClaimStatus.UNVERIFIABLE
    rig.resolver._names[EVIL] = ["host.evil.example"]
    rig.settled(GOOGLEBOT, EVIL)
    assert rig.settled(GOOGLEBOT, "93.184.216.99").status == ClaimStatus.FALSE


def test_outcomes_are_renewed_when_they_are_old(rig: Rig) -> None:
    assert rig.settled(GOOGLEBOT, EVIL).status == ClaimStatus.FALSE
    rig.resolver._names[EVIL] = ["new.googlebot.com"]
    rig.resolver._addresses["new.googlebot.com"] = [EVIL]
    rig.clock.advance(3_601)
    assert rig.ask(GOOGLEBOT, EVIL).status == ClaimStatus.FALSE
    rig.verifier.work_off()
    assert rig.ask(GOOGLEBOT, EVIL).status == ClaimStatus.VERIFIED


@pytest.mark.parametrize(
    ("address", "names", "status", "seconds"),
    [
        (CRAWL, NAMES, ClaimStatus.VERIFIED, 86_400),
        (EVIL, NAMES, ClaimStatus.FALSE, 3_600),
        (EVIL, {}, ClaimStatus.UNVERIFIABLE, 600),
    ],
)
def test_an_outcome_is_kept_for_as_long_as_its_kind_is(
    rig: Rig, address: str, names: Mapping[str, Sequence[str]], status: ClaimStatus, seconds: int
) -> None:
    rig.resolver._names = dict(names)
    assert rig.settled(GOOGLEBOT, address).status == status
    asked = len(rig.resolver.asked)
    rig.clock.advance(seconds - 1)
    rig.settled(GOOGLEBOT, address)
    assert len(rig.resolver.asked) == asked
    rig.clock.advance(2)
    rig.settled(GOOGLEBOT, address)
    assert len(rig.resolver.asked) > asked


def test_outcomes_that_are_asked_for_stay_and_one_that_is_renewed_takes_no_others_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MOST_KNOWN", 2)
    rig.settled(GOOGLEBOT, EVIL)
    rig.settled(GOOGLEBOT, CRAWL)
    rig.clock.advance(3_601)
    rig.settled(GOOGLEBOT, EVIL)
    assert rig.ask(GOOGLEBOT, CRAWL).status == ClaimStatus.VERIFIED
    assert rig.ask(GOOGLEBOT, EVIL).status == ClaimStatus.FALSE
    rig.ask(GOOGLEBOT, CRAWL)
    rig.settled(BINGBOT, EVIL)
    assert rig.ask(GOOGLEBOT, CRAWL).status == ClaimStatus.VERIFIED
    assert rig.ask(GOOGLEBOT, EVIL).status == ClaimStatus.PENDING


def test_old_ranges_still_verify_but_accuse_nobody(rig: Rig) -> None:
    rig.clock.advance(FRESH + 1)
    assert rig.ask(GPTBOT, "52.230.152.9").status == ClaimStatus.VERIFIED
    found = rig.ask(GPTBOT, EVIL)
    assert found.status == ClaimStatus.UNVERIFIABLE
    assert "data update" in found.text


def test_new_files_are_taken_in_and_damaged_ones_are_named(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "openai-gptbot.json").write_bytes(b'{"prefixes": [{"ipv4Prefix": "93.184.216.0/24"}]}')
    (tmp_path / "openai-chatgpt-user.json").write_bytes(b"<html>")
    rig.verifier.refresh(rig.clock.monotonic() + 29)
    assert rig.ask(GPTBOT, EVIL).status == ClaimStatus.FALSE
    rig.verifier.refresh(rig.clock.monotonic() + 31)
    assert rig.ask(GPTBOT, EVIL).status == ClaimStatus.VERIFIED
    assert set(rig.verifier.errors) == {"openai-chatgpt-user"}


def test_thousands_of_spoofed_crawlers_cost_bounded_memory_and_lookups(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MOST_KNOWN", 100)
    tracemalloc.start()
    for number in range(5_000):
        address = f"203.{number % 50}.{number // 256}.{number % 256}"
        assert rig.ask(GOOGLEBOT, address).status in (ClaimStatus.PENDING, ClaimStatus.UNVERIFIABLE, ClaimStatus.FALSE)
        if number % 100 == 0:
            rig.verifier.work_off()
    rig.verifier.work_off()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rig.resolver.asked) == MOST_LOOKUPS
    assert rig.verifier.stats()["known"] == 100
    assert held < 1_000_000
    assert rig.verifier.stats()["lookups"]["dropped"] == 5_000 - MOST_LOOKUPS


def test_the_queue_of_lookups_is_bounded(rig: Rig) -> None:
    for number in range(1_000):
        rig.ask(GOOGLEBOT, f"203.0.{number // 256}.{number % 256}")
    assert rig.verifier.stats()["lookups"]["asked"] == MOST_WAITING


def test_one_network_is_looked_up_once(rig: Rig) -> None:
    for number in range(1_000):
        rig.ask(GOOGLEBOT, f"2001:db9:0:1::{number:x}")
        rig.verifier.work_off()
    assert len(rig.resolver.asked) == 1


# The system's resolver


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (socket.herror(1, "Unknown host"), []),
        (socket.herror(4, "No address associated with name"), []),
        (socket.herror(2, "Host name lookup failure"), None),
        (socket.herror(3, "Unknown server error"), None),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), None),
        (None, ["a.example", "b.example"]),
    ],
)
def test_an_address_without_a_name_is_no_failure_of_the_name_server(
    error: OSError | None, found: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_address(address: str) -> tuple[str, list[str], list[str]]:
        if error is not None:
            raise error
        return "a.example", ["b.example"], [address]

    monkeypatch.setattr(socket, "gethostbyaddr", by_address)
    with contextlib.nullcontext() if found is not None else pytest.raises(ResolverError):
        assert SocketResolver().names(CRAWL) == found


@pytest.mark.parametrize(("code", "fails"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_a_name_without_an_address_is_no_failure_of_the_name_server(
    code: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_name(name: str, port: None, **more: Any) -> list[Any]:
        raise socket.gaierror(code, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", by_name)
    with pytest.raises(ResolverError) if fails else contextlib.nullcontext():
        assert SocketResolver().addresses("crawl.example") == []


@pytest.mark.parametrize("name", ["x" * 300 + ".example", "\ud800"])
def test_what_cannot_be_a_name_is_an_error_of_the_resolver(name: str) -> None:
    for ask in (SocketResolver().names, SocketResolver().addresses):
        with pytest.raises(ResolverError):
            ask(name)


# Signatures


def test_a_signed_request_is_verified_once_the_key_is_known(rig: Rig) -> None:
    scope = Signer().sign()
    first = rig.ask(BROWSER, EVIL, scope)
    assert (brief(first), first.signer) == (("pending", "signature", "OpenAI"), "chatgpt.com")
    assert rig.web.asked == []
    found = rig.settled(BROWSER, EVIL, scope)
    assert (brief(found), found.signer) == (("verified", "signature", "OpenAI"), "chatgpt.com")
    assert len(rig.web.asked) == 1


def test_a_signature_of_the_operator_proves_the_claim_from_any_address(rig: Rig) -> None:
    assert rig.ask(GPTBOT, EVIL, Signer().sign()).status == ClaimStatus.PENDING
    assert brief(rig.settled(GPTBOT, EVIL, Signer().sign())) == ("verified", "signature", "OpenAI")


def test_a_signature_of_somebody_else_proves_no_claim(tmp_path: Path) -> None:
    stranger = Signer("evil.example", 7)
    rig = Rig(tmp_path, FILES, stranger)
    found = rig.settled(BROWSER, EVIL, stranger.sign())
    assert (brief(found), found.signer) == (("verified", "signature", None), "evil.example")
    assert brief(rig.ask(GPTBOT, EVIL, stranger.sign())) == ("false", "ranges", "OpenAI")
    assert brief(rig.ask(GPTBOT, "52.230.152.9", stranger.sign())) == ("verified", "ranges", "OpenAI")
    assert brief(rig.settled(GOOGLEBOT, EVIL, stranger.sign())) == ("false", "dns", "Google")


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (Signer(seed=2).sign(keyid=Signer().keyid), "not one of chatgpt.com"),
        (change(Signer().sign(), b"host", b"other.example"), "not one of chatgpt.com"),
        (Signer().sign(created=NOW - 900, expires=NOW - 600), "expired"),
        (Signer().sign(created=NOW + 600, expires=NOW + 900), "future"),
    ],
)
def test_a_wrong_signature_is_a_false_claim(rig: Rig, scope: dict[str, Any], reason: str) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    for agent in (BROWSER, CHATGPT, GPTBOT):
        found = rig.ask(agent, EVIL, scope)
        assert brief(found) == ("false", "signature", "OpenAI")
        assert reason in found.text
    assert brief(rig.ask(GPTBOT, "52.230.152.9", scope)) == ("verified", "ranges", "OpenAI")


def test_a_nonce_is_good_once(rig: Rig) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    scope = Signer().sign(nonce="once")
    assert rig.ask(BROWSER, EVIL, scope).status == ClaimStatus.VERIFIED
    replayed = rig.ask(BROWSER, CRAWL, scope)
    assert brief(replayed) == ("false", "signature", "OpenAI")
    assert "nonce" in replayed.text
    assert rig.ask(BROWSER, EVIL, Signer().sign(nonce="twice")).status == ClaimStatus.VERIFIED


def test_only_nonces_of_valid_signatures_are_kept_and_not_too_many(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MOST_NONCES", 10)
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(30):
        rig.ask(BROWSER, EVIL, Signer(seed=2).sign(keyid=Signer().keyid, nonce=f"forged {number}"))
    assert rig.verifier.stats()["nonces"] == 0
    for number in range(30):
        rig.ask(BROWSER, EVIL, Signer().sign(nonce=str(number)))
    assert (rig.verifier.stats()["nonces"], rig.verifier.stats()["nonces_forgotten"]) == (10, 20)


def test_an_unknown_key_is_pending_then_unverifiable_then_asked_for_again(rig: Rig) -> None:
    new = Signer(seed=2)
    rig.settled(BROWSER, EVIL, Signer().sign())
    assert rig.ask(BROWSER, EVIL, new.sign()).status == ClaimStatus.UNVERIFIABLE
    rig.web.signers = Web(new).signers
    rig.clock.advance(61)
    assert rig.ask(BROWSER, EVIL, new.sign()).status == ClaimStatus.PENDING
    rig.verifier.work_off()
    assert rig.ask(BROWSER, EVIL, new.sign()).status == ClaimStatus.VERIFIED
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.UNVERIFIABLE


def test_an_outage_of_a_directory_takes_no_key_away(rig: Rig) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    rig.web.signers = {}
    rig.clock.advance(3_601)
    later = Signer().sign(created=NOW + 3_600, expires=NOW + 3_900)
    assert rig.settled(BROWSER, EVIL, later).status == ClaimStatus.VERIFIED
    assert len(rig.web.asked) == 2


def test_a_directory_is_kept_as_long_as_it_says_within_bounds(rig: Rig) -> None:
    rig.web.max_age = 0
    rig.settled(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    rig.clock.advance(299)
    rig.settled(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    assert len(rig.web.asked) == 1
    rig.clock.advance(2)
    rig.settled(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    assert len(rig.web.asked) == 2


def test_signers_that_do_not_exist_cost_bounded_memory_and_fetches(rig: Rig) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(2_000):
        stranger = Signer(f"host{number}.evil.example")
        assert rig.ask(BROWSER, EVIL, stranger.sign()).status in (ClaimStatus.PENDING, ClaimStatus.UNVERIFIABLE)
        if number % 50 == 0:
            rig.verifier.work_off()
            rig.clock.advance(0.01)
    assert len(rig.web.asked) <= signatures.MOST_FETCHES
    assert rig.verifier.stats()["directories"] <= signatures.MOST_DIRECTORIES + 1
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.VERIFIED


def test_strangers_do_not_flush_the_operators_we_know(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MOST_DIRECTORIES", 5)
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(20):
        rig.settled(BROWSER, EVIL, Signer(f"host{number}.evil.example").sign())
    assert rig.verifier.stats()["directories"] == 6
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.VERIFIED


def test_junk_signatures_do_not_keep_a_false_claim_pending(rig: Rig) -> None:
    junk = Signer("host.evil.example")
    assert brief(rig.ask(GPTBOT, EVIL, junk.sign())) == ("false", "ranges", "OpenAI")
    malformed = change(Signer().sign(), b"signature", b"junk")
    assert brief(rig.ask(GPTBOT, EVIL, malformed)) == ("false", "ranges", "OpenAI")
    assert rig.ask(BROWSER, EVIL, malformed).status == ClaimStatus.UNVERIFIABLE


def test_without_the_extra_signatures_are_unverifiable(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "is_available", lambda: False)
    assert brief(rig.settled(BROWSER, EVIL, Signer().sign())) == ("unverifiable", "signature", None)
    assert brief(rig.settled(GPTBOT, "52.230.152.9", Signer().sign())) == ("verified", "ranges", "OpenAI")
    assert rig.web.asked == []


def test_the_extra_is_there_for_the_tests() -> None:
    assert botauth.is_available()


# Threads


class Waiting(FixedResolver):
    """A resolver that tells when it was asked."""

    def __init__(self) -> None:
        super().__init__(NAMES, ADDRESSES)
        self.answered = threading.Event()

    def addresses(self, name: str) -> Sequence[str]:
        try:
            return super().addresses(name)
        finally:
            self.answered.set()


def test_started_it_works_by_itself_and_stops(tmp_path: Path) -> None:
    resolver = Waiting()
    verifier: ClaimVerifier = Verifier(FakeClock(), tmp_path, resolver, Web())
    assert isinstance(verifier, Verifier)
    verifier.start()
    assert verifier.status(GOOGLEBOT, CRAWL, {}, {}, NOW).status == ClaimStatus.PENDING
    assert resolver.answered.wait(10)
    assert verifier.stop(10)
    assert verifier.status(GOOGLEBOT, CRAWL, {}, {}, NOW).status == ClaimStatus.VERIFIED


def test_a_forked_child_knows_what_was_known_and_starts_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {})
    rig.settled(GOOGLEBOT, CRAWL)
    rig.verifier.start()
    rig.verifier.after_fork()
    assert rig.ask(GOOGLEBOT, CRAWL).status == ClaimStatus.VERIFIED
    rig.verifier.start()
    rig.ask(GOOGLEBOT, EVIL)
    assert rig.verifier.stop(10)


def test_a_forked_child_leaves_its_parents_questions_to_it(rig: Rig) -> None:
    rig.ask(GOOGLEBOT, CRAWL, Signer().sign())
    rig.verifier.after_fork()
    rig.verifier.work_off()
    assert rig.resolver.asked == rig.web.asked == []
    assert rig.verifier.stats()["lookups"] == rig.verifier.stats()["fetches"] == {}


class Slow(FixedResolver):
    """A resolver that answers when it is let."""

    def __init__(self) -> None:
        super().__init__(NAMES, ADDRESSES)
        self.asked_now, self.let = threading.Event(), threading.Event()

    def names(self, address: str) -> Sequence[str]:
        self.asked_now.set()
        self.let.wait(10)
        return super().names(address)


def test_stopping_tells_whether_the_thread_that_looks_names_up_has_ended(tmp_path: Path) -> None:
    resolver = Slow()
    verifier = Verifier(FakeClock(), tmp_path, resolver, Web())
    verifier.start()
    verifier.status(GOOGLEBOT, CRAWL, {}, {}, NOW)
    assert resolver.asked_now.wait(10)
    assert not verifier.stop(0.01)
    resolver.let.set()


def test_asking_costs_a_few_microseconds(rig: Rig) -> None:
    scope: dict[str, Any] = make_scope()
    headers = dict(scope["headers"])
    rig.settled(GOOGLEBOT, CRAWL)
    for agent, address in ((GOOGLEBOT, "66.249.64.5"), (GOOGLEBOT, CRAWL), (BROWSER, EVIL), (GPTBOT, EVIL)):
        spent = []
        for _ in range(2_000):
            started = time.thread_time()
            rig.verifier.status(agent, address, scope, headers, NOW)
            spent.append(time.thread_time() - started)
        assert min(spent) < 50e-6, "nothing is asked or computed anew"


def test_a_signature_for_a_host_that_a_proxy_rewrites_is_no_false_claim(rig: Rig) -> None:
    signed = change(Signer().sign(), b"host", b"backend:8000")
    assert brief(rig.settled(BROWSER, EVIL, signed))[0] == "false"
    rewritten = change(signed, b"x-forwarded-host", b"example.com")
    found = rig.settled(BROWSER, EVIL, rewritten)
    assert (found.status, found.signer) == (ClaimStatus.UNVERIFIABLE, "chatgpt.com")
    assert "let it pass Host on" in found.text
