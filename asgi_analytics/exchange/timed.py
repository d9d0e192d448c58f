"""The exchange of one request in SAMPLE, which times our own steps."""

from __future__ import annotations

from ..protocols import Message, Scope, StrictAnswer
from .http import Exchange


class TimedExchange(Exchange):
    """An exchange whose steps are timed for `stats()`."""

    def decide(self, scope: Scope, strict: StrictAnswer | None = None) -> None:
        """As Exchange.decide."""
        super().decide(scope, strict)
        self._engine.overhead.add("identify_and_decide", self._engine.monotonic() - self.started_at)

    def _respond(self, message: Message) -> Message:
        began = self._engine.monotonic()
        message = super()._respond(message)
        self._engine.overhead.add("judge_and_respond", self._engine.monotonic() - began)
        return message

    def _record(self) -> None:
        began = self._engine.monotonic()
        super()._record()
        try:
            self._engine.overhead.add("record", self._engine.monotonic() - began)
        except RecursionError:  # the row is in
            pass
