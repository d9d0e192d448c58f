"""Too much at once, for too long, too large: memory stays bounded, the loop free, and everything is accounted for."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from asgi_analytics.batch import HIT
from asgi_analytics.clock import uuid7
from asgi_analytics.record import journal as journals
from asgi_analytics.record.frames import frame
from asgi_analytics.record.listing import bytes_in
from asgi_analytics.store.postgres import PostgresStore
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import PARITY, WHOLE
from tests.acceptance.faults.rows import Works
from tests.acceptance.faults.test_model import Faulty
from tests.acceptance.rig import ROUNDS
from tests.drive import NOWHERE, ask, get, http_scope, page, rows, wrapped
from tests.record.rows import fetch, hit
from tests.waiting import wait_until

MIB = 1 << 20
SOME_ID = b"\xee" * 16
CONNECTING: list[tuple[Any, str]] = [
    (psycopg.Connection, "connect"),
    (socket, "create_connection"),
    (socket, "getaddrinfo"),
    (socket.socket, "connect"),
]


def memory() -> int:
    """Return the bytes of this process that are its own."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no Rss")


def test_ten_minutes_without_postgres_take_disk_and_no_memory(dsn: str, tmp_path: Path, account: Account) -> None:
    count = 180_000 if WHOLE else 10_000  # 300 a second for ten minutes
    with Works(NOWHERE, tmp_path / "j") as down:
        down.send(0, 5_000)
        warm = memory()
        down.send(5_000, count - 5_000)
        assert memory() - warm < 64 * MIB
        size = bytes_in(tmp_path / "j")
    assert size / count < 1024
    account.round()
    with Works(dsn, tmp_path / "j", rows=5_000) as works:
        began = time.monotonic()
        account.settle(dsn, range(count), 60)
        print(f"a backlog of {count:,} delivered at {count / (time.monotonic() - began):,.0f} rows/s")
        assert memory() - warm < 128 * MIB  # this process holds the ledger too
        assert works.counters.adopted == count


def test_at_its_limit_the_journal_drops_the_newest_and_counts_each(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 100_000)
    works = Works(NOWHERE, tmp_path / "j", journal_limit=2 * MIB)
    with works:
        works.send(0, 20_000)
        dropped = works.counters.dropped["journal_full"]
        assert bytes_in(tmp_path / "j") < 2 * MIB + 2 * 100_000
    account.round()
    with Works(dsn, tmp_path / "j") as following:
        account.settle(dsn, range(20_000 - dropped))
        assert following.counters.adopted == 20_000 - dropped


@pytest.mark.parametrize("segment", [100_000, 2 * MIB])
def test_a_full_journal_takes_rows_again_once_it_is_delivered(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch, segment: int
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_SIZE", segment)
    where = NOWHERE
    with Works("", tmp_path / "j", lambda: PostgresStore(lambda: where), journal_limit=MIB) as works:
        works.send(0, 10_000)  # faster than a next segment is prepared
        kept = 10_000 - works.counters.dropped["journal_full"]
        assert kept < 10_000
        where = dsn
        wait_until(lambda: works.counters.written == kept, 30, "the delivery of what was kept")
        time.sleep(1)
        works.send(10_000, 1_000)
        account.round()
        assert works.counters.dropped["journal_full"] == 10_000 - kept
        account.settle(dsn, [*range(kept), *range(10_000, 11_000)])


def test_a_burst_of_10_000_is_stored(dsn: str, tmp_path: Path, account: Account) -> None:
    with Works(dsn, tmp_path / "j") as works:
        for number in range(ROUNDS):
            works.send(number * 10_000, 10_000)
            account.round()
        account.settle(dsn, range(ROUNDS * 10_000))


def test_a_store_slower_than_what_comes_takes_no_memory(dsn: str, tmp_path: Path, account: Account) -> None:
    fetch(dsn, "CREATE FUNCTION public.doze() RETURNS trigger LANGUAGE plpgsql AS "
               "$$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$")  # fmt: skip
    fetch(dsn, "CREATE TRIGGER doze AFTER INSERT ON analytics.hits FOR EACH STATEMENT EXECUTE FUNCTION public.doze()")
    with Works(dsn, tmp_path / "j", rows=100) as works:
        warm, sent = memory(), 0
        for _ in range(60):
            works.send(sent, 500)
            sent += 500
        assert works.writer.pending_bytes() > MIB
        assert memory() - warm < 64 * MIB
        fetch(dsn, "DROP FUNCTION public.doze() CASCADE")
        account.round()
        account.settle(dsn, range(sent), 60)


def test_no_file_is_flushed_and_nobody_is_connected_to_on_the_event_loop(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: Account
) -> None:
    slow: list[str] = []
    # A transfer connects through psycopg, all else by a socket.
    for owner, name in (*((os, name) for name in ("fsync", "fdatasync", "open")), *CONNECTING):
        given = getattr(owner, name)

        def watched(*arguments: object, name: str = name, given: object = given, **named: object) -> object:
            if threading.current_thread() is threading.main_thread():
                slow.append(name)
            return given(*arguments, **named)  # type: ignore[operator]

        monkeypatch.setattr(owner, name, watched)
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 50_000)
    with wrapped(page(), dsn, journal_dir=tmp_path / "j", limits="100000/second") as app:
        get(app)
        slow.clear()
        lags = asyncio.run(_under_load(app, 3_000))
        assert slow == []
        account.round()
    print(f"loop lag: longest {max(lags) * 1e3:.1f} ms of {len(lags)} beats")


async def _under_load(app: object, count: int) -> list[float]:
    lags: list[float] = []

    async def heart() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - began - 0.01)

    beating = asyncio.create_task(heart())
    for _ in range(count):
        await ask(app, http_scope())  # type: ignore[arg-type]
        await asyncio.sleep(0)
    beating.cancel()
    return lags


def test_an_event_as_large_as_they_come_is_cut_and_stored(dsn: str, account: Account) -> None:
    huge = "x" * 60_000
    headers = {"user-agent": huge, "referer": f"https://example.com/{huge}", "accept-language": huge}
    with wrapped(page(), dsn) as app:
        assert get(app, f"/{huge}", headers, query_string=b"utm_source=" + huge.encode()).status == 200
        account.round()
    (row,) = rows(dsn)
    assert max(len(value) for value in row.values() if isinstance(value, str)) <= 1024


def test_every_request_is_stored_set_aside_or_dropped_for_a_reason(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 200_000)
    dice, sent = random.Random(7), PARITY
    store, began = Faulty(PostgresStore(lambda: dsn)), time.monotonic()
    row = hit("/e/1", hit_id=SOME_ID)
    with Works(NOWHERE, tmp_path / "j", lambda: store, journal_limit=4 * MIB, rows=500) as works:
        for number in range(sent):
            if not number % 97:
                store.plan = [dice.choice(["none", "before", "after"]) for _ in range(4)]
            if not number % 5_000 and dice.random() < 0.9:  # else it goes on into the full journal
                wait_until(lambda: works.writer.pending_bytes() < MIB, 60, "the delivery of what waits")
            path = b"/e/1" if dice.randrange(2_000) else b"/e\xff1"
            works.recorder._append(frame(HIT, row.replace(SOME_ID, uuid7(time.time_ns()), 1).replace(b"/e/1", path)))
        store.plan = []
        works.wait(120)
        took = time.monotonic() - began
        account.round()
        works.assert_parity(sent)
        (found,) = fetch(
            dsn,
            "SELECT (SELECT count(*) FROM analytics.hits) AS stored,"
            " (SELECT count(*) FROM analytics.quarantine) AS aside",
        )
        dropped = works.counters.dropped.total()
        assert found["stored"] + found["aside"] + dropped == sent, works.counters
        print(f"{sent:,} requests = {found['stored']:,} stored + {found['aside']:,} set aside + {dropped:,} dropped")
        print(f"at {sent / took:,.0f} a second")
