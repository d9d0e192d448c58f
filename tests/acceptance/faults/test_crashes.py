"""Deaths and failing calls at awkward moments: at each step of a transfer, of a rotation, of an adoption, of a fork."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from asgi_analytics.record import journal as journals
from asgi_analytics.record import keeper, sources
from asgi_analytics.record.adoption import adopt
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.pace import Backoff
from asgi_analytics.record.recorder import COLUMNS
from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import WHOLE, recover
from tests.acceptance.faults.process import journals as journals_in
from tests.acceptance.faults.rows import Works
from tests.acceptance.faults.test_disk import small_disk
from tests.acceptance.rig import ROUNDS
from tests.drive import NOWHERE
from tests.record.rows import hit_frame
from tests.waiting import wait_until

STEPS = 90  # messages of a client while it connects and moves a batch or two
CALLS = ("open", "dup", "mkdir", "rename", "replace", "fdatasync", "fsync", "pread", "unlink", "scandir", "fstat",
         "stat", "write", "ftruncate", "utime")  # fmt: skip


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that wait for nothing, and segments of a few rows."""
    monkeypatch.setattr(Backoff, "next", lambda self: 0.01)
    monkeypatch.setattr(keeper, "REOPEN_INTERVAL", 0.1)
    monkeypatch.setattr(keeper, "SYNC_INTERVAL", 0.02)
    monkeypatch.setattr(sources, "ADOPT_INTERVAL", 0.1)
    monkeypatch.setattr(journals, "SEGMENT_SIZE", 3_000)


class Steps:
    """A proxy that cuts a connection at the message that it is told, of the client or of the server."""

    def __init__(self, dsn: str, up: bool) -> None:
        parts = urlsplit(dsn)
        self._target, self._up = (parts.hostname, parts.port), up
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()
        self.left: int | None = None  # messages to the cut
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.shutdown(socket.SHUT_RDWR)  # closed only, it would go on waiting for one more
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for source, sink, counts in ((client, server, self._up), (server, client, not self._up)):
                threading.Thread(target=self._pass, args=(source, sink, counts), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counts and self.left is not None:
                    self.left = self.left - 1 if self.left else None
                    if self.left is None:
                        break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("up", [True, False], ids=["client", "server"])
@pytest.mark.usefixtures("hasty")
def test_a_connection_that_is_cut_at_any_message_loses_and_doubles_nothing(
    dsn: str, tmp_path: Path, account: Account, up: bool
) -> None:
    sent = 0
    with contextlib.closing(Steps(dsn, up)) as steps, Works(steps.dsn, tmp_path / "j") as works:
        for step in range(0, STEPS, 1 if WHOLE else 11):
            steps.left = step
            deadline = time.monotonic() + 30
            while steps.left is not None and time.monotonic() < deadline:
                works.send(sent, 3)
                sent += 3
                time.sleep(0.02)
            assert steps.left is None, "it was cut"
            account.round()
        account.settle(dsn, range(sent))


class Failing:
    """Lets one call of the operating system fail, whichever comes as the `left`th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.left: int | None = None
        self._code = code
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.left is not None:
                self.left = self.left - 1 if self.left else None
                if self.left is None:
                    raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **named)

        return call


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC, errno.EIO], ids=["EMFILE", "ENOSPC", "EIO"])
@pytest.mark.usefixtures("hasty")
def test_whichever_call_fails_nothing_is_lost(
    dsn: str, tmp_path: Path, account: Account, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sent = 0
    for step in range(0, 60, 1 if WHOLE else 12):
        left = FileJournal(tmp_path / "j", os.urandom(16), COLUMNS, 1 << 20)
        left.append(hit_frame(f"/e/{sent}"))
        left.abandon()
        sent += 1
        with monkeypatch.context() as patched:
            failing = Failing(patched, code)
            failing.left = step
            with Works(dsn, tmp_path / "j") as works:
                for _ in range(6):
                    works.send(sent, 10)
                    sent += 10
                    time.sleep(0.01)
                failing.left = None
        assert works.counters.dropped.total() == 0
        account.round()
    with Works(dsn, tmp_path / "j"):
        account.settle(dsn, range(sent))


CHILD = """
import os, sys, time
from pathlib import Path
from asgi_analytics.record import journal, keeper, sources
from tests.acceptance.faults.rows import Works
journal.SEGMENT_SIZE, sources.ADOPT_INTERVAL, keeper.SYNC_INTERVAL = 4_000, 0.2, 0.02
dsn, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
works = Works(dsn, folder, rows=50)
works.writer.start()
while True:
    works.send(number, 1)
    os.write(1, b"%d\\n" % number)
    number += 1
    if not number % 50:
        time.sleep(0.002)
"""


@contextmanager
def children(dsn: str, folder: Path, first: int, answered: list[int]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes that write, rotate and adopt, until they are killed; what they have appended is in the ledger."""
    command = [sys.executable, "-c", CHILD, dsn, str(folder)]
    running = [subprocess.Popen([*command, str(first + shift)], stdout=subprocess.PIPE) for shift in (0, 1_000_000)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            whole, _, _ = process.communicate()[0].rpartition(b"\n")  # the last line may be torn
            answered += map(int, whole.split())


def test_kills_while_segments_rotate_and_journals_are_adopted_lose_and_double_nothing(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    dice, answered = random.Random(3), list[int]()
    for turn in range(2 if not WHOLE else 5 * ROUNDS):
        with children(dsn, tmp_path / "j", turn * 2_000_000, answered):
            time.sleep(dice.uniform(0.6, 1.2))
        account.round(2)
    with Works(dsn, tmp_path / "j", rows=5_000):
        account.settle(dsn, answered, 180)  # there are some 600,000, and others at work on the machine


@pytest.mark.skipif(not WHOLE, reason="takes fifteen seconds: `python -m tests.acceptance.faults F43`")
def test_a_worker_that_stands_still_is_not_adopted_and_goes_on(dsn: str, tmp_path: Path, account: Account) -> None:
    answered: list[int] = []
    with children(dsn, tmp_path / "j", 0, answered) as (still, _):
        wait_until(lambda: len(journals_in(tmp_path / "j")) == 2, what="two journals")
        time.sleep(1)
        still.send_signal(signal.SIGSTOP)
        time.sleep(12)  # longer than the server lets a transaction stand idle
        assert len(journals_in(tmp_path / "j")) == 2
        still.send_signal(signal.SIGCONT)
        time.sleep(1)
        account.round()
    with Works(dsn, tmp_path / "j", rows=5_000):
        account.settle(dsn, answered, 60)


LATE = """
import sys, threading, time
from asgi_analytics import AnalyticsMiddleware
from tests.acceptance.faults.app import OPEN, bare
from tests.drive import get

class Spy:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            print(name, "in", threading.current_thread().name)

quotas = "redis://127.0.0.1:1/0" if sys.argv[3] == "down" else None
app = AnalyticsMiddleware(bare, dsn=sys.argv[1], journal_dir=sys.argv[2], shared=quotas, **OPEN)
sys.meta_path.insert(0, Spy())
get(app, "/e/1", {"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"})
app._engine.writer.attempted.wait(10)
time.sleep(0.2)
app.close()
"""


@pytest.mark.parametrize("state", ["up", "down"])
def test_no_thread_of_ours_imports_anything_which_would_lock_a_forked_child(
    dsn: str, tmp_path: Path, account: Account, state: str
) -> None:
    command = [sys.executable, "-c", LATE, {"up": dsn, "down": NOWHERE}[state], str(tmp_path / "j"), state]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    account.round()


FORKS = """
import os, signal, sys, threading, time
from asgi_analytics import AnalyticsMiddleware
from tests.acceptance.faults.app import OPEN, bare
from tests.drive import get
dsn, folder, children = sys.argv[1], sys.argv[2], int(sys.argv[3])
app = AnalyticsMiddleware(bare, dsn=dsn, journal_dir=folder, **OPEN)
ledger = os.open(folder + ".ledger", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def serve(first, count):
    for number in range(first, first + count):
        get(app, f"/e/{number}")
        os.write(ledger, b"%d\\n" % number)

threads = [threading.Thread(target=serve, args=(number * 100_000, 20 * children)) for number in range(6)]
for thread in threads:
    thread.start()
forked = []
for child in range(children):
    time.sleep(0.02)
    if (pid := os.fork()) == 0:
        serve(10_000_000 + child * 1_000, 5)
        if child % 3 == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if child % 3 == 2:
            app.close()
        os._exit(0)
    forked.append(pid)
for thread in threads:
    thread.join()
for pid in forked:
    os.waitpid(pid, 0)
assert app.close() and not app.stats()["failures"], app.stats()
"""


def test_forks_while_other_threads_append_lose_and_double_nothing(dsn: str, tmp_path: Path, account: Account) -> None:
    count = 30 if WHOLE else 6
    command = [sys.executable, "-c", FORKS, dsn, str(tmp_path / "j"), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    account.round(count)
    recover(dsn, tmp_path / "j")
    account.settle(dsn, map(int, (tmp_path / "j.ledger").read_text().split()))


def test_copies_of_a_volume_that_are_delivered_at_once_double_nothing(
    dsn: str, tmp_path: Path, account: Account
) -> None:
    for journal in range(5):
        dead = FileJournal(tmp_path / "a", os.urandom(16), COLUMNS, 64 << 20)
        for number in range(500):
            dead.append(hit_frame(f"/e/{journal * 500 + number}"))
        dead.abandon()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with Works(dsn, tmp_path / "a", rows=37), Works(dsn, tmp_path / "b", rows=53):
        account.settle(dsn, range(2_500))
        wait_until(lambda: all(len(list((tmp_path / one).iterdir())) == 1 for one in "ab"), what="the end of both")
    account.round()
    account.settle(dsn, range(2_500))


@pytest.mark.usefixtures("hasty")
def test_a_disk_without_room_for_a_file_more_costs_nothing(dsn: str, tmp_path: Path, account: Account) -> None:
    with small_disk("8m", ",nr_inodes=16") as disk:
        taken: list[Path] = []
        with contextlib.suppress(OSError):
            for number in range(100):
                (disk / f"x{number}").touch()
                taken.append(disk / f"x{number}")
        with Works(dsn, disk / "j") as works:
            works.send(0, 100)
            assert works.recorder.journal is None
            for path in taken:
                path.unlink()
            wait_until(lambda: works.recorder.journal is not None, what="a journal")
            works.send(100, 100)
            with contextlib.suppress(OSError):
                for path in taken:
                    path.touch()
            for first in range(200, 1_200, 100):
                works.send(first, 100)
                time.sleep(0.02)
            works.wait()
            works.assert_parity(1_200)
        account.round(2)
        account.settle(dsn, range(1_200))


@pytest.mark.parametrize("what", ["file", "dangling", "pipe", "loop", "long"])
def test_a_journal_folder_that_is_none_means_memory(dsn: str, tmp_path: Path, account: Account, what: str) -> None:
    folder = tmp_path / ("j" if what != "long" else "j" * 300)
    {
        "file": lambda: folder.write_text("mine"),
        "dangling": lambda: folder.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(folder),
        "loop": lambda: folder.symlink_to(folder),
        "long": lambda: None,
    }[what]()
    with Works(dsn, folder) as works:
        assert works.recorder.journal is None
        works.send(0, 100)
        account.settle(dsn, range(100))
    assert list(adopt(folder)) == []
    account.round()
