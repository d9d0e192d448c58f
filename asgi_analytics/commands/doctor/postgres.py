"""What `asgi-analytics doctor` looks at in the database: server, privileges, schema, partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...columns import counted
from ...errors import AnalyticsError, StoreMisconfigured
from ...record.listing import JournalState
from ...store.connection import CLOCKS_APART, ENCODINGS, UTF8
from ...store.health import PATIENCE, HealthReader, Server, advice_on, examine
from .check import Check
from .journals import stray_checks

OLDEST = 140000  # server_version_num of PostgreSQL 14


def database_checks(
    dsn: str, now: float, patience: float = PATIENCE, *, stray: Sequence[JournalState] = ()
) -> Iterator[Check]:
    """Say whether the database answers, is up to date, and lets us write; `now` in wall seconds.

    Takes `patience` seconds at most, and as long as connecting may take. What the server calls itself tells whether
    `stray` journals are for it.
    """
    known = ""
    try:
        with examine(dsn, patience) as reader:
            server, known = reader.server(), reader.identity()
            yield from _server_checks(server, now)
            held = reader.lock_holders()
            for text in held:
                yield Check("lock", text, "end that transaction (pg_terminate_backend): hits wait for it")
            if not held:
                yield from _schema_checks(reader, server)
    except AnalyticsError as error:
        yield Check("database", str(error), advice_on(str(error)))
    yield from stray_checks(stray, known)


def _server_checks(server: Server, now: float) -> Iterator[Check]:
    place = f"PostgreSQL {server.version}, database {server.database}, user {server.username}"
    yield Check("database", place, None if server.number >= OLDEST else "use PostgreSQL 14 or later")
    if server.encoding not in ENCODINGS:
        yield Check("database", f"its encoding {server.encoding} cannot hold all text: no row is stored", UTF8)
    if server.standby:
        yield Check("database", "it is a standby, and takes no writes", "name the primary in the DSN, or promote it")
    elif server.read_only:
        advice = "name the primary in the DSN, or SET default_transaction_read_only = off"
        yield Check("database", "it is read-only for this user, database or server", advice)
    if abs(ahead := now - server.now) > CLOCKS_APART:
        text = f"this machine's is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
        yield Check("clock", text, "let NTP set both: rows, sessions and salts go by this machine's")
    if not server.may_stage:
        yield Check(
            "privileges",
            "no temporary tables",
            f'GRANT TEMPORARY ON DATABASE "{server.database}" TO "{server.username}"',
        )


def _schema_checks(reader: HealthReader, server: Server) -> Iterator[Check]:
    if not server.may_use:
        yield Check(
            "privileges", "no USAGE on schema analytics", f'GRANT USAGE ON SCHEMA analytics TO "{server.username}"'
        )
        return
    missing = reader.missing_privileges()
    lacking = Check("privileges", f"missing: {', '.join(missing)}", _grants(missing, server.username))
    if "SELECT on analytics.migrations" in missing:
        yield lacking
        return
    schema = reader.schema_state()
    if schema.newer:
        newer = f"it is of a later version: {', '.join(schema.newer)}"
        yield Check("schema", newer, "upgrade asgi-analytics here: what this version writes may not fit")
    if schema.changed:
        advice = "the files of this version were changed, or another's were applied: install one version everywhere"
        yield Check("schema", f"applied otherwise: {', '.join(schema.changed)}", advice)
    if pending := schema.pending:
        needs = "" if server.may_create else " as a user with CREATE on the database, which this one has not"
        yield Check("schema", f"not applied: {', '.join(pending)}", f"run `asgi-analytics migrate`{needs}")
        return
    if gone := reader.missing_objects():
        advice = "restore them from a backup, or drop all of the schema and run `asgi-analytics migrate`"
        yield Check("schema", f"missing: {', '.join(gone)}", advice)
        return
    if not schema.newer and not schema.changed:
        yield Check("schema", "up to date")
    yield lacking if missing else Check("privileges", "all that a writer needs")
    if not missing and not server.standby and (problem := reader.write_problem()) is not None:
        yield Check(problem.subject, problem.text, problem.advice)
    yield Check("salts", "kept for two days; leave them out of dumps: pg_dump --exclude-table-data=analytics.salts")
    yield _partition_check(reader)
    if quarantined := reader.quarantined():
        text = f"{counted(quarantined, 'row')} set aside: see `asgi-analytics quarantine list`"
        yield Check("quarantine", text, note=True)


def _grants(missing: Sequence[str], username: str) -> str:
    """Return what an owner grants them by, as one line for psql; where two roles own what one should, say so."""
    lacking: dict[str, list[str]] = {}
    for privilege, _, thing in (text.partition(" on ") for text in missing):
        lacking.setdefault(thing, []).append(privilege)
    return "; ".join(
        f'GRANT {", ".join(privileges)} ON {thing} TO "{username}"' if thing else "let one role own both"
        for thing, privileges in lacking.items()
    )


def _partition_check(reader: HealthReader) -> Check:
    try:
        days = [day.isoformat() for day in reader.missing_partitions()]
    except StoreMisconfigured as error:
        advice = "give all partitions of hits, and the functions for them, one owner: none can be made meanwhile"
        return Check("partitions", str(error), advice)
    if days:
        return Check("partitions", f"none for {', '.join(days)}: the app, or migrate, makes them", note=True)
    return Check("partitions", "there for today and tomorrow")
