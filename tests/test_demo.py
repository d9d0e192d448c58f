from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from asgi_analytics import demo as demos
from asgi_analytics.demo import report, traffic
from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.embedded.folder import flock
from tests.drive import NOWHERE, called, rows

from .acceptance.embedded.rig import worker
from .command import COMMAND, heed_ctrl_c, run
from .commands.hits import add_hit
from .conftest import data_folder
from .servers import free_port
from .waiting import wait_until


@dataclass(frozen=True)
class Running:
    """A demo that answers."""

    process: subprocess.Popen[str]
    port: int
    data: Path

    @property
    def dsn(self) -> str:
        return (self.data / "dsn").read_text("utf-8").strip()

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"User-Agent": "Mozilla/5.0 Firefox/140.0"})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def refusal(self) -> dict[str, object]:
        for number in range(200):
            status, headers, body = self.get(f"/articles/{number % 40 + 1}")
            if status == 429:
                assert headers["content-type"] == "application/problem+json"
                assert int(headers["retry-after"]) >= 1
                found: dict[str, object] = json.loads(body)
                return found
        raise AssertionError("200 requests in a row were all answered")


@contextlib.contextmanager
def demo(data: Path, *arguments: str) -> Iterator[Running]:
    port = free_port()
    command = [*COMMAND, "demo", "--port", str(port), "--data", str(data), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "stats --journal-dir" in line:
                break
        else:
            raise AssertionError(process.communicate()[1])
        yield Running(process, port, data)
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch, data_folder() as folder:
        for name in ("ASGI_ANALYTICS_DSN", "DATABASE_URL"):
            patch.delenv(name, raising=False)
        with demo(folder) as found:
            yield found


def test_demo_answers_with_rate_limit_headers(running: Running) -> None:
    status, headers, body = running.get("/articles/7")
    assert status == 200
    assert headers["ratelimit-policy"] == '"second";q=20;w=1, "minute";q=600;w=60'
    assert headers["ratelimit"].startswith('"second";r=')
    assert headers["x-throttle-level"] == "normal"
    assert b"Article 7" in body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/articles", 200),
        ("/articles/41", 404),
        ("/static/site.css", 200),
        ("/api/articles", 200),
        ("/x", 404),
    ],
)
def test_demo_site_has_pages_assets_an_api_and_404s(running: Running, path: str, status: int) -> None:
    assert running.get(path)[0] == status


def test_explain_tells_about_the_refusal_that_a_loop_of_requests_meets(running: Running) -> None:
    decision = running.refusal()["decision"]
    assert isinstance(decision, str)
    told = run("explain", decision, "--dsn", running.dsn)
    assert told.returncode == 0, told.stderr
    for text in (decision, "refused with 429", "GET /articles/", 'quota "second" is used up'):
        assert text in told.stdout
    for text in ("What would have made it pass", "the stored inputs give the same verdict"):
        assert text in told.stdout


def test_explain_takes_an_id_without_dashes(running: Running) -> None:
    decision = UUID(str(running.refusal()["decision"]))
    assert f"Decision {decision}" in called("explain", decision.hex, "--dsn", running.dsn).stdout


def test_tail_shows_the_demo_s_hits(running: Running) -> None:
    running.get("/about?secret=1")

    def last() -> list[str]:
        return called("tail", "-n", "1", "--dsn", running.dsn).stdout.split()

    wait_until(lambda: last()[1:3] == ["GET", "/about"], what="the hit's line")
    assert last()[-1] in ("complete", "refused")


def test_stats_tell_of_the_demo_s_living_journal(running: Running) -> None:
    shown = called("stats", "--dsn", running.dsn, "--journal-dir", str(running.data / "demo-journal")).stdout
    assert "quarantined     0 rows" in shown
    assert "Journals on this machine: 1" in shown
    assert "owner lives" in shown


def test_a_demo_on_a_taken_port_names_it_and_the_option(running: Running) -> None:
    answer = run("demo", "--port", str(running.port))
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"asgi-analytics: Port {running.port} on 127.0.0.1")
    assert "--port" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_a_signal_ends_demo_and_postgres(cluster_folder: Path, number: signal.Signals, workers: str) -> None:
    with demo(cluster_folder, "--workers", workers) as running:
        assert running.get("/")[0] == 200
        dsn = running.dsn
        running.process.send_signal(number)
        assert running.process.wait(20) == 0
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn, connect_timeout=3)
        assert not list((running.data / "demo-journal").glob("*/*.journal"))


def test_a_demo_that_is_killed_leaves_no_server_process_behind(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASGI_ANALYTICS_DSN", running.dsn)
    with demo(tmp_path, "--workers", "2") as killed:
        killed.process.kill()
        wait_until(lambda: not is_served(killed.port), 20, "the end of both servers")


def is_served(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_demo_that_is_interrupted_twice_ends_at_once_without_a_traceback(cluster_folder: Path) -> None:
    with demo(cluster_folder) as running, socket.create_connection(("127.0.0.1", running.port), 10) as waiting:
        waiting.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        waiting.recv(1)
        running.process.send_signal(signal.SIGINT)
        with contextlib.suppress(ConnectionError):
            while True:  # until it has heard
                socket.create_connection(("127.0.0.1", running.port), 10).close()
        running.process.send_signal(signal.SIGINT)
        _, said = running.process.communicate(timeout=20)
    assert running.process.returncode == 0
    assert "Traceback" not in said


def test_traffic_ends_with_a_table_from_the_database(cluster_folder: Path) -> None:
    with demo(cluster_folder, "--traffic", "--traffic-seconds", "3") as running:
        assert running.process.stdout is not None
        table = []
        for line in running.process.stdout:
            table.append(line.split())
            if line.startswith("  all "):
                break
        classes = {row[0] for row in table if row}
        assert {"search-engine", "no"} <= classes, table
        running.process.terminate()
        _, progress = running.process.communicate(timeout=20)
    assert "traffic 100 % of" in progress


def test_traffic_that_is_interrupted_ends_at_once_without_a_traceback() -> None:
    code = """
import socket, threading
from asgi_analytics.demo import traffic

with socket.create_server(("127.0.0.1", 0)) as silent:
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    print(traffic.play(traffic.plan(7, 60, 40), *silent.getsockname(), stopping))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr


def test_each_request_of_the_traffic_that_is_answered_counts_though_others_are_on_their_way() -> None:
    together = threading.Barrier(4)

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            together.wait(10.0)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    visits = [traffic.Visit("human", 0.0, "203.0.113.7", (), (traffic.Step(0.0, "/"),)) for _ in range(8)]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        answered = traffic.play(visits, "127.0.0.1", server.server_port, threading.Event())
        server.shutdown()
        thread.join()
    assert answered == 8


def test_a_demo_on_an_address_of_another_machine_names_the_option() -> None:
    answer = called("demo", "--host", "192.0.2.1", "--port", "18999")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert re.fullmatch(
        r"asgi-analytics: Port 18999 on 192\.0\.2\.1 cannot be used \(.+\): .* by --host\.\n", answer.stderr
    )


def test_the_same_seed_plans_the_same_traffic_of_every_kind_within_its_time() -> None:
    visits = traffic.plan(7, 60, 40)
    assert visits == traffic.plan(7, 60, 40)
    assert visits != traffic.plan(8, 60, 40)
    assert {visit.kind for visit in visits} == {"human", "crawler", "office", "polling tab", "scraper", "scanner"}
    assert all(visit.starts_at + sum(step.pause for step in visit.steps) <= 60.001 for visit in visits)


def test_the_table_of_the_traffic_says_which_requests_are_not_in_it() -> None:
    assert list(report.not_in_summary(889, 884, 876)) == [
        "8 more hits are of visitors who asked not to be told apart (Sec-GPC, DNT).",
        "5 more requests are counts in analytics.refusals: what is refused past a rate.",
    ]
    assert list(report.not_in_summary(100, 101, 101)) == []
    assert list(report.not_in_summary(11, 10, 9)) == [
        "1 more hit is of visitors who asked not to be told apart (Sec-GPC, DNT).",
        "1 more request is a count in analytics.refusals: what is refused past a rate.",
    ]


def test_the_demo_names_its_command_as_a_terminal_in_any_folder_can_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my project").mkdir()
    monkeypatch.chdir(tmp_path / "my project")
    monkeypatch.setattr("sys.argv", [".venv/bin/asgi-analytics", "demo"])
    assert demos._command() == f"'{tmp_path}/my project/.venv/bin/asgi-analytics'"


def test_the_demo_gives_its_address_where_another_terminal_would_not_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = demos.Demo("127.0.0.1", 8000, 1, None, ("20/second",), 15.0, None, 1)
    assert "export" not in demos.banner(wanted, NOWHERE, Path("/journal"))
    monkeypatch.setenv("ASGI_ANALYTICS_DATA_DIR", "/elsewhere")
    assert f"export ASGI_ANALYTICS_DSN={NOWHERE}" in demos.banner(wanted, NOWHERE, Path("/journal"))


def test_where_no_psql_is_installed_the_demo_names_that_of_its_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert demos._psql() == "psql"
    monkeypatch.setattr("shutil.which", lambda _: None)
    asked = subprocess.run([*shlex.split(demos._psql()), "--version"], capture_output=True, text=True, check=True)
    assert asked.stdout.startswith("psql (PostgreSQL)")


def test_a_demo_in_a_database_that_a_variable_names_is_a_site_of_its_own(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_hit(dsn, "/theirs")
    monkeypatch.setenv("DATABASE_URL", dsn)
    with demo(tmp_path, "--traffic", "--traffic-seconds", "1") as running:
        assert running.process.stdout is not None
        total = next(line.split() for line in running.process.stdout if line.startswith("  all "))
        count = "SELECT site, count(session_id) AS hits FROM analytics.hits GROUP BY site ORDER BY site"
        theirs, ours = rows(dsn, count)
    assert (theirs, ours["site"], total[3]) == ({"site": "default", "hits": 1}, "demo", str(ours["hits"]))


def test_the_table_of_the_traffic_waits_for_no_refusal_that_is_counted(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    since = datetime.now(UTC)
    add_hit(dsn, "/there")
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO analytics.refusals (minute, site, fingerprint, network, refusals)"
            " VALUES (date_trunc('minute', now()), 'default', gen_random_uuid(), gen_random_uuid(), 7)"
        )
    monkeypatch.delattr("asgi_analytics.demo.time.sleep")
    demos._summarise(dsn, since, 8)
    assert "7 more requests are counts in analytics.refusals" in capsys.readouterr().out


def test_a_demo_takes_its_postgres_over_from_a_command_that_ends(cluster_folder: Path) -> None:
    with worker(cluster_folder) as owner, demo(cluster_folder) as running:
        dsn = running.dsn
        owner.communicate(timeout=30)
        wait_until(lambda: answers(dsn), 30, "a server of the demo's own")
        assert running.get("/about")[0] == 200
        wait_until(lambda: "/about" in called("tail", "--dsn", dsn).stdout, 30, "the row")


def answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn, connect_timeout=3):
        return True
    return False


def test_traffic_names_an_ipv6_host_as_urls_do() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as silent:
        host, port, *_ = silent.getsockname()
        stopping = threading.Event()
        visits = [visit for visit in traffic.plan(7, 60, 40) if visit.kind == "polling tab"]
        thread = threading.Thread(target=traffic.play, args=(visits, host, port, stopping))
        thread.start()
        asked = silent.accept()[0]
        with asked:
            assert f"Host: [::1]:{port}\r\n".encode() in asked.recv(4096)
        stopping.set()
        thread.join()


def test_a_demo_ends_in_time_while_the_owner_of_its_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demos, "LOOKING", 0.01)
    with data_folder() as folder:
        lock = flock(folder / "lock")
        assert lock is not None
        try:
            with demos._kept_up(EmbeddedPostgres(folder)):
                time.sleep(0.2)
                began = time.monotonic()
            assert time.monotonic() - began < 10.0
        finally:
            os.close(lock)
