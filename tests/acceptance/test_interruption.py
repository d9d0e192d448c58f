"""Ctrl-C and SIGTERM at any moment of a command: a status that shells know, no traceback, nothing half done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.command import COMMAND, heed_ctrl_c
from tests.drive import called
from tests.servers import free_port
from tests.waiting import wait_until

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
BOTH = pytest.mark.parametrize("number", STATUS)
LOCK = 0x6173_6769
LOG = '192.0.2.{0} - - [01/Jan/2026:00:00:{1:02} +0000] "GET /{2} HTTP/1.1" 200 1 "-" "curl/8.0"\n'


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that has got to our first line: from there on it heeds SIGTERM."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,  # open: what reads it waits
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        try:
            wait_until(lambda: heeds_sigterm(process.pid), 20, "our first line")
            yield process
        finally:
            process.kill()


def heeds_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def end(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Interrupt it, and see that it says nothing of that."""
    process.send_signal(number)
    said = process.communicate(timeout=20)
    assert (process.returncode, said) == (STATUS[number], ("", ""))


def test_nothing_else_is_loaded_before_signals_are_heeded() -> None:
    code = "import sys, asgi_analytics.__main__; print(sorted(one for one in sys.modules if 'analytics' in one))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "['asgi_analytics', 'asgi_analytics.__main__', 'asgi_analytics.errors']\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process heeds")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
@BOTH
def test_a_command_that_has_hardly_begun_ends_without_a_word(number: signal.Signals, delay: float) -> None:
    with started("replay", "-") as process:
        time.sleep(delay)
        end(process, number)


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup, or in the background of a script."""
    log = tmp_path / "access.log"
    log.write_text("".join(LOG.format(one % 250, one % 60, one) for one in range(20_000)))
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND, "replay", str(log)], stdout=subprocess.PIPE
    ) as process:
        for _ in range(10):
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        assert b"20,000" in process.communicate(timeout=60)[0]
    assert process.returncode == 0


@BOTH
def test_an_interrupted_migration_is_begun_again(empty_dsn: str, number: signal.Signals) -> None:
    """At a lock of another, and in the middle of the files."""
    with psycopg.connect(empty_dsn) as other, started("migrate", "--dsn", empty_dsn) as process:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        wait_until(lambda: tries(empty_dsn), 20, "the try")
        end(process, number)
    with started("migrate", "--dsn", empty_dsn) as process:
        wait_until(lambda: applied(empty_dsn) > 2, 20, "the first migrations")
        process.send_signal(number)
        said = process.communicate(timeout=20)
        assert (process.returncode, said[1]) in ((STATUS[number], ""), (0, ""))
    assert called("migrate", "--dsn", empty_dsn).returncode == 0
    assert called("migrate", "--dsn", empty_dsn).stdout == "up to date\n"


def tries(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'asgi-analytics migrate'"
        return connection.execute(query).fetchone() is not None


def applied(dsn: str) -> int:
    with psycopg.connect(dsn) as connection, contextlib.suppress(psycopg.errors.UndefinedTable):
        row = connection.execute("SELECT count(*) FROM analytics.migrations").fetchone()
        return row[0] if row else 0
    return 0


@BOTH
def test_an_interrupted_purge_leaves_whole_batches_and_is_gone_on_with(dsn: str, number: signal.Signals) -> None:
    with psycopg.connect(dsn) as other:
        other.execute(
            "INSERT INTO analytics.refusals (minute, site, fingerprint, network, refusals)"
            " SELECT '2020-01-01', 'default', gen_random_uuid(), gen_random_uuid(), 1 FROM generate_series(1, 25000)"
        )
        other.commit()
        other.execute("LOCK TABLE analytics.hits")  # which come last
        with started("purge", "--older", "30d", "--yes", "--dsn", dsn) as process:
            wait_until(lambda: rows(dsn) == 0, 20, "the refusals' end")
            end(process, number)
    assert "0 rows of refusals deleted" in called("purge", "--older", "30d", "--yes", "--dsn", dsn).stdout


def rows(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM analytics.refusals").fetchone()
        return row[0] if row else 0


@BOTH
def test_an_interrupted_update_leaves_the_files_of_before(tmp_path: Path, number: signal.Signals) -> None:
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.mkdir()
    (given / "b.json").write_text('{"prefixes": [{"ipv4Prefix": "192.0.2.0/24"}]}')
    (given / "names.json").write_text('{"a": "", "b": ""}')
    os.mkfifo(given / "a.json")
    update = ("data", "update", "--from", str(given), "--dir", str(kept), "--sources", str(given / "names.json"))
    with started(*update) as process:
        wait_until(kept.is_dir, 20, "the first file's turn")
        end(process, number)
    assert list(kept.iterdir()) == []
    (given / "a.json").unlink()
    assert "1 of 2 files" in called(*update).stdout


@BOTH
def test_an_interrupted_replay_leaves_the_file_of_its_export_as_it_was(tmp_path: Path, number: signal.Signals) -> None:
    found = tmp_path / "found.json"
    found.write_text("as it was")
    with started("replay", "-", "--export", "json", "-o", str(found)) as process:
        assert process.stdin is not None
        process.stdin.writelines(LOG.format(one % 250, one % 60, one % 999) for one in range(10_000))
        process.stdin.flush()  # far more than a pipe holds: it reads
        end(process, number)
    assert found.read_text() == "as it was"
    assert [one.name for one in tmp_path.iterdir()] == ["found.json"]


@BOTH
def test_a_demo_that_is_interrupted_before_it_serves_ends_its_postgres(
    cluster_folder: Path, number: signal.Signals
) -> None:
    with started("demo", "--port", str(free_port()), "--data", str(cluster_folder), "--traffic") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Starting a Postgres")
        time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=20)
    assert (process.returncode, said) == (STATUS[number], ("", ""))
    assert not (cluster_folder / "cluster/postmaster.pid").exists()
