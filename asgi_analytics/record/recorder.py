"""Turns a finished request into one row in the journal."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from threading import Lock

from .. import clock
from ..batch import DECISION, HIT, REFUSED
from ..clock import random_bytes
from ..errors import AppendInterrupted, JournalClosed, JournalError
from ..facts import Claims
from ..inputs import FORGIVEN, TRIED, Mask, bits_of
from ..log import log
from ..model import ClaimStatus, Hit, Identity, Variant
from ..settings import Settings
from ..settings.canonical import version
from ..variants import packed
from . import encoding, refusals
from .destination import NOWHERE, Destination
from .encoding import NO_REFERRAL, NULL
from .frames import frame, seal
from .journal import FileJournal
from .memory import MemoryJournal

COLUMNS = {HIT: encoding.HIT_COLUMNS, DECISION: encoding.DECISION_COLUMNS, REFUSED: refusals.COLUMNS}
OUTCOMES = {outcome: encoding.text(outcome) for outcome in ("complete", "aborted", "refused", "error")}
MEMORY_LIMIT = 32 << 20  # bytes of rows kept in memory where no journal can be written
_MAX_CACHED = 4096  # encoded texts, and as many parts of rows
_LONGEST_CACHED = 256  # characters of path and method: some servers take methods of any length


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
        self,
        settings: Settings,
        counters: Counters,
        clean_path: Callable[[str], str] = str,
        kind_of: Callable[[str], int] = lambda path: 0,
        destination: Destination = NOWHERE,
    ) -> None:
        self._settings = settings
        self._policy_version = version(settings)
        self._enforced = settings.mode == "enforce"
        self.counters = counters
        self.destination = destination
        self.root = settings.journal_dir
        self.memory = MemoryJournal(random_bytes(16), COLUMNS, MEMORY_LIMIT)
        self.journal: FileJournal | None = None
        self._opening = Lock()
        self._clean_path = clean_path
        self._kind_of = kind_of  # path → what verdicts read that its stored form may not show
        self._mask = Mask(random_bytes(32))
        self._drops_opted_out = settings.privacy.signals == "drop"
        self._refusals = refusals.Refusals(settings.site)
        self._texts: dict[str, bytes] = {}
        self._plain: dict[Hashable, bytes] = {}  # encoded columns of _middle

    def open(self, again: bool = False) -> None:
        """Open the journal; if that fails, hits are kept in memory. A failed retry (`again`) is not logged."""
        if self._settings.durability == "memory" or self.journal is not None or not self._opening.acquire(False):
            return
        try:
            limit = self._settings.journal_limit
            self.journal = FileJournal(self.root, random_bytes(16), COLUMNS, limit, self.destination)
        except (OSError, JournalError) as error:
            if not again:
                self.warn(error)
        else:
            if again:
                log.warning("The journal is in %s from now on.", self.root)
        finally:
            self._opening.release()

    def warn(self, error: Exception) -> None:
        """Say why there is no journal."""
        self.counters.failures["journal"] += 1
        log.warning("No journal in %s (%s): hits are kept in memory only.", self.root, error)

    @property
    def is_opening(self) -> bool:
        """Tell whether the journal is just being opened: for long where a mount hangs, which the folder is on."""
        return self._opening.locked()

    def refuse(self, hit: Hit) -> None:
        """Choose before the answer whether a refusal becomes a hit or a count, which has another decision id."""
        kept = hit.visitor.identity.tracked or not self._drops_opted_out
        # What-if has to know of what was forgiven, also where a quota was used up all the same.
        if kept and hit.decision.previous_level is None and not hit.inputs & FORGIVEN:
            counted = self._refusals.count(hit)
            hit.count_frame = None if counted is None else frame(REFUSED, counted)

    def repeats(self, hit: Hit) -> bool:
        """Tell whether a decision that refuses in mode enforce only is like one that is stored, whose id it gets."""
        return hit.decision.previous_level is None and self._refusals.repeats(hit)

    def refuse_again(self, count_frame: bytes) -> None:
        """Count a refusal that is sent again, by the frame of the first: its time is off by a second at most."""
        self._append(count_frame)

    def hit(self, hit: Hit) -> None:
        """Append one hit, and its decision when that has an id. Never raises for what a visitor sent."""
        visitor, decision = hit.visitor, hit.decision
        tail = visitor.row_tail
        if (
            tail is None
            or hit.session is not visitor.session
            or hit.address is not None
            or hit.verification is not visitor.verification
        ):
            tail = self._tail_of(hit)
            if tail is None:
                return self.drop("privacy_signal")
        if hit.count_frame is not None:
            return self._append(hit.count_frame)
        # A UUID version 7 (RFC 9562 section 5.7): milliseconds, then what tells it from others.
        high, low = (hit.time_ns // 1_000_000 & 0xFFFF_FFFF_FFFF) << 16 | 0x7000, clock.next_tail()
        numbers = NULL if hit.claims is None and not hit.login else self._numbers(hit, hit.claims)
        head = encoding.hit_head(hit, high, low)
        if decision.id is None and hit.query is None and hit.referral is None and hit.variant is None:
            status = hit.status if isinstance(hit.status, int) else None  # 200.0 equals what it is not stored as
            key = (
                hit.path, hit.route, hit.method, hit.outcome, hit.close_code, status, hit.page_view, decision.score,
                decision.level, hit.from_inside, decision.exempt,
            )  # fmt: skip
            middle = self._plain.get(key) or self._cached_middle(key, hit)
            self._append(seal(b"".join((HIT, head, numbers, middle, tail))))
            return None
        data = seal(b"".join((HIT, head, numbers, self._middle(hit), tail)))
        if decision.id is not None and not hit.is_repeated:
            data += self._decision(hit, struct.pack("!QQ", high, low))
        self._append(data)

    def _numbers(self, hit: Hit, claims: Claims | None) -> bytes:
        """Encode the column `numbers`, and set the bits of what was read."""
        if claims is not None:
            hit.inputs |= bits_of(claims) if hit.attempt is None else bits_of(claims) | TRIED
        return encoding.big(self._mask.numbers(claims, hit.attempt, hit.login))

    def _path_inputs(self, path: str, stored: bytes, variant: Variant | None) -> bytes:
        """Encode the column `path_inputs`: NULL where the stored path has all that verdicts read."""
        if variant is not None:
            return encoding.big(packed(variant))
        if stored[4:] == path.encode("utf-8", "surrogatepass"):
            return NULL
        return encoding.big(self._kind_of(path) << 32 | self._mask.path(path))

    def _middle(self, hit: Hit) -> bytes:
        """Encode the columns `page_view` to `click_id`."""
        decision, route = hit.decision, hit.route
        path = encoding.text(self._clean_path(hit.path), 1024)
        return b"".join(
            (
                encoding.judged(hit, decision),
                encoding.decided(hit.close_code, decision.previous_level, decision.id),
                OUTCOMES[hit.outcome],
                self._texts.get(hit.method) or self._text(hit.method, 16),
                path,
                self._path_inputs(hit.path, path, hit.variant),
                NULL if route is None else self._texts.get(route) or self._text(route, 256),
                NULL if hit.query is None else encoding.text(hit.query, 1024),
                NO_REFERRAL if hit.referral is None else encoding.referral(hit.referral),
            )
        )

    def _cached_middle(self, key: Hashable, hit: Hit) -> bytes:
        """Encode `_middle` of a plain hit, cached: it depends on the key alone."""
        if len(hit.path + hit.method) > _LONGEST_CACHED:
            return self._middle(hit)
        if len(self._plain) >= _MAX_CACHED:
            self._plain.clear()
        return self._plain.setdefault(key, self._middle(hit))

    def drop(self, reason: str) -> None:
        """Count a hit that is not stored."""
        self.counters.dropped[reason] += 1

    def _decision(self, hit: Hit, hit_id: bytes) -> bytes:
        row = encoding.decision_row(
            hit.decision,
            hit.detail,
            hit_id=hit_id,
            time_us=hit.time_ns // 1000,
            enforced=self._enforced,
            site=self._settings.site,
            identity=_identity_of(hit),
        )
        return frame(DECISION, row)

    def _text(self, value: str, most: int) -> bytes:
        field = encoding.text(value, most)
        if len(value) <= most:
            if len(self._texts) >= _MAX_CACHED:
                self._texts.clear()
            self._texts[value] = field
        return field

    def _tail_of(self, hit: Hit) -> bytes | None:
        """Encode the columns from `session_id` on, cached where the visitor's hits share them; None: not to be stored.

        A hit has values of its own if its session has ended meanwhile, if its address is another one of the IPv6
        network that is one visitor, or if a later request has proved something else of a crawler's claim.
        """
        visitor, identity = hit.visitor, _identity_of(hit)
        if self._drops_opted_out and not identity.tracked:
            return None
        is_shared = (
            hit.session is visitor.session
            and (hit.address is None or hit.address == identity.address)
            and hit.verification is visitor.verification
        )
        if is_shared and visitor.row_tail is not None:
            return visitor.row_tail
        if not is_shared and hit.address is not None:
            identity = replace(identity, address=hit.address)
        claim = hit.verification
        verified = None if claim is None or claim.status == ClaimStatus.UNCLAIMED else str(claim.status)
        if claim is not None and claim.operator is not None and identity.agent.operator is None:  # by a signature alone
            identity = replace(identity, agent=replace(identity.agent, operator=claim.operator))
        session = encoding.uuid(hit.session.id if identity.tracked else None)
        tail = session + encoding.visitor(identity, self._settings.site, verified, self._policy_version)
        if is_shared:
            visitor.row_tail = tail
        return tail

    def _append(self, data: bytes) -> None:
        """Append to the journal, else to memory. Raises AppendInterrupted where the row is in all the same."""
        try:
            try:
                (self.journal or self.memory).append(data)
            except JournalClosed:
                raise
            except JournalError as error:
                self._keep(data, str(error))
        except (RecursionError, JournalClosed):  # near the recursion limit, or at the end: nothing was written
            raise
        except Exception as error:  # such as one that the app's signal handler raises
            if not self._may_hold(data):
                raise  # the row is made again
            self.counters.queued += 1
            raise AppendInterrupted from error
        self.counters.queued += 1

    def _may_hold(self, data: bytes) -> bool:
        try:
            return self.memory.holds(data) or (self.journal is not None and self.journal.holds(data))
        except Exception:  # noqa: BLE001 - out of memory, as the append may have been: rather lost than doubled
            return True

    def _keep(self, data: bytes, failure: str) -> None:
        """Keep a row in memory that the journal did not take; where a bound is reached, drop and count it."""
        if failure in ("journal_full", "memory_full"):
            return self.drop(failure)
        self.counters.failures[failure] += 1
        try:
            self.memory.append(data)
        except JournalClosed:
            raise
        except JournalError as error:
            self.drop(str(error))


def _identity_of(hit: Hit) -> Identity:
    """Return the visitor's identity, or the one of the session that ended before this request: maybe of yesterday."""
    visitor = hit.visitor
    return visitor.identity if hit.session is visitor.session else hit.identity
