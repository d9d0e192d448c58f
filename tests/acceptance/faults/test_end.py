"""The end of a process that holds several middlewares: within one deadline, whatever hangs."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.record import listing
from tests.acceptance.faults.app import OPEN, bare
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import STOP, UVICORN, end_while_broken, journals, recover
from tests.acceptance.rig import ROOT
from tests.acceptance.wire import Fault, Wire
from tests.drive import ask, http_scope
from tests.waiting import delay, wait_until

SERVE = """
import runpy, sys
import tests.acceptance.faults.app as rig
for _ in range(3):
    rig.app = rig.AnalyticsMiddleware(rig.app, **rig.OPEN)
sys.argv = ["uvicorn", *sys.argv[1:]]
runpy.run_module("uvicorn", run_name="__main__")
"""
ASKING = """
import asyncio, sys
from pathlib import Path
from asgi_analytics import AnalyticsMiddleware
from tests.acceptance.faults.app import OPEN, bare
from tests.drive import ask, http_scope
folder, dsn = sys.argv[1:]
apps = [AnalyticsMiddleware(bare, dsn=dsn, journal_dir=Path(folder), **OPEN) for number in range(4)]
for number in range(40):
    asyncio.run(ask(apps[number % 4], http_scope(f"/e/{number + 1}")))
    if number == 20:
        for app in apps:
            app._engine.wait(10)
        print("connected", flush=True)
        sys.stdin.readline()
print("answered", flush=True)
"""


def test_a_process_that_ends_with_four_middlewares_and_a_deaf_postgres_takes_one_deadline(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    """By atexit, as with servers that send no lifespan events."""
    with Wire(dsn) as wire:
        command = [sys.executable, "-c", ASKING, str(tmp_path / "j"), wire.dsn]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"
            with wire.broken("deaf"):
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "answered\n"
                began = time.monotonic()
                assert process.wait(30) == 0
                took = time.monotonic() - began
        account.round()
        assert took < STOP + delay()
        assert len(journals(tmp_path / "j")) == 4
        recover(wire.dsn, tmp_path / "j")
    account.settle(dsn, range(1, 41))


@pytest.mark.parametrize("fault", ["deaf", "refuse"])
def test_four_nested_middlewares_end_with_the_lifespan_within_one_deadline(
    dsn: str, tmp_path: Path, account: Account, fault: Fault
) -> None:
    end_while_broken(fault, ["-c", SERVE, *UVICORN[2:]], dsn, tmp_path / "j", account, 10)


def test_what_a_close_that_ran_out_of_time_leaves_is_delivered_while_the_process_and_its_children_live(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    """By a lock that is held for no thread any more, it would wait for the end of all of them."""
    folder = tmp_path / "j"
    with Wire(dsn) as wire:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        with wire.broken("deaf"):
            app = AnalyticsMiddleware(bare, dsn=wire.dsn, journal_dir=folder, **{**OPEN, "shutdown_timeout": 0.1})
            asyncio.run(ask(app, http_scope("/e/1")))
            assert not app.close()
            assert [one.alive for one in listing.journals(folder)] == [True]
            child.start()
            wait_until(lambda: not any(one.alive for one in listing.journals(folder)), 30)
        account.round()
        recover(wire.dsn, folder)
    child.kill()
    child.join()
    account.settle(dsn, [1])
