from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from asgi_analytics.commands.tail import LEFT_OUT, followed, hit_line
from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.store.migrate import migrate
from asgi_analytics.store.reading import HitRow
from tests.acceptance.wire import Wire
from tests.command import COMMAND, heed_ctrl_c, run
from tests.drive import NOWHERE, called

from .hits import ADD_HIT, add_hit

LONGER = """
UPDATE analytics.hits SET time = time - interval '10 minutes', duration_us = 600000000 WHERE path = '/stream'
"""


@contextmanager
def following(dsn: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, "tail", "-f", "--dsn", dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what select() says holds
        preexec_fn=heed_ctrl_c,
    ) as tail:
        try:
            yield tail
        finally:
            tail.kill()


def next_line(tail: subprocess.Popen[bytes]) -> str:
    assert tail.stdout is not None
    assert select.select([tail.stdout], [], [], 15)[0], "nothing came"
    return tail.stdout.readline().decode()


def test_tail_escapes_what_a_visitor_sent(dsn: str) -> None:
    add_hit(dsn, "/\x1b[2J\nGET /fake\u202e")
    lines = called("tail", "--dsn", dsn).stdout.splitlines()
    assert len(lines) == 1
    assert "/\\x1b[2J\\nGET /fake\\u202e" in lines[0]
    assert lines[0].isprintable()


def test_tail_tells_programs_the_same_as_people(dsn: str) -> None:
    add_hit(dsn, "/\x1b[2J\nGET /fake\u202e")
    add_hit(dsn, "/second")
    lines = called("tail", "--json", "--dsn", dsn).stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/\x1b[2J\nGET /fake\u202e", "/second"]
    assert all(line.isascii() and line.isprintable() for line in lines)
    hit = json.loads(lines[1])
    assert (hit["method"], hit["level"], hit["outcome"]) == ("GET", "warning", "complete")
    assert (hit["site"], hit["decision_id"]) == ("default", None)
    assert datetime.fromisoformat(hit["time"]).tzinfo is not None


def test_tail_shows_one_site_only(dsn: str) -> None:
    add_hit(dsn, "/mine", "mine")
    add_hit(dsn, "/other", "other")
    shown = called("tail", "--site", "mine", "--dsn", dsn).stdout
    assert "/mine" in shown
    assert "/other" not in shown


def test_tail_says_that_a_site_has_no_hit_which_may_be_a_slip_in_its_name(dsn: str) -> None:
    add_hit(dsn, "/mine", "mine")
    answer = called("tail", "--site", "mien", "--dsn", dsn)
    assert (answer.returncode, answer.stdout) == (0, "")
    assert answer.stderr == "asgi-analytics: no hit of site 'mien' is stored yet\n"


def test_a_line_of_tail_has_a_sign_where_something_is_not_known() -> None:
    now = datetime(2026, 11, 24, 1, 2, 3, 456_789, UTC)
    hit = HitRow(uuid4(), now, "GET", "/", None, None, None, None, 3, 90, "aborted")
    texts = hit_line(hit).split()
    assert texts == ["01:02:03.456", "GET", "/", "-", "-", "-", "-", "blocked", "90", "aborted"]


def test_tail_follows_new_hits_and_shows_each_once_until_ctrl_c(dsn: str) -> None:
    add_hit(dsn, "/first")
    with following(dsn) as tail:
        assert "/first" in next_line(tail)
        for path in ("/second", "/third"):
            add_hit(dsn, path)
            assert path in next_line(tail)
        tail.send_signal(signal.SIGINT)
        rest, errors = tail.communicate(timeout=10)
    assert (tail.returncode, rest, errors) == (130, b"", b"")


def test_tail_follows_for_nobody_once_its_reader_has_left_though_no_hit_comes(dsn: str) -> None:
    add_hit(dsn, "/first")
    with following(dsn) as tail:
        assert "/first" in next_line(tail)
        assert tail.stdout is not None
        tail.stdout.close()
        assert tail.wait(15) == 141


def test_tail_follows_what_began_before_others_and_ends_after_them(dsn: str) -> None:
    """The time of a hit is that of its beginning: a stream would never be shown."""
    add_hit(dsn, "/before")
    with following(dsn) as tail:
        assert "/before" in next_line(tail)
        with psycopg.connect(dsn) as connection:
            connection.execute(ADD_HIT, {"id": uuid4(), "path": "/stream", "site": "default"})
            connection.execute(LONGER)
        assert "/stream" in next_line(tail)
        add_hit(dsn, "/after")
        assert "/after" in next_line(tail)


def test_tail_follows_on_where_the_clock_of_a_worker_is_ahead(dsn: str) -> None:
    add_hit(dsn, "/ahead")
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE analytics.hits SET time = time + interval '1 year'")
    with following(dsn) as tail:
        assert "/ahead" in next_line(tail)
        add_hit(dsn, "/now")
        assert "/now" in next_line(tail)


def test_tail_follows_on_after_an_outage_which_it_reports_once(own_postgres: EmbeddedPostgres) -> None:
    dsn = own_postgres.dsn
    migrate(dsn)
    add_hit(dsn, "/before")
    with following(dsn) as tail:
        assert "/before" in next_line(tail)
        own_postgres.kill()
        with socket.create_server(("127.0.0.1", urlsplit(dsn).port or 0)) as listening:
            for _ in range(2):  # attempts
                listening.accept()[0].close()
        own_postgres.start()
        add_hit(dsn, "/after")
        assert "/after" in next_line(tail)
        tail.send_signal(signal.SIGINT)
        rest, errors = tail.communicate(timeout=10)
    assert (tail.returncode, rest) == (130, b"")
    (told,) = errors.decode().splitlines()
    assert told.startswith("asgi-analytics: ")
    assert told.endswith("(trying again)")


def test_tail_follows_on_where_a_server_freezes_which_keeps_the_connection_alive(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (
        ("commands.tail.PATIENCE", 0.3),
        ("store.command_session.GRACE", 0.1),
        ("commands.tail.PAUSE", 0.0),
    ):
        monkeypatch.setattr(f"asgi_analytics.{name}", seconds)
    add_hit(dsn, "/before")
    told: list[str] = []
    with Wire(dsn) as wire, ExitStack() as frozen:

        def report(text: str) -> None:
            told.append(text)
            frozen.close()

        polls = followed(wire.dsn, 5, None, report)
        assert [hit.path for hit in next(polls)] == ["/before"]
        frozen.enter_context(wire.broken("deaf"))
        assert next(polls) == []
    assert told == ["No connection to Postgres: no answer within 0.4 s (trying again)"]


def test_more_hits_at_once_than_a_poll_brings_are_told(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_analytics.commands.tail.MAX_FOLLOWED", 3)
    monkeypatch.setattr("asgi_analytics.commands.tail.POLL", 0.0)
    told: list[str] = []
    polls = followed(dsn, 5, None, told.append)
    shown: list[str] = []
    for paths in (["/a"], ["/b", "/c"], ["/d", "/e"], ["/f", "/g", "/h", "/i"], []):
        for path in paths:
            add_hit(dsn, path)
        shown += [hit.path for hit in next(polls)]
        assert len(told) == (shown[-1] == "/i")
    assert shown == ["/a", "/b", "/c", "/d", "/e", "/g", "/h", "/i"]
    assert told == [LEFT_OUT]


def test_a_database_that_is_not_there_at_first_is_an_error_also_of_following() -> None:
    answer = run("tail", "-f", "--dsn", NOWHERE)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("asgi-analytics: No connection to Postgres: ")
