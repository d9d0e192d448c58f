"""Processes that are stopped, recycled, killed and forked under load: what clients were answered is stored once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import (
    RECYCLING,
    SERVERS,
    STOP,
    UVICORN,
    WHOLE,
    AnyServer,
    end_while_broken,
    recover,
    running,
    some,
)
from tests.acceptance.rig import ROUNDS, Load
from tests.acceptance.wire import Fault
from tests.drive import rows
from tests.waiting import delay

FAST = ["uvicorn-h11", "hypercorn", "granian", "daphne", "gunicorn-preload"]


@pytest.mark.parametrize("name", some(SERVERS, FAST))
def test_sigterm_under_load_loses_nothing_on_any_server(dsn: str, tmp_path: Path, account: Account, name: str) -> None:
    with running(SERVERS[name], dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            load.more(200)
            took = server.end(signal.SIGTERM)
        account.round()
        assert took < STOP + delay(), server.log()
    recover(dsn, tmp_path / "j")
    account.settle(dsn, load.answered)


@pytest.mark.parametrize("name", some(["uvicorn-h11", "uvicorn-httptools", "hypercorn"], ["uvicorn-h11"]))
def test_streams_that_are_open_at_the_end_are_one_row_each(
    dsn: str, tmp_path: Path, account: Account, name: str
) -> None:
    server = AnyServer(SERVERS[name], dsn, tmp_path / "j", "tests.acceptance.frameworks:wrapped")
    server._environment["DSN"] = dsn
    with contextlib.ExitStack() as stack, server.alive():
        for _ in range(5):
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            wire.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            got = b""
            while b"data: 2" not in got:
                got += wire.recv(4096)
        server.end(signal.SIGTERM)
        account.round(5)
    recover(dsn, tmp_path / "j")
    query = "SELECT outcome, status, bytes_sent > 20 AS sent FROM analytics.hits WHERE path = '/events'"
    assert rows(dsn, query) == [{"outcome": "aborted", "status": 200, "sent": True}] * 5


@pytest.mark.parametrize("name", some(RECYCLING, ["uvicorn"]))
def test_recycled_workers_lose_nothing(dsn: str, tmp_path: Path, account: Account, name: str) -> None:
    with running(RECYCLING[name], dsn, tmp_path / "j") as server:
        with Load(server.port, clients=3) as load:
            for _ in range(ROUNDS if WHOLE else 1):  # each with a patience of its own: two workers begin anew in each
                load.more(120)
        account.round(len(load.answered) // 40)
        server.end(signal.SIGTERM)
    recover(dsn, tmp_path / "j")
    account.settle(dsn, load.answered)


@pytest.mark.parametrize(
    "name", some(["uvicorn-httptools", "hypercorn", "uvicorn-two-workers"], ["uvicorn-two-workers"])
)
def test_a_second_sigint_skips_the_farewell_and_loses_nothing(
    dsn: str, tmp_path: Path, account: Account, name: str
) -> None:
    with running(SERVERS[name], dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            load.more(150)
            assert server.end(signal.SIGINT, signal.SIGINT) < STOP + delay(), server.log()
        account.round()
    recover(dsn, tmp_path / "j")
    account.settle(dsn, load.answered)


@pytest.mark.parametrize("act", some(["exit", "segfault", "abort"], ["exit"]))
def test_a_process_that_dies_by_itself_loses_nothing(dsn: str, tmp_path: Path, account: Account, act: str) -> None:
    with running(SERVERS["uvicorn-httptools"], dsn, tmp_path / "j") as server, Load(server.port) as load:
        load.more(150)
        with contextlib.suppress(OSError):
            server.get(f"/act/{act}")
        server.process.wait(10)
        account.round()
    recover(dsn, tmp_path / "j")
    account.settle(dsn, load.answered)


@pytest.mark.parametrize("name", some(["uvicorn-h11", "uvicorn-httptools", "hypercorn"], ["uvicorn-h11"]))
def test_a_kill_before_the_app_says_that_there_is_no_more_loses_nothing(
    dsn: str, tmp_path: Path, account: Account, name: str
) -> None:
    asked = [("GET", "/unsaid/page"), ("HEAD", "/unsaid/head")]
    with running(SERVERS[name], dsn, tmp_path / "j") as server, contextlib.ExitStack() as stack:
        for method, path in asked:
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            wire.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = b""
            while b"\r\n\r\n" not in got or (method == "GET" and got.endswith(b"\r\n\r\n")):
                got += wire.recv(4096)
        os.killpg(server.process.pid, signal.SIGKILL)
        account.round()
    recover(dsn, tmp_path / "j")
    found = rows(dsn, "SELECT method, path FROM analytics.hits WHERE path LIKE '/unsaid/%' ORDER BY time")
    assert [(row["method"], row["path"]) for row in found] == asked


# A child that leaves by an exception takes the parent's event loop with it, bare or wrapped: os._exit is the way.
@pytest.mark.parametrize(
    "act",
    some(["fork__exit", "multiprocessing_fork", "multiprocessing_spawn"], ["fork__exit", "multiprocessing_spawn"]),
)
def test_a_fork_in_a_handler_disturbs_nobody(dsn: str, tmp_path: Path, account: Account, act: str) -> None:
    with running(SERVERS["uvicorn-httptools"], dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            for _ in range(ROUNDS):
                load.more(50)
                answer = server.get(f"/act/{act}")
                assert answer.startswith(b"HTTP/1.1 200"), (answer, server.log())
                account.round()
            load.more(50)
        account.settle(dsn, load.answered)
        server.end(signal.SIGTERM)
    assert "Traceback" not in server.log()
    recover(dsn, tmp_path / "j")
    account.settle(dsn, load.answered)


@pytest.mark.parametrize("name", some(["uvicorn-httptools", "hypercorn", "daphne"], ["uvicorn-httptools"]))
@pytest.mark.parametrize("fault", some(["deaf", "hole", "refuse"], ["refuse"]))
def test_the_end_is_quick_whatever_the_network_does(
    dsn: str, tmp_path: Path, account: Account, fault: Fault, name: str
) -> None:
    end_while_broken(fault, SERVERS[name], dsn, tmp_path / "j", account)


def test_where_no_thread_may_start_all_is_answered_and_delivered_by_the_next_start(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    program = (
        "import threading, runpy, sys\n"
        "class Refused(threading.Thread):\n"
        '    def start(self): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread = Refused\n"
        "sys.argv = ['uvicorn', *sys.argv[1:]]\n"
        "runpy.run_module('uvicorn', run_name='__main__')\n"
    )
    command = ["-c", program, *UVICORN[2:], "--loop", "asyncio"]
    with running(command, dsn, tmp_path / "j") as server:
        with Load(server.port) as load:
            load.more(150)
        account.round()
        assert server.end(signal.SIGTERM) < STOP + delay()
    recover(dsn, tmp_path / "j")
    account.settle(dsn, load.answered)


def test_few_descriptors_cost_no_answer_and_no_row(dsn: str, tmp_path: Path, account: Account) -> None:
    program = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "sys.argv = ['uvicorn', *sys.argv[1:]]\n"
        "runpy.run_module('uvicorn', run_name='__main__')\n"
    )
    command = ["-c", program, *UVICORN[2:]]
    with running(command, dsn, tmp_path / "j") as server:
        with Load(server.port, clients=4) as load:
            load.more(100)
            with Load(server.port, clients=60, pause=0.05) as crowd:  # more than there are descriptors for
                load.more(100)
            account.round()
            load.more(50)
        account.settle(dsn, [*load.answered, *crowd.answered])
        server.end(signal.SIGTERM)
