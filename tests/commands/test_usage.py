"""Arguments that are empty, contradictory, or make no sense together: one line that says so, and nothing done."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.drive import NOWHERE, called
from tests.replay.lines import combined
from tests.servers import free_port

EMPTY = (
    *(("stats", "--journal-dir", ""), ("adopt", "--journal-dir", " "), ("doctor", "--journal-dir", "")),
    *(("doctor", "--geoip-city", ""), ("doctor", "--geoip-asn", ""), ("data", "update", "--dir", "")),
    *(("data", "update", "--from", ""), ("data", "update", "--sources", ""), ("demo", "--data", "")),
    ("replay", "x", "--export", "json", "-o", ""),
)


@pytest.mark.parametrize("arguments", EMPTY)
def test_a_folder_without_a_name_is_not_the_one_that_we_are_in(arguments: tuple[str, ...]) -> None:
    answer = called(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "names no file or folder" in answer.stderr


def test_a_tilde_behind_a_sign_of_equality_is_the_home_that_shells_do_not_make_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = called("data", "update", "--dir=~/ranges", "--from=~")
    assert f"files are up to date in {tmp_path}/ranges\n" in answer.stdout
    assert (tmp_path / "ranges").is_dir()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("adopt", "abcd", "--all"), "name some, or give --all"),
        (("quarantine", "purge", "1", "--all"), "--all deletes every row: leave it out"),
        (("quarantine", "purge", "--all", "--older", "1d"), "--all deletes every row: leave it out"),
        (("allow", "192.0.2.1", "--end", "--for", "1h"), "leave one out"),
    ],
)
def test_what_contradicts_itself_is_refused(dsn: str, arguments: tuple[str, ...], told: str) -> None:
    answer = called(*arguments, "--dsn", dsn)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert told in answer.stderr


def test_who_decides_without_a_name_is_the_user(dsn: str) -> None:
    assert called("allow", "192.0.2.1", "--by", " ", "--dsn", dsn).returncode == 0
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT made_by FROM analytics.rulings").fetchone()
    assert row is not None
    assert row[0].strip()


@pytest.mark.parametrize("option", [("--seed", "7"), ("--traffic-seconds", "10")])
def test_options_of_traffic_that_is_not_asked_for_are_refused(option: tuple[str, str]) -> None:
    answer = called("demo", *option, "--port", str(free_port()))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "are of --traffic" in answer.stderr


@pytest.mark.parametrize("host", ["a" * 300, "a..b"])
def test_a_host_that_can_be_none_is_told_so(host: str) -> None:
    answer = called("demo", "--host", host, "--port", str(free_port()))
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
    assert answer.stderr.endswith("by --host.\n")


def test_a_log_that_is_named_twice_would_count_twice(tmp_path: Path) -> None:
    log, other = tmp_path / "access.log", tmp_path / "other.log"
    log.write_text(combined(0) + "\n")
    other.symlink_to(log)
    for second in (log, other):
        assert "is named twice" in called("replay", str(log), str(second)).stderr
    assert "- is named twice" in called("replay", "-", "-").stderr


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no file whose first byte is missing")
def test_a_log_that_cannot_be_read_on_is_named() -> None:
    answer = called("replay", "/proc/self/mem")
    assert answer.stderr == "asgi-analytics: /proc/self/mem cannot be read: Input/output error.\n"


def test_a_log_without_a_line_is_not_said_to_be_of_an_unknown_format(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.touch()
    answer = called("replay", str(log))
    assert (answer.returncode, answer.stderr) == (1, f"asgi-analytics: No line of {log} is there.\n")


def test_who_shares_nothing_needs_no_address_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "access.log"
    log.write_text('192.0.2.1 - - [01/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 5\n')
    monkeypatch.setenv("ASGI_ANALYTICS_SHARED", "localhost:6379")
    assert called("replay", str(log)).returncode == 0
    told = [line for line in called("doctor", "--dsn", NOWHERE).stdout.splitlines() if "shared quotas" in line]
    assert len(told) == 1
    assert told[0].startswith("WRONG shared quotas: Option ASGI_ANALYTICS_SHARED='…' is not allowed")
    assert told[0].endswith("mend ASGI_ANALYTICS_SHARED: meanwhile no app starts")
