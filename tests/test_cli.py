"""The command line as people run it: a process, its output and its exit status."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from asgi_analytics import cli, console, traffic
from asgi_analytics.batch import DECISION, HIT
from asgi_analytics.record.encoding import DECISION_COLUMNS, HIT_COLUMNS
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.listing import journals
from asgi_analytics.store import queries
from asgi_analytics.store.reading import HitRow, connect
from tests.acceptance.rig import wait_until
from tests.drive import called

from .conftest import data_folder
from .jobs.web import serve

COMMAND = [sys.executable, "-m", "asgi_analytics"]
ADD_HIT = """
INSERT INTO analytics.hits (id, time, page_view, duration_us, bytes_sent, score, level, status, outcome, method, path,
    session_id, fingerprint, site, device, country, browser, provisional)
VALUES (%(id)s, now(), true, 1000, 10, 20, 1, 200, 'complete', 'GET', %(path)s,
    gen_random_uuid(), gen_random_uuid(), %(site)s, 'desktop', 'DE', 'Firefox', false)
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def add_hit(dsn: str, path: str, site: str = "default") -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(ADD_HIT, {"id": uuid4(), "path": path, "site": site})


# The demo


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
    time.sleep(0.6)
    last = called("tail", "-n", "1", "--dsn", running.dsn).stdout.split()
    assert last[1:3] == ["GET", "/about"]
    assert last[-1] in ("complete", "refused")


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


def heed_ctrl_c() -> None:
    """Undo what a shell does to the programs that it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
from asgi_analytics import traffic

with socket.create_server(("127.0.0.1", 0)) as silent:
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    print(traffic.play(traffic.plan(7, 60, 40), *silent.getsockname(), stopping))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr


def test_a_command_that_a_service_starts_with_its_streams_closed_does_its_work(tmp_path: Path) -> None:
    """Python has None in their place, and the first file that is opened gets the number of standard output."""
    (tmp_path / "access.log").write_text("")
    shell = f"{' '.join(COMMAND)} replay {tmp_path}/access.log --export json -o {tmp_path}/found.json <&- >&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "found.json").read_text().startswith("{")


# Against a database of the tests


def test_migrate_names_what_it_applied_and_then_nothing(empty_dsn: str) -> None:
    assert "0001_schema.sql" in called("migrate", "--dsn", empty_dsn).stdout
    assert run("migrate", ASGI_ANALYTICS_DSN=empty_dsn).stdout == "up to date\n"


def test_doctor_finds_nothing_wrong_with_a_migrated_database(dsn: str) -> None:
    answer = called("doctor", "--dsn", dsn)
    assert answer.returncode == 0, answer.stdout
    for text in ("PostgreSQL", "schema: up to date", "all that a writer needs", "quota: ", 'durability: "journal"'):
        assert text in answer.stdout


def test_doctor_says_that_the_schema_is_missing(empty_dsn: str) -> None:
    answer = called("doctor", "--dsn", empty_dsn)
    assert answer.returncode == 1
    assert "WRONG schema: not applied: 0001_schema.sql" in answer.stdout
    assert "run `asgi-analytics migrate`" in answer.stdout


def test_doctor_says_which_privileges_a_user_lacks(dsn: str) -> None:
    role = f"reader_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        connection.execute(f"GRANT USAGE ON SCHEMA analytics TO {role}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA analytics TO {role}")
        try:
            answer = called("doctor", "--dsn", psycopg.conninfo.make_conninfo(dsn, user=role, password="x"))
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert answer.returncode == 1
    assert "INSERT on analytics.hits" in answer.stdout


@pytest.mark.parametrize(
    ("proxies", "status", "address"),
    [((), 1, "10.0.0.5: the forwarding header is not believed"), (("10.0.0.0/8",), 0, "84.130.1.2")],
)
def test_doctor_resolves_the_client_address(dsn: str, proxies: tuple[str, ...], status: int, address: str) -> None:
    trusted = ("--trusted-proxies", *proxies) if proxies else ()
    header = ("--header", "X-Forwarded-For: 84.130.1.2", "--client", "10.0.0.5")
    answer = called("doctor", "--dsn", dsn, *header, *trusted)
    assert answer.returncode == status
    assert f"client address: {address}" in answer.stdout


def test_doctor_says_that_the_journal_folder_is_no_folder(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = called("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path / "file" / "journal"))
    assert answer.returncode == 1
    assert "WRONG journal: " in answer.stdout


@pytest.mark.parametrize("command", ["tail", "stats", "migrate"])
def test_a_database_that_does_not_answer_is_one_line_on_stderr(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--dsn", f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("asgi-analytics: No connection to Postgres")
    assert len(errors.splitlines()) == 1
    assert "secret" not in errors


def test_a_wrong_dsn_is_one_line_on_stderr() -> None:
    answer = run("tail", "--dsn", "not a dsn")
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)


WRONG = [
    "postgresql+asyncpg://nobody:secret@127.0.0.1/x?nonsense=1",
    "sqlite:///secret.db?x=1",
    "postgresql://nobody:a@secret@127.0.0.1/x",
    "postgresql://nobody:a/secret@127.0.0.1/x",
    "postgresql://nobody:secret@127.0.0.1:port/x",
    "host=127.0.0.1 nonsense=secret",
]


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("command", ["tail", "stats", "migrate", "actors", "doctor"])
def test_no_password_is_printed_of_a_connection_string_that_is_none(
    command: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", text)
    monkeypatch.delenv("ASGI_ANALYTICS_DSN", raising=False)
    answer = called(command)
    assert answer.returncode == 1
    assert "DATABASE_URL" in answer.stdout + answer.stderr
    assert "secret" not in answer.stdout + answer.stderr


@pytest.mark.parametrize("command", ["tail", "migrate"])
def test_an_empty_dsn_is_refused_as_that_of_a_variable_which_is_not_set(
    command: str, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    answer = called(command, "--dsn", "")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "Option dsn='…' is not allowed" in answer.stderr


def test_a_connection_string_with_a_driver_of_sqlalchemy_is_taken_without_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_hit(dsn, "/there")
    monkeypatch.setenv("DATABASE_URL", dsn.replace("postgresql://", "postgresql+asyncpg://"))
    assert dsn.startswith("postgresql://")
    assert "/there" in called("tail").stdout


@pytest.mark.parametrize("command", [("tail",), ("stats",), ("explain", str(uuid4()))])
def test_without_a_schema_one_is_told_to_migrate(
    empty_dsn: str, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--dsn", empty_dsn]) == 1
    assert "run `asgi-analytics migrate`" in capsys.readouterr().err


def test_a_malformed_decision_id_is_told_so(dsn: str) -> None:
    answer = called("explain", "xyz", "--dsn", dsn)
    assert answer.returncode == 1
    assert "is no decision id" in answer.stderr


def test_an_unknown_decision_id_is_told_so(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "PATIENCE", 0.0)
    assert cli.main(["explain", str(uuid4()), "--dsn", dsn]) == 1
    assert "is stored" in capsys.readouterr().err


def test_tail_escapes_what_a_visitor_sent(dsn: str) -> None:
    add_hit(dsn, "/\x1b[2J\nGET /fake\u202e")
    lines = called("tail", "--dsn", dsn).stdout.splitlines()
    assert len(lines) == 1
    assert "/\\x1b[2J\\nGET /fake\\u202e" in lines[0]
    assert lines[0].isprintable()


def test_tail_shows_one_site_only(dsn: str) -> None:
    add_hit(dsn, "/mine", "mine")
    add_hit(dsn, "/other", "other")
    shown = called("tail", "--site", "mine", "--dsn", dsn).stdout
    assert "/mine" in shown
    assert "/other" not in shown


def test_tail_follows_new_hits_and_shows_each_once_until_ctrl_c(dsn: str) -> None:
    add_hit(dsn, "/first")
    with subprocess.Popen(
        [*COMMAND, "tail", "-f", "--dsn", dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    ) as tail:
        assert tail.stdout is not None
        assert b"/first" in tail.stdout.readline()
        for path in ("/second", "/third"):
            add_hit(dsn, path)
            assert path.encode() in tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        rest, errors = tail.communicate(timeout=10)
    assert (tail.returncode, rest, errors) == (130, b"", b"")


def test_a_reader_that_leaves_early_gets_no_traceback(dsn: str) -> None:
    for number in range(3):
        add_hit(dsn, f"/{number}")
    with subprocess.Popen([*COMMAND, "tail", "--dsn", dsn], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        tail.stdout.close()
        assert tail.stderr is not None
        assert tail.stderr.read() == b""
    assert tail.returncode == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_output_that_cannot_be_written_is_an_error_of_one_line(dsn: str) -> None:
    add_hit(dsn, "/first")
    with open("/dev/full", "wb") as full:
        tail = subprocess.run([*COMMAND, "tail", "--dsn", dsn], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (tail.returncode, tail.stderr) == (1, b"asgi-analytics: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["replay", "--help"]])
def test_help_that_cannot_be_written_is_an_error_of_one_line(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        asked = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, env=environment, check=False
        )
    assert (asked.returncode, asked.stderr) == (1, b"asgi-analytics: No space left on device\n")


def test_version_and_usage() -> None:
    assert run("--version").stdout == "asgi-analytics 0.1.0\n"
    assert run("no-such-command").returncode == 2
    assert called("demo", "--port", "99999").returncode == 2


@pytest.mark.parametrize("command", [("demo",), ("migrate",), ("quarantine", "list"), ("data", "update")])
def test_an_unknown_option_is_answered_with_the_usage_of_its_command(command: tuple[str, ...]) -> None:
    answer = called(*command, "--nope")
    named = " ".join(command if command[0] == "data" else command[:1])
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"usage: asgi-analytics {named} [-h]")
    assert answer.stderr.endswith(f"asgi-analytics {named}: error: unrecognized arguments: --nope\n")


def test_each_command_says_in_its_own_help_what_it_does() -> None:
    shown = called("--help").stdout
    for name, text in re.findall(r"^    ([a-z-]+) +(.+)$", shown, re.MULTILINE):
        told = called(name, "--help").stdout
        assert text[1:] in " ".join(told.split()), name
    assert "MaxMind-format ASN file" in called("doctor", "--help").stdout


def test_a_demo_on_an_address_of_another_machine_names_the_option() -> None:
    answer = called("demo", "--host", "192.0.2.1", "--port", "18999")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert re.fullmatch(
        r"asgi-analytics: Port 18999 on 192\.0\.2\.1 cannot be used \(.+\): .* by --host\.\n", answer.stderr
    )


# Pure parts


def test_every_query_that_the_commands_read_with_can_be_prepared(dsn: str) -> None:
    values = {"since": datetime.now(UTC), "site": None, "most": 1, "id": uuid4(), "journals": [uuid4()]}
    with psycopg.connect(dsn) as connection:
        for query in queries.load("reading").values():
            connection.execute(query, values, prepare=True)


def test_reading_an_empty_database_gives_empty_answers(dsn: str) -> None:
    with connect(dsn) as reader:
        assert reader.hits(5) == []
        assert reader.positions([], 5) == []
        assert reader.totals().written == 0
        assert reader.last_hour().hits == 0
        lines = list(console.statistics(reader.totals(), reader.last_hour(), [], []))
    assert "written         0 rows from 0 journals, last never" in lines[1]


def test_looking_at_journals_tells_the_living_from_the_dead_and_holds_none(tmp_path: Path) -> None:
    columns = {HIT: HIT_COLUMNS, DECISION: DECISION_COLUMNS}
    kept, dead = (FileJournal(tmp_path, bytes([number]) * 16, columns, 1 << 20) for number in (1, 2))
    dead.abandon()
    assert [(one.name[:2], one.alive) for one in journals(tmp_path)] == [("01", True), ("02", False)]
    assert kept.close(1, kept.size)
    assert [one.name[:2] for one in journals(tmp_path)] == ["02"]


def test_a_line_of_tail_has_a_sign_where_something_is_not_known() -> None:
    now = datetime(2026, 11, 24, 1, 2, 3, 456_789, UTC)
    hit = HitRow(uuid4(), now, "GET", "/", None, None, None, None, 3, 90, "aborted")
    texts = console.hit_line(hit).split()
    assert texts == ["01:02:03.456", "GET", "/", "-", "-", "-", "-", "blocked", "90", "aborted"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a", "/a"),
        ("/é 日", "/é 日"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\ud800", "\\ud800"),
    ],
)
def test_escape_leaves_only_what_can_be_printed(text: str, shown: str) -> None:
    assert console.escape(text) == shown


def test_json_cannot_act_on_a_terminal_and_says_the_same() -> None:
    sent = {"path": "/\x1b[31m\x9b31m\x7f\u202e\U000e0001é日"}
    text = console.as_json(sent)
    assert [one for one in text if not one.isprintable()] == ["\n", "\n"]
    assert "é日" in text
    assert json.loads(text) == sent


def test_the_same_seed_plans_the_same_traffic_of_every_kind_within_its_time() -> None:
    visits = traffic.plan(7, 60, 40)
    assert visits == traffic.plan(7, 60, 40)
    assert visits != traffic.plan(8, 60, 40)
    assert {visit.kind for visit in visits} == {"human", "crawler", "office", "polling tab", "scraper", "scanner"}
    assert all(visit.starts_at + sum(step.pause for step in visit.steps) <= 60.001 for visit in visits)


def test_the_table_of_the_traffic_says_which_requests_are_not_in_it() -> None:
    assert list(console.rest(889, 884, 876)) == [
        "8 more hits are of visitors who asked not to be told apart (Sec-GPC, DNT).",
        "5 more requests are counts in analytics.refusals: what is refused past a rate.",
    ]
    assert list(console.rest(100, 101, 101)) == []


def test_progress_is_a_line_for_each_tenth_where_there_is_no_terminal() -> None:
    stream = StringIO()
    bar = traffic.Progress(50, stream)
    for _ in range(50):
        bar.step()
    assert stream.getvalue().splitlines()[-1] == "traffic 100 % of 50 requests"
    assert len(stream.getvalue().splitlines()) == 11


# Address ranges of crawlers

RANGES = b'{"prefixes": [{"ipv4Prefix": "66.249.64.0/27"}, {"ipv4Prefix": "66.249.64.32/27"}]}'


def test_data_update_downloads_says_what_failed_and_keeps_what_there_was(tmp_path: Path) -> None:
    folder, sources = tmp_path / "data", tmp_path / "sources.json"
    with serve({"/a.json": RANGES, "/b.json": RANGES}) as site:
        sources.write_text(json.dumps({name: f"{site.url}/{name}.json" for name in "ab"}))
        first = called("data", "update", "--dir", str(folder), "--sources", str(sources))
        site.pages["/b.json"] = b"<html>"
        site.pages["/a.json"] = 404
        second = run("data", "update", "--sources", str(sources), ASGI_ANALYTICS_CRAWLER_DIR=str(folder))
    assert (first.returncode, first.stderr) == (0, "")
    assert "2 of 2 files are up to date" in first.stdout
    assert "2 prefixes, 0 s old" in first.stdout
    assert second.returncode == 1
    (a, b, summary) = second.stdout.splitlines()
    assert "2 prefixes" in a
    assert "kept: " in a
    assert "status 404" in a
    assert "no JSON" in b
    assert "0 of 2 files" in summary
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [RANGES, RANGES]


def test_data_update_takes_files_from_a_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    (source / "google-common-crawlers.json").write_bytes(RANGES)
    os.utime(source / "google-common-crawlers.json", (time.time() - 5 * 86_400,) * 2)
    done = called("data", "update", "--dir", str(folder), "--from", str(source))
    assert done.returncode == 1
    assert "google-common-crawlers          2 prefixes, 5 d old\n" in done.stdout
    assert "openai-gptbot                   none; not there: " in done.stdout


def test_data_needs_an_action_and_good_sources(tmp_path: Path) -> None:
    assert called("data").returncode == 2
    failed = called("data", "update", "--dir", str(tmp_path), "--sources", str(tmp_path / "none.json"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("asgi-analytics: ")
