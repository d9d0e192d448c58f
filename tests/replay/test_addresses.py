"""Whose line it is: addresses with ports, behind proxies, and whatever else stands in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.replay.formats import detect, make
from tests.replay.lines import combined
from tests.replay.rig import replay, write

PROXIES = ("--trusted-proxies", "10.0.0.0/8")


def in_json(**fields: Any) -> str:
    return json.dumps({"time": "2026-03-01T12:00:00Z", "method": "GET", "path": "/", "status": 200, **fields})


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:40312", "198.51.100.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2a02:908:1:2:a:b:c:d", "2a02:908:1:2:a:b:c:d"),
        ("2001:0db8:0000:0000:0000:0000:0000:0007", "2001:0db8:0000:0000:0000:0000:0000:0007"),
        ("[2a02:908::7]:443", "2a02:908::7"),
        ("[2a02:908::7]", "2a02:908::7"),
        ("2a02:908::7:40312", "2a02:908::7"),  # as uvicorn writes it, and Hypercorn
        ("::ffff:198.51.100.7", "::ffff:198.51.100.7"),
        ("::ffff:198.51.100.7:443", "::ffff:198.51.100.7"),
        ("a.example", "a.example"),
    ],
)
def test_an_address_loses_its_port_and_nothing_else(written: str, address: str) -> None:
    for line in (in_json(ip=written), in_json(message=f'{written} - "GET / HTTP/1.1" 200'), combined(address=written)):
        (entry,), _ = detect(line).read(line)
        assert entry.address == address


@pytest.mark.parametrize(
    ("behind", "forwarded"),
    [
        ('"0.004" "203.0.113.1"', "203.0.113.1"),
        ('"200" "1700000000.123" "cafe"', ""),
        ('"x, 203.0.113.1"', "x, 203.0.113.1"),  # what a visitor sends hides nobody
        ('"x" "unknown, 10.0.0.2,2001:db8::1"', "unknown, 10.0.0.2,2001:db8::1"),
        ('"[2001:db8::1]:443"', "[2001:db8::1]:443"),
        ('"203.0.113.1, x"', ""),
    ],
)
def test_a_list_behind_the_line_that_ends_with_an_address_is_who_it_was_forwarded_for(
    behind: str, forwarded: str
) -> None:
    (entry,), _ = make("combined").read(combined(more=f" {behind}"))
    assert entry.forwarded == forwarded


@pytest.mark.parametrize(
    ("peer", "forwarded", "actor"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:40312", "203.0.113.9"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),  # who writes the header without a proxy is not believed
        ("198.51.100.7:40312", "203.0.113.9", "198.51.100.7"),
        ("a.example", "203.0.113.9", "a.example"),
    ],
)
def test_an_actor_is_shown_by_the_address_that_it_was_counted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], peer: str, forwarded: str, actor: str
) -> None:
    path = write(tmp_path / "access.log", combined(address=peer, more=f' "{forwarded}"'))
    assert [one["actor"] for one in replay(capsys, path, *PROXIES)["actors"]] == [actor]


def test_a_visit_over_several_ports_or_proxies_is_one_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = [combined(address=f"198.51.100.7:{port}") for port in range(1024, 1030)]
    proxies = [combined(address="10.0.0.1", more=f' "203.0.113.9, 10.0.0.{n}"') for n in range(2, 6)]
    later = combined(2_000, address="198.51.100.7:1031")
    found = replay(capsys, write(tmp_path / "access.log", *ports, *proxies, later), *PROXIES)
    assert {one["actor"]: (one["requests"], one["sessions"]) for one in found["actors"]} == {
        "198.51.100.7": (7, 2), "203.0.113.9": (4, 1),
    }  # fmt: skip


def test_what_is_no_text_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "\ud800\udcff"
    lines = [in_json(ip="192.0.2.1", ua=odd, xff=odd, path=f"/{odd}", referer=odd), in_json(ip=odd)]
    found = replay(capsys, write(tmp_path / "access.log", *lines), *PROXIES)
    assert found["lines"]["judged"] == 2
    raw = write(tmp_path / "combined.log", combined(agent=r"\ud800\xff", target=r"/\ud800"))
    assert replay(capsys, raw)["lines"]["judged"] == 1
