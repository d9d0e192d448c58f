"""The command `quarantine`, as operators run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asgi_analytics.batch import Batch
from asgi_analytics.cli import main
from asgi_analytics.commands import quarantine
from asgi_analytics.commands.quarantine import _retry
from asgi_analytics.errors import RowRejected
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.quarantine import connect
from asgi_analytics.store.recorded import remember_policy
from tests.acceptance.faults.rows import Works
from tests.record.rows import NOW_US, batch, deliver, fetch, hit, one


@pytest.fixture
def poisoned(dsn: str) -> str:
    """A database with two rows set aside, one of which can be mended, and one damaged frame."""
    store = PostgresStore(lambda: dsn)
    store.connect()
    store.position(b"journal".ljust(16, b"."))
    store.quarantine(batch([hit("/good")]), "the schema was wrong then", "22001")
    store.quarantine(batch([hit("/bad").replace(b"/bad", b"/b\xff\xff")]), "invalid \x1b[31m byte", "22021")
    store.quarantine(batch([b"junk"], kind=b"?"), "checksum", None)
    store.close()
    return dsn


def run(capsys: pytest.CaptureFixture[str], dsn: str, *arguments: str) -> tuple[int, list[str]]:
    status = main(["quarantine", *arguments, "--dsn", dsn])
    told = capsys.readouterr()
    return status, (told.out + told.err).splitlines()


def test_list_shows_what_was_set_aside_and_why(poisoned: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, poisoned, "list")
    assert (status, len(lines)) == (0, 4)
    assert "the schema was wrong then" in lines[1]
    assert "22021" in lines[2]
    assert "\x1b" not in lines[2]
    assert "frame" in lines[3]
    assert lines[3].split()[5] == "4"


def test_a_list_says_when_there_is_more(poisoned: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, poisoned, "list", "--top", "2")[1][3:] == ["… and more (--top)"]
    assert len(run(capsys, poisoned, "list", "--top", "3")[1]) == 4


def test_what_cannot_be_read_is_not_read_either(poisoned: str) -> None:
    """Of foreign bytes, each row may be a megabyte, and a thousand are held at once while rows are tried again."""
    with connect(poisoned) as quarantine:
        found = [(row.readable, row.size > 0, len(row.raw) > 0) for row in quarantine.rows(None, 9)]
    assert found == [(True, True, True), (True, True, True), (False, True, False)]


def test_retry_stores_once_what_can_be_stored_and_keeps_the_rest(
    poisoned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for expected in ("1 row stored, 1 refused again", "0 rows stored, 1 refused again"):
        status, lines = run(capsys, poisoned, "retry")
        assert status == 0
        assert lines[-1].startswith(expected)
        assert [row["path"] for row in fetch(poisoned, "SELECT path FROM analytics.hits")] == ["/good"]
    assert one(poisoned, "SELECT hits FROM analytics.sessions") == {"hits": 1}
    assert one(poisoned, "SELECT count(*) AS n FROM analytics.quarantine") == {"n": 2}


def test_a_retry_that_fails_half_way_says_what_it_has_stored(poisoned: str, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(
        poisoned,
        """CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF OLD.id = 2 THEN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END IF; RETURN OLD; END $$;
        CREATE TRIGGER fail BEFORE DELETE ON analytics.quarantine FOR EACH ROW EXECUTE FUNCTION public.fail()""",
    )
    status, lines = run(capsys, poisoned, "retry")
    assert (status, len(lines)) == (1, 2)
    assert lines[0] == "1 row stored, 0 refused again, 0 damaged beyond reading"
    assert "disk full" in lines[1]


def test_purge_deletes_only_what_was_named(poisoned: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, poisoned, "purge")
    assert (status, lines) == (1, ["asgi-analytics: purge deletes for good: name IDs, --older TIME or --all."])
    assert run(capsys, poisoned, "purge", "--older", "1h") == (0, ["0 rows deleted"])
    assert run(capsys, poisoned, "purge", "2") == (0, ["1 row deleted"])
    assert run(capsys, poisoned, "purge", "--all") == (0, ["2 rows deleted"])
    assert run(capsys, poisoned, "list") == (0, ["nothing is set aside"])


@pytest.mark.parametrize("arguments", [["list"], ["retry"], ["purge", "--all"]])
def test_a_database_without_our_schema_is_told_what_it_needs(
    dsn: str, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    fetch(dsn, "DROP SCHEMA analytics CASCADE")
    status, told = run(capsys, dsn, *arguments)
    lacking = 'relation "analytics.quarantine" does not exist'
    needs = "run `asgi-analytics migrate`, and where that finds nothing to do, `doctor`."
    assert (status, told) == (1, [f"asgi-analytics: The database has no schema of this version ({lacking}): {needs}"])


def test_what_is_no_id_is_told_so(poisoned: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(capsys, poisoned, "retry", "one")
    assert "is not the number of a row" in capsys.readouterr().err


def test_a_schema_that_takes_no_rows_sets_none_aside(dsn: str) -> None:
    store = PostgresStore(lambda: dsn)
    store.connect()
    store.position(b"journal".ljust(16, b"."))
    fetch(dsn, "ALTER TABLE analytics.hits ADD CHECK (length(path) < 100)")
    with pytest.raises(Exception, match="was it changed"):
        store.refuses(batch([hit("/" + "x" * 100)]))
    store.close()


def test_a_row_refused_by_a_schema_that_is_changed_back_before_we_look_is_no_poison(dsn: str, tmp_path: Path) -> None:
    class Widened(PostgresStore):
        def refuses(self, batch: Batch, others: Batch | None = None) -> bool:
            fetch(dsn, "ALTER TABLE analytics.hits DROP CONSTRAINT IF EXISTS narrow")
            return super().refuses(batch, others)

    fetch(dsn, "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (length(path) < 3)")
    with Works(dsn, tmp_path / "j", lambda: Widened(lambda: dsn)) as works:
        works.send(0, 3)
        works.wait()
    query = "SELECT (SELECT count(*) FROM analytics.quarantine) AS aside, count(*) AS stored FROM analytics.hits"
    assert one(dsn, query) == {"aside": 0, "stored": 3}


@pytest.mark.parametrize("path", ["/bad\x1b[31m", "/bad\x9b31m (x).", "/bad\nCONTEXT: x"])
def test_what_is_said_of_a_refused_row_has_nothing_of_the_row(dsn: str, path: str) -> None:
    fetch(dsn, "ALTER TABLE analytics.hits ADD CONSTRAINT narrow CHECK (path NOT LIKE '/bad%%') NOT VALID")
    store = PostgresStore(lambda: dsn)
    store.connect()
    store.position(b"journal".ljust(16, b"."))
    with pytest.raises(RowRejected) as caught:
        store.write(batch([hit(path)]))
    store.close()
    assert str(caught.value).endswith('violates check constraint "narrow"')


def test_what_a_trigger_says_of_a_row_cannot_act_on_the_terminal_that_shows_the_log(dsn: str) -> None:
    fetch(
        dsn,
        "CREATE FUNCTION analytics.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'no %%', NEW.path; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON analytics.hits FOR EACH ROW EXECUTE FUNCTION analytics.refuse()",
    )
    store = PostgresStore(lambda: dsn)
    store.connect()
    store.position(b"journal".ljust(16, b"."))
    with pytest.raises(RowRejected, match=r"no /\\x1b\[31m\\x9b31m") as caught:
        store.write(batch([hit("/\x1b[31m\x9b31m")]))
    store.close()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        *(["list", "999"], ["retry", "999"], ["purge", "999"], ["purge", "999", "--older", "1h"]),
        *(["retry", "--older", "7d"], ["list", "--all"]),
    ],
)
def test_what_there_is_nothing_to_do_for_is_an_error(
    poisoned: str, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    status, told = run(capsys, poisoned, *arguments)
    assert status == 1
    assert "No row of number 999 is set aside" in told[0] or "--all and --older are for purge" in told[0]
    assert one(poisoned, "SELECT count(*) AS n FROM analytics.quarantine") == {"n": 3}


def test_a_row_of_a_column_that_is_gone_keeps_no_other_back(poisoned: str, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(poisoned, "UPDATE analytics.quarantine SET columns = columns || '{gone}' WHERE id = 1")
    status, told = run(capsys, poisoned, "retry")
    assert status == 0
    assert told[0].startswith('1: refused again: column "gone" of relation')
    assert told[1].startswith("2: refused again: invalid byte sequence")
    assert told[2] == "0 rows stored, 2 refused again, 1 damaged beyond reading"


def test_two_retries_at_once_tell_of_each_row_once(poisoned: str) -> None:
    with connect(poisoned) as first, connect(poisoned) as second:
        rows = second.rows([1], 1)
        assert list(_retry(first, rows)) == ["1 row stored, 0 refused again, 0 damaged beyond reading"]
        assert list(_retry(second, rows)) == [
            "0 rows stored, 0 refused again, 0 damaged beyond reading, 1 gone meanwhile"
        ]


def test_rows_that_are_refused_again_keep_none_behind_them_from_being_tried(
    poisoned: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = "created_at, journal, segment, position, kind, columns, raw, sqlstate, error"
    # The one that can be stored comes last.
    fetch(
        poisoned,
        f"INSERT INTO analytics.quarantine ({columns}) SELECT {columns} FROM analytics.quarantine WHERE id = 1",
    )
    fetch(poisoned, "DELETE FROM analytics.quarantine WHERE id = 1")
    monkeypatch.setattr(quarantine, "MAX_READ", 1)
    status, told = run(capsys, poisoned, "retry")
    assert (status, told[-1]) == (0, "1 row stored, 1 refused again, 1 damaged beyond reading")


@pytest.mark.parametrize(("bot_score", "incidents"), [(80, 0), (60, 1), (None, 1)])
def test_a_row_that_goes_back_is_judged_by_the_policy_that_it_was_judged_by(
    store: PostgresStore, dsn: str, bot_score: int | None, incidents: int
) -> None:
    """A score that is none of a bot where the app runs is no incident; of a policy that is not known, the defaults."""
    if bot_score is not None:
        remember_policy(store._connected(), "0123456789ab", {"bot_score": float(bot_score), "session_timeout": 60.0})
    store.position(b"journal".ljust(16, b"."))
    store.quarantine(batch([hit(score=60, policy="0123456789ab")]), "the schema was wrong then", "22001")
    with connect(dsn) as quarantine:
        assert list(_retry(quarantine, quarantine.rows(None, 9)))[-1].startswith("1 row stored")
    assert len(fetch(dsn, "SELECT kind FROM analytics.incidents")) == incidents


def test_a_row_that_goes_back_takes_nothing_of_a_block_that_has_not_cooled_down(store: PostgresStore, dsn: str) -> None:
    """As a worker that had yet to learn of the block cannot."""
    remember_policy(store._connected(), "0123456789ab", {"cooldown": 600.0})
    store.position(b"journal".ljust(16, b"."))
    store.write(batch([hit(level=3, level_before=2)]))
    later = hit(level=1, level_before=0, time_us=NOW_US + 1_000_000, policy="0123456789ab")
    store.quarantine(batch([later]), "the schema was wrong then", "22001")
    with connect(dsn) as quarantine:
        assert list(_retry(quarantine, quarantine.rows(None, 9)))[-1].startswith("1 row stored")
    assert one(dsn, "SELECT level FROM analytics.fingerprints") == {"level": 3}


def test_a_row_that_was_stored_after_all_is_not_stored_again(store: PostgresStore, dsn: str) -> None:
    """Where its position is gone, a journal is sent again, with what was set aside of it."""
    moved = batch([hit("/late")])
    store.position(moved.journal)
    store.quarantine(moved, "the schema was wrong then", "22001")
    fetch(dsn, "DELETE FROM analytics.positions")
    deliver(store, moved)
    with connect(dsn) as quarantine:
        told = list(_retry(quarantine, quarantine.rows(None, 9)))
    assert told == ["0 rows stored, 0 refused again, 0 damaged beyond reading, 1 gone meanwhile"]
    assert one(dsn, "SELECT hits FROM analytics.sessions") == {"hits": 1}
    tables = "SELECT (SELECT count(*) FROM analytics.hits) AS hits, count(*) AS aside FROM analytics.quarantine"
    assert one(dsn, tables) == {"hits": 1, "aside": 0}
