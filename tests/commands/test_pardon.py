"""What a pardon leaves in the tables, and whom it reaches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from asgi_analytics.commands import targets
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.rulings import Reach, Registry, Target, connect
from tests.record.rows import NOW_US, fetch, hit, identity, one
from tests.waiting import wait_until

from .ruled import ADDRESS, FINGERPRINT, NAME, behind, block, told, write


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


def test_what_stands_on_a_visitor_whose_row_is_gone_can_be_ended(store: PostgresStore, dsn: str) -> None:
    """Retention deletes who has not come for long, but no ruling that is in force."""
    write(store, hit())
    told("allow", NAME, "--dsn", dsn)
    told("ban", NAME, "--for", "90d", "--reason", "x", "--dsn", dsn)
    fetch(dsn, "DELETE FROM analytics.fingerprints")
    assert told("allow", NAME[:10], "--end", "--dsn", dsn) == f"no longer allowed: {NAME}\n"
    assert "1 ban lifted" in told("pardon", NAME[:10], "--dsn", dsn)
    assert told("actors", "--banned", "--dsn", dsn) == "nobody\n"


def test_pardoning_an_address_resets_the_visitors_behind_it(store: PostgresStore, dsn: str) -> None:
    network = behind(store, ADDRESS)
    write(store, hit(visitor=identity(network=network), score=80, level=3, level_before=2))
    write(store, hit(visitor=identity(b"else", network=b"e" * 16), session=b"2", score=80))
    assert "1 visitor reset" in told("pardon", ADDRESS, "--dsn", dsn)
    scores = fetch(
        dsn, "SELECT reputation FROM analytics.fingerprints ORDER BY fingerprint = %s", b"else".ljust(16, b".").hex()
    )
    assert [round(row["reputation"]) for row in scores] == [50, 40]
    assert fetch(dsn, "SELECT * FROM analytics.networks WHERE network = %s", UUID(bytes=network)) == []


def test_pardoning_an_address_lifts_the_bans_of_the_visitors_behind_it(store: PostgresStore, dsn: str) -> None:
    network = behind(store, ADDRESS)
    write(store, hit(visitor=identity(network=network)))
    write(store, hit(visitor=identity(b"else", network=b"e" * 16), session=b"2"))
    for visitor in (FINGERPRINT, b"else".ljust(16, b".")):  # as the option `bans` bans: never the network
        told("ban", visitor.hex(), "--for", "2h", "--reason", "x", "--dsn", dsn)
    assert "1 ban lifted" in told("pardon", ADDRESS, "--dsn", dsn)
    (left,) = json.loads(told("actors", "--banned", "--json", "--dsn", dsn))
    assert UUID(left["fingerprint"]).bytes == b"else".ljust(16, b".")
    assert json.loads(told("actors", "--cases", "--json", "--dsn", dsn))[0]["bans"][0]["reason"] == "x"


def reputations(dsn: str) -> dict[bytes, int]:
    found = fetch(dsn, "SELECT fingerprint, reputation FROM analytics.fingerprints")
    return {row["fingerprint"].rstrip(b"."): round(row["reputation"]) for row in found}


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("203.0.112.0/20", "203.0.127.254", "203.0.128.1"),
        ("203.0.0.0/16", "203.0.0.0", "203.1.0.0"),
        ("2001:db8:1::/48", "2001:db8:1:ffff::9", "2001:db8:2::9"),
    ],
)
def test_pardoning_a_network_resets_all_visitors_that_came_from_it(
    store: PostgresStore, dsn: str, network: str, inside: str, outside: str
) -> None:
    for number, address in enumerate((inside, outside)):
        visitor = identity(b"%d" % number, network=behind(store, address))
        write(store, hit(visitor=visitor, session=b"%d" % number, score=80, level=3, level_before=2))
        told("ban", (b"%d" % number).ljust(16, b".").hex(), "--for", "2h", "--reason", "x", "--dsn", dsn)
    assert "1 ban lifted, 2 incidents forgiven, 1 visitor reset" in told("pardon", network, "--dsn", dsn)
    assert reputations(dsn) == {b"0": 50, b"1": 25}
    assert fetch(dsn, "SELECT * FROM analytics.networks WHERE network = %s", UUID(bytes=behind(store, inside))) == []


def test_a_network_with_too_many_addresses_is_pardoned_as_far_as_can_be_and_the_rest_is_told(
    store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "MAX_HASHES", targets.MAX_HASHES >> 6)
    write(store, hit(visitor=identity(network=behind(store, ADDRESS)), score=80))
    told("ban", "203.0.0.0/16", "--for", "2h", "--reason", "x", "--dsn", dsn)
    told("ban", ADDRESS, "--for", "2h", "--reason", "x", "--dsn", dsn)
    done = told("pardon", "202.0.0.0/7", "--dsn", dsn)
    assert "1 ban lifted" in done
    assert "pardon it in parts of /" in done
    part = done.partition("in parts of /")[2].partition(",")[0]
    assert part in ("16", "17")
    assert reputations(dsn)[b"visitor"] == 40
    assert "1 ban lifted, 1 incident forgiven, 1 visitor reset" in told("pardon", f"203.0.0.0/{part}", "--dsn", dsn)


def test_a_pardon_lifts_the_bans_on_all_parts_of_its_network_and_names_those_on_more(dsn: str) -> None:
    for network in (ADDRESS, "203.0.113.64/28", "203.0.113.0/24", "203.0.0.0/16", "198.51.100.7", "::/1"):
        told("ban", network, "--for", "2h", "--reason", "x", "--dsn", dsn)
    done = told("pardon", "203.0.113.0/24", "--dsn", dsn).splitlines()
    assert "3 bans lifted" in done[0]
    assert done[1].startswith("still banned, with more: 203.0.0.0/16 until 20")
    assert len(json.loads(told("actors", "--banned", "--json", "--dsn", dsn))) == 3
    assert "1 ban lifted" in told("pardon", "198.51.0.0/16", "--dsn", dsn)


def test_a_pardon_of_many_locks_them_in_the_order_of_the_writers(store: PostgresStore, dsn: str) -> None:
    for name in (b"z", b"a"):
        write(store, hit(visitor=identity(name, network=behind(store, ADDRESS)), session=name))
    with psycopg.connect(dsn) as writer:
        lock = "SELECT FROM analytics.fingerprints WHERE fingerprint = %s FOR UPDATE"
        writer.execute(lock, [UUID(bytes=b"a".ljust(16, b"."))])
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(told, "pardon", ADDRESS, "--dsn", dsn)
            wait_until(lambda: bool(fetch(dsn, "SELECT 1 FROM pg_locks WHERE NOT granted")), 10, "the pardon")
            writer.execute(lock, [UUID(bytes=b"z".ljust(16, b"."))])
            writer.commit()
            assert "2 visitors reset" in waiting.result(20)


def test_no_writer_waits_while_the_decision_of_a_case_is_looked_for(store: PostgresStore, dsn: str) -> None:
    """There may be millions to look through."""
    block(store)
    waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'analytics.decisions'::regclass"
    with ThreadPoolExecutor() as pool, psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as writer:
        holder.execute("LOCK TABLE analytics.decisions IN ACCESS EXCLUSIVE MODE")
        pardoned = pool.submit(told, "pardon", NAME, "--dsn", dsn)
        wait_until(lambda: writer.execute(waits).rowcount > 0)
        assert writer.execute("SELECT FROM analytics.fingerprints FOR UPDATE NOWAIT").rowcount == 1
        holder.rollback()
        assert "1 visitor reset" in pardoned.result()


@pytest.mark.parametrize(("rises", "days"), [([10], [1, 30]), ([10, 20], [1, 30]), ([0, 10], [1]), ([], [1, 30])])
def test_the_decision_of_a_case_is_the_last_rise_of_a_month_looked_for_in_the_last_day_first(
    store: PostgresStore, dsn: str, monkeypatch: pytest.MonkeyPatch, rises: list[int], days: list[int]
) -> None:
    write(store, hit())
    for level_before, ago in (*((1, ago) for ago in rises), (None, 0), (3, 5)):
        values = f"gen_random_uuid(), now() - interval '{ago} days', 'default', gen_random_uuid(), '{NAME}', NULL"
        query = f"INSERT INTO analytics.decisions SELECT {values}, true, true, 2, %s, 0, 1, '{{}}'"
        fetch(dsn, query, level_before)
    asked: list[int] = []
    ask = Registry._all

    def noted(registry: Registry, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        asked.extend([parameters["days"]] if parameters and "days" in parameters else [])
        return ask(registry, query, parameters)

    monkeypatch.setattr(Registry, "_all", noted)
    with connect(dsn) as registry:
        registry.pardon(Target(NAME, NAME, UUID(NAME)), Reach(), "", "")
    found = one(dsn, "SELECT extract(epoch FROM now() - decided_at)::float8 / 86400 AS ago FROM analytics.cases")
    assert (round(found["ago"]), asked) == (min(rises, default=0), days)
