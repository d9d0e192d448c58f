from __future__ import annotations

import mmap
import resource
import threading
import time

import pytest

from asgi_analytics.low_memory import A_THREAD, SafeEvent, ensure_memory


def test_what_is_there_is_enough_and_what_nobody_has_is_a_memory_error() -> None:
    ensure_memory(1 << 20)
    with pytest.raises(MemoryError):
        ensure_memory(1 << 60)


def test_to_ask_whether_there_is_room_takes_none_of_it() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        ensure_memory(A_THREAD)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * A_THREAD // mmap.PAGESIZE // 10


def test_there_is_room_for_a_thread_where_its_stack_fits() -> None:
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    assert min(stack, 8 << 20) < A_THREAD


def test_an_event_is_waited_for_until_it_is_set() -> None:
    event = SafeEvent()
    assert (event.is_set(), event.wait(0.0), event.wait(-1.0)) == (False, False, False)
    event.set()
    event.set()
    assert (event.is_set(), event.wait(0.0), event.wait(5.0)) == (True, True, True)
    event.clear()
    event.clear()
    began = time.monotonic()
    assert (event.is_set(), event.wait(0.05)) == (False, False)
    assert time.monotonic() - began >= 0.04


def test_all_who_wait_are_woken() -> None:
    event, woken = SafeEvent(), []
    threads = [threading.Thread(target=lambda: woken.append(event.wait(10.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    event.set()
    for thread in threads:
        thread.join(10)
    assert woken == [True] * 8
    assert time.monotonic() - began < 5


def test_who_is_interrupted_while_it_wakes_keeps_nobody_waiting() -> None:
    event = SafeEvent()
    event.set()
    assert event._lock.acquire(blocking=False)  # as by one that never came to give it back
    began = time.monotonic()
    assert event.wait(30.0)
    assert time.monotonic() - began < 15.0
    event.set()
    event.clear()
    assert not event.wait(0.0)


def test_who_is_woken_finds_it_set() -> None:
    class Watched(SafeEvent):
        def _free(self) -> None:
            found.append(self.is_set())
            super()._free()

    found = list[bool]()
    Watched().set()
    assert found == [True]
