"""The exchange of one request in SAMPLE, which times our own steps."""

from __future__ import annotations

from ..protocols import Message, Scope, StrictAnswer
from .http import Exchange


class TimedExchange(Exchange):
    """An exchange whose steps are timed for `stats()`."""

    def decide(self, scope: Scope, strict: StrictAnswer | None = None) -> None:
        """As Exchange.decide."""
        super().decide(scope, strict)
        self._note_time("identify_and_decide", self.started_at)

    def _respond(self, message: Message) -> Message:
        began = self._engine.monotonic()
        message = super()._respond(message)
        self._note_time("judge_and_respond", began)
        return message

    def _record(self) -> None:
        began = self._engine.monotonic()
        super()._record()
        try:  # here, as a signal handler may raise already where a call begins
            self._note_time("record", began)
        except Exception:  # noqa: BLE001, S110 - the row is in, and must not be made again
            pass

    def _note_time(self, step: str, began: float) -> None:
        try:
            self._engine.overhead.add(step, self._engine.monotonic() - began)
        except Exception:  # noqa: BLE001, S110 - the step is done, and must not be done again
            pass
