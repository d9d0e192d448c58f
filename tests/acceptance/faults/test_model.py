"""Journal, writer and Postgres against a naive model: in whatever order things happen, each row is somewhere once."""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from asgi_analytics.batch import DAMAGED, HIT, Batch
from asgi_analytics.errors import StoreError, StoreUnavailable
from asgi_analytics.model import Merged
from asgi_analytics.protocols import Store
from asgi_analytics.record import journal as journals
from asgi_analytics.record.frames import frame
from asgi_analytics.record.writer import Writer
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.testing import MemoryStore
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.rows import Works
from tests.acceptance.rig import ROUNDS
from tests.drive import NOWHERE
from tests.record.rows import fetch, hit


class Faulty:
    """A store whose next transfers fail as they are told: before they begin, or after the commit."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.plan: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, batch: Batch) -> list[Merged]:
        fault = self.plan.pop() if self.plan else "none"
        if fault == "before":
            raise StoreUnavailable("cut before COMMIT")
        merged = self._inner.write(batch)
        if fault == "after":
            raise StoreUnavailable("cut after COMMIT")
        return merged


RULE = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF NEW.path ~ '^/e-' THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION public.refuse()
"""


class Machine(RuleBasedStateMachine):
    """Rows are numbers. What was sent is stored, or set aside as poison or as damaged by us: each exactly once."""

    dsn: str  # "" for the store in memory
    folder: Path
    account: Account

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.root = Path(tempfile.mkdtemp(dir=self.folder))
        self.store = Faulty(PostgresStore(lambda: self.dsn) if self.dsn else MemoryStore())
        self.base = self.next = self.first()
        self.poison: set[int] = set()
        self.backups: dict[Path, Path] = {}  # of dead journals: where they were, and the copy
        self.works: Works
        self.spans: dict[int, tuple[bytes, int, int]] = {}  # row → journal, segment, offset of its end
        self.born()

    def first(self) -> int:
        return getattr(type(self), "_next", 1)

    def born(self) -> None:
        self.works = Works(NOWHERE, self.root, lambda: self.store, rows=7)
        assert self.works.recorder.journal is not None

    @rule(count=st.integers(1, 30), bad=st.integers(0, 20))
    def write(self, count: int, bad: int) -> None:
        journal = self.works.recorder.journal
        assert journal is not None
        for number in range(self.next, self.next + count):
            row = hit(f"/e/{number:08d}")
            if self.dsn and bad == number % 21:
                self.poison.add(number)
                row = row.replace(b"/e/", b"/e-" if bad % 2 else b"/e\xff")  # refused by a rule, or no UTF-8
            segment = journal.segment
            self.works.recorder._append(frame(HIT, row))
            self.spans[number] = (journal.id, segment, journal.size if journal.segment == segment else 0)
        self.next += count

    @rule()
    def keep(self) -> None:
        journal = self.works.recorder.journal
        assert journal is not None
        journal.prepare()
        journal.sync()

    @rule(plan=st.lists(st.sampled_from(["none", "none", "before", "after"]), max_size=4))
    def deliver(self, plan: list[str]) -> None:
        self.store.plan = plan
        self.round(self.works.writer)

    def round(self, writer: Writer) -> bool:
        try:
            return writer._cycle().frames > 0
        except StoreError as error:
            writer._failed(error)
            return True

    @rule()
    def crash(self) -> None:
        """As kill -9: what is on disk stays, locks are freed, nobody says farewell."""
        recorder = self.works.recorder
        assert recorder.journal is not None
        recorder.journal.abandon()
        self.works.writer.abandon()
        if self.dsn:  # what the next worker knows is in the database
            self.store.close()
            self.store = Faulty(PostgresStore(lambda: self.dsn))
        self.born()

    @rule(flip=st.integers(1, 255))
    def damage_the_dead(self, flip: int) -> None:
        """A byte of a dead journal turns: its row is set aside as damaged."""
        path, rows = self.dead()
        if not rows:
            return
        self.backups.pop(path.parent, None)  # it would bring the sound row beside the damaged one
        end = self.dice.choice(rows)
        with open(path, "r+b") as file:  # within the row's last bytes, which are its own
            file.seek(end - 1)
            byte = file.read(1)
            file.seek(end - 1)
            file.write(bytes([byte[0] ^ flip]))

    @rule(cut=st.integers(1, 8), more=st.binary(max_size=60))
    def tear_the_dead(self, cut: int, more: bytes) -> None:
        """The end of a dead journal is not whole, as after a power cut, and what was on the disk before follows."""
        path, rows = self.dead()
        if rows and rows[-1] == path.stat().st_size:
            self.backups.pop(path.parent, None)
            os.truncate(path, rows[-1] - cut)
            with open(path, "ab") as file:
                file.write(more)

    @rule()
    def forget_positions(self) -> None:
        """Somebody empties the table: what is stored is known by its ids."""
        if self.dsn:
            fetch(self.dsn, "DELETE FROM analytics.positions")

    @rule()
    def back_up(self) -> None:
        """Keep a copy of a dead journal as it is."""
        path, _ = self.dead()
        if path.name:
            self.backups[path.parent] = Path(tempfile.mkdtemp(dir=self.folder)) / "copy"
            shutil.copytree(path.parent, self.backups[path.parent])

    @rule()
    def restore(self) -> None:
        """A backup of a journal is put back after it was delivered and removed."""
        for path in [path for path in self.backups if not path.exists()]:
            shutil.copytree(self.backups.pop(path), path)

    def dead(self) -> tuple[Path, list[int]]:
        """A segment of a dead journal that nobody has taken over yet, and where each of its rows ends."""
        journal = self.works.recorder.journal
        assert journal is not None
        adopted = self.works.writer._sources.left_overs.held
        held = {journal.id.hex(), adopted.path.name if adopted else ""}
        ends: dict[Path, list[int]] = {}  # by age: the names of journals are random
        for name, segment, end in self.spans.values():
            path = self.root / name.hex() / f"{segment:08d}.journal"
            if name.hex() not in held and path.exists() and 0 < end <= path.stat().st_size:
                ends.setdefault(path, []).append(end)
        if not ends:
            return Path(), []
        path = self.dice.choice(list(ends))
        return path, ends[path]

    @invariant()
    def nothing_is_stored_twice_and_nothing_made_up(self) -> None:
        if self.dsn or not hasattr(self, "store"):
            return  # asking Postgres after each step would take most of the time; it is asked at the end
        stored = self.stored()
        assert [number for number, times in stored.items() if times > 1] == []
        assert set(stored) <= set(range(self.base, self.next)) - self.poison

    def stored(self) -> Counter[int]:
        if not self.dsn:
            found = (re.search(rb"/e/(\d{8})", row) for row in self.store.rows(HIT))
            return Counter(int(one[1]) for one in found if one is not None)
        query = "SELECT substr(path, 4)::int AS n FROM analytics.hits WHERE substr(path, 4)::int >= %s"
        return Counter(row["n"] for row in fetch(self.dsn, query, self.base))

    def set_aside(self) -> Counter[int]:
        if self.dsn:
            raws = [row["raw"] for row in fetch(self.dsn, "SELECT raw FROM analytics.quarantine")]
        else:
            raws = [one.row for one in self.store.frames if one.kind == DAMAGED]
            raws += [one.row for one, _, _ in self.store.quarantined]
        numbers = (int(digits) for raw in raws for digits in re.findall(rb"/e[/\xff-](\d{8})", raw))
        return Counter(number for number in numbers if number >= self.base)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.plan = []
        writer = self.works.writer
        for _ in range(200):
            writer._schedule.clear()
            if not self.round(writer):
                break
        stored, aside = self.stored(), self.set_aside()
        total = stored + aside
        type(self)._next = self.next + 1
        self.account.round()
        self.account.note(
            len(set(range(self.base, self.next)) - set(total)), sum(times - 1 for times in total.values())
        )
        assert self.poison <= set(aside)
        assert self.works.recorder.journal is not None
        self.works.recorder.journal.abandon()
        writer._release()


@pytest.mark.parametrize("store", ["memory", "postgres"])
def test_in_whatever_order_things_happen_each_row_is_somewhere_once(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 4_000)
    fetch(dsn, RULE)

    class Given(Machine):
        pass

    Given.dsn, Given.folder, Given.account = dsn if store == "postgres" else "", tmp_path, account
    run_state_machine_as_test(
        Given,
        settings=settings(
            max_examples=(25 if store == "memory" else 4) * ROUNDS,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="CI" in os.environ,
        ),
    )
