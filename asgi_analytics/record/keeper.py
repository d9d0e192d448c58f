"""The upkeep of the journal's files: they are flushed, made ahead of need, and marked as in use."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import JournalError
from ..low_memory import SafeEvent
from ..protocols import Clock
from ..schedule import Schedule
from .pace import Backoff
from .recorder import Recorder

SYNC_INTERVAL = 0.5  # seconds of hits that a power cut may cost
REOPEN_INTERVAL = 30.0  # seconds between two attempts to open a journal that could not be opened
TOUCH_INTERVAL = 3600.0  # seconds
TROUBLE = "Trouble with the files of the journal"


class Keeper:
    """Looks after the files in rounds of SYNC_INTERVAL, and calls `chores` in each; `warn` for faults."""

    def __init__(
        self, recorder: Recorder, clock: Clock, warn: Callable[[str, Exception], None], chores: Callable[[], None]
    ) -> None:
        self.backoff = Backoff()  # of the thread that runs it, after an error
        self._recorder = recorder
        self._warn = warn
        self._chores = chores
        self._schedule = Schedule(clock)

    def run(self, stopping: SafeEvent) -> None:
        """Go on until `stopping` is set. Raises OSError where a disk fails."""
        while not stopping.wait(SYNC_INTERVAL):
            try:
                self._keep_files()
            finally:  # a failing disk must not hold up the rest
                self._chores()
            self.backoff.reset()

    def _keep_files(self) -> None:
        if (journal := self._recorder.journal) is None:
            if self._schedule.take_turn("reopen", REOPEN_INTERVAL):
                self._recorder.open(again=True)
            return
        try:
            journal.prepare()
        except (OSError, JournalError) as error:  # without a next segment, the open one keeps growing
            self._recorder.counters.failures["journal"] += 1
            self._warn(TROUBLE, error)
        journal.sync()
        if self._schedule.take_turn("touch", TOUCH_INTERVAL):
            journal.folder.touch()
