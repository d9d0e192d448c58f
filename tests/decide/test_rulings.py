from __future__ import annotations

import ipaddress
import tracemalloc
from math import inf
from typing import Any

import pytest

from asgi_analytics.decide import rulings
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.rulings import (
    MAX_RULINGS,
    RulingBook,
    Rulings,
    forgive,
    is_pardon_due,
    name_network,
    network_key,
    refusal,
)
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.identify.client import network_of
from asgi_analytics.model import PARDON_GRACE, Ruling

from .visits import Visit

NOW = 100_000.0
A, B = b"a" * 16, b"b" * 16
HERE = network_of("203.0.113.7")
KEY = b"k" * 32


def ruling(kind: str = "ban", **changes: Any) -> Ruling:
    values: dict[str, Any] = {
        "id": changes.pop("id", kind.encode().ljust(16, b".")),
        "revision": 1,
        "reason": "scraping",
        "made_by": "alice",
        "made_at": NOW - 100,
        "until": NOW + 100,
    }
    return Ruling(kind=kind, **{**values, **changes})


def on_network(text: str, kind: str = "ban", key: bytes = b"", **changes: Any) -> Ruling:
    packed, prefix = network_key(ipaddress.ip_network(text))
    network = name_network(packed, prefix, key)
    return ruling(kind, size=len(packed), prefix=prefix, network=network, key=key, **changes)


def test_an_empty_book_has_nothing_to_ask() -> None:
    assert RulingBook().current is None
    assert RulingBook().ruling_for(A, HERE, NOW) is None


def test_a_ban_holds_for_its_fingerprint_until_its_end() -> None:
    rulings = Rulings.of([ruling(fingerprint=A)], NOW)
    assert rulings.ruling_for(A, HERE, NOW + 99) is not None
    assert rulings.ruling_for(A, HERE, NOW + 100) is None
    assert rulings.ruling_for(B, HERE, NOW) is None


@pytest.mark.parametrize("key", [b"", KEY], ids=["clear", "digest"])
@pytest.mark.parametrize(
    ("banned", "address", "holds"),
    [
        ("203.0.113.7/32", "203.0.113.7", True),
        ("203.0.113.7/32", "203.0.113.8", False),
        ("203.0.112.0/23", "203.0.113.255", True),
        ("203.0.112.0/23", "203.0.114.0", False),
        ("2001:db8:1:2::/64", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::/64", "2001:db8:1:3::1", False),
        ("2001:db8::/33", "2001:db8:7fff::1", True),
        ("2001:db8::/33", "2001:db8:8000::1", False),
        ("2001:db8::/32", "203.0.113.7", False),
        ("203.0.113.7/32", "", False),
    ],
)
def test_a_ban_holds_for_its_network(banned: str, address: str, holds: bool, key: bytes) -> None:
    rulings = Rulings.of([on_network(banned, key=key)], NOW)
    assert (rulings.ruling_for(A, network_of(address), NOW) is not None) is holds


@pytest.mark.parametrize(
    ("narrow", "wide", "address"),
    [("203.0.113.7/32", "203.0.113.0/24", "203.0.113.7"), ("2001:db8:1:2::/64", "2001:db8::/32", "2001:db8:1:2::1")],
)
@pytest.mark.parametrize("key", [b"", KEY], ids=["clear", "digest"])
def test_the_narrowest_network_tells_the_reason_and_a_wider_one_when_that_has_ended(
    narrow: str, wide: str, address: str, key: bytes
) -> None:
    bans = [
        on_network(narrow, key=key, id=b"1" * 16, reason="narrow", until=NOW + 50),
        on_network(wide, id=b"2" * 16, reason="wide", until=NOW + 100),
    ]
    for order in (bans, bans[::-1]):
        book = RulingBook(now=NOW)
        book.learn_rulings(order, NOW)
        found = [book.ruling_for(A, network_of(address), NOW + seconds) for seconds in (49, 50, 99, 100)]
        assert [ban and ban.reason for ban in found] == ["narrow", "wide", "wide", None]


def test_an_allowance_wins_over_every_ban_at_once() -> None:
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling(fingerprint=A), on_network("203.0.113.7/32", id=b"2" * 16)], NOW)
    book.learn_rulings([on_network("203.0.0.0/16", "allow", until=inf)], NOW)
    found = book.ruling_for(A, HERE, NOW)
    assert found is not None
    assert found.kind == "allow"


def test_the_option_allow_is_a_ruling_without_an_end() -> None:
    book = RulingBook([ipaddress.ip_network("203.0.113.0/24")], NOW)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    found = book.ruling_for(A, HERE, NOW + 1e9)
    assert found is not None
    assert (found.kind, found.until) == ("allow", inf)


def test_a_lifted_ban_is_forgotten() -> None:
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    book.learn_rulings([ruling(fingerprint=A, revision=2, lifted=True)], NOW)
    assert book.current is None


def test_of_two_bans_on_one_target_the_longer_holds() -> None:
    longer = ruling(fingerprint=A, id=b"1" * 16, until=NOW + 500)
    rulings = Rulings.of([longer, ruling(fingerprint=A, id=b"2" * 16)], NOW)
    assert rulings.ruling_for(A, HERE, NOW + 200) == longer


def test_a_ban_follows_the_visitor_to_its_fingerprint_of_the_next_day() -> None:
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    book.follow(A, B)
    book.follow(B, b"c" * 16)
    assert book.ruling_for(b"c" * 16, HERE, NOW) is not None
    book.learn_rulings([ruling(fingerprint=A, revision=2, lifted=True)], NOW)
    assert book.ruling_for(b"c" * 16, HERE, NOW) is None


@pytest.mark.parametrize("kind", ["ban", "allow"])
def test_what_is_ruled_on_the_fingerprint_of_today_holds_whatever_was_on_that_of_yesterday(kind: str) -> None:
    """Yesterday's ban ended in the night, or stands; an allowance wins over it."""
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling(fingerprint=A, until=NOW + 10)], NOW)
    book.follow(A, B)
    book.learn_rulings([ruling(kind, id=b"2" * 16, fingerprint=B, reason="today's", until=NOW + 100)], NOW)
    for seconds in (0, 20):
        found = book.ruling_for(B, HERE, NOW + seconds)
        assert found is not None
        assert (found.kind, found.reason) == (kind, "today's")


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_was_banned_by_the_fingerprint_of_yesterday_is_pardoned_by_that_of_today(when: str) -> None:
    book = RulingBook(now=NOW)
    if when == "after":
        book.follow(A, B)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    if when == "before":
        book.follow(A, B)
    book.learn_rulings([ruling("pardon", fingerprint=B, made_at=NOW)], NOW)
    assert book.ruling_for(B, HERE, NOW) is None
    book.follow(B, b"c" * 16)
    assert book.ruling_for(b"c" * 16, HERE, NOW) is None


def test_what_is_ruled_after_midnight_on_the_fingerprint_from_before_holds_for_who_has_another_now() -> None:
    book = RulingBook(now=NOW)
    book.follow(A, B)
    assert book.pardoned_at(B, HERE, NOW) == -inf
    book.learn_rulings([ruling(fingerprint=A), ruling("pardon", fingerprint=A, made_at=NOW)], NOW)
    assert (book.ruling_for(B, HERE, NOW) is not None, book.pardoned_at(B, HERE, NOW)) == (True, NOW)


def test_what_is_ruled_after_midnight_on_the_fingerprint_from_before_goes_on_over_the_next_one() -> None:
    book = RulingBook(now=NOW)
    book.follow(A, B)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    book.follow(B, b"c" * 16)
    book.follow(b"c" * 16, b"d" * 16)
    assert book.ruling_for(b"d" * 16, HERE, NOW) is not None


def test_rulings_are_bounded_in_number_and_memory() -> None:
    def many(first: int, count: int) -> list[Ruling]:
        return [
            ruling(id=n.to_bytes(16, "big"), fingerprint=n.to_bytes(16, "little"), until=NOW + 1000 + n)
            for n in range(first, first + count)
        ]

    most = MAX_RULINGS // 10  # a tenth, in a tenth of the time
    tracemalloc.start()
    book = RulingBook([ipaddress.ip_network("203.0.113.0/24")], NOW, most)
    book.learn_rulings(many(0, most), NOW)
    full, _ = tracemalloc.get_traced_memory()
    book.learn_rulings(many(most, most // 5), NOW)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert book.current is not None
    assert book.current.count == most
    assert full * 10 < 64 << 20
    assert after < full * 1.1
    assert book.ruling_for((5).to_bytes(16, "little"), b"", NOW) is None, "what ends soonest has gone"
    found = book.ruling_for((most + most // 5 - 1).to_bytes(16, "little"), HERE, NOW)
    assert found is not None
    assert found.kind == "allow"


def test_visitors_that_were_renamed_are_remembered_in_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rulings, "MAX_ALIASES", 3)
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    names = [b"name %d" % number for number in range(10)]
    for name in names:
        book.follow(A, name)
        book.follow(B, b"nobody " + name)
    assert len(book._aliases) <= 3
    assert len(book._renamed) <= 3
    assert book.ruling_for(names[-1], HERE, NOW) is not None
    assert book.ruling_for(b"nobody " + names[-1], HERE, NOW) is None


@pytest.mark.parametrize("is_ruled", [True, False])
def test_of_visitors_that_were_renamed_those_of_the_last_midnight_are_remembered(
    is_ruled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulings, "MAX_ALIASES", 10)
    book = RulingBook(now=NOW)
    before = [b"before %d" % number for number in range(9)]
    bans = [ruling(id=name, fingerprint=name) for name in (b"long before", *before)]
    if is_ruled:
        book.learn_rulings(bans, NOW)
    for number in range(9):
        book.follow(b"long before", b"nobody %d" % number)
    for number, name in enumerate(before):
        book.follow(name, b"now %d" % number)
    book.learn_rulings(bans, NOW)
    assert all(book.ruling_for(b"now %d" % number, HERE, NOW) for number in range(9))


def test_what_has_ended_is_forgotten() -> None:
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling(fingerprint=A)], NOW)
    book.learn_rulings([], NOW + 100)
    assert (book.current, book._known) == (None, {})


def blocked_visit() -> Visit:
    visit = Visit()
    for number in range(400):
        visit.load(f"/{number:04}", after=0.2)
        if visit.level == ThrottleLevel.BLOCKED:
            return visit
    raise AssertionError("was never blocked")


def test_forgiving_takes_level_score_and_evidence() -> None:
    visit = blocked_visit()
    forgive(visit.visitor, visit.now)
    decision = visit.load("/next", after=1.0)
    assert (decision.refused, decision.level, visit.visitor.score) == (False, 0, 0)
    for number in range(10):
        visit.load(f"/slow/{number}", after=20.0 + number)
    assert visit.level == 0, "nothing of the evidence before counts again"


def test_a_pardon_is_applied_once() -> None:
    visit = blocked_visit()
    pardoned_at = visit.now + 1.0
    assert is_pardon_due(visit.visitor, pardoned_at)
    forgive(visit.visitor, visit.now + 2.0)
    assert not is_pardon_due(visit.visitor, pardoned_at)
    assert is_pardon_due(Visit().visitor, pardoned_at), "a visitor that never changed is forgiven what it has"


def test_what_came_in_until_the_worker_learnt_of_a_pardon_is_forgiven() -> None:
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling("pardon", fingerprint=A, made_at=NOW + 10, until=NOW + 999)], NOW + 40)
    assert book.current is not None
    assert book.current.pardoned_at(A, HERE, NOW + 40) == NOW + 40
    assert book.current.pardoned_at(B, HERE, NOW + 40) == -inf


def test_what_is_told_again_ends_by_what_is_told_last() -> None:
    """The monotonic clock stands still while a machine sleeps."""
    book = RulingBook(now=NOW)
    for rest in (100, 40):
        book.learn_rulings([ruling(fingerprint=A, until=NOW + rest)], NOW)
    assert [book.ruling_for(A, HERE, NOW + seconds) is not None for seconds in (39, 40)] == [True, False]
    book.learn_rulings([ruling(fingerprint=A, until=NOW - 1)], NOW)
    assert book.current is None


def test_a_pardon_that_is_told_again_forgives_no_more() -> None:
    book = RulingBook(now=NOW)
    for seconds in (40, 80):
        book.learn_rulings([ruling("pardon", fingerprint=A, made_at=NOW + 10, until=NOW + 999)], NOW + seconds)
        assert book.pardoned_at(A, HERE, NOW + seconds) == NOW + 40


@pytest.mark.parametrize("born", [NOW - 9, NOW + 400])
def test_a_pardon_of_a_server_whose_clock_is_ahead_forgives_nothing_that_comes_later(born: float) -> None:
    book = RulingBook(now=born)
    book.learn_rulings([ruling("pardon", fingerprint=A, made_at=NOW + 300, until=NOW + 999)], NOW)
    assert book.pardoned_at(A, HERE, NOW + 1) == NOW


@pytest.mark.parametrize("last", range(3))
def test_of_several_pardons_the_last_one_counts_whomever_it_names(last: int) -> None:
    made = [NOW + 90 * (place == last) for place in range(3)]
    pardons = [
        ruling("pardon", id=b"1", fingerprint=A, made_at=made[0]),
        on_network("203.0.113.7/32", "pardon", KEY, id=b"2", made_at=made[1]),
        on_network("203.0.113.0/24", "pardon", id=b"3", made_at=made[2]),
    ]
    assert Rulings.of(pardons, NOW + 95).pardoned_at(A, HERE, NOW + 95) == NOW + 90
    assert Rulings.of(pardons, NOW + 95).pardoned_at(A, HERE, NOW + 100) == -inf


def test_a_pardon_that_has_ended_lifts_nothing_when_it_is_told_again() -> None:
    """As to a worker that comes back to its database."""
    book = RulingBook(now=NOW)
    book.follow(A, B)
    book.learn_rulings([ruling(fingerprint=A), ruling("pardon", fingerprint=B, until=NOW - 1)], NOW)
    assert book.ruling_for(B, HERE, NOW) is not None


def test_a_worker_that_started_later_does_not_forgive_what_came_after_the_pardon() -> None:
    book = RulingBook(now=NOW)
    book.learn_rulings([ruling("pardon", fingerprint=A, made_at=NOW - 300)], NOW + 1)
    assert book.current is not None
    assert book.current.pardoned_at(A, HERE, NOW + 1) == NOW - 300 + PARDON_GRACE


def test_a_ban_is_a_refusal_that_says_when_it_ends_and_why() -> None:
    decision = refusal(ruling(fingerprint=A), 2, 30, NOW + 40.5)
    assert (decision.refused, decision.level, decision.retry_after, decision.violated) == (True, 3, 60, ("ban",))
    assert decision.reasons == ("banned: scraping",)
    assert (decision.remaining, decision.reset) == ((0, 0), (60, 60))


def test_the_same_visitor_passes_when_it_is_allowed() -> None:
    visit = blocked_visit()
    assert admit(visit.visitor, visit.network, visit.policy, visit.now).refused
    forgive(visit.visitor, visit.now)
    assert not admit(visit.visitor, visit.network, visit.policy, visit.now).refused
