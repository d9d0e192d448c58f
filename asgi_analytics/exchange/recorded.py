"""A request that has come to its end: it becomes a row of the journal, once."""

from __future__ import annotations

from ..decide.explain import detail
from ..errors import AppendInterrupted, JournalClosed
from ..identify.referral import clean_query, read_referral
from ..identify.request import route_template
from ..inputs import QUERIED
from ..model import Referral
from .answered import Answered
from .coercion import text


class Recorded(Answered):
    """A request that is answered and judged, and becomes a row."""

    _owed: str | None = None  # the outcome of a request whose row could not be made yet

    def end(self, outcome: str) -> None:
        """Record the request, once."""
        if self.recorded:
            return
        self.recorded = True
        try:
            self.outcome = outcome
            self._record()
        except AppendInterrupted as error:
            self._engine.failed("record", error)
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            is_first = self._owed is None
            self.recorded, self._owed = False, self.outcome  # before any call, which may raise RecursionError
            if is_first:
                self._engine.failed("record", error)

    async def finish(self, outcome: str = "aborted") -> None:
        """Record the request, if it is not yet, after the app has returned or raised; `outcome`: without an answer.

        A row that could not be made is made now, for the app may have called us near the recursion limit. If that
        fails, too, it is made without query, headers and scope.
        """
        self.end(self._owed or outcome)
        if not self.recorded:
            self.path, self.method, self._query = text(self.path), text(self.method), b""
            self._headers, self.scope = {}, {}
            self.end(self._owed or outcome)

    def _record(self) -> None:
        scope, engine = self.scope, self._engine
        recorder = engine.open_recorder()  # the engine may have been stopped while the app ran
        self.duration_us = int((engine.monotonic() - self.started_at) * 1e6)
        query = self._query
        if "route" in scope or "path_template" in scope or "endpoint" in scope:
            self.route = route_template(scope)
        if query:
            self._read_query(query)
        # A page that this site links has no new referral, unless its query names a campaign.
        if self.page_view and (query or not self.from_inside):
            self.referral = self._referral(query)
        if self.status is None and self.outcome == "error":
            self.status = 500
        if self.method == "HEAD":  # apps answer it as a GET; servers leave the body out
            self.bytes_sent = 0
        decision = self.decision
        if decision.refused and self.outcome != "refused":
            self.is_repeated = recorder.repeats(self)
        if decision.id is not None and self.count_frame is None and not self.is_repeated:
            self.detail = detail(decision, decision.findings, decision.inputs, engine.policy_version)
        try:
            recorder.hit(self)
        except JournalClosed:  # stopped meanwhile
            engine.open_recorder().hit(self)

    def _read_query(self, query: bytes) -> None:
        if self._engine.keeps_query:
            self.query = clean_query(query)
        if self.outcome == "refused" and self.method == "GET":  # another policy might let it through, to a page
            self.inputs |= QUERIED
            self._page_variant(False)

    def _referral(self, query: bytes) -> Referral:
        referer, host = self._headers.get(b"referer"), self._headers.get(b"host")
        return read_referral(
            query,
            referer.decode("latin-1") if referer else None,
            host.decode("latin-1") if host else None,
            bool(self.from_inside),
        )
