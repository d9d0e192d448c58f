"""Real browsers on a wrapped site, over HTTP/1.1 and HTTP/2: what they show is what is stored, and they are people."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from ..drive import rows
from ..servers import free_port, server
from ..waiting import wait_until
from .secured import Authority
from .walked import PAGES

NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "firefox": ("firefox-esr", "firefox")}
# Nothing but the site is asked for anything: each has services of its maker that it would call.
QUIET = {
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "browser.aboutwelcome.enabled": False,
    "app.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}
CHROMIUM = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--ignore-certificate-errors"),
]


class Visit(NamedTuple):
    """What a browser says that it has shown, and what is stored of it."""

    told: dict[str, Any]
    hits: list[dict[str, Any]]


def command(browser: str, folder: Path, url: str, agent: str | None) -> list[str]:
    """Return what opens a browser with a new profile on a page. Skips where there is none."""
    program = next(filter(None, map(shutil.which, NAMES[browser])), None)
    if program is None:
        pytest.skip(f"no {browser} on this machine")
    profile = folder / "profile"
    profile.mkdir()
    if browser == "chromium":
        named = [] if agent is None else [f"--user-agent={agent}"]
        return [program, *CHROMIUM, *named, f"--user-data-dir={profile}", url]
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in QUIET.items()]
    (profile / "user.js").write_text("\n".join(lines))
    return [program, "--headless", "--no-remote", "--profile", str(profile), url]


@contextmanager
def opened(command: list[str], folder: Path) -> Iterator[None]:
    """A browser for as long as the block runs, with all its processes."""
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "HOME": str(folder)}
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def walk(
    browser: str, scheme: str, dsn: str, folder: Path, agent: str | None = None, worker: str = "", **options: Any
) -> Visit:
    """Let a browser walk through the site; `worker`: one of walked.WORKERS."""
    port, ledger = free_port(), folder / "ledger.json"
    given = {"ASGI_ANALYTICS_DSN": dsn, "ASGI_ANALYTICS_JOURNAL_DIR": str(folder / "j"), "LEDGER": str(ledger)}
    given |= {"OPTIONS": json.dumps(options), "WORKER": worker}
    program = ["-m", "uvicorn", "tests.acceptance.walked:app", "--port", str(port), "--log-level", "warning"]
    if scheme == "https":  # and HTTP/2, websockets included
        certificate = str(Authority(folder).certificate())
        program = ["-m", "hypercorn", "tests.acceptance.walked:app", "--bind", f"127.0.0.1:{port}"]
        program += ["--certfile", certificate, "--keyfile", certificate]
    browse = command(browser, folder, f"{scheme}://127.0.0.1:{port}/", agent)
    with server(program, port, folder / "server.log", given), opened(browse, folder):
        wait_until(lambda: ledger.exists() and ledger.read_bytes().endswith(b"}"), 60, what="the end of the walk")
    return Visit(json.loads(ledger.read_bytes()), rows(dsn))


def person(browser: str) -> str | None:
    """Return the name of a browser with a window: without one, Chromium says so."""
    program = next(filter(None, map(shutil.which, NAMES[browser])), None)
    if browser != "chromium" or program is None:
        return None
    version = subprocess.check_output([program, "--version"], text=True).split()[1].partition(".")[0]
    return (
        f"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
    )


@pytest.mark.parametrize(
    ("browser", "scheme", "cookie"),
    [("chromium", "https", True), ("firefox", "http", False)],
)
def test_what_a_browser_shows_is_one_visit_of_a_person(
    browser: str, scheme: str, cookie: bool, dsn: str, tmp_path: Path
) -> None:
    told, hits = walk(
        browser, scheme, dsn, tmp_path, person(browser), session_cookie=cookie, secret="of the tests alone"
    )
    shown = [hit for hit in hits if hit["page_view"]]
    assert Counter(hit["path"] for hit in shown) == Counter(told["seen"])
    assert len(told["seen"]) == PAGES
    ((version,),) = {
        tuple(word.split("/")[1] for word in told["agent"].split() if word.startswith(("Chrome/", "Firefox/")))
    }
    names = {(hit["browser"], hit["browser_version"].partition(".")[0], hit["os"], hit["device"]) for hit in shown}
    assert names == {("Chrome" if browser == "chromium" else "Firefox", version.partition(".")[0], "Linux", "desktop")}
    # Websockets say less of who opens them; what a page's parts are is told by the app's answers and the browser.
    assert {hit["session_id"] for hit in hits} == {shown[0]["session_id"]}
    assert {(hit["bot_class"], hit["score"], hit["level"], hit["outcome"]) for hit in hits} == {
        (None, 0, 0, "complete")
    }
    assert told["quota"].startswith('"minute";r=')
    assert told["cookie"] == ""  # no script reads it
    with psycopg.connect(dsn) as connection:
        sessions = connection.execute("SELECT page_views, entry_path FROM analytics.human_sessions").fetchall()
        missing = connection.execute("SELECT count(*) FROM analytics.hits WHERE status = 404 AND path LIKE '/api%'")
        assert sessions == [(PAGES, "/")]
        assert missing.fetchall() == [(PAGES,)]


@pytest.mark.parametrize(("browser", "worker"), [("firefox", "passes on"), ("chromium", "asks itself")])
def test_pages_that_come_through_a_service_worker_are_pages(
    browser: str, worker: str, dsn: str, tmp_path: Path
) -> None:
    told, hits = walk(browser, "http", dsn, tmp_path, person(browser), worker)
    assert Counter(hit["path"] for hit in hits if hit["page_view"]) == Counter(told["seen"])
    assert {(hit["bot_class"], hit["score"]) for hit in hits} == {(None, 0)}


def test_a_browser_without_a_window_says_so_and_is_no_person(dsn: str, tmp_path: Path) -> None:
    _, hits = walk("chromium", "http", dsn, tmp_path)
    assert {hit["bot_class"] for hit in hits if hit["method"] != "WEBSOCKET"} == {"browser-automation"}
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM analytics.human_sessions").fetchall() == [(0,)]
