"""The store at work: one sync psycopg connection, one transaction per batch, exactly once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from ..batch import DAMAGED, DECISION, HIT, REFUSED, Batch, Refused
from ..clock import Calendar, SystemClock, random_bytes
from ..errors import RowRejected, StoreError, StoreMisconfigured, StoreUnavailable
from ..log import log
from ..model import Merged, Ruling
from ..protocols import Salt
from ..reputation import ReputationRules
from . import migrate, partitions, queries, retention, values
from .connection import CLOCKS_APART, Connected, ServerSession, check_encoding, connect_writer, writer_session
from .doubt import KEY, Place, behind, id_of, keys
from .fold import Fold, Folds, by_kind
from .positions import Positions
from .recorded import remember_policy
from .sqlstates import NO_PLACE, as_ours
from .staging import Staging
from .trials import Trials, hold_schema

KINDS = {HIT: "hit", DECISION: "decision", REFUSED: "refusal"}  # in analytics.quarantine
UNREADABLE = (DAMAGED, "checksum or length does not match", None)
MAX_RULINGS = 100_000  # in force; the newest, allowances first
MAX_CHANGES = 10_000  # in one query
VANISHED = 150.0  # seconds of a transfer, after which its writer must have cut the connection: see watchdog.STUCK
APART = "This machine's clock is %s s %s the server's: rows, sessions and salts go by it. Let NTP set both."
MAX_AHEAD = 86_400.0  # seconds that the server's clock may be ahead for it to say what is old
GONE = (
    "The schema analytics is gone: was it renamed{} or dropped? Name it back, or make it anew by "
    "`asgi-analytics migrate`."
)
TIDY = ("expire_flags", "forget_incidents", "forget_networks", "forget_rulings", "forget_positions")


class PostgresStore(Connected):
    """Moves batches into the schema "analytics" of one database. Not thread-safe: one writer owns it."""

    def __init__(
        self,
        dsn: Callable[[], str],
        *,
        bot_score: int = 50,
        cooldown: float | None = None,
        session_timeout: float = 1800.0,
        migrate: bool = True,
        site: str | None = None,
        bans: bool = False,
        policy: tuple[str, Mapping[str, Any]] | None = None,
        retention_days: int | None = None,
        patience: float = inf,
    ) -> None:
        """`patience` in seconds, with each answer of a server; a writer has a watchdog instead."""
        self._dsn = dsn
        self._patience = patience
        self._policy = policy  # version and settings
        self._retention_days = retention_days
        self._migrate = migrate
        self.migrating = False
        self._queries = queries.load("writer")
        self._session: ServerSession | None = None  # of the open connection
        self._positions = Positions()
        self._staging = Staging()
        self._folds = Folds(
            self._staging,
            ReputationRules(),
            bans=bans,
            site=site,
            version=policy[0] if policy else "",
            policy={"bot_score": bot_score, "cooldown": cooldown, "session_timeout": session_timeout},
        )
        self._server = ""  # identity that the database reports
        self._had_schema: str | None = None  # identity of the last database in which the schema was found
        self._is_forgetting = False  # more is older than the retention
        self._calendar = Calendar()
        self._wall()

    def connect(self) -> None:
        """Open the connection and bring the schema up to date; partitions are made later: the salts come first."""
        self.close()
        with as_ours():
            self._connection = connection = connect_writer(self._dsn(), self._patience)
            check_encoding(connection)
            self._session = writer_session(connection)
            self._server = self._ask_server()
            if self._migrate:
                self._apply_migrations(connection)
            self._end_vanished()
            if self._had_schema != self._server:
                self._catch_up()
            self._had_schema = self._server
            if not self._session.is_pooled:
                self._staging.make(connection)
            if self._policy is not None:
                remember_policy(connection, *self._policy, in_force=True)

    def _apply_migrations(self, connection: psycopg.Connection) -> None:
        if not migrate.is_begun(connection):
            renamed = migrate.renamed(connection)
            # Created anew, it would keep an operator from renaming the old one back.
            if renamed or self._had_schema == self._server:
                raise StoreMisconfigured(GONE.format(f" to {renamed}" if renamed else ""))
        if not migrate.is_behind(connection):
            return
        self.migrating = True  # the watchdog must not take it for a frozen server
        try:
            migrate.apply(connection)
        finally:
            self.migrating = False

    def server(self) -> str:
        """Return the identity of the database, the same under any host name; "" where it may not be read."""
        self._connected()
        return self._server

    def _ask_server(self) -> str:
        try:
            with as_ours(), self._current().statement() as connection:
                row = connection.execute(queries.load("reading")["identity"]).fetchone()
        except StoreMisconfigured:  # we may not be allowed to call the function
            return ""
        return str(row[0]) if row else ""

    def _end_vanished(self) -> None:
        """End sessions of writers that vanished in the middle of a transfer: ours waits for them."""
        with contextlib.suppress(StoreError), as_ours(), self._current().statement() as connection:
            connection.execute(self._queries["end_vanished"], {"since": VANISHED})

    def _catch_up(self) -> None:
        """Set sequences on that are behind their tables, as in a database that was filled by logical replication.

        Else no row could be set aside there, and nobody banned, until each has counted them all.
        """
        with contextlib.suppress(StoreError), as_ours(), self._current().statement() as connection:
            connection.execute(self._queries["catch_up"])

    def make_partitions(self) -> None:
        """Make the day partitions from yesterday to a week ahead."""
        with as_ours():
            partitions.make_partitions(self._connected())

    def exchange_salts(self, known: Sequence[Salt], periods: Sequence[str]) -> list[Salt]:
        """Offer the salts this worker knows, make those that nobody has, return what all agree on."""
        with self._transaction() as connection:
            connection.execute(self._queries["lock_salts"])
            offered = {salt.period: salt.key for salt in known}
            for period in periods:
                key = offered.get(period) or random_bytes(32)
                connection.execute(self._queries["offer_salt"], {"period": period, "key": key})
            connection.execute(self._queries["forget_salts"], {"periods": list(periods)})
            rows = connection.execute(self._queries["read_salts"], {"periods": list(periods)}).fetchall()
            return [Salt(period.isoformat(), bytes(key)) for period, key in rows]

    def position(self, journal: bytes, end: tuple[int, int] | None = None, own: bool = False) -> tuple[int, int]:
        """Return (segment, offset) up to which the journal is committed; registers a new journal.

        A position after the `end` of the journal is not ours: it is rewound, and what is stored is found by id. `own`:
        this process writes the journal, so its position is kept for as long as it lives.
        """
        with as_ours(), self._current().statement() as connection:
            found = self._positions.read(connection, journal, end)
        return self._positions.note(journal, found, own)

    def write(self, batch: Batch) -> list[Merged]:
        """Move one batch in one transaction; frames that are already committed are skipped.

        Returns the merged totals of visitors that other workers have seen too.
        """
        try:
            return self._write(batch)
        except RowRejected as error:
            # Maybe its day has no partition, and an operator has dropped the default one: tried for single rows.
            if error.sqlstate != NO_PLACE or len(batch.frames) > 1 or not self._make_partition_of(batch):
                raise
            return self._write(batch)

    def _write(self, batch: Batch) -> list[Merged]:
        with self._transfer() as connection:
            batch = self._positions.lock(connection, batch)
            if not batch.frames:
                return []
            settled = False
            if batch.journal in self._positions.doubts:
                batch, settled = self._not_stored_yet(batch)
            rows = by_kind(batch.frames)
            merged = self._fold_of(connection, batch).move(connection, rows, batch.columns, UUID(bytes=batch.journal))
            damaged = [one for one in batch.frames if one.kind == DAMAGED] if batch.frames.count_of(DAMAGED) else []
            for frame in damaged:
                kind, error, state = batch.refused.get(frame.start, UNREADABLE)
                self._set_aside(batch, frame.row, frame.start, KINDS.get(kind, "frame"), error, state)
            try:
                with as_ours():
                    self._positions.advance(connection, batch, sum(map(len, rows.values())), len(damaged), settled)
            except RowRejected as error:  # no row of the batch is at fault
                raise StoreMisconfigured(f"The table positions takes no change: {error}") from error
        self._positions.doubts.reach(batch, settled)
        return merged

    def _fold_of(self, connection: psycopg.Connection, batch: Batch) -> Fold:
        is_own = batch.journal in self._positions.own
        return self._folds.own if is_own else self._folds.of(connection, by_kind(batch.frames), batch.columns)

    def _not_stored_yet(self, batch: Batch) -> tuple[Batch, bool]:
        """Return the part of a batch after its last hit that is stored, and whether that settles the doubt."""
        known, stored = self._known(batch)
        whole = (id_of(key) for (index, _), key in reversed(known.items()) if batch.frames[index].kind == HIT)
        last = next(whole, None)
        settled = last is not None and last not in stored and self._positions.doubts.is_past(batch.journal, last)
        return behind(batch, known, stored), settled

    def _known(self, batch: Batch) -> tuple[dict[Place, bytes], set[bytes]]:
        """Return the keys of a batch's hits by their places, and which ids are stored, maybe with others."""
        known = keys(batch)
        return known, self._staging.stored(self._connected(), KEY, list(known.values())) if known else set()

    def _make_partition_of(self, batch: Batch) -> bool:
        """Make the day partitions that the hits of a batch lack; returns whether there was one to make."""
        with self._transfer() as connection:
            self._staging.fill(connection, "staging", batch.columns[HIT], batch.frames.rows(HIT))
            return partitions.make_partitions_of_staging(connection)

    def readmit(self, row: int, take: LiteralString, batch: Batch) -> bool:
        """Move a row of analytics.quarantine, which the query `take` takes out.

        False when it is not there any more, or stored already: of a journal in doubt, it may have got in.
        """
        with self._transfer() as connection:
            is_there = connection.execute(take, {"id": row}).fetchone() is not None
            if not is_there or not behind(batch, *self._known(batch)).frames:
                return False
            rows = by_kind(batch.frames)
            fold = self._folds.of(connection, rows, batch.columns)
            fold.move(connection, rows, batch.columns, UUID(bytes=batch.journal))
            return True

    def quarantine(self, batch: Batch, error: str, sqlstate: str | None) -> None:
        """Set the rows of a batch aside with their raw bytes, and advance the position past them."""
        with self._transaction() as connection:
            batch = self._positions.lock(connection, batch)
            if not batch.frames:
                return
            for frame in batch.frames:
                kind = KINDS.get(frame.kind, "frame")
                self._set_aside(batch, frame.row, frame.start, kind, error, sqlstate)
            self._positions.advance(connection, batch, 0, len(batch.frames))
        self._positions.doubts.reach(batch, settled=False)

    def refuses(self, batch: Batch, others: Batch | None = None) -> bool:
        """Tell whether a batch of one row is refused by a schema that takes others: see Trials.refuses."""
        with self._on_trial(batch) as trials:
            return trials.refuses(batch, others)

    def refused_hits(self, batch: Batch) -> Mapping[int, Refused]:
        """Return which hits of a batch their table refuses, by index; none where there is more to it."""
        with self._on_trial(batch) as trials:
            return trials.refused_hits(batch)

    @contextlib.contextmanager
    def _on_trial(self, batch: Batch) -> Iterator[Trials]:
        """Try rows of a batch while nobody can change the tables: a schema at fault on and off must convict no row."""
        with self._transfer(force_rollback=True) as connection:
            hold_schema(connection, batch)
            yield Trials(self._fold_of(connection, batch), partial(self._transaction, force_rollback=True))

    def slow_row(self, batch: Batch) -> int | None:
        """Return the index of the one row that makes a batch too slow, None where it is not one row.

        Only a hint, by tries with a twentieth of statement_timeout: afterwards each row gets all of it.
        """
        return Trials(self._folds.own, partial(self._transfer, force_rollback=True)).slow_row(batch)

    def rulings(self, since: int) -> list[Ruling]:
        """Return the rulings that changed after revision `since`, in order; below 0: all in force, bounded.

        Their times are seconds from now on.
        """
        with as_ours(), self._current().statement() as connection, connection.cursor(row_factory=dict_row) as cursor:
            if since < 0:
                cursor.execute(self._queries["standing_rulings"], {"most": MAX_RULINGS})
            else:
                cursor.execute(self._queries["changed_rulings"], {"since": since, "most": MAX_CHANGES})
            return [values.ruling(row) for row in cursor]

    def tidy(self) -> bool:
        """Clear away what is no longer needed, and a part of what is older than the retention, if there is one.

        Returns whether there is more of that for the next call.
        """
        self._check_clock()
        if not self._is_forgetting:
            self._clear_away()
        self._is_forgetting = False
        if self._retention_days is not None:
            done = self.forget(timedelta(days=self._retention_days), waits=False)
            self._is_forgetting = retention.may_be_more(done)
        return self._is_forgetting

    def _check_clock(self) -> None:
        """Say where this machine's clock is not the server's: other workers' may be.

        Raises StoreMisconfigured where the server's has leapt ahead: by it, all may be old.
        """
        with as_ours(), self._current().statement() as connection:
            (now,) = connection.execute(self._queries["server_time"]).fetchone() or (0.0,)
        ahead = now - self._wall()
        if ahead > MAX_AHEAD:
            days = ahead / MAX_AHEAD
            raise StoreMisconfigured(f"The server's clock is {days:,.0f} days ahead of this machine's: set both.")
        if abs(ahead) > CLOCKS_APART and not self._is_forgetting:  # else it was said just before
            log.warning(APART, f"{abs(ahead):,.0f}", "behind" if ahead > 0 else "ahead of")

    def _wall(self) -> float:
        return self._calendar.wall(SystemClock.monotonic(), SystemClock.time_ns()) / 1e9

    def _clear_away(self) -> None:
        """Expire flags after a week without incidents; delete incidents, networks, rulings, positions of long ago."""
        with as_ours(), self._current().statement() as connection:
            if not self._current().is_pooled:
                # Autovacuum cannot freeze temporary tables: old ones would bring the database to xid wraparound.
                connection.execute("DISCARD TEMP")
                self._staging.make(connection)
            self._positions.keep(connection)
            for query in TIDY:
                connection.execute(self._queries[query])

    def forget(self, kept: timedelta, waits: bool = True) -> Mapping[str, int]:
        """Delete what is older than `kept`, a bounded part of it: see retention.forget."""
        with as_ours():
            return retention.forget(self._current(), kept, waits)

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a connection that was not closed."""
        return self._connection is not None and not self._connection.closed

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            raise StoreUnavailable("No connection to Postgres.")
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, force_rollback: bool = False) -> Iterator[psycopg.Connection]:
        with as_ours(), self._current().transaction(force_rollback) as connection:
            yield connection

    @contextlib.contextmanager
    def _transfer(self, force_rollback: bool = False) -> Iterator[psycopg.Connection]:
        """Run a block in a transaction that has the temporary tables of a fold."""
        with self._transaction(force_rollback) as connection:
            pooled = self._current().is_pooled
            if pooled:
                self._staging.make(connection)
            yield connection
            if pooled:  # other clients get the session next, and may use these names
                self._staging.drop(connection)

    def _current(self) -> ServerSession:
        self._connected()
        assert self._session is not None
        return self._session

    def _set_aside(self, batch: Batch, raw: bytes, position: int, kind: str, error: str, sqlstate: str | None) -> None:
        columns = next((list(batch.columns.get(one, ())) for one, name in KINDS.items() if name == kind), [])
        self._connected().execute(
            self._queries["quarantine_row"],
            {
                "journal": UUID(bytes=batch.journal),
                "segment": batch.segment,
                "position": position,
                "kind": kind,
                "columns": columns,
                "raw": raw,
                "sqlstate": sqlstate,
                "error": error[:2000].replace("\0", "\ufffd"),
                "doubtful": batch.journal in self._positions.doubts,
            },
        )
