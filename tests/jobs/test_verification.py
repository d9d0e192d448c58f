from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.identify.operators import SOURCES
from asgi_analytics.jobs import data, verification
from asgi_analytics.jobs.data import FRESH
from asgi_analytics.jobs.verification import Verifier
from asgi_analytics.model import Agent, ClaimStatus
from asgi_analytics.testing import FakeClock, FixedResolver

from ..signing import NOW, Signer, make_scope
from .rig import (
    ADDRESSES,
    BINGBOT,
    BROWSER,
    CHATGPT,
    CLAUDE_CODE,
    CRAWL,
    EVIL,
    FILES,
    GOOGLEBOT,
    GPTBOT,
    NAMES,
    NOVA_ACT,
    READER,
    Rig,
    Waiting,
    Web,
    brief,
    named,
)


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


def test_what_was_found_while_the_clock_was_wrong_is_not_kept_until_then(rig: Rig) -> None:
    rig.clock.jump_wall(10 * 365 * 86_400)
    rig.resolver.fails = True
    assert rig.settled(GOOGLEBOT, CRAWL).status == ClaimStatus.UNVERIFIABLE
    rig.clock.jump_wall(-10 * 365 * 86_400)
    rig.resolver.fails = False
    rig.clock.advance(61)
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
    monkeypatch.setattr(verification, "MAX_KNOWN", 2)
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


def test_ranges_that_cannot_be_read_again_stay_and_are_read_once_they_can(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openai-gptbot.json").write_bytes(b'{"prefixes": [{"ipv4Prefix": "93.184.216.0/24"}]}')
    with monkeypatch.context() as patch:
        patch.setattr(data, "_read", refused)
        rig.verifier.refresh(rig.clock.monotonic() + 31)
    assert set(rig.verifier.errors) == set(FILES) | set(SOURCES)
    assert rig.ask(GPTBOT, "52.230.152.9").status == ClaimStatus.VERIFIED
    (tmp_path / "openai-gptbot.json").chmod(0o600)
    rig.verifier.refresh(rig.clock.monotonic() + 62)
    assert rig.ask(GPTBOT, EVIL).status == ClaimStatus.VERIFIED
    assert rig.verifier.errors == {}


def test_a_file_that_could_not_be_read_for_a_moment_is_read_the_next_time(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused_once(folder: Path, name: str) -> tuple[bytes, float]:
        return refused(folder, name) if name == "openai-gptbot" else read(folder, name)

    (tmp_path / "openai-gptbot.json").write_bytes(b'{"prefixes": [{"ipv4Prefix": "93.184.216.0/24"}]}')
    with monkeypatch.context() as patch:
        read = data._read
        patch.setattr(data, "_read", refused_once)
        rig.verifier.refresh(rig.clock.monotonic() + 31)
    assert rig.ask(GPTBOT, EVIL).status == ClaimStatus.FALSE
    rig.verifier.refresh(rig.clock.monotonic() + 62)
    assert rig.ask(GPTBOT, EVIL).status == ClaimStatus.VERIFIED
    assert rig.ask(named("Claude-User"), "160.79.104.1").status == ClaimStatus.VERIFIED
    assert (rig.verifier.errors, rig.verifier.stats()["ranges"]) == ({}, len(FILES))


def refused(folder: Path, name: str) -> tuple[bytes, float]:
    raise OSError(24, "Too many open files", name)


def test_started_it_works_by_itself_and_stops(tmp_path: Path) -> None:
    resolver = Waiting()
    verifier = Verifier(FakeClock(), tmp_path, resolver, Web())
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


def test_one_network_is_looked_up_once_however_many_of_its_addresses_ask(rig: Rig) -> None:
    for number in range(1, 1_000):
        assert rig.ask(GOOGLEBOT, f"2a00:1:2:3::{number:x}").status == ClaimStatus.PENDING
    rig.verifier.work_off()
    assert rig.resolver.asked == ["2a00:1:2:3::1"]
