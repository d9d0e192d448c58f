"""How `asgi-analytics replay` reads files, pipes and gzip, in whatever order they are given, with junk among them."""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
from pathlib import Path

import pytest

from asgi_analytics import cli
from asgi_analytics.replay import source
from tests import loaded
from tests.replay.lines import combined, scraper
from tests.replay.rig import Pipe, replay, write


def test_all_kinds_of_input_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = scraper(60)
    plain = write(tmp_path / "plain.log", *lines)
    dos = write(tmp_path / "dos.log", f"\ufeff{lines[0]}", *lines[1:], newline="\r\n")
    packed, halves = tmp_path / "log.gz", tmp_path / "two members"
    whole = Path(plain).read_bytes()
    packed.write_bytes(gzip.compress(whole))
    halves.write_bytes(gzip.compress(whole[:3000]) + gzip.compress(whole[3000:]) + bytes(512))
    expected = replay(capsys, plain)
    assert all(replay(capsys, str(path)) == expected for path in (dos, packed, halves))
    for given in (whole, packed.read_bytes(), whole.removesuffix(b"\n")):
        assert json.loads(loaded.run("replay", "-", "--export", "json", given=given).stdout) == expected


def test_what_a_pipe_gives_first_decides_no_format_unless_it_has_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server says that it has started; its log of JSON lines follows."""
    hit = {"time": "2026-03-01T12:00:00Z", "ip": "192.0.2.1", "method": "GET", "path": "/", "status": 200}
    given = Pipe(b"INFO: started\n" + json.dumps(hit).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    assert cli.main(["replay", "-"]) == 0
    assert "2 read (json), 1 judged, 1 junk" in capsys.readouterr().out


def test_a_gzip_file_that_ends_early_is_read_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(1)
    lines = [combined(n, f"/{draw.randbytes(30).hex()}") for n in range(5000)]
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    found = replay(capsys, str(tmp_path / "cut.gz"))
    assert 2000 < found["lines"]["read"] < 3000
    assert found["lines"]["junk"] <= 1
    assert "cut.gz ends early: the compressed data is cut off" in found["notes"][0]
    (tmp_path / "bad.gz").write_bytes(packed[:2000] + b"garbage" * 10 + packed[2000:])
    assert cli.main(["replay", str(tmp_path / "bad.gz")]) in (0, 1)
    assert "bad.gz ends early" in capsys.readouterr().out


def test_files_in_any_order_are_replayed_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = scraper(90)
    expected = replay(capsys, write(tmp_path / "all", *lines))
    rotated = [write(tmp_path / f"log.{n}", *lines[30 * n : 30 * n + 30]) for n in (2, 0, 1)]
    assert replay(capsys, *rotated) == expected
    # Two hosts behind one balancer: their times interleave.
    hosts = [write(tmp_path / f"host.{n}", *lines[n::2]) for n in (1, 0)]
    assert replay(capsys, *hosts)["actors"] == expected["actors"]


def test_late_lines_are_counted_and_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [combined(n, f"/{n}") for n in range(100)]
    random.Random(2).shuffle(lines)
    found = replay(capsys, write(tmp_path / "access.log", *lines))
    assert found["lines"]["judged"] == 100
    assert 0 < found["lines"]["late"] < 100
    assert found["period"][1] == "2026-03-01T12:01:39+00:00"


def test_newest_first_is_told_in_the_report_and_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer, older = [combined(7200 + n) for n in range(80)], [combined(n) for n in range(20)]
    told = "20 lines are older than ones before them: verdicts are not to be trusted. Give the files as arguments"
    path = write(tmp_path / "access.log", *newer, *older)
    assert cli.main(["replay", path]) == 0
    printed = capsys.readouterr()
    assert f"Note: {told}" in printed.out
    assert printed.err.startswith(f"asgi-analytics: {told}")
    (note,) = replay(capsys, path)["notes"]
    assert note.startswith(told)
    files = write(tmp_path / "newer", *newer), write(tmp_path / "older", *older)
    assert replay(capsys, *files)["notes"] == []


@pytest.mark.parametrize("place", [0, 1, 30, 55])
@pytest.mark.parametrize("wrong", [1, 2])
def test_a_line_of_a_wrong_year_is_junk_and_makes_no_other_late(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int, wrong: int
) -> None:
    lines = [combined(n * 10, f"/{n}") for n in range(60)]
    lines[place:place] = [combined(5 * 365 * 86_400)] * wrong
    path = write(tmp_path / "access.log", *lines)
    found = replay(capsys, path)
    assert found["lines"] == {
        "read": 60 + wrong, "junk": wrong, "judged": 60, "malformed": 0, "outside_period": 0, "late": 0
    }  # fmt: skip
    assert cli.main(["replay", path]) == 0
    assert "Junk: 198.51.100.7 … [2031-02-28 12:00:00] … is later than what follows" in capsys.readouterr().out


def test_a_pause_of_days_is_none_of_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = [combined(n * 2 * 86_400) for n in range(30)]
    busy = [combined(90 * 86_400 + n) for n in range(300)]
    monkeypatch.setattr(source, "CHUNK", 1000)  # a few lines at once
    found = replay(capsys, write(tmp_path / "access.log", *rare, *busy, combined(99 * 86_400)))
    assert (found["lines"]["judged"], found["lines"]["junk"], found["lines"]["late"]) == (331, 0, 0)


def test_junk_is_counted_sampled_and_cannot_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junk = ["\x1b[2Jcleared", "nothing", "", "\udcff\udcfe", combined().replace("Mar", "Foo")]
    path = write(tmp_path / "access.log", combined(agent="\x1b]0;title\x07", target="/\x1b[31m"), *junk)
    assert cli.main(["replay", path]) == 0
    report = capsys.readouterr().out
    assert "1 judged, 4 junk" in report
    assert "Junk: \\x1b[2Jcleared" in report
    assert "\\x1b]0;title" in report
    assert "\x1b" not in report
    assert "\x07" not in report


def test_a_very_long_line_is_junk_and_its_neighbours_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * (3 * source.LONGEST_LINE)
    path = write(tmp_path / "access.log", combined(), long, combined(1), combined(2, "/" + "y" * 100_000))
    found = replay(capsys, path)
    assert (found["lines"]["judged"], found["lines"]["junk"]) == (3, 1)


@pytest.mark.parametrize("size", [100, 600_000, 3_000_000])
def test_the_hole_that_copytruncate_leaves_belongs_to_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(
        b"\0" * size
        + b"".join(combined(n).encode() + b"\n" for n in range(3))
        + b"\0" * size
        + combined(4).encode()
        + b"\n"
    )
    found = replay(capsys, str(path))
    assert [(one["actor"], one["requests"]) for one in found["actors"]] == [("198.51.100.7", 4)]


def test_words_in_front_of_all_lines_that_are_not_known_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [combined(number, address=f"198.51.100.{number % 50}") for number in range(120)]
    log = write(tmp_path / "access.log", *(f"pod-{number % 2} web {line}" for number, line in enumerate(lines)))
    assert cli.main(["replay", log]) == 0
    assert "no line begins with an address, but with 'pod-0': cut off" in capsys.readouterr().err
    assert cli.main(["replay", write(tmp_path / "plain.log", *lines)]) == 0
    assert capsys.readouterr().err == ""
