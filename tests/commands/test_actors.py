"""The commands about actors as operators run them, and how fast living workers heed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from asgi_analytics.clock import SystemClock
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.rulings import RulingBook, forgive, is_pardon_due, refusal
from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.identify.client import network_of
from asgi_analytics.model import Decision
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.settings.canonical import canonical, version
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.recorded import remember_policy
from asgi_analytics.testing import MemoryState
from tests.decide.visits import Visit
from tests.drive import called
from tests.record.rows import NOW_US, fetch, hit, one
from tests.waiting import wait_until

from .ruled import ADDRESS, FINGERPRINT, NAME, block, told, write


class Worker:
    """A worker as the engine puts it together: recorder, writer, rulings, and one visitor in memory."""

    def __init__(self, dsn: str, folder: Path, *, allow: Any = ()) -> None:
        self.clock = SystemClock()
        self.book = RulingBook(Settings.build(trusted_proxies=allow).trusted_proxies, self.clock.monotonic())  # type: ignore[arg-type]
        recorder = Recorder(Settings.build(journal_dir=folder), Counters())
        recorder.open()
        self.writer = Writer(
            lambda: PostgresStore(lambda: dsn),
            recorder,
            MemoryState(),
            self.clock,
            rows=50,
            age=0.05,
            chores=lambda: None,
            rulings=self.book,
        )
        self.visit = Visit(now=self.clock.monotonic())

    def __enter__(self) -> Worker:
        self.writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.stop(5.0)

    def ask(self, fingerprint: bytes = FINGERPRINT, address: str = ADDRESS) -> Decision:
        """The way of a request up to the app, as the middleware goes it."""
        visit, now = self.visit, self.clock.monotonic()
        network = network_of(address)
        current = self.book.current
        if current is not None:
            found = self.book.ruling_for(fingerprint, network, now)
            if found is not None and found.kind == "ban":
                return refusal(found, len(visit.policy.quotas), visit.visitor.score, now)
            allowed = found is not None and visit.level > 0
            if allowed or is_pardon_due(visit.visitor, current.pardoned_at(fingerprint, network, now)):
                forgive(visit.visitor, now)
        return admit(visit.visitor, visit.network, visit.policy, now)

    def block(self) -> None:
        visit = self.visit
        visit.visitor.throttle.level = ThrottleLevel.BLOCKED
        visit.visitor.throttle.changed_at = self.clock.monotonic()
        visit.visitor.score = 75


@pytest.fixture
def two(dsn: str, tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    """Two living workers on one database."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(Worker(dsn, tmp_path / "one")),
            stack.enter_context(Worker(dsn, tmp_path / "two")),
        )


def asked(workers: tuple[Worker, Worker], **who: Any) -> list[bool]:
    """Whether each worker refuses."""
    return [worker.ask(**who).refused for worker in workers]


# Living workers


def test_a_ban_reaches_every_worker_and_ends(two: tuple[Worker, Worker], store: PostgresStore, dsn: str) -> None:
    write(store, hit())
    assert asked(two) == [False, False]
    assert "banned" in told("ban", NAME[:10], "--for", "2s", "--reason", "scraping", "--by", "alice", "--dsn", dsn)
    wait_until(lambda: asked(two) == [True, True])
    assert two[1].ask().reasons == ("banned: scraping",)
    assert two[1].ask(fingerprint=b"o" * 16).refused is False
    wait_until(lambda: asked(two) == [False, False])


@pytest.mark.parametrize("command", [("ban", "--for", "2h", "--reason", "x"), ("allow",)], ids=lambda one: one[0])
def test_who_rules_on_a_fingerprint_is_told_that_it_changes(
    store: PostgresStore, dsn: str, command: tuple[str, ...]
) -> None:
    write(store, hit())
    assert "fingerprints change at midnight" in told(*command, NAME, "--dsn", dsn)
    assert "fingerprints" not in told(*command, ADDRESS, "--dsn", dsn)


def test_an_allowance_beats_a_ban_and_a_level_at_once(
    two: tuple[Worker, Worker], store: PostgresStore, dsn: str
) -> None:
    write(store, hit())
    told("ban", NAME, "--for", "2h", "--reason", "x", "--dsn", dsn)
    told("ban", "203.0.113.0/24", "--for", "2h", "--reason", "x", "--dsn", dsn)
    for worker in two:
        worker.block()
    wait_until(lambda: asked(two) == [True, True])
    told("allow", ADDRESS, "--dsn", dsn)
    wait_until(lambda: asked(two) == [False, False])
    assert [worker.visit.level for worker in two] == [0, 0]
    told("allow", ADDRESS, "--end", "--dsn", dsn)
    wait_until(lambda: asked(two) == [True, True])


def test_the_option_allow_wins_over_a_ban_of_the_table(store: PostgresStore, dsn: str, tmp_path: Path) -> None:
    write(store, hit())
    told("ban", NAME, "--for", "2h", "--reason", "x", "--dsn", dsn)
    with Worker(dsn, tmp_path / "one", allow=["203.0.113.0/24"]) as worker:
        wait_until(lambda: worker.ask(address="198.51.100.1").refused)
        assert not worker.ask().refused


@pytest.mark.parametrize("target", [NAME, ADDRESS, "203.0.113.0/24", "203.0.0.0/16"])
def test_a_pardon_resets_the_level_in_every_living_worker(
    two: tuple[Worker, Worker], store: PostgresStore, dsn: str, target: str
) -> None:
    block(store)
    for worker in two:
        worker.block()
    assert asked(two) == [True, True]
    told("pardon", target, "--dsn", dsn)
    wait_until(lambda: asked(two) == [False, False])
    for worker in two:
        assert (worker.visit.level, worker.visit.visitor.score) == (0, 0)
        worker.block()
    assert asked(two) == [True, True], "a pardon is for what was, not for what comes"


def test_a_worker_that_starts_later_knows_the_rulings(store: PostgresStore, dsn: str, tmp_path: Path) -> None:
    write(store, hit())
    told("ban", ADDRESS, "--for", "1h", "--reason", "x", "--dsn", dsn)
    with Worker(dsn, tmp_path / "one") as worker:
        wait_until(lambda: worker.ask().refused)
        assert not worker.ask(address="203.0.113.8").refused


# The commands


def test_actors_lists_the_worst_reputation_first(store: PostgresStore, dsn: str) -> None:
    write(store, hit(visitor=b"good", session=b"1"))
    write(store, hit(visitor=b"bad", session=b"2", score=60))
    write(store, hit(visitor=b"worse", session=b"3", score=60, level=3, level_before=2))
    told("ban", b"worse".ljust(16, b".").hex(), "--for", "2h", "--reason", "x", "--dsn", dsn)
    rows = json.loads(told("actors", "--json", "--dsn", dsn))
    assert [UUID(row["fingerprint"]).bytes.rstrip(b".") for row in rows] == [b"worse", b"bad"]
    assert (rows[0]["kinds"], rows[0]["banned_until"] is not None) == (["behavioural_score", "blocked"], True)
    assert len(json.loads(told("actors", "--top", "1", "--json", "--dsn", dsn))) == 1
    for count, last in (("1", "… and more (--top)"), ("2", None)):
        lines = told("actors", "--top", count, "--dsn", dsn).splitlines()
        assert lines[1 + int(count) :] == ([last] if last else [])
    shown = told("actors", "--flagged", "--dsn", dsn).splitlines()
    assert shown[0].split()[:3] == ["visitor", "reputation", "level"]
    assert "behavioural_score, blocked" in shown[1]
    (network,) = json.loads(told("actors", "--networks", "--json", "--dsn", dsn))
    assert (network["incidents"], round(network["reputation"])) == (3, 43)
    assert "network today" in told("actors", "--networks", "--dsn", dsn)


def test_a_level_is_shown_as_far_as_it_has_not_cooled_down(store: PostgresStore, dsn: str) -> None:
    write(store, hit(visitor=b"bad", session=b"1", score=60, level=3, level_before=2))
    settings = Settings.build(cooldown=600)
    with psycopg.connect(dsn) as connection:
        remember_policy(connection, version(settings), canonical(settings), in_force=True)
    levels = []
    for minutes in (0, 9, 11, 21, 100_000):
        changed = f"UPDATE analytics.fingerprints SET level_changed_at = now() - interval '{minutes} minutes'"
        fetch(dsn, changed)
        (row,) = json.loads(told("actors", "--json", "--dsn", dsn))
        levels.append(row["level"])
    assert levels == [3, 3, 2, 1, 0]


def test_a_level_that_a_visitor_brought_along_cools_down_too(store: PostgresStore, dsn: str) -> None:
    """As over midnight, from when on its fingerprint is another, of which no change of a level was told."""
    write(store, hit(visitor=b"bad", session=b"1", score=60, level=2))
    settings = Settings.build(cooldown=600)
    with psycopg.connect(dsn) as connection:
        remember_policy(connection, version(settings), canonical(settings), in_force=True)
    levels = []
    for minutes in (0, 11, 21):
        fetch(dsn, f"UPDATE analytics.fingerprints SET first_seen_at = now() - interval '{minutes} minutes'")
        (row,) = json.loads(told("actors", "--json", "--dsn", dsn))
        levels.append(row["level"])
    assert levels == [2, 1, 0]


def test_each_site_s_levels_cool_down_as_its_own_policy_says(store: PostgresStore, dsn: str) -> None:
    for site, cooldown in (("quick", 60), ("slow", 6_000)):  # the last one in force is not that of all
        settings = Settings.build(cooldown=cooldown)
        with psycopg.connect(dsn) as connection:
            remember_policy(connection, version(settings), canonical(settings), in_force=True)
        visitor, policy = site.encode(), version(settings)
        row = hit(visitor=visitor, session=visitor, site=site, policy=policy, score=60, level=3, level_before=2)
        write(store, row)
    later = NOW_US + 1_000_000
    write(store, hit(visitor=b"quick", session=b"quick", site="quick", policy="never in force", time_us=later))
    fetch(dsn, "UPDATE analytics.fingerprints SET level_changed_at = now() - interval '100 seconds'")
    rows = json.loads(told("actors", "--json", "--dsn", dsn))
    assert {row["site"]: row["level"] for row in rows} == {"quick": 2, "slow": 3}


def test_no_table_holds_an_address_that_was_ruled_on(store: PostgresStore, dsn: str) -> None:
    for command in (("ban", "--for", "2h", "--reason", "x"), ("allow",), ("pardon",)):
        for target in (ADDRESS, "2001:db8:1:2::9", "::ffff:203.0.113.7"):
            told(command[0], target, *command[1:], "--dsn", dsn)
    stored = str(fetch(dsn, "SELECT * FROM analytics.rulings")) + str(fetch(dsn, "SELECT * FROM analytics.cases"))
    for secret in (ADDRESS, "2001:db8:1:2", str(network_of(ADDRESS))[2:-1], str(network_of("2001:db8:1:2::9"))[2:-1]):
        assert secret not in stored
    assert one(dsn, "SELECT count(DISTINCT key) AS n FROM analytics.rulings WHERE kind = 'ban'")["n"] == 1


def test_bans_are_listed_and_lifted(store: PostgresStore, dsn: str) -> None:
    told("ban", "203.0.113.0/24", "--for", "30m", "--reason", "floods\x1b[2J", "--by", "alice", "--dsn", dsn)
    told("ban", "203.0.113.0/24", "--for", "2h", "--reason", "floods again", "--by", "alice", "--dsn", dsn)
    told("ban", "2001:db8::/32", "--for", "2h", "--reason", "y", "--dsn", dsn)
    shown = told("actors", "--banned", "--dsn", dsn)
    assert "203.0.113.0/24" in shown
    assert "2001:db8::/32" in shown
    assert "floods again" in shown
    assert len(shown.splitlines()) == 3, "a ban on the same target replaces the one before"
    told("pardon", "203.0.113.0/24", "--dsn", dsn)
    assert "203.0.113.0/24" not in told("actors", "--banned", "--dsn", dsn)


def test_what_is_ruled_on_an_address_that_nobody_remembers_is_ended_by_its_id(
    two: tuple[Worker, Worker], dsn: str
) -> None:
    told("ban", ADDRESS, "--for", "2h", "--reason", "x", "--dsn", dsn)
    told("ban", "203.0.113.8", "--for", "2h", "--reason", "x", "--dsn", dsn)
    told("allow", ADDRESS, "--dsn", dsn)
    (allowed,) = json.loads(told("actors", "--allowed", "--json", "--dsn", dsn))
    name = UUID(allowed["id"]).hex[:8]
    assert name in told("actors", "--allowed", "--dsn", dsn)
    wait_until(lambda: asked(two, address="203.0.113.8") == [True, True])
    wait_until(lambda: asked(two) == [False, False])
    assert "no longer allowed: a network of 32 bits" in told("allow", name, "--end", "--dsn", dsn)
    wait_until(lambda: asked(two) == [True, True])
    other, banned = json.loads(told("actors", "--banned", "--json", "--dsn", dsn))
    assert "1 ban lifted" in told("pardon", UUID(banned["id"]).hex[:8], "--dsn", dsn)
    wait_until(lambda: asked(two) == [False, False])
    assert asked(two, address="203.0.113.8") == [True, True]
    assert "until" in told("ban", UUID(other["id"]).hex[:8], "--for", "1h", "--reason", "y", "--dsn", dsn)
    assert len(json.loads(told("actors", "--banned", "--json", "--dsn", dsn))) == 1


@pytest.mark.parametrize(
    ("banned", "allowed", "named"),
    [
        (ADDRESS, ADDRESS, "203.0.113.7/32"),
        (ADDRESS, "203.0.113.0/24", "203.0.113.0/24"),
        ("203.0.113.16/28", "203.0.113.0/26", "203.0.113.0/26"),
        ("2001:db8:1:2::9", "2001:db8:1::/48", "2001:db8:1::/48"),
        (NAME[:10], NAME, NAME),
        ("203.0.113.0/24", ADDRESS, ""),
        ("198.51.100.7", "203.0.113.0/24", ""),
        ("2001:db8:1:2::9", "203.0.113.0/24", ""),
        (NAME, ADDRESS, ""),
    ],
)
def test_a_ban_that_an_allowance_overrides_says_so(
    store: PostgresStore, dsn: str, banned: str, allowed: str, named: str
) -> None:
    write(store, hit())
    ban = ("ban", banned, "--for", "2h", "--reason", "x", "--dsn", dsn)
    told("allow", allowed, "--dsn", dsn)
    said = told(*ban)
    assert ("without effect" in said) is bool(named)
    if named:
        assert f"`asgi-analytics allow {named} --end`" in said
        told("allow", named, "--end", "--dsn", dsn)
        assert "without effect" not in told(*ban)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("ban", "xyz", "--for", "2h", "--reason", "x"), 1, "is no target"),
        (("ban", "203.0.113.7/8", "--for", "2h", "--reason", "x"), 1, "name 203.0.113.7, or 203.0.0.0/8 for all of it"),
        (("allow", "2001:db8::1/48"), 1, "name 2001:db8::1, or 2001:db8::/48 for all of it"),
        (("ban", "0.0.0.0/0", "--for", "2h", "--reason", "x"), 1, "is everybody"),
        (("ban", ADDRESS, "--for", "100d", "--reason", "x"), 1, "90 days at most"),
        (("ban", ADDRESS, "--reason", "x"), 2, "--for"),
        (("ban", ADDRESS, "--for", "soon", "--reason", "x"), 2, "is not a time"),
        (("ban", ADDRESS, "--for", "2h"), 2, "--reason"),
        (("ban", ADDRESS, "--for", "2h", "--reason", " "), 1, "--reason is empty"),
        (("pardon", "deadbeef"), 1, "No visitor has a fingerprint like deadbeef"),
        (("allow", ADDRESS, "--end"), 1, "is not on the allow-list"),
        (("actors", "--top", "0"), 2, "whole number"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(dsn: str, arguments: tuple[str, ...], status: int, text: str) -> None:
    answer = called(*arguments, "--dsn", dsn)
    assert answer.returncode == status
    assert text in answer.stderr


def test_the_zone_of_an_address_is_left_out(dsn: str) -> None:
    answer = called("ban", "fe80::1%eth0", "--for", "2h", "--reason", "x", "--dsn", dsn)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("banned fe80::/64 until ")
