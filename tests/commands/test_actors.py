"""The commands about actors as operators run them, and how fast living workers heed them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from asgi_analytics.batch import DECISION
from asgi_analytics.clock import SystemClock, uuid7
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.explain import detail
from asgi_analytics.decide.rulings import RulingBook, forgive, is_pardon_due, refusal
from asgi_analytics.facts import Finding, ThrottleLevel
from asgi_analytics.identify.client import network_of
from asgi_analytics.identify.fingerprint import Fingerprinter
from asgi_analytics.model import Decision
from asgi_analytics.record.encoding import decision_row
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.settings.canonical import canonical, version
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.recorded import remember_policy
from asgi_analytics.testing import MemoryState
from tests.decide.visits import Visit
from tests.drive import called
from tests.record.rows import NOW_US, batch, fetch, hit, identity, one
from tests.waiting import wait_until

ADDRESS = "203.0.113.7"
FINGERPRINT = b"visitor".ljust(16, b".")
NAME = FINGERPRINT.hex()


def write(store: PostgresStore, *rows: bytes) -> None:
    moved = batch(rows)
    store.position(moved.journal)
    store.write(moved)


def block(store: PostgresStore, **changes: Any) -> None:
    """A visitor at Blocked with a bot verdict, and the decision that led there."""
    now_us = int(time.time() * 1e6)  # a reputation recovers with each minute
    decision = Decision(
        level=ThrottleLevel.BLOCKED, score=75, previous_level=ThrottleLevel.SEVERE, id=uuid7(now_us * 1000)
    )
    row = decision_row(
        decision,
        detail(
            decision,
            [Finding("high_request_count", 30, 80.0, 50.0, "80 page loads in this session (limit 50)")],
            None,
            "v1",
        ),
        hit_id=b"h" * 16,
        time_us=now_us,
        enforced=True,
        site="default",
        identity=identity(),
    )
    moved = batch([row], kind=DECISION)
    store.position(moved.journal)
    store.write(moved)
    write(store, hit(score=75, level=3, level_before=2, decision_id=decision.id, time_us=now_us, **changes))


def told(*arguments: str) -> str:
    answer = called(*arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


class Worker:
    """A worker as the engine puts it together: recorder, writer, rulings, and one visitor in memory."""

    def __init__(self, dsn: str, folder: Path, *, allow: Any = ()) -> None:
        self.clock = SystemClock()
        self.book = RulingBook(Settings.build(trusted_proxies=allow).trusted_proxies, self.wall())  # type: ignore[arg-type]
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

    def wall(self) -> float:
        return self.clock.time_ns() / 1e9

    def ask(self, fingerprint: bytes = FINGERPRINT, address: str = ADDRESS) -> Decision:
        """The way of a request up to the app, as the middleware goes it."""
        visit, now, wall = self.visit, self.clock.monotonic(), self.wall()
        network = network_of(address)
        current = self.book.current
        if current is not None:
            found = self.book.ruling_for(fingerprint, network, wall)
            if found is not None and found.kind == "ban":
                return refusal(found, len(visit.policy.quotas), visit.visitor.score, wall)
            allowed = found is not None and visit.level > 0
            if allowed or is_pardon_due(visit.visitor, current.pardoned_at(fingerprint, network, wall), now, wall):
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


# What a pardon leaves behind


def test_a_pardon_restores_reputation_and_keeps_the_case(store: PostgresStore, dsn: str) -> None:
    block(store)
    told("ban", NAME, "--for", "7d", "--reason", "thought it a scraper", "--by", "bob", "--dsn", dsn)
    before = one(dsn, "SELECT reputation FROM analytics.fingerprints")["reputation"]
    assert "1 ban lifted, 2 incidents forgiven" in told(
        "pardon", NAME, "--reason", "our own monitor", "--by", "alice", "--dsn", dsn
    )
    row = one(dsn, "SELECT reputation, flagged, level, abuse_incidents FROM analytics.fingerprints")
    assert row == {"reputation": 50, "flagged": False, "level": 0, "abuse_incidents": 0}
    assert one(dsn, "SELECT reputation FROM analytics.networks")["reputation"] == pytest.approx(50, abs=0.01)
    assert told("actors", "--flagged", "--dsn", dsn) == "nobody\n"
    assert told("actors", "--banned", "--dsn", dsn) == "nobody\n"
    (case,) = json.loads(told("actors", "--cases", "--json", "--dsn", dsn))
    assert (case["label"], case["reason"], case["labelled_by"]) == ("false_positive", "our own monitor", "alice")
    assert (case["level"], case["score"], case["reputation"]) == (3, 75, pytest.approx(before, abs=0.1))
    assert case["detail"]["signals"][0]["signal"] == "high_request_count"
    assert [incident["kind"] for incident in case["incidents"]] == ["behavioural_score", "blocked"]
    assert case["bans"][0]["made_by"] == "bob"
    assert "high_request_count" in told("actors", "--cases", "--dsn", dsn)


def test_nothing_flags_again_on_the_evidence_that_was_pardoned(store: PostgresStore, dsn: str) -> None:
    block(store)
    told("pardon", NAME, "--dsn", dsn)
    # Hits on their way from workers that have yet to learn of the pardon.
    for journal in range(3):
        write(store, hit(score=75, time_us=NOW_US + journal))
        write(store, hit(score=75, level=3, level_before=2, time_us=NOW_US + journal))
    row = one(dsn, "SELECT reputation, flagged, level FROM analytics.fingerprints")
    assert row == {"reputation": 50, "flagged": False, "level": 0}


def test_new_evidence_after_a_pardon_counts(store: PostgresStore, dsn: str) -> None:
    block(store)
    told("pardon", NAME, "--dsn", dsn)
    write(store, hit(score=75, level=3, level_before=2, session=b"2", time_us=NOW_US + 3_600_000_000))
    row = one(dsn, "SELECT reputation, flagged, level FROM analytics.fingerprints")
    assert (row["reputation"], row["flagged"], row["level"]) == (25, True, 3)


def test_pardoning_an_address_resets_the_visitors_behind_it(store: PostgresStore, dsn: str) -> None:
    (salt, *_) = store.exchange_salts([], ["2100-01-01"])
    network = Fingerprinter("default", salt.key).fingerprint(b"network\0" + network_of(ADDRESS), 0)
    write(store, hit(visitor=identity(network=network), score=80, level=3, level_before=2))
    write(store, hit(visitor=identity(b"else", network=b"e" * 16), session=b"2", score=80))
    assert "1 visitor reset" in told("pardon", ADDRESS, "--dsn", dsn)
    scores = fetch(
        dsn, "SELECT reputation FROM analytics.fingerprints ORDER BY fingerprint = %s", b"else".ljust(16, b".").hex()
    )
    assert [round(row["reputation"]) for row in scores] == [50, 40]
    assert fetch(dsn, "SELECT * FROM analytics.networks WHERE network = %s", UUID(bytes=network)) == []


def test_pardoning_an_address_lifts_the_bans_of_the_visitors_behind_it(store: PostgresStore, dsn: str) -> None:
    (salt, *_) = store.exchange_salts([], ["2100-01-01"])
    network = Fingerprinter("default", salt.key).fingerprint(b"network\0" + network_of(ADDRESS), 0)
    write(store, hit(visitor=identity(network=network)))
    write(store, hit(visitor=identity(b"else", network=b"e" * 16), session=b"2"))
    for visitor in (FINGERPRINT, b"else".ljust(16, b".")):  # as the option `bans` bans: never the network
        told("ban", visitor.hex(), "--for", "2h", "--reason", "x", "--dsn", dsn)
    assert "1 ban lifted" in told("pardon", ADDRESS, "--dsn", dsn)
    (left,) = json.loads(told("actors", "--banned", "--json", "--dsn", dsn))
    assert UUID(left["fingerprint"]).bytes == b"else".ljust(16, b".")
    assert json.loads(told("actors", "--cases", "--json", "--dsn", dsn))[0]["bans"][0]["reason"] == "x"


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
