"""Turns a finished request into one row in the journal."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..clock import random_bytes, uuid7
from ..errors import JournalError
from ..model import Decision, Identity, Referral, Visitor
from ..protocols import DECISION, HIT
from ..settings import Settings
from . import encoding
from .encoding import NO_DECISION, NO_REFERRAL, NULL
from .journal import FileJournal, MemoryJournal
from .segment import frame

log = logging.getLogger("asgi_analytics")

COLUMNS = {HIT: encoding.HIT_COLUMNS, DECISION: encoding.DECISION_COLUMNS}
OUTCOMES = {outcome: encoding.text(outcome) for outcome in ("complete", "aborted", "refused", "error")}
MEMORY_LIMIT = 32 << 20  # bytes kept where no journal can be written
_MOST_CACHED = 4096


@dataclass(slots=True)
class Counters:
    """What became of the hits of this process."""

    queued: int = 0
    written: int = 0
    retried: int = 0
    quarantined: int = 0
    adopted: int = 0  # rows delivered for dead workers
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    failures: Counter[str] = field(default_factory=Counter)  # our own errors, by place


class Recorder:
    """Encodes hits and decisions and appends them. One per process; after a fork the child opens its own journal."""

    def __init__(
        self, settings: Settings, counters: Counters, clean_path: Callable[[str], str] = str, database: str = ""
    ) -> None:
        self._settings = settings
        self._enforced = settings.mode == "enforce"
        self.counters = counters
        self.database = database
        self.root = settings.journal_dir
        self.memory = MemoryJournal(random_bytes(16), COLUMNS, MEMORY_LIMIT)
        self.journal: FileJournal | None = None
        self._clean_path = clean_path
        self._drops_quiet = settings.privacy.signals == "drop"
        self._texts: dict[str, bytes] = {}
        self._paths: dict[str, bytes] = {}

    def open(self) -> None:
        """Open the journal; where that fails, hits are kept in memory, said once in the log."""
        if self._settings.durability == "memory":
            return
        try:
            self.journal = FileJournal(
                self.root, random_bytes(16), COLUMNS, self._settings.journal_limit, self.database
            )
        except (OSError, JournalError) as error:
            self.counters.failures["journal"] += 1
            log.warning("No journal in %s (%s): hits are kept in memory only.", self._settings.journal_dir, error)

    def hit(
        self,
        visitor: Visitor,
        decision: Decision,
        time_ns: int,
        method: str,
        path: str,
        outcome: str,
        page_view: bool = False,
        status: int | None = None,
        duration_us: int = 0,
        first_byte_us: int | None = None,
        bytes_sent: int = 0,
        *,
        route: str | None = None,
        query: str | None = None,
        referral: Referral | None = None,
        close_code: int | None = None,
    ) -> None:
        """Append one hit, and its decision when that has an id. Never raises for what a visitor sent."""
        segment = visitor.segment
        if segment is None:
            if self._drops_quiet and not visitor.identity.tracked:
                self.drop("privacy_signal")
                return
            segment = visitor.segment = self._segment(visitor)
        hit_id, time_us, decision_id = uuid7(time_ns), time_ns // 1000, decision.id
        row = b"".join(
            (
                encoding.hit_head(hit_id, time_us, page_view, duration_us, bytes_sent, decision.score, decision.level),
                encoding.answered(status, first_byte_us),
                NO_DECISION
                if decision_id is None and close_code is None
                else encoding.decided(close_code, decision.previous_level, decision_id),
                OUTCOMES[outcome],
                self._texts.get(method) or self._text(method, 16),
                self._paths.get(path) or self._path(path),
                NULL if route is None else self._texts.get(route) or self._text(route, 256),
                NULL if query is None else encoding.text(query, 1024),
                NO_REFERRAL if referral is None else encoding.referral(referral),
                segment,
            )
        )
        data = frame(HIT, row)
        if decision_id is not None:
            data += self._decision(visitor, decision, visitor.identity, hit_id, time_us)
        self._append(data)

    def drop(self, reason: str) -> None:
        """Count a hit that is not stored."""
        self.counters.dropped[reason] += 1

    def _decision(self, visitor: Visitor, decision: Decision, identity: Identity, hit_id: bytes, time_us: int) -> bytes:
        row = encoding.decision_row(
            decision,
            visitor.actor.signals,
            hit_id=hit_id,
            time_us=time_us,
            enforced=self._enforced,
            site=self._settings.site,
            identity=identity,
        )
        return frame(DECISION, row)

    def _text(self, value: str, most: int) -> bytes:
        field = encoding.text(value, most)
        if len(value) <= most:
            if len(self._texts) >= _MOST_CACHED:
                self._texts.clear()
            self._texts[value] = field
        return field

    def _segment(self, visitor: Visitor) -> bytes:
        session = visitor.session.id if visitor.identity.tracked else None
        return encoding.uuid(session) + encoding.visitor(visitor.identity, self._settings.site)

    def _path(self, path: str) -> bytes:
        field = encoding.text(self._clean_path(path), 1024)
        if len(path) <= 256:
            if len(self._paths) >= _MOST_CACHED:
                self._paths.clear()
            self._paths[path] = field
        return field

    def _append(self, data: bytes) -> None:
        self.counters.queued += 1
        if self.journal is not None:
            try:
                self.journal.append(data)
            except JournalError as error:
                if str(error) == "journal_full":
                    self.drop("journal_full")
                    return
                self.counters.failures[str(error)] += 1
            else:
                return
        try:
            self.memory.append(data)
        except JournalError as error:
            self.drop(str(error))
