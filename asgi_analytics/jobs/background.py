"""Slow questions, answered one after another in a thread: bounded, none queued twice."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ..log import LOG_INTERVAL, log
from ..low_memory import SafeEvent, start_thread
from ..protocols import Clock
from ..schedule import Schedule

IDLE = 60.0  # seconds after which the queue is looked at without a wake-up, too

Question = TypeVar("Question", bound=Hashable)


class Background(Generic[Question]):
    """A thread that answers questions; at most `size` wait and `rate` are taken in a minute, others are dropped.

    It starts with its first question after start(), so that an app without questions costs no thread.
    """

    def __init__(self, name: str, answer: Callable[[Question], None], clock: Clock, *, size: int, rate: int) -> None:
        self.counters: Counter[str] = Counter()  # asked, answered, dropped, failed
        self._name = name
        self._answer = answer
        self._clock = clock
        self._size = size
        self._rate = rate
        self._minute = 0.0
        self._taken = 0
        self._logged = Schedule(clock)
        self._current: Question | None = None
        self._thread: threading.Thread | None = None
        self.started = False
        self.abandon()

    def start(self) -> None:
        """Answer from now on; what was asked before is answered as well."""
        with self._lock:
            self.started = True
            if self._waiting:
                self._run()

    def ask(self, question: Question, is_urgent: bool = False) -> bool:
        """Queue a question that is not queued yet; returns False when it was dropped. Never waits for an answer.

        An urgent one is answered next, and never dropped: there must be few of them.
        """
        with self._lock:
            if question in self._waiting or question == self._current:
                if is_urgent and question in self._waiting:
                    self._waiting.move_to_end(question, last=False)
                return True
            if not self._has_room() and not is_urgent:
                self.counters["dropped"] += 1
                return False
            self._taken += 1
            self.counters["asked"] += 1
            self._waiting[question] = None
            if is_urgent:
                self._waiting.move_to_end(question, last=False)
            if self.started:
                self._run()
        self._changed.set()
        return True

    def work_off(self) -> None:
        """Answer what waits, in the caller's thread: for tests, and for commands without an app."""
        while self._waiting:
            self._try(self._waiting.popitem(last=False)[0])

    def stop(self, timeout: float) -> bool:
        """Drop what waits and let the thread end; returns whether it did within `timeout` seconds."""
        with self._lock:
            thread, self._thread, self.started = self._thread, None, False
            self._waiting.clear()
        self._changed.set()
        if thread is not None:
            thread.join(timeout)
            return not thread.is_alive()
        return True

    def abandon(self) -> None:
        """In a forked child: threads and locks of the parent are not here. Start anew with start()."""
        self._lock, self._changed = threading.Lock(), SafeEvent()
        self._waiting: OrderedDict[Question, None] = OrderedDict()
        self._current, self._thread, self.started = None, None, False
        self.counters = Counter()

    def _has_room(self) -> bool:
        now = self._clock.monotonic()
        if now >= self._minute + 60:
            self._minute, self._taken = now, 0
        return len(self._waiting) < self._size and self._taken < self._rate

    def _run(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._work, name=f"asgi-analytics-{self._name}", daemon=True)
        try:
            start_thread(thread)
        except (RuntimeError, MemoryError):  # the system gives no thread: the next question tries again
            self.counters["failed"] += 1
            return
        self._thread = thread

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            self._changed.clear()
            with self._lock:
                if not self.started or self._thread is not me:
                    self._changed.set()  # the wake-up may have been for the next thread
                    return
                question = self._current = self._waiting.popitem(last=False)[0] if self._waiting else None
            if question is None:
                self._changed.wait(IDLE)
                continue
            self._try(question)
            with self._lock:
                self._current = None

    def _try(self, question: Question) -> None:
        try:
            self._answer(question)
        except Exception as error:  # noqa: BLE001 - a thread of ours that dies would leave all claims pending
            self.counters["failed"] += 1
            if self._logged.take_turn(self._name, LOG_INTERVAL):
                log.warning("Unexpected error while checking a crawler", exc_info=error)
        else:
            self.counters["answered"] += 1
