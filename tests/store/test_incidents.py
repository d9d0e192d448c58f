"""What lowers a reputation, and that nothing does twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from asgi_analytics.batch import DECISION, Batch, Frame, Frames
from asgi_analytics.clock import uuid7
from asgi_analytics.decide.explain import detail
from asgi_analytics.facts import Finding, ThrottleLevel
from asgi_analytics.model import Decision
from asgi_analytics.record import encoding
from asgi_analytics.reputation import ReputationRules
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.recorded import remember_policy
from tests.record.rows import NOW_US, batch, deliver, fetch, hit, identity, one

from .reputation import decayed, lowered

SCORE = "SELECT reputation, flagged, flag_reason FROM analytics.fingerprints WHERE fingerprint = %s"
VISITOR = b"visitor".ljust(16, b".")
NETWORK = b"network".ljust(16, b".")


@pytest.fixture
def strict(dsn: str) -> Iterator[PostgresStore]:
    """A store with the option `bans`."""
    store = PostgresStore(lambda: dsn, bans=True)
    store.connect()
    yield store
    store.close()


def write(store: PostgresStore, *rows: bytes, journal: bytes = b"A") -> None:
    deliver(store, batch(rows, journal))


def block(store: PostgresStore, time_us: int = NOW_US, **changes: Any) -> None:
    write(store, hit(level=3, level_before=2, decision_id=uuid7(time_us * 1000), time_us=time_us, **changes))


def kinds(dsn: str) -> list[str]:
    return [row["kind"] for row in fetch(dsn, "SELECT kind FROM analytics.incidents ORDER BY kind, time")]


def rulings(dsn: str) -> list[dict[str, Any]]:
    return fetch(
        dsn, "SELECT kind, reason, made_by, until - made_at AS length FROM analytics.rulings ORDER BY revision"
    )


def test_a_rise_to_blocked_and_a_bot_verdict_cost_once_each(store: PostgresStore, dsn: str) -> None:
    for _ in range(3):
        write(store, *[hit(score=60) for _ in range(4)])
    block(store, score=60)
    for journal in (b"B", b"C"):
        write(store, hit(score=90, level=3), journal=journal)
    assert kinds(dsn) == ["behavioural_score", "blocked"]
    row = one(dsn, SCORE, VISITOR.hex())
    assert row["reputation"] == pytest.approx(25, abs=0.1)
    assert (row["flagged"], row["flag_reason"]) == (True, "behavioural_score")


def test_another_session_is_further_evidence(store: PostgresStore, dsn: str) -> None:
    write(store, hit(score=60, session=b"1", time_us=NOW_US - 7_200_000_000))
    write(store, hit(score=60, session=b"2"))
    assert kinds(dsn) == ["behavioural_score", "behavioural_score"]


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "refused", "status": 429, "level": 3, "score": 90, "decision_id": b"d" * 16},
        {"outcome": "refused", "level": 3, "level_before": 2, "score": 90, "decision_id": b"d" * 16},
        {"outcome": "complete", "score": 90, "level": 3, "decision_id": b"d" * 16},
    ],
    ids=["refused", "refused after cooling down", "mode observe would have refused it"],
)
def test_our_own_refusals_are_no_evidence(store: PostgresStore, dsn: str, changes: dict[str, Any]) -> None:
    write(store, *[hit(page_view=True, **changes) for _ in range(150)])
    assert kinds(dsn) == []
    assert one(dsn, SCORE, VISITOR.hex())["reputation"] == 50


def test_the_store_computes_what_the_pure_functions_compute(store: PostgresStore, dsn: str) -> None:
    score, since = 50.0, None
    for hours in (90, 60, 59, 20, 3, 1):
        time_us = NOW_US - hours * 3_600_000_000
        block(store, time_us, session=b"%d" % hours)
        score, since = lowered(score, since, ReputationRules().points["blocked"], time_us / 1e6)
    row = one(dsn, "SELECT reputation, reputation_at FROM analytics.fingerprints")
    assert row["reputation"] == pytest.approx(score, rel=1e-9)
    at = NOW_US / 1e6
    now = one(
        dsn,
        "SELECT analytics.decayed(reputation, reputation_at, to_timestamp(%s)) AS now FROM analytics.fingerprints",
        at,
    )
    assert now["now"] == pytest.approx(decayed(score, since, at), rel=1e-6)


def now_of(dsn: str) -> datetime:
    """The server's time, in a moment far enough from the hour's end."""
    while (now := one(dsn, "SELECT now() AS now")["now"]).minute == 59 and now.second > 50:
        pass
    return now  # type: ignore[no-any-return]


def test_more_than_a_hundred_page_loads_within_a_clock_hour_flag_once(store: PostgresStore, dsn: str) -> None:
    time_us = int(now_of(dsn).timestamp() * 1e6)
    write(
        store, *[hit(page_view=True, time_us=time_us) for _ in range(100)], *[hit(time_us=time_us) for _ in range(400)]
    )
    assert kinds(dsn) == []
    for _ in range(3):
        write(store, *[hit(page_view=True, time_us=time_us) for _ in range(60)])
    assert kinds(dsn) == ["request_count_exceeded_100"]
    assert one(dsn, SCORE, VISITOR.hex())["reputation"] == pytest.approx(40, abs=0.1)


def test_page_loads_of_hours_before_count_for_nothing(store: PostgresStore, dsn: str) -> None:
    write(store, *[hit(page_view=True, time_us=NOW_US - 7_200_000_000) for _ in range(300)])
    assert kinds(dsn) == []


def test_more_than_ten_sessions_within_a_clock_hour_flag_once(dsn: str) -> None:
    time_us = int(now_of(dsn).timestamp() * 1e6)
    with closing(PostgresStore(lambda: dsn, session_timeout=1.0)) as store:
        store.connect()
        for number in range(14):
            write(store, hit(session=b"%d" % number, time_us=time_us + number * 2_000_000))
    assert kinds(dsn) == ["session_count_exceeded_10"]


@pytest.mark.parametrize("together", [False, True], ids=["one-by-one", "in-one-transfer"])
def test_sessions_of_hours_before_count_for_nothing(store: PostgresStore, dsn: str, together: bool) -> None:
    """As after an outage, which tells at once of who came every other hour."""
    rows = [hit(session=b"%d" % number, time_us=NOW_US - number * 7_200_000_000) for number in range(1, 15)]
    for transfer in [rows] if together else [[row] for row in rows]:
        write(store, *transfer)
    counted = one(dsn, "SELECT sessions, hour_sessions FROM analytics.fingerprints")
    assert (kinds(dsn), counted) == ([], {"sessions": 14, "hour_sessions": 0})


def test_every_minute_of_an_hour_above_ten_page_loads_is_sustained(store: PostgresStore, dsn: str) -> None:
    def minute(busy: int) -> None:
        """As if the store were in the next minute, `busy` full minutes behind it."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "UPDATE analytics.fingerprints SET busy_minutes = %s, minute_page_views = 11,"
                " minute_at = date_trunc('minute', now()) - interval '1 minute', hour_page_views = 0",
                (busy,),
            )
        write(store, hit(page_view=True))

    write(store, hit(page_view=True))
    minute(58)
    assert kinds(dsn) == []
    minute(59)
    assert kinds(dsn) == ["sustained_velocity_10rpm_1hr"]
    write(store, hit(page_view=True))
    assert one(dsn, "SELECT busy_minutes FROM analytics.fingerprints")["busy_minutes"] == 60
    assert kinds(dsn) == ["sustained_velocity_10rpm_1hr"], "the same hour counts once"


def test_a_calm_minute_ends_a_busy_run(store: PostgresStore, dsn: str) -> None:
    write(store, hit(page_view=True))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE analytics.fingerprints SET busy_minutes = 59, minute_page_views = 10,"
            " minute_at = date_trunc('minute', now()) - interval '1 minute'"
        )
    write(store, hit(page_view=True))
    assert one(dsn, "SELECT busy_minutes FROM analytics.fingerprints")["busy_minutes"] == 0


def test_a_transfer_that_began_in_the_minute_before_takes_nothing_back(store: PostgresStore, dsn: str) -> None:
    counted = "SELECT busy_minutes, minute_page_views, minute_charges, hour_page_views, hour_sessions"
    write(store, hit(page_view=True))
    fetch(
        dsn,
        "UPDATE analytics.fingerprints SET busy_minutes = 40, minute_page_views = 11, minute_charges = 12,"
        " hour_page_views = 90, hour_sessions = 9, minute_at = date_trunc('minute', now()) + interval '1 minute',"
        " hour_at = date_trunc('hour', now()) + interval '1 hour'",
    )
    write(store, hit(page_view=True), journal=b"B")
    assert list(one(dsn, f"{counted} FROM analytics.fingerprints").values()) == [40, 11, 12, 90, 9]


@pytest.mark.parametrize("together", [False, True], ids=["one-by-one", "in-one-transfer"])
def test_incidents_that_are_told_late_cost_what_they_would_have_cost_in_time(
    store: PostgresStore, dsn: str, together: bool
) -> None:
    times = [NOW_US - hours * 3_600_000_000 for hours in (1, 73)]
    rows = [
        hit(level=3, level_before=2, decision_id=uuid7(time_us * 1000), time_us=time_us, session=b"%d" % time_us)
        for time_us in times
    ]
    for transfer in [rows] if together else [[row] for row in rows]:
        write(store, *transfer)
    (visitor, network) = (one(dsn, f"SELECT reputation FROM analytics.{of}") for of in ("fingerprints", "networks"))
    assert visitor["reputation"] == pytest.approx(50 - 15 - 15 / 8)
    assert network["reputation"] == pytest.approx(50 - 3 - 3 / 8)


def test_a_rise_to_blocked_with_the_request_that_a_cool_down_was_noted_with_is_one_too(
    store: PostgresStore, dsn: str
) -> None:
    block(store)
    for number, level in ((1, 2), (2, 3)):
        later = NOW_US + number
        write(store, hit(level=level, level_before=3, decision_id=uuid7(later * 1000), time_us=later))
    assert kinds(dsn) == ["blocked", "blocked"]
    assert one(dsn, "SELECT abuse_incidents FROM analytics.fingerprints") == {"abuse_incidents": 2}


@pytest.mark.parametrize("signal", ["probing", "false_crawler_claim"])
def test_some_signals_are_incidents_once_per_session(store: PostgresStore, dsn: str, signal: str) -> None:
    for before in (0, 1):
        raised, known = ThrottleLevel(before + 1), ThrottleLevel(before)
        decision = Decision(level=raised, previous_level=known, id=uuid7(NOW_US * 1000 + before))
        row = encoding.decision_row(
            decision,
            detail(
                decision,
                [Finding(signal, 30, 9.0, 5.0, "text"), Finding("regular_timing", 15, 0.0, 0.1, "text")],
                None,
                "v1",
            ),
            hit_id=b"h" * 16,
            time_us=NOW_US,
            enforced=True,
            site="default",
            identity=identity(),
        )
        moved = batch([hit(level=before + 1, level_before=before, decision_id=decision.id)])
        frames = [*moved.frames, Frame(DECISION, row, moved.end, moved.end + 9)]
        store.position(moved.journal)
        store.write(Batch(moved.journal, 1, moved.columns, Frames(frames), moved.end + 9))
    assert kinds(dsn) == [signal]


def test_a_network_loses_a_fifth_and_only_networks_with_incidents_have_a_row(store: PostgresStore, dsn: str) -> None:
    write(store, hit(visitor=identity(b"good", network=b"g" * 16)))
    for number in range(3):
        block(store, visitor=b"bad%d" % number, session=b"%d" % number)
    row = one(dsn, "SELECT network, incidents, reputation FROM analytics.networks")
    assert (row["network"], row["incidents"]) == (NETWORK, 3)
    assert row["reputation"] == pytest.approx(50 - 3 * 15 * 0.2)


def test_without_the_option_nobody_is_ever_banned(store: PostgresStore, dsn: str) -> None:
    for number in range(8):
        block(store, session=b"%d" % number, score=90)
    assert one(dsn, SCORE, VISITOR.hex())["reputation"] == pytest.approx(0, abs=0.1)
    assert rulings(dsn) == []


def test_with_the_option_three_incidents_within_a_day_ban_once_for_a_day(strict: PostgresStore, dsn: str) -> None:
    for number in range(2):
        block(strict, NOW_US + number)
    assert rulings(dsn) == []
    for number in range(2, 5):
        block(strict, NOW_US + number)
    (ban,) = rulings(dsn)
    assert (ban["kind"], ban["made_by"], ban["length"]) == ("ban", "the option bans", timedelta(days=1))
    assert ban["reason"] == "3 incidents within a day: blocked"


def test_only_the_site_that_has_the_option_bans(dsn: str) -> None:
    """Its workers also deliver what dead ones of another site have left."""
    with closing(PostgresStore(lambda: dsn, bans=True, site="shop")) as store:
        store.connect()
        for number in range(4):
            for site in ("blog", "shop"):
                block(store, NOW_US + number, visitor=site.encode(), session=site.encode(), site=site)
    (ban,) = fetch(dsn, "SELECT fingerprint FROM analytics.rulings")
    assert ban["fingerprint"] == b"shop".ljust(16, b".")


def test_what_is_left_over_is_judged_by_the_policy_that_it_was_judged_by(dsn: str) -> None:
    """Whoever delivers it may be of another site, or a newer start with other options."""
    with closing(PostgresStore(lambda: dsn, bot_score=50, policy=("ours", {}))) as store:
        store.connect()
        given = {"bot_score": 80.0, "session_timeout": 7200.0, "cooldown": 600.0}
        remember_policy(store._connected(), "0123456789ab", given)
        for hours in (1, 0):
            then = NOW_US - hours * 3_600_000_000
            write(store, hit(score=60, policy="0123456789ab", session=b"%d" % hours, time_us=then))
        assert (kinds(dsn), one(dsn, "SELECT hits FROM analytics.sessions")) == ([], {"hits": 2})
        store.position(b"own".ljust(16, b"."), own=True)
        for journal, policy in ((b"own", "0123456789ab"), (b"A", "not known"), (b"A", "ours")):
            write(
                store, hit(score=60, policy=policy, session=policy.encode(), visitor=policy.encode()), journal=journal
            )
    assert kinds(dsn) == ["behavioural_score"] * 3


def test_a_lifted_ban_does_not_come_back_on_the_same_incidents(strict: PostgresStore, dsn: str) -> None:
    for number in range(4):
        block(strict, NOW_US + number)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE analytics.rulings SET lifted_at = now()")
    future = NOW_US + 3_600_000_000  # after the ban, however slow the machine
    block(strict, future)
    block(strict, future + 1)
    assert len(rulings(dsn)) == 1
    block(strict, future + 2)
    assert len(rulings(dsn)) == 2


def test_old_incidents_do_not_ban(strict: PostgresStore, dsn: str) -> None:
    for days in range(30, 0, -2):
        block(strict, NOW_US - days * 86_400_000_000, session=b"%d" % days)
    assert rulings(dsn) == []


def test_flags_fall_after_a_calm_week_and_what_is_over_is_forgotten(store: PostgresStore, dsn: str) -> None:
    block(store, NOW_US - 8 * 86_400_000_000, visitor=b"calm", session=b"1")
    block(store, NOW_US - 40 * 86_400_000_000, visitor=b"old", session=b"2")
    block(store, visitor=b"new", session=b"3")
    store.tidy()
    flagged = fetch(dsn, "SELECT fingerprint FROM analytics.fingerprints WHERE flagged")
    assert [row["fingerprint"] for row in flagged] == [b"new".ljust(16, b".")]
    assert one(dsn, "SELECT count(*) AS n FROM analytics.incidents")["n"] == 2


def test_who_is_locked_keeps_no_flag_of_others_and_nobody_waiting(store: PostgresStore, dsn: str) -> None:
    """Such as by a pardon: a clean-up that waits holds up delivery."""
    for number, name in enumerate((b"locked", b"free")):
        row = {"visitor": identity(name, network=name.ljust(16, b".")), "session": name}
        block(store, NOW_US - 8 * 86_400_000_000 + number, **row)
    with psycopg.connect(dsn) as operator:
        for table in ("fingerprints", "networks"):
            query = f"SELECT 1 FROM analytics.{table} WHERE {table[:-1]} = %s FOR UPDATE"
            operator.execute(query.encode(), [UUID(bytes=b"locked".ljust(16, b"."))])
        began = time.monotonic()
        store.tidy()
        assert time.monotonic() - began < 5
    flagged = "SELECT fingerprint AS name FROM analytics.fingerprints WHERE flagged"
    for query in (flagged, "SELECT network AS name FROM analytics.networks"):
        assert [row["name"] for row in fetch(dsn, query)] == [b"locked".ljust(16, b".")]


def test_a_batch_moved_twice_counts_once(store: PostgresStore, dsn: str) -> None:
    moved = batch([hit(level=3, level_before=2, score=80)])
    deliver(store, moved)
    store.write(moved)
    assert kinds(dsn) == ["behavioural_score", "blocked"]
