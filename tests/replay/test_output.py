"""Where the result of a replay goes, and what a terminal shows when there is none."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_analytics import cli
from tests.replay.lines import combined, scraper
from tests.replay.rig import write


def test_that_an_export_cannot_be_written_is_said_before_a_log_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "missing" / "x.csv", "No such file or directory"),
        (tmp_path / "file" / "x.csv", "Not a directory"),
    ):
        assert cli.main(["replay", "unread.log", "--export", "csv", "-o", str(place)]) == 1
        assert capsys.readouterr().err == f"asgi-analytics: {place} cannot be written: {why}.\n"


def test_an_export_may_go_into_a_pipe_of_the_shell(tmp_path: Path) -> None:
    path = write(tmp_path / "access.log", combined())
    command = shlex.join([sys.executable, "-m", "asgi_analytics", "replay", path, "--export", "csv", "-o", "/dev/fd/3"])
    shell = f"{{ {command} 3>&1 >/dev/null; }} | cat"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("actor,class,")


def test_an_error_stands_on_a_line_of_its_own_where_a_bar_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    good, bad = write(tmp_path / "access.log", *scraper(50)), tmp_path / "wide.log"
    bad.write_bytes(combined().encode("utf-16"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "asgi_analytics", "replay", good, str(bad)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    drawn = os.read(ours, 65536)
    os.close(ours)
    assert done.returncode == 1
    assert b"%" in drawn
    assert drawn.rpartition(b"\r\x1b[K")[2].startswith(b"asgi-analytics: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_has_no_room_for_all_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    """Unbuffered, Python takes the part that was written for all."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    path = write(tmp_path / "access.log", *(combined(n, address=f"10.0.{n // 250}.{n % 250}") for n in range(500)))
    command = [sys.executable, "-m", "asgi_analytics", "replay", path, "--export", "json"]
    shell = f"ulimit -f 64; {shlex.join(command)} > {shlex.quote(str(tmp_path / 'out.json'))}"
    full = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (full.returncode, full.stderr) == (1, "asgi-analytics: File too large\n")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        left.stdout.read(1)
    assert left.returncode == 141
