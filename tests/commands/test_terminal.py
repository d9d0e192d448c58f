"""What commands draw on terminals of any width and kind, and where their output cannot go."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import socket
import struct
import subprocess
import termios
from pathlib import Path
from uuid import uuid4

import pytest

from asgi_analytics.demo.traffic import Progress
from tests import loaded
from tests.command import COMMAND
from tests.drive import called
from tests.replay.lines import scraper
from tests.servers import free_port

from .hits import add_hit

END = b"\0"
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")


def terminal(columns: int) -> tuple[int, int]:
    """Both ends of one so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


def all_drawn(ours: int, theirs: int) -> bytes:
    """What was written into one end, read at the other: it may come in parts."""
    os.write(theirs, END)
    drawn = b""
    while not drawn.endswith(END):
        drawn += os.read(ours, 65_536)
    return drawn.removesuffix(END)


def frames(drawn: bytes) -> list[str]:
    """What stood in the line, one after the other."""
    return [one.replace("\x1b[K", "").strip("\n") for one in re.split(r"\r+", drawn.decode())]


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "access.log"
    path.write_text("".join(f"{line}\n" for line in scraper(50)))
    return str(path)


def drawn_by_replay(log: str, columns: int, **environment: str) -> bytes:
    ours, theirs = terminal(columns)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TERM": "xterm", **environment}.items():
            patch.setenv(name, value)
        done = loaded.run("replay", log, stderr=theirs)
    assert (done.returncode, done.stdout[:6]) == (0, b"Period")
    drawn = all_drawn(ours, theirs)
    os.close(theirs)
    os.close(ours)
    return drawn


@pytest.mark.parametrize("columns", [10, 20, 40, 50, 80, 300])
def test_a_bar_is_never_wider_than_the_terminal(log: str, columns: int) -> None:
    shown = frames(drawn_by_replay(log, columns))
    assert max(map(len, shown)) < columns
    assert any("100%" in frame for frame in shown)
    assert any("#" in frame for frame in shown) == (columns >= 40)


def test_a_terminal_that_knows_no_cursor_gets_no_bar(log: str) -> None:
    assert drawn_by_replay(log, 80, TERM="dumb") == b""


def test_no_colour_is_ever_used(log: str) -> None:
    assert b"\x1b[" not in drawn_by_replay(log, 80, NO_COLOR="1").replace(b"\x1b[K", b"")


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_the_demo_uses_no_colour_where_none_is_wanted(dsn: str, tmp_path: Path, variable: dict[str, str]) -> None:
    port, (ours, theirs) = free_port(), terminal(80)
    environment = {**os.environ, "TERM": "xterm", "ASGI_ANALYTICS_DSN": dsn, **variable}
    command = [*COMMAND, "demo", "--port", str(port), "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as demo:
        os.close(theirs)
        shown = b""
        while b"stats --journal-dir" not in shown:
            shown += os.read(ours, 4_096)
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"no request\r\n\r\n")
            connection.recv(1_000)
        while b"Invalid HTTP" not in shown:
            shown += os.read(ours, 4_096)
        demo.terminate()
    os.close(ours)
    assert b"\x1b" not in shown


@pytest.mark.parametrize("columns", [10, 30, 60, 200])
@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_the_demo_s_traffic_is_told_on_any_terminal(columns: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", kind)
    ours, theirs = terminal(columns)
    with open(theirs, "w") as stream:
        progress = Progress(50, stream)
        for _ in range(50):
            progress.step()
        drawn = all_drawn(ours, theirs)
    os.close(ours)
    if kind == "dumb":
        assert b"\x1b" not in drawn
        assert len(drawn.splitlines()) == 11
    else:
        assert max(map(len, frames(drawn))) < columns


COMMANDS = (
    *(("stats",), ("stats", "--json"), ("actors",), ("actors", "--json"), ("quarantine", "list"), ("tail",)),
    *(("tail", "--json"), ("doctor",), ("migrate",), ("purge", "--older", "9d"), ("adopt",), ("pardon", "192.0.2.1")),
    *(("allow", "192.0.2.1"), ("ban", "192.0.2.1", "--for", "2h", "--reason", "x"), ("what-if", "--since", "1h")),
    *(("what-if", "--since", "1h", "--export", "json"), ("reclassify", "--since", "1h")),
)


@FULL
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_that_finds_no_room_or_no_reader_is_an_error_without_a_traceback(
    dsn: str, arguments: tuple[str, ...]
) -> None:
    add_hit(dsn, "/there")
    with open("/dev/full", "wb") as full:
        done = loaded.run(*arguments, "--dsn", dsn, stdout=full.fileno())
    assert (done.returncode, done.stderr) == (1, b"asgi-analytics: No space left on device\n")
    reader, pipe = os.pipe()
    os.close(reader)
    with open(pipe, "wb") as left:
        done = loaded.run(*arguments, "--dsn", dsn, stdout=left.fileno())
    assert (done.returncode, done.stderr) == (141, b"")


def limited() -> None:
    """Files of this process take a kilobyte, as on a disk that is nearly full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_an_export_that_finds_no_room_leaves_what_was_there(log: str, tmp_path: Path, kind: str) -> None:
    found = tmp_path / "found"
    found.write_text("as it was")
    more = [f"{line}\n".replace("203.0.113.9", f"10.0.0.{number}") for number, line in enumerate(scraper(50))]
    Path(log).write_text("".join(more))
    command = [*COMMAND, "replay", log, "--export", kind, "-o", str(found)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"asgi-analytics: {found} cannot be written: File too large.\n"
    assert found.read_text() == "as it was"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["access.log", "found"]


@FULL
def test_an_export_goes_to_what_is_no_plain_file_too(log: str, tmp_path: Path) -> None:
    answer = called("replay", log, "--export", "json", "-o", "/dev/full")
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)
    assert "/dev/full cannot be written: No space left on device" in answer.stderr
    assert called("replay", log, "--export", "json", "-o", "/dev/null").returncode == 0
    assert "cannot be written: Is a directory" in called("replay", log, "--export", "json", "-o", str(tmp_path)).stderr
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    assert called("replay", log, "--export", "json", "-o", str(link)).returncode == 0
    assert link.is_symlink()
    assert real.read_text().startswith("{")
    assert real.stat().st_mode & 0o777 == 0o640
    assert called("replay", log, "--export", "json", "-o", str(tmp_path / str(uuid4()) / "x")).returncode == 1
