from __future__ import annotations

import logging
import threading

import pytest

from asgi_analytics.jobs.background import Background
from asgi_analytics.testing import FakeClock
from tests.waiting import wait_until


def test_a_question_is_answered_in_a_thread() -> None:
    answered = threading.Event()
    names: list[str] = []

    def answer(question: str) -> None:
        names.append(f"{question} by {threading.current_thread().name}")
        answered.set()

    background = Background("test", answer, FakeClock(), size=2, rate=10)
    background.ask("before")
    background.start()
    assert answered.wait(10)
    answered.clear()
    assert background.ask("after")
    assert answered.wait(10)
    assert background.stop(10)
    assert names == ["before by asgi-analytics-test", "after by asgi-analytics-test"]


def test_no_question_no_thread() -> None:
    background = Background("idle", print, FakeClock(), size=2, rate=10)
    background.start()
    assert [thread for thread in threading.enumerate() if thread.name == "asgi-analytics-idle"] == []
    assert background.stop(0)


def test_a_question_that_waits_is_not_asked_again() -> None:
    asked: list[str] = []
    background = Background("test", asked.append, FakeClock(), size=9, rate=99)
    assert [background.ask(question) for question in "aabab"] == [True] * 5
    background.work_off()
    assert asked == ["a", "b"]
    assert background.counters == {"asked": 2, "answered": 2}


def test_what_waits_and_what_is_taken_in_a_minute_is_bounded() -> None:
    clock = FakeClock()
    background: Background[int] = Background("test", lambda question: None, clock, size=3, rate=5)
    assert sum(background.ask(number) for number in range(1000)) == 3
    background.work_off()
    assert sum(background.ask(number) for number in range(1000)) == 2
    background.work_off()
    clock.advance(60)
    assert sum(background.ask(number) for number in range(1000)) == 3
    assert background.counters["dropped"] == 2992


def test_groups_take_turns_and_have_a_sixteenth_each_of_what_waits_and_of_a_minute() -> None:
    asked: list[str] = []
    clock = FakeClock()
    background = Background("test", asked.append, clock, size=32, rate=64, group=lambda question: question[0])
    assert [background.ask(question) for question in ("a1", "a2", "a2", "a3", "b1", "b2")] == [
        *[True] * 3,
        False,
        *[True] * 2,
    ]
    background.work_off()
    assert asked == ["a1", "b1", "a2", "b2"]
    assert [background.ask(question) for question in ("a3", "a4")] == [True, True]
    background.work_off()
    assert [background.ask(question) for question in ("a5", "b3")] == [False, True]
    clock.advance(60)
    assert background.ask("a5")


def test_of_a_group_one_question_at_a_time_is_answered_and_of_others_as_many_as_there_are_threads() -> None:
    began, leave = {name: threading.Event() for name in ("a1", "a2", "b1", "c1")}, threading.Event()

    def answer(question: str) -> None:
        began[question].set()
        assert leave.wait(10)

    background = Background[str]("test", answer, FakeClock(), size=99, rate=99, threads=2, group=lambda one: one[0])
    background.start()
    for question in began:
        background.ask(question)
    assert began["a1"].wait(10)
    assert began["b1"].wait(10)
    assert not began["a2"].is_set()
    assert not began["c1"].is_set()
    leave.set()
    assert all(one.wait(10) for one in began.values())
    assert background.stop(10)


def test_when_nothing_is_left_one_thread_waits_for_more() -> None:
    def threads() -> int:
        return sum(thread.name == "asgi-analytics-burst" for thread in threading.enumerate())

    answered: list[int] = []
    all_here = threading.Barrier(3)

    def answer(number: int) -> None:
        if number < 3:
            all_here.wait(10)
        answered.append(number)

    background = Background[int]("burst", answer, FakeClock(), size=9, rate=99, threads=3)
    background.start()
    for number in range(3):
        background.ask(number)
    wait_until(lambda: len(answered) == 3 and threads() == 1)
    for number in range(3, 9):
        background.ask(number)
        wait_until(lambda: answered[-1] == number)  # noqa: B023 - called at once
    wait_until(lambda: threads() == 1)
    assert background.stop(10)
    assert threads() == 0


def test_an_error_is_counted_said_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def answer(number: int) -> None:
        assert number, "none"

    background = Background("test", answer, FakeClock(), size=9, rate=99)
    with caplog.at_level(logging.WARNING, "asgi_analytics"):
        for number in (0, False, 1):
            background.ask(number)
            background.work_off()
    assert background.counters["failed"] == 2
    assert background.counters["answered"] == 1
    assert len(caplog.records) == 1


def test_stopping_drops_what_waits_and_a_second_start_works() -> None:
    entered, leave = threading.Event(), threading.Event()
    answered: list[str] = []

    def answer(question: str) -> None:
        answered.append(question)
        entered.set()
        assert leave.wait(10)

    background = Background("test", answer, FakeClock(), size=9, rate=99)
    background.start()
    background.ask("first")
    assert entered.wait(10)
    background.ask("dropped")
    assert not background.stop(0)
    entered.clear()
    background.start()
    background.ask("second")
    leave.set()
    assert entered.wait(10)
    assert background.stop(10)
    assert answered == ["first", "second"]


def test_a_forked_child_begins_anew() -> None:
    background: Background[str] = Background("test", lambda question: None, FakeClock(), size=9, rate=99)
    background.start()
    background.ask("a")
    background.abandon()
    assert not background.started
    answered = threading.Event()
    background._answer = lambda question: answered.set()
    background.start()
    background.ask("b")
    assert answered.wait(10)
    assert background.stop(10)
