"""Slow questions, answered in threads: bounded, none queued twice, and nobody waits long for those of others."""

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
PARTS = 16  # one of these is the most that a group has of what waits, and of what is taken in a minute

Question = TypeVar("Question", bound=Hashable)


class Background(Generic[Question]):
    """Threads that answer questions; at most `size` wait and `rate` are taken in a minute, others are dropped.

    `group` tells what belongs together: groups take turns, and of each one question at a time is answered. Threads
    start with questions, so that an app without costs none; when nothing is left, one of them waits for more.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Question], None],
        clock: Clock,
        *,
        size: int,
        rate: int,
        threads: int = 1,
        group: Callable[[Question], Hashable] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()  # asked, answered, dropped, failed
        self._name = name
        self._answer = answer
        self._clock = clock
        self._size = size
        self._rate = rate
        self._most = threads
        self._group = group
        self._minute = 0.0
        self._taken: Counter[Hashable] = Counter()  # in this minute, by group
        self._parts = 1 if group is None else PARTS
        self._logged = Schedule(clock)
        self.abandon()

    def start(self) -> None:
        """Answer from now on; what was asked before is answered as well."""
        with self._lock:
            self.started = True
            for _ in range(len(self._waiting)):
                self._run()

    def ask(self, question: Question, is_urgent: bool = False) -> bool:
        """Queue a question that is not queued yet; returns False when it was dropped. Never waits for an answer.

        An urgent one is answered next, and never dropped: there must be few of them.
        """
        group = self._group_of(question)
        with self._lock:
            queue = self._waiting.get(group, {})
            if question not in queue and self._current.get(group) != question:
                if not self._has_room(group, len(queue)) and not is_urgent:
                    self.counters["dropped"] += 1
                    return False
                self._taken[group] += 1
                self.counters["asked"] += 1
                self._waiting.setdefault(group, queue)[question] = None
                self._count += 1
                if self.started and group not in self._current:
                    self._run()
            if is_urgent and group in self._waiting:
                self._waiting.move_to_end(group, last=False)
        return True

    def work_off(self) -> None:
        """Answer what waits, in the caller's thread: for tests, and for commands without an app."""
        while (question := self._next()) is not None:
            self._try(question)

    def abandon(self) -> None:
        """In a forked child: threads and locks of the parent are not here. Start anew with start()."""
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Hashable, dict[Question, None]] = OrderedDict()  # by group, whose turn it is first
        self._count = 0  # of those that wait
        self._current: dict[Hashable, Question] = {}  # that are being answered, by group
        self._threads: set[threading.Thread] = set()
        self._idle: threading.Thread | None = None  # that waits for `_changed`
        self._changed = SafeEvent()
        self.started = False
        self.counters = Counter()

    def stop(self, timeout: float) -> bool:
        """Drop what waits and let the threads end; returns whether they did within `timeout` seconds."""
        deadline = self._clock.monotonic() + timeout
        with self._lock:
            threads, self._threads, self.started = self._threads, set(), False
            self._waiting.clear()
            self._count, self._current = 0, {}
            self._changed.set()
            self._idle, self._changed = None, SafeEvent()  # those who have yet to wake up have theirs
        for thread in threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _group_of(self, question: Question) -> Hashable:
        return question if self._group is None else self._group(question)

    def _has_room(self, group: Hashable, waiting: int) -> bool:
        now = self._clock.monotonic()
        if now >= self._minute + 60:
            self._minute = now
            self._taken.clear()
        size, rate = max(1, self._size // self._parts), max(1, self._rate // self._parts)
        if waiting >= size or self._taken[group] >= rate:
            return False
        return self._count < self._size and self._taken.total() < self._rate

    def _run(self) -> None:
        if self._idle is not None:
            self._idle = None
            self._changed.set()
            return
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= self._most:
            return
        thread = threading.Thread(target=self._work, name=f"asgi-analytics-{self._name}", daemon=True)
        try:
            start_thread(thread)
        except (RuntimeError, MemoryError):  # the system gives no thread: the next question tries again
            self.counters["failed"] += 1
            return
        self._threads.add(thread)

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                question = self._next() if me in self._threads else None
                if question is None:
                    if me not in self._threads or self._idle not in (None, me):
                        self._threads.discard(me)
                        return
                    self._idle, changed = me, self._changed
                    changed.clear()
                else:
                    self._idle = None if self._idle is me else self._idle
                    group, current = self._group_of(question), self._current
                    current[group] = question
            if question is None:
                changed.wait(IDLE)
                continue
            try:
                self._try(question)
            finally:
                with self._lock:
                    current.pop(group, None)

    def _next(self) -> Question | None:
        """Take out the next question of a group of which none is being answered; then it is the others' turn."""
        group = next((one for one in self._waiting if one not in self._current), None)
        if group is None:
            return None
        queue = self._waiting[group]
        question = next(iter(queue))
        del queue[question]
        self._count -= 1
        if queue:
            self._waiting.move_to_end(group)
        else:
            del self._waiting[group]
        return question

    def _try(self, question: Question) -> None:
        try:
            self._answer(question)
            outcome = "answered"
        except Exception as error:  # noqa: BLE001 - a thread of ours that dies would leave all claims pending
            outcome = "failed"
            if self._logged.take_turn(self._name, LOG_INTERVAL):
                log.warning("Unexpected error while checking a crawler", exc_info=error)
        with self._lock:
            self.counters[outcome] += 1
