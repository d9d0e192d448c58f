"""`asgi-analytics replay`, as people run it: real files, the real command, its output and its exit status."""

from __future__ import annotations

import csv
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_analytics import cli
from asgi_analytics.replay import tally
from tests import loaded
from tests.replay.lines import CHROME, combined, scraper
from tests.replay.rig import replay, write

OLD = CHROME.replace("130", "85")


def moment(line: str) -> str:
    return line.partition("[")[2][:20]


def test_a_log_is_judged_as_if_we_had_been_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = [combined(n * 20, f"/shop/{n % 7}", "192.0.2.1", referer="https://shop.example/") for n in range(20)]
    bot = [combined(n * 60, "/", "192.0.2.2", agent="Mozilla/5.0 (compatible; Googlebot/2.1)") for n in range(5)]
    program = [combined(n * 60, "/feed", "192.0.2.3", agent="Thingummy/1.0") for n in range(5)]
    path = write(tmp_path / "access.log", *people, *bot, *program, *scraper(200))
    assert cli.main(["replay", path]) == 0
    report = capsys.readouterr().out
    assert "230 read (combined), 230 judged" in report
    assert "else shop.example, as most Referers say" in report
    found = replay(capsys, path)
    classes = {name: one["actors"] for name, one in found["classes"].items()}
    assert classes == {"human": 1, "search-engine": 1, "unknown program": 1, "behavioural bot": 1}
    worst = found["actors"][0]
    assert (worst["actor"], worst["level"], worst["class"]) == ("203.0.113.9", "blocked", "behavioural bot")
    assert worst["refused"] > 50
    assert "page loads" in worst["reasons"]
    assert found["routes"][0] == {
        "route": "/catalogue/{}", "requests": 200, "page_loads": 200 - worst["refused"], "errors": 0,
        "refused": worst["refused"],
    }  # fmt: skip


def test_a_walk_by_query_in_a_log_is_found_and_a_list_that_is_paged_through_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bot = [combined(n * 3, f"/item.php?id={n}&utm_source=x", "203.0.113.9") for n in range(200)]
    list_walker = [combined(n * 3, f"/items?page={n}", "203.0.113.10") for n in range(200)]
    own = "https://shop.example/forum"
    reader = [combined(n * 3, f"/topic?t=5&start={n * 15}", "192.0.2.1", referer=own) for n in range(200)]
    filters = [combined(n * 3, f"/shop?brand={n}&sort=price", "192.0.2.2", referer=own) for n in range(200)]
    found = replay(capsys, write(tmp_path / "access.log", *sorted(bot + list_walker + reader + filters, key=moment)))
    assert {one["actor"]: one["class"] for one in found["actors"]} == {
        "203.0.113.9": "behavioural bot", "203.0.113.10": "behavioural bot",
        "192.0.2.1": "human", "192.0.2.2": "human",
    }  # fmt: skip


def test_a_log_without_referers_does_not_tell_who_follows_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [combined(n * 10, f"/topic?t=5&start={n * 15}").rpartition(' "-" ')[0] for n in range(200)]
    (reader,) = replay(capsys, write(tmp_path / "access.log", *lines))["actors"]
    assert (reader["level"], reader["score"]) == ("normal", 0)


def test_refused_requests_are_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [combined(n * 0.1, f"/missing/{n}", status=404) for n in range(100)]
    found = replay(capsys, write(tmp_path / "access.log", *lines), "--limits", "10/minute")
    (actor,) = found["actors"]
    assert (actor["requests"], actor["errors"], actor["refused"]) == (100, 10, 90)
    assert (actor["level"], actor["first_refused_request"], actor["violated"]) == ("normal", 11, "minute:90")


def test_a_flood_under_ever_new_names_is_counted_whole_in_bounded_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [combined(n / 100, "/", "203.0.113.9", agent=f"{CHROME} {n}") for n in range(300)]
    path = write(tmp_path / "access.log", *lines)

    def counted() -> str:
        assert cli.main(["replay", path, "--network-limits", "50/minute"]) == 0
        report = capsys.readouterr().out
        return report[report.index("Classes") : report.index("\n  actor")]

    whole = counted()
    assert "Refused: 250 requests of 250 actors" in whole
    monkeypatch.setattr(tally, "MAX_ACTORS", 40)
    assert counted() == whole
    assert len(replay(capsys, path, "--network-limits", "50/minute")["actors"]) <= 40


def test_policy_options_change_what_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "access.log", *(combined(n * 30, f"/{n}", agent=OLD) for n in range(3)))
    assert replay(capsys, path)["actors"][0]["score"] == 10
    assert replay(capsys, path, "--points", "outdated_browser=60")["actors"][0]["class"] == "behavioural bot"
    both = ("--points", "outdated_browser=60", "--bot-score", "70")
    assert replay(capsys, path, *both)["actors"][0]["class"] == "human"
    shorter = replay(capsys, path, "--thresholds", "high_request_count=1", "--network-limits", "2/day")
    assert (shorter["actors"][0]["score"], shorter["actors"][0]["refused"]) == (40, 1)


def test_a_csv_file_holds_no_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agents = ["=cmd|'/C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\tx", 'a "quoted", one', "\x1b[1m", "＝1"]
    lines = [combined(n, agent=agent.replace('"', r"\"")) for n, agent in enumerate(agents)]
    path, out = write(tmp_path / "access.log", *lines), tmp_path / "out.csv"
    assert cli.main(["replay", path, "--export", "csv", "-o", str(out)]) == 0
    assert "Classes" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert {row["user_agent"] for row in rows} == {
        "'=cmd|'/C calc'!A0", "'+1", "'-2+3", "'@SUM(A1)", "'\\tx", 'a "quoted", one', "\\x1b[1m", "'＝1",
    }  # fmt: skip
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_a_period_leaves_out_what_is_not_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "access.log", *(combined(n * 60, f"/{n}") for n in range(10)))
    found = replay(capsys, path, "--since", "2026-03-01T12:03", "--until", "2026-03-01T14:05+02:00")
    assert (found["lines"]["judged"], found["lines"]["outside_period"]) == (2, 8)


def test_addresses_behind_a_trusted_proxy_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [combined(n, address="10.0.0.1", more=f' "203.0.113.{n}"') for n in range(5)]
    path = write(tmp_path / "access.log", *lines)
    assert len(replay(capsys, path)["actors"]) == 1
    found = replay(capsys, path, "--trusted-proxies", "10.0.0.0/8")
    assert sorted(one["actor"] for one in found["actors"]) == [f"203.0.113.{n}" for n in range(5)]


def test_proxies_and_hosts_may_be_told_with_commas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "access.log", combined())
    options = ("--trusted-proxies", "10.0.0.0/8,192.0.2.1", "--host", "a.example,b.example")
    assert cli.main(["replay", path, *options]) == 0
    assert "Own host    a.example, b.example" in capsys.readouterr().out


@pytest.mark.parametrize("top", ["0", "-5", "some"])
def test_as_many_actors_as_nobody_can_show_are_wrong_usage(top: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["replay", "access.log", "--top", top])
    assert "is not a whole number from 1 to" in capsys.readouterr().err


def test_host_names_in_place_of_addresses_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [combined(n, address=name) for n, name in enumerate(("a.example", "b.example", "a.example"))]
    found = replay(capsys, write(tmp_path / "access.log", *lines))
    assert [(one["actor"], one["requests"]) for one in found["actors"]] == [("a.example", 2), ("b.example", 1)]


def test_an_ipv6_network_has_one_outer_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [combined(n * 0.01, address=f"2001:db8::{n:x}", agent=f"{CHROME} {n}") for n in range(500)]
    found = replay(capsys, write(tmp_path / "access.log", *lines), "--network-limits", "100/minute")
    assert found["lines"]["judged"] == 500
    assert sum(one["refused"] for one in found["actors"]) == 400


def test_errors_that_the_site_links_itself_are_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [combined(n, f"/gone/{n}", status=404, referer="https://shop.example/list") for n in range(60)]
    path = write(tmp_path / "access.log", *lines)
    for own in ("shop.example", "SHOP.example:443", "https://shop.example/"):
        assert replay(capsys, path, "--host", own)["actors"][0]["level"] == "normal", own
    assert replay(capsys, path, "--host", "other.example")["actors"][0]["level"] != "normal"


def test_guesses_in_queries_of_a_log_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tries = [combined(n, f"/reset?token={n:06}", "192.0.2.1", 404, agent="curl/8.16.0") for n in range(90)]
    polls = [combined(n, f"/reset?token=5f3a&_={n}", "192.0.2.2", 404, agent="curl/8.16.0") for n in range(90)]
    found = {one["actor"]: one for one in replay(capsys, write(tmp_path / "a.log", *tries, *polls))["actors"]}
    assert found["192.0.2.1"]["refused"] > 0
    assert found["192.0.2.2"]["level"] == "normal"


def test_who_left_before_there_was_an_answer_failed_at_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [combined(n, f"/page/{n}", status=499) for n in range(60)]
    lines += [combined(60 + n, f"/api/{n}", status=499, method="POST") for n in range(60)]
    (actor,) = replay(capsys, write(tmp_path / "access.log", *lines))["actors"]
    assert (actor["requests"], actor["errors"], actor["level"]) == (120, 0, "normal")


def test_requests_that_no_app_would_see_are_set_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        combined(),
        combined().replace("GET / HTTP/1.1", r"\x16\x03\x01"),
        combined().replace("GET / HTTP/1.1", "-"),
    ]
    found = replay(capsys, write(tmp_path / "access.log", *lines))
    assert (found["lines"]["judged"], found["lines"]["malformed"], found["lines"]["junk"]) == (1, 2, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.log",), "missing.log cannot be read: No such file or directory."),
        (("{log}", "--output", "x"), "--output is where --export csv or json goes"),
        (("{log}", "--format", "json"), "is of a known format"),
        (("{log}", "--since", "2015-05-18", "--until", "2015-05-17"), "--since has to be before --until"),
        (("{log}", "--limits", "x"), "Option limits='x' is not allowed"),
        (("{log}", "--export", "csv", "-o", "/nowhere/x"), "/nowhere/x cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    log = write(tmp_path / "access.log", combined())
    assert cli.main(["replay", *(one.format(log=log) for one in arguments)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_of_a_file_that_is_no_log_there_are_no_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", write(tmp_path / "notes.txt", "# a heading")]) == 1
    out, error = capsys.readouterr()
    assert "Junk: # a heading" in out
    assert "Busiest actors" not in out
    assert "is of a known format (combined, common, vhost, json)" in error


def test_an_empty_log_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", write(tmp_path / "empty.log")]) == 1
    assert "No line of" in capsys.readouterr().err


def test_a_bar_is_drawn_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    path = write(tmp_path / "access.log", *scraper(50))
    assert loaded.run("replay", path).stderr == b""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "asgi_analytics", "replay", path]
    subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    drawn = os.read(ours, 65536)
    os.close(ours)
    assert b"] 100%" in drawn
    assert drawn.endswith(b"\r\x1b[K")


def test_a_reader_who_leaves_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "access.log", *(combined(n, address=f"10.0.{n % 250}.{n // 250}") for n in range(8_000)))
    command = f"{sys.executable} -m asgi_analytics replay {path} --export json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""


def test_a_log_is_not_written_over_by_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "access.log", combined(0))
    (tmp_path / "same.csv").symlink_to(path)
    assert cli.main(["replay", path, "--export", "csv", "-o", str(tmp_path / "same.csv")]) == 1
    assert "is one of the logs that are read" in capsys.readouterr().err
    assert Path(path).read_text() == combined(0) + "\n"


def test_a_service_without_standard_error_gets_its_report(tmp_path: Path) -> None:
    path = write(tmp_path / "access.log", combined(0))
    shell = f"{sys.executable} -m asgi_analytics replay {path} 2>&-"
    done = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, b"1 judged" in done.stdout) == (0, True)
