"""Looking names up: bounded, in turns, and what a name server that fails means."""

from __future__ import annotations

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.errors import ResolverError
from asgi_analytics.jobs import verification
from asgi_analytics.jobs.verification import MAX_LOOKUPS, MAX_WAITING, SocketResolver, Verifier
from asgi_analytics.model import ClaimStatus
from asgi_analytics.testing import FakeClock

from ..signing import NOW
from .rig import (
    CRAWL,
    GOOGLEBOT,
    NAMES,
    Rig,
    Waiting,
    Web,
)


def test_thousands_of_spoofed_crawlers_cost_bounded_memory_and_lookups(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "MAX_KNOWN", 100)
    tracemalloc.start()
    for number in range(5_000):
        address = f"203.{number % 50}.{number // 256}.{number % 256}"
        assert rig.ask(GOOGLEBOT, address).status in (ClaimStatus.PENDING, ClaimStatus.UNVERIFIABLE, ClaimStatus.FALSE)
        if number % 100 == 0:
            rig.verifier.work_off()
    rig.verifier.work_off()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rig.resolver.asked) == MAX_LOOKUPS
    assert rig.verifier.stats()["known"] == 100
    assert held < 1_000_000
    assert rig.verifier.stats()["lookups"]["dropped"] == 5_000 - MAX_LOOKUPS


def test_the_queue_of_lookups_is_bounded(rig: Rig) -> None:
    for number in range(1_000):
        rig.ask(GOOGLEBOT, f"203.{number // 256}.{number % 256}.0")
    assert rig.verifier.stats()["lookups"]["asked"] == MAX_WAITING


class Tarpit(Waiting):
    """A resolver that answers for few addresses, and for the others not before it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def names(self, address: str) -> Sequence[str]:
        if address not in NAMES:
            self.let.wait(20)
            raise ResolverError("timed out")
        return super().names(address)


@pytest.mark.parametrize("networks", [("2a00:1:{:x}::1",), ("203.0.113.{}", "2a00:1:{:x}::1", "2a00:2:{:x}::1")])
def test_a_crawler_is_not_kept_pending_by_those_whose_name_servers_do_not_answer(
    tmp_path: Path, networks: Sequence[str]
) -> None:
    resolver = Tarpit()
    verifier = Verifier(FakeClock(), tmp_path, resolver, Web())
    verifier.start()
    for address in (network.format(number) for number in range(256) for network in networks):
        assert verifier.status(GOOGLEBOT, address, {}, {}, NOW).status == ClaimStatus.PENDING
    assert verifier.status(GOOGLEBOT, CRAWL, {}, {}, NOW).status == ClaimStatus.PENDING
    assert resolver.answered.wait(10)
    resolver.let.set()
    assert verifier.stop(10)
    assert verifier.status(GOOGLEBOT, CRAWL, {}, {}, NOW).status == ClaimStatus.VERIFIED


def test_a_crawler_is_not_kept_pending_by_those_whose_name_servers_answer_at_once(rig: Rig) -> None:
    for number in range(10_000):
        rig.ask(GOOGLEBOT, f"2a00:1:{number:x}::1")
        rig.verifier.work_off()
    assert rig.settled(GOOGLEBOT, CRAWL).status == ClaimStatus.VERIFIED


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


# Threads
