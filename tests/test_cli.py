"""The command line as people run it: a process, its output and its exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO
from math import floor
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from asgi_analytics import cli
from asgi_analytics.batch import DECISION, HIT
from asgi_analytics.columns import duration, escape
from asgi_analytics.commands import console, explain, stats
from asgi_analytics.database import destination_of
from asgi_analytics.demo import traffic
from asgi_analytics.record.destination import Destination
from asgi_analytics.record.encoding import DECISION_COLUMNS, HIT_COLUMNS
from asgi_analytics.record.journal import FileJournal
from asgi_analytics.record.listing import JournalState, journals
from asgi_analytics.store import command_session, queries
from asgi_analytics.store.reading import Position, connect
from tests.drive import NOWHERE, called, get, page, start, wrapped

from .command import COMMAND, run
from .commands.hits import add_hit
from .servers import free_port


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


def test_a_schema_of_a_later_version_is_told_by_migrate_and_doctor_and_takes_hits(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO analytics.migrations (number, name, checksum) VALUES (9000, 'later', 'x')")
        connection.execute("ALTER TABLE analytics.hits ADD COLUMN later integer NOT NULL DEFAULT 7")
    done = called("migrate", "--dsn", dsn)
    assert done.stdout.startswith("the schema is of a later version (9000): upgrade asgi-analytics here")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert "WRONG schema: it is of a later version: 9000" in called("doctor", "--dsn", dsn).stdout
    with wrapped(page(), dsn) as app:
        start(app)
        get(app, "/there")
    assert "/there" in called("tail", "--dsn", dsn).stdout


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
    assert "Option dsn='' is not allowed" in answer.stderr


def test_a_connection_string_with_a_driver_of_sqlalchemy_is_taken_without_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_hit(dsn, "/there")
    monkeypatch.setenv("DATABASE_URL", dsn.replace("postgresql://", "postgresql+asyncpg://"))
    assert dsn.startswith("postgresql://")
    assert "/there" in called("tail").stdout


@pytest.mark.parametrize("command", [("tail",), ("stats",), ("explain", str(uuid4())), ("purge", "--older", "1d")])
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
    monkeypatch.setattr(explain, "PATIENCE", 0.0)
    assert cli.main(["explain", str(uuid4()), "--dsn", dsn]) == 1
    assert "is stored" in capsys.readouterr().err


def test_stats_tells_programs_the_same_as_people(dsn: str, tmp_path: Path) -> None:
    add_hit(dsn, "/first")
    FileJournal(tmp_path, bytes([1]) * 16, {HIT: HIT_COLUMNS, DECISION: DECISION_COLUMNS}, 1 << 20).abandon()
    told = json.loads(called("stats", "--json", "--journal-dir", str(tmp_path), "--dsn", dsn).stdout)
    assert told["last_hour"]["hits"] == 1
    assert (told["database"]["written"], told["writers"]) == (0, [])  # no writer was at work
    assert told["journal_dir"] == str(tmp_path)
    (journal,) = told["journals"]
    assert (journal["name"], journal["alive"]) == ("01" * 16, False)
    assert datetime.fromisoformat(journal["written"]).tzinfo is not None


def test_stats_tells_of_refusals_past_the_rate_which_are_most_of_a_flood(dsn: str, tmp_path: Path) -> None:
    stats = ("stats", "--journal-dir", str(tmp_path), "--dsn", dsn)
    assert "of these 0 refused\n" in called(*stats).stdout
    count = """INSERT INTO analytics.refusals (minute, site, fingerprint, network, refusals)
        SELECT date_trunc('minute', now()) - before, 'default', gen_random_uuid(), gen_random_uuid(), 700
        FROM unnest(ARRAY[interval '0', '2 minutes', '2 hours']) AS before"""
    with psycopg.connect(dsn) as connection:
        connection.execute(count)
    assert "of these 0 refused; 1,400 more refusals as counts\n" in called(*stats).stdout
    assert json.loads(called(*stats, "--json").stdout)["last_hour"]["counted"] == 1400


def test_stats_without_the_database_tells_what_waits_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FileJournal(tmp_path, bytes([1]) * 16, {HIT: HIT_COLUMNS}, 1 << 20, destination_of(NOWHERE)).abandon()
    assert cli.main(["stats", "--journal-dir", str(tmp_path), "--dsn", NOWHERE]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("Journals on this machine: 1, ")
    assert re.search(r"01010101 +\d+ bytes +owner is dead", told.out)
    assert "Connection refused" in told.err


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
    assert called("quarantine").stderr.endswith("the following arguments are required: action\n")
    assert called("demo", "--port", "99999").returncode == 2


@pytest.mark.parametrize("command", [("demo",), ("migrate",), ("quarantine", "list"), ("data", "update")])
def test_an_unknown_option_is_answered_with_the_usage_of_its_command(command: tuple[str, ...]) -> None:
    answer = called(*command, "--nope")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"usage: asgi-analytics {command[0]} [-h]")
    assert answer.stderr.endswith(f"asgi-analytics {command[0]}: error: unrecognized arguments: --nope\n")


def test_a_command_loads_what_it_runs_and_nothing_of_others() -> None:
    code = "import sys; from asgi_analytics.cli import load; load(sys.argv[1:]); print('maxminddb' in sys.modules)"
    loads = [subprocess.check_output([sys.executable, "-c", code, name], text=True) for name in ("tail", "doctor")]
    assert loads == ["False\n", "True\n"]


def test_each_command_says_in_its_own_help_what_it_does() -> None:
    shown = called("--help").stdout
    for name, text in re.findall(r"^    ([a-z-]+) +(.+)$", shown, re.MULTILINE):
        told = called(name, "--help").stdout
        assert text[1:] in " ".join(told.split()), name
    assert "MaxMind-format ASN file" in called("doctor", "--help").stdout
    assert "Not exact are" in called("what-if", "--help").stdout


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
        lines = list(stats.statistics(reader.totals(), reader.last_hour(), [], [], Path("/none")))
    assert "written         0 rows from 0 journals, last never" in lines[1]


def test_looking_at_journals_tells_the_living_from_the_dead_and_holds_none(tmp_path: Path) -> None:
    columns = {HIT: HIT_COLUMNS, DECISION: DECISION_COLUMNS}
    kept, dead = (FileJournal(tmp_path, bytes([number]) * 16, columns, 1 << 20) for number in (1, 2))
    dead.abandon()
    assert [(one.name[:2], one.alive) for one in journals(tmp_path)] == [("01", True), ("02", False)]
    assert kept.close(1, kept.size)
    assert [one.name[:2] for one in journals(tmp_path)] == ["02"]


@pytest.mark.parametrize(
    ("segment", "offset", "told"),
    [
        (0, 0, "nothing delivered yet"),
        (1, 900, "delivered to segment 1 of 2"),
        (2, 150, "50 bytes behind"),
        (2, 200, "all delivered"),
    ],
)
def test_stats_tells_how_far_a_journal_is_delivered(tmp_path: Path, segment: int, offset: int, told: str) -> None:
    state = JournalState("ab" * 16, 1_100, 2, 200, True, Destination("here"), 0.0)
    position = Position(UUID(state.name), "host", segment, offset, 0, 0, 0.0)
    lines = list(stats.journals_here([state], tmp_path, None, {state.name: position}))
    assert lines[1].endswith(told)


def test_stats_leaves_most_of_the_journals_that_are_for_another_database_to_adopt(tmp_path: Path) -> None:
    strays = [JournalState(f"{n:032x}", 1, 1, 1, False, Destination("there"), 0.0) for n in range(200)]
    lines = list(stats.journals_here(strays, tmp_path, Destination("here")))
    assert (lines[0][:31], lines[-1], len(lines)) == ("Journals on this machine: 200, ", "  … and 190 more", 13)


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
    assert escape(text) == shown


@pytest.mark.parametrize(
    ("seconds", "wait", "age"),
    [
        (-1.0, "0 s", "0 s"),
        (0.1, "1 s", "0 s"),
        (119.5, "120 s", "119 s"),
        (120.5, "3 min", "2 min"),
        (7200.0, "2 h", "2 h"),
        (5 * 86_400 + 1.0, "6 days", "5 days"),
    ],
)
def test_a_wait_is_rounded_up_and_an_age_down(seconds: float, wait: str, age: str) -> None:
    assert (duration(seconds), duration(seconds, floor)) == (wait, age)


def test_json_cannot_act_on_a_terminal_and_says_the_same() -> None:
    sent = {"path": "/\x1b[31m\x9b31m\x7f\u202e\U000e0001é日"}
    text = console.as_json(sent)
    assert [one for one in text if not one.isprintable()] == ["\n", "\n"]
    assert "é日" in text
    assert json.loads(text) == sent


def test_progress_is_a_line_for_each_tenth_where_there_is_no_terminal() -> None:
    stream = StringIO()
    bar = traffic.Progress(50, stream)
    for _ in range(50):
        bar.step()
    assert stream.getvalue().splitlines()[-1] == "traffic 100 % of 50 requests"
    assert len(stream.getvalue().splitlines()) == 11


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "--site"),
        ("what-if", "--site"),
        ("ban", "192.0.2.1", "--for", "2h", "--reason"),
        ("allow", "192.0.2.1", "--by"),
    ],
)
def test_an_argument_that_is_not_utf_8_is_named(dsn: str, arguments: tuple[str, ...]) -> None:
    answer = called(*arguments, os.fsdecode(b"caf\xe9"), "--dsn", dsn)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(r"asgi-analytics: 'caf\udce9' is not UTF-8")


@pytest.mark.parametrize("time", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
def test_a_time_beyond_all_calendars_hides_nothing_else(dsn: str, time: str) -> None:
    add_hit(dsn, "/now")
    add_hit(dsn, "/odd")
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.hits SET time = %s WHERE path = '/odd'", [time])
        connection.execute("UPDATE analytics.fingerprints SET last_seen_at = %s", [time])
    for command in (["tail"], ["tail", "--json"]):
        assert "/now" in called(*command, "--dsn", dsn).stdout
    for command in (["stats"], ["actors"]):
        assert called(*command, "--dsn", dsn).returncode == 0


@pytest.mark.parametrize("command", [("tail",), ("ban", "192.0.2.1", "--for", "2h", "--reason", "x")])
def test_who_holds_a_table_is_not_waited_for_in_silence_for_ever(
    dsn: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_session, "LOCK_PATIENCE", "100ms")
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE analytics.hits, analytics.rulings IN ACCESS EXCLUSIVE MODE")
        answer = called(*command, "--dsn", dsn)
    assert answer.returncode == 1
    assert "Another session holds a table" in answer.stderr
