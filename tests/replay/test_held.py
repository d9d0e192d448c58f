"""What a replay holds before it judges, and while it does."""

from __future__ import annotations

import gc
import gzip
import io
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from asgi_analytics.model import Visitor
from asgi_analytics.replay.formats import make
from asgi_analytics.replay.run import Replay
from asgi_analytics.replay.source import Reading, entries
from asgi_analytics.settings import Settings
from tests.replay.lines import combined
from tests.replay.rig import Pipe, replay, write


def test_a_pipe_that_gives_line_by_line_comes_to_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One's own host is told by the Referers of many lines, which the first that come have not."""
    first = [combined(n) for n in range(20)]
    gone = [combined(20 + n, f"/gone/{n}", status=404, referer="https://shop.example/list") for n in range(60)]
    path = write(tmp_path / "access.log", *first, *gone)
    expected = replay(capsys, path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(Path(path).read_bytes())))
    assert replay(capsys, "-") == expected


def test_visitors_that_are_forgotten_are_counted_without_being_held() -> None:
    lines = "\n".join(combined(n, address=f"10.0.{n // 250}.{n % 250}") for n in range(1_000))
    done = Replay(Settings.build(max_visitors=100))
    done.run([make("combined").read(lines)[0]])
    assert len(done.tally.actors) == 1_000
    assert 0 < sum(isinstance(one, Visitor) for one in _held_by(done)) < 200


def _held_by(root: object) -> Iterator[object]:
    """Return all that an object refers to, by way of others, too; but for types, modules and functions."""
    found, left = {id(root)}, [root]
    while left:
        one = left.pop()
        yield one
        if not isinstance(one, (type, ModuleType, FunctionType)):
            new = [other for other in gc.get_referents(one) if id(other) not in found]
            found.update(map(id, new))
            left.extend(new)


@pytest.mark.parametrize("zipped", [False, True])
def test_of_many_files_little_is_read_before_their_turn(tmp_path: Path, zipped: bool) -> None:
    """A year of logs, all of which are begun at once to be merged by time, took half a gigabyte."""
    paths = [tmp_path / f"access.log.{n}" for n in range(20)]
    for day, path in enumerate(paths):
        text = "".join(f"{combined(day * 80_000 + n, f'/{n}')}\n" for n in range(1_500)).encode()
        path.write_bytes(gzip.compress(text) if zipped else text)
    reading = Reading()
    next(entries([str(path) for path in paths], None, reading))
    assert reading.lines < 20 * 150


def test_more_logs_than_may_be_open_are_read_where_the_system_allows_more(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"access.log.{n}", combined(n)) for n in range(80)]
    command = shlex.join([sys.executable, "-m", "asgi_analytics", "replay", *paths])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -S -n 64; {command}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert "80 read (combined), 80 judged" in done.stdout
