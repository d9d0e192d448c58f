"""Kills at random moments, one after another, within one life of server and ledger: short rounds, so that many fit."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from asgi_analytics.embedded import EmbeddedPostgres
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import KILLS
from tests.acceptance.rig import Load, serving
from tests.waiting import wait_until

LONGEST = 0.8  # seconds from one kill to the next, at most


def workers(supervisor: int) -> list[int]:
    """The processes that serve: those that have been started by multiprocessing's spawn, and are no tracker."""
    found = []
    for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def crash(postgres: EmbeddedPostgres) -> None:
    """kill -9 of a backend, a writer's where there is one: Postgres ends all others and recovers from its log."""
    wait_until(lambda: killed_backend(postgres), 30, "a backend to kill")


def killed_backend(postgres: EmbeddedPostgres) -> bool:
    query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' ORDER BY application_name LIKE %s"
    with suppress(psycopg.OperationalError), psycopg.connect(postgres.dsn) as connection:  # where it still recovers
        *_, (pid,) = connection.execute(query, ("%writer",)).fetchall()
        with suppress(ProcessLookupError):  # that one has just ended
            os.kill(pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.timeout(180 + 4 * KILLS)
def test_kills_of_workers_and_of_postgres_at_random_moments_lose_and_double_nothing(
    own_postgres: EmbeddedPostgres, tmp_path: Path, account: Account
) -> None:
    dice, rounds = random.Random(KILLS), KILLS
    began = time.monotonic()
    with serving(own_postgres.dsn, tmp_path / "j", workers=2, batch_age=0.05) as server:
        with Load(server.port) as load:
            for turn in range(rounds):
                time.sleep(dice.uniform(0.0, LONGEST))
                if turn % 2 and turn % 10 != 9:
                    crash(own_postgres)
                elif turn % 2:
                    own_postgres.kill()
                    time.sleep(dice.uniform(0.0, LONGEST / 4))
                    own_postgres.start()
                else:
                    wait_until(lambda: len(workers(server.process.pid)) == 2, what="two workers")
                    os.kill(dice.choice(workers(server.process.pid)), signal.SIGKILL)
                account.round()
                if not turn % 10:
                    load.more(20)  # somebody is served all the time
        took = time.monotonic() - began
        account.settle(own_postgres.dsn, load.answered, 120)
    print(
        f"{rounds} kills in {took:.0f} s ({took / rounds:.2f} s each): {len(load.answered):,} answered, 0 lost, 0 twice"
    )
