"""Ends of an interpreter, and of its memory: whatever an app does there, nothing hangs and all is answered."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.faults.ledger import Account
from tests.drive import NOWHERE
from tests.waiting import delay


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "import threading; threading.Thread(target=lambda: __import__('time').sleep(0.5)).start()",
        "raise SystemExit(0)",
        "import atexit; atexit.register(lambda: asyncio.run(ask(app, http_scope('/late'))))",
        "import threading; threading.Thread(target=lambda: asyncio.run(ask(app, http_scope('/thread')))).start()",
        # Deleted after the exit handlers have stopped us, when no thread can begin any more.
        "import builtins; builtins.kept = type('', (), {'__del__': lambda self, get=get, app=app: get(app)})()",
    ],
)
def test_an_interpreter_that_ends_in_any_way_ends(tmp_path: Path, account: Account, ending: str) -> None:
    program = (
        "import asyncio; from asgi_analytics import AnalyticsMiddleware; from tests.drive import *\n"
        f"app = AnalyticsMiddleware(page(), dsn=NOWHERE, journal_dir={str(tmp_path / 'j')!r})\n"
        f"get(app)\n{ending}\nimport time; print(time.monotonic())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    account.round()
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert time.monotonic() - float(done.stdout or time.monotonic()) < 5 + delay()


def test_a_loop_that_breaks_off_keeps_no_process_from_ending(tmp_path: Path, account: Account) -> None:
    program = (
        "import asyncio, sys; from asgi_analytics import AnalyticsMiddleware; from tests.drive import *\n"
        f"app = AnalyticsMiddleware(page(), dsn=NOWHERE, journal_dir={str(tmp_path / 'j')!r})\n"
        "loop, told = asyncio.new_event_loop(), asyncio.Queue()\n"
        "told.put_nowait({'type': 'lifespan.startup'})\n"
        "async def send(message): loop.call_soon(sys.exit, 3)\n"
        "loop.run_until_complete(app({'type': 'lifespan', 'asgi': {}}, told.get, send))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=10, check=False)
    account.round()
    assert done.returncode == 3, done.stderr


def test_an_interpreter_that_ends_while_a_daemon_thread_builds_an_app_is_not_aborted(account: Account) -> None:
    """As Ctrl-C ends Django's runserver: a thread that comes back from Python code to compiled Rust aborts it."""
    program = (
        "import threading; from asgi_analytics.identify.crawlers import extractor\n"
        "begun = threading.Event()\n"
        "def rows():\n"
        "    begun.set()\n"
        "    while True: pass\n"
        "    yield\n"
        "threading.Thread(target=lambda: extractor(rows()), daemon=True).start()\n"
        "begun.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    account.round()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited by RLIMIT_AS")
def test_where_the_address_space_runs_out_all_is_answered_and_the_end_is_quick(
    tmp_path: Path, account: Account
) -> None:
    program = (
        "import asyncio, resource; from asgi_analytics import AnalyticsMiddleware; from tests.drive import *\n"
        f"app = AnalyticsMiddleware(page(), dsn=NOWHERE, journal_dir={str(tmp_path / 'j')!r})\n"
        "get(app)\n"
        "most = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (2 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "async def read(n):\n"
        "    agent = f'Mozilla/5.0 (compatible; reader {n} of feeds; Android {n} search'\n"
        "    return (await ask(app, http_scope(headers={'user-agent': agent}))).status\n"
        "async def all(): return [await read(n) for n in range(200)]\n"
        "answered = asyncio.run(all()).count(200)\n"
        "app.close(); print(answered, app.stats()['failures'].get('identify and decide', 0) > 0)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    account.round()
    assert (done.returncode, done.stdout) == (0, "200 True\n"), done.stderr
    assert time.monotonic() - began < 15 + 3 * delay()


def test_an_error_at_import_after_the_app_was_wrapped_is_told_and_nothing_hangs(account: Account) -> None:
    program = (
        f"from asgi_analytics import *; app = AnalyticsMiddleware(None, dsn={NOWHERE!r}); raise LookupError('mine')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    account.round()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "LookupError: mine"
