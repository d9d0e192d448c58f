from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import cli
from asgi_analytics.clock import uuid7
from asgi_analytics.record import refusals
from asgi_analytics.record.refusals import ROWS_PER_NETWORK, ROWS_PER_VISITOR, ROWS_PER_WORKER, Refusals
from asgi_analytics.store.dsn import database_key
from asgi_analytics.testing import FakeClock
from tests.drive import get, page, rows, start, wrapped
from tests.record.rows import finished, identity

NOW = 1_900_000_000_000_000_000


def refusal(visitor: int = 0, network: int = 0, time_ns: int = NOW) -> Any:
    who = identity(b"%015d" % visitor, network=b"%016d" % network)
    hit = finished(who, 0, 0, time_ns)
    hit.decision.id = uuid7(time_ns)
    return hit


@pytest.fixture
def counted() -> Refusals:
    return Refusals("default")


def own(counted: Refusals, hits: list[Any]) -> int:
    """How many are rows of their own."""
    return sum(counted.count(hit) is None for hit in hits)


def test_up_to_the_rate_each_refusal_is_a_row(counted: Refusals) -> None:
    assert own(counted, [refusal()] * ROWS_PER_VISITOR) == ROWS_PER_VISITOR
    assert counted.count(refusal()) is not None


def test_a_refusal_that_is_counted_has_the_id_of_the_last_stored_one_of_its_visitor_or_network(
    counted: Refusals,
) -> None:
    stored = [refusal(number) for number in range(ROWS_PER_NETWORK)]
    assert own(counted, stored) == ROWS_PER_NETWORK
    for hit, same in ((refusal(5), stored[5]), (refusal(5_000), stored[-1])):
        assert counted.count(hit) is not None
        assert hit.decision.id == same.decision.id
    own(counted, [refusal(0, number) for number in range(1, ROWS_PER_WORKER)])
    stranger = refusal(9_999, 9_999)
    assert counted.count(stranger) is not None
    assert stranger.decision.id is None, "nobody's decision is told to somebody else"


@pytest.mark.parametrize("told", [True, False], ids=["told-apart", "not-told-apart"])
def test_the_id_of_each_refusal_of_a_flood_is_explained_by_the_command(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: bool
) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 5)
    with wrapped(page(), dsn, limits="1/day", clock=FakeClock()) as app:
        start(app)
        headers = {} if told else {"sec-gpc": "1"}
        answers = [get(app, "/", headers) for _ in range(60)]
    ids = [json.loads(answer.body)["decision"] for answer in answers if answer.status == 429]
    assert len(set(ids)) == 5 < len(ids)
    for one in set(ids):
        assert cli.main(["explain", one, "--dsn", dsn]) == 0
        text = capsys.readouterr().out
        assert "refused with 429" in text
        assert (f"{len(ids) - 5} more refusals of this visitor" in text) == told


def test_the_next_minute_begins_again(counted: Refusals) -> None:
    own(counted, [refusal()] * 500)
    assert own(counted, [refusal(time_ns=NOW + 61_000_000_000)] * 500) == ROWS_PER_VISITOR


def test_who_changes_its_name_each_time_is_counted_by_its_network(counted: Refusals) -> None:
    assert own(counted, [refusal(number) for number in range(3_000)]) == ROWS_PER_NETWORK


def test_rows_and_memory_are_bounded_whoever_comes(counted: Refusals) -> None:
    assert own(counted, [refusal(number, number) for number in range(ROWS_PER_WORKER + 5_000)]) == ROWS_PER_WORKER
    assert len(counted._counts) == 2 * ROWS_PER_WORKER


def test_every_refusal_is_stored_or_counted_exactly_once(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 20)
    clock = FakeClock()
    with wrapped(page(), dsn, limits="10/day", clock=clock) as app:
        start(app)
        answers = [get(app).status for _ in range(250)]
        clock.advance(60)
        answers += [get(app).status for _ in range(50)]
    refused = answers.count(429)
    kept = rows(dsn, "SELECT * FROM analytics.hits WHERE outcome = 'refused'")
    sums = rows(dsn, "SELECT * FROM analytics.refusals ORDER BY minute")
    assert refused > 200
    assert len(kept) + sum(row["refusals"] for row in sums) == refused
    assert len(sums) == 2
    (visitor,) = rows(dsn, "SELECT hits, refusals FROM analytics.fingerprints")
    assert visitor == {"hits": 300, "refusals": refused}
    assert (app.stats()["queued"], app.stats()["written"]) == (300, 300)


def test_counted_refusals_outlive_a_killed_process(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ROWS_PER_VISITOR", 5)
    with wrapped(page(), limits="10/day", journal_dir=tmp_path) as app:
        refused = [get(app).status for _ in range(60)].count(429)
    for path in tmp_path.glob("*/database"):
        path.write_text(database_key(dsn))
    with wrapped(page(), dsn, journal_dir=tmp_path, batch_age=0.01) as following:
        get(following)
    total = rows(dsn, "SELECT (SELECT count(*) FROM analytics.hits WHERE outcome = 'refused')"
                      " + (SELECT sum(refusals) FROM analytics.refusals) AS n")  # fmt: skip
    assert total == [{"n": refused}]
