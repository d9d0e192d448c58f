"""Postgres and the network to it, in all the ways they fail, under load: the ledger loses and doubles nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest

from tests.acceptance.faults.house import House
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import WHOLE
from tests.waiting import wait_until

Striking = Callable[[House], contextlib.AbstractContextManager[None]]
HOLD = 1.0 if WHOLE else 0.5  # seconds that a fault holds at least


@contextmanager
def holding(house: House) -> Iterator[None]:
    """Nothing else than time."""
    yield
    time.sleep(HOLD)


def between(begin: LiteralString, end: LiteralString) -> Striking:
    """A fault that one statement makes and another ends; the writer must have met it."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        house.do(begin)
        try:
            with holding(house):
                yield
        finally:
            house.do(end)

    return strike


def cut_off(statement: LiteralString, end: LiteralString) -> Striking:
    """A fault of new connections only: the present ones are ended."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        with between(statement, end)(house):
            terminate(house)
            yield

    return strike


def terminate(house: House) -> None:
    for pid in house.writers():
        with contextlib.suppress(ProcessLookupError):
            house.do(f"SELECT pg_terminate_backend({pid:d})")


@contextmanager
def terminated(house: House) -> Iterator[None]:
    terminate(house)
    yield


@contextmanager
def frozen_backend(house: House) -> Iterator[None]:
    pids = house.writers()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with holding(house):
            yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def frozen_postmaster(house: House) -> Iterator[None]:
    postmaster = house.postgres.pid
    assert postmaster
    terminate(house)
    os.kill(postmaster, signal.SIGSTOP)
    try:
        with holding(house):
            yield
    finally:
        os.kill(postmaster, signal.SIGCONT)


def stopped(by: int) -> Striking:
    """A stop of the whole server by a signal to the postmaster; then it is started again."""

    @contextmanager
    def strike(house: House) -> Iterator[None]:
        postmaster = house.postgres.pid
        assert postmaster
        os.kill(postmaster, by)
        wait_until(lambda: house.postgres.pid is None, what="the end of Postgres")
        yield
        house.postgres.start()

    return strike


@contextmanager
def locked(house: House) -> Iterator[None]:
    with psycopg.connect(house.admin) as holder:
        holder.execute("LOCK TABLE analytics.hits IN ACCESS EXCLUSIVE MODE")
        with holding(house):
            yield
        holder.rollback()


def broken(fault: str) -> Striking:
    @contextmanager
    def strike(house: House) -> Iterator[None]:
        with house.wire.broken(fault), holding(house):  # type: ignore[arg-type]
            yield

    return strike


RAISING = """
CREATE SEQUENCE public.strikes; GRANT ALL ON SEQUENCE public.strikes TO clerk;
CREATE FUNCTION public.strike() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.strikes') %% 3 = 0 THEN
        RAISE EXCEPTION 'struck' USING ERRCODE = '{state}';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER strike AFTER INSERT ON analytics.hits_default FOR EACH STATEMENT EXECUTE FUNCTION public.strike();
CREATE TRIGGER strike AFTER INSERT ON analytics.hits FOR EACH STATEMENT EXECUTE FUNCTION public.strike();
"""
CALM: LiteralString = "DROP FUNCTION public.strike() CASCADE; DROP SEQUENCE public.strikes"


def raising(state: str) -> Striking:
    return between(RAISING.format(state=state).replace("%%", "%"), CALM)


FAULTS: dict[str, Striking] = {
    "deaf_network": broken("deaf"),
    "refusing_network": broken("refuse"),
    "slow_network": broken("slow"),
    "torn_network": broken("torn"),
    "frozen_postmaster": frozen_postmaster,
    "frozen_backend": frozen_backend,
    "terminated_backend": terminated,
    "fast_stop": stopped(signal.SIGINT),
    "immediate_stop": stopped(signal.SIGQUIT),
    "killed_postmaster": stopped(signal.SIGKILL),
    "no_connection_left": cut_off("ALTER ROLE clerk CONNECTION LIMIT 0", "ALTER ROLE clerk CONNECTION LIMIT -1"),
    "wrong_password": cut_off("ALTER ROLE clerk PASSWORD 'pen'", "ALTER ROLE clerk PASSWORD 'pencil'"),
    "no_login": cut_off("ALTER ROLE clerk NOLOGIN", "ALTER ROLE clerk LOGIN"),
    "read_only": cut_off(
        "ALTER ROLE clerk SET default_transaction_read_only = on",
        "ALTER ROLE clerk RESET default_transaction_read_only",
    ),
    "serialization_failure": raising("40001"),
    "deadlock": raising("40P01"),
    "disk_full_code": raising("53100"),
    "statement_timeout_code": raising("57014"),
    "locked_tables": locked,
    "renamed_table": between(
        "ALTER TABLE analytics.hits RENAME TO hits_away", "ALTER TABLE analytics.hits_away RENAME TO hits"
    ),
    "dropped_column": between(
        "ALTER TABLE analytics.hits RENAME COLUMN city TO town", "ALTER TABLE analytics.hits RENAME COLUMN town TO city"
    ),
    "narrowed_column": between(
        "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (length(path) < 3) NOT VALID",
        "ALTER TABLE analytics.hits DROP CONSTRAINT narrow",
    ),
    "revoked_privilege": between(
        "REVOKE INSERT ON analytics.hits FROM clerk", "GRANT INSERT ON analytics.hits TO clerk"
    ),
    "revoked_schema": between(
        "REVOKE USAGE ON SCHEMA analytics FROM clerk", "GRANT USAGE ON SCHEMA analytics TO clerk"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_under_each_fault_nothing_is_lost_and_nothing_doubled(house: House, account: Account, fault: str) -> None:
    house.strike(account, FAULTS[fault], 3 if WHOLE else 1)
    assert house.do("SELECT count(*) FROM analytics.quarantine") == [(0,)]
