"""A recorder and a writer at work on a database of a test."""

from __future__ import annotations

from pathlib import Path

from asgi_analytics.clock import SystemClock
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.record.writer import Writer
from asgi_analytics.settings import Settings
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.testing import MemoryState
from tests.record.rows import fetch, hit_frame

WAIT = 20.0
# Ends the connections of writers.
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'asgi-analytics writer'"
)
# A trigger that refuses the hits that {} is true of; the other one, when they are committed.
REFUSING = """
    CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF {} THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION public.refuse()
"""
AT_COMMIT = REFUSING.replace("TRIGGER refuse BEFORE", "CONSTRAINT TRIGGER refuse AFTER").replace(
    "FOR EACH", "INITIALLY DEFERRED FOR EACH"
)


class Rig:
    """A recorder and its writer at work on a database."""

    def __init__(self, dsn: str, folder: Path, durability: str = "journal") -> None:
        self.dsn = dsn
        self.counters = Counters()
        self.shared = MemoryState()
        self.recorder = Recorder(Settings.build(journal_dir=folder, durability=durability), self.counters)
        self.recorder.open()
        self.writer = Writer(
            lambda: PostgresStore(lambda: dsn),
            self.recorder,
            self.shared,
            SystemClock(),
            rows=50,
            age=0.02,
            chores=lambda: None,
        )

    def __enter__(self) -> Rig:
        self.writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.stop(5.0)

    def send(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.recorder._append(hit_frame(f"/e/{number}"))

    def delivered(self) -> bool:
        return self.writer.pending_bytes() == 0


def stored(dsn: str) -> list[int]:
    """The numbers of all stored hits, in order, doubles included."""
    return sorted(int(row["path"][3:]) for row in fetch(dsn, "SELECT path FROM analytics.hits"))


def as_worker(dsn: str) -> str:
    """The same database for a role that owns nothing."""
    fetch(dsn, "DO $$ BEGIN CREATE ROLE worker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    fetch(dsn, "GRANT ALL ON SCHEMA analytics TO worker")
    fetch(dsn, "GRANT ALL ON ALL TABLES IN SCHEMA analytics TO worker")
    separator = "&" if "?" in dsn else "?"
    return f"{dsn}{separator}options=-c%20role%3Dworker"
