"""Two workers of one site in one process: what each takes from the other of a visitor's level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.testing import FakeClock

from .drive import OLD, STRICT, get, page, rows, start, wrapped
from .waiting import wait_until


class Pair:
    """Two workers with one clock; what either has to tell is delivered before the next request."""

    def __init__(self, clock: FakeClock, *apps: AnalyticsMiddleware) -> None:
        self.clock = clock
        self.apps = apps

    def level(self, worker: int, path: str = "/a", method: str = "GET") -> str | None:
        """Ask one of them for a page, a second later, and return the level that it tells; HEAD is no page load."""
        self.clock.advance(1)
        told = get(self.apps[worker], path, OLD, method=method).header("x-throttle-level")
        wait_until(lambda: all(app.stats()["queued"] <= app.stats()["written"] for app in self.apps), 10, "the rows")
        return told

    def until_blocked(self, worker: int) -> None:
        for path in ("/a", "/b", "/c", "/d", "/e"):
            if self.level(worker, path) == "blocked":
                return
        raise AssertionError("was never blocked")


@pytest.fixture
def pair(dsn: str, tmp_path: Path) -> Iterator[Pair]:
    clock = FakeClock()
    clock.advance(43_200)  # noon, so that no hour of a jump is of another day
    with (
        wrapped(page(), dsn, clock=clock, journal_dir=tmp_path / "one", **STRICT) as one,
        wrapped(page(), dsn, clock=clock, journal_dir=tmp_path / "other", **STRICT) as other,
    ):
        start(one)
        start(other)
        yield Pair(clock, one, other)


def test_a_level_of_long_ago_that_cools_down_at_one_worker_lifts_no_block_of_another(pair: Pair, dsn: str) -> None:
    for worker in (0, 1, 1):
        pair.level(worker)
        pair.level(worker, "/b")
    pair.clock.advance(3000)
    pair.until_blocked(0)
    pair.clock.advance(100)
    pair.level(1)  # the first there for long: what it knows is what was then
    assert [pair.level(worker) for worker in (1, 0, 1, 0)] == ["blocked"] * 4
    (known,) = rows(dsn, "SELECT level FROM analytics.fingerprints")
    assert known["level"] == 3


def test_a_level_cools_down_at_both_workers_one_at_a_time(pair: Pair) -> None:
    pair.level(1)
    pair.until_blocked(0)
    pair.level(1)
    assert pair.level(1) == "blocked"
    seen = []
    for _ in range(3):
        pair.clock.advance(600)
        seen.append(pair.level(1, method="HEAD"))
    assert seen == ["severe", "warning", "normal"]


def test_a_level_from_before_the_wall_clock_went_back_is_taken_over_once_and_cools_down(pair: Pair) -> None:
    for path in "ab":
        pair.level(0, f"/{path}")
    pair.clock.jump_wall(-3600)
    pair.level(1)
    assert pair.level(1) != "normal"
    for _ in range(3):
        pair.clock.advance(600)
        told = pair.level(1, method="HEAD")
    assert told == "normal"


def test_who_is_warned_at_one_worker_before_that_hears_of_a_block_is_blocked_there_too(pair: Pair) -> None:
    pair.until_blocked(0)
    assert pair.level(1) == "warning", "by what it did here: nothing is known of it yet"
    assert pair.level(1, method="HEAD") == "blocked"


def test_a_level_that_is_noted_to_have_cooled_down_late_falls_on_as_if_it_had_been_noted_in_time(pair: Pair) -> None:
    pair.level(1)
    pair.until_blocked(0)
    pair.level(1, method="HEAD")
    assert pair.level(1, method="HEAD") == "blocked"
    pair.clock.advance(900)
    assert pair.level(0, method="HEAD") == "severe"
    pair.clock.advance(320)
    assert [pair.level(worker, method="HEAD") for worker in (0, 1)] == ["warning", "warning"]


def test_who_was_blocked_before_midnight_is_blocked_at_a_worker_that_meets_it_after_that(pair: Pair) -> None:
    pair.clock.advance(43_200 - 60)
    pair.until_blocked(0)
    pair.clock.advance(60)
    assert pair.level(0) == "blocked"
    pair.level(1, method="HEAD")  # nothing is known of it yet
    assert pair.level(1, method="HEAD") == "blocked"


def test_who_was_blocked_before_midnight_and_is_warned_at_a_worker_that_meets_it_after_that_is_blocked_there_too(
    pair: Pair,
) -> None:
    pair.clock.advance(43_200 - 60)
    pair.until_blocked(0)
    pair.clock.advance(60)
    assert pair.level(0) == "blocked"
    assert pair.level(1) == "warning", "by what it did here: nothing is known of it yet"
    assert [pair.level(worker, method="HEAD") for worker in (1, 0)] == ["blocked", "blocked"]


def test_a_level_that_both_workers_know_cools_down_after_midnight_as_it_would_have_before(pair: Pair) -> None:
    pair.clock.advance(43_200 - 300)
    pair.level(1)
    pair.until_blocked(0)
    pair.level(1)
    assert pair.level(1) == "blocked"
    pair.clock.advance(300)
    assert [pair.level(worker) for worker in (0, 1, 0, 1)] == ["blocked"] * 4
    pair.clock.advance(300)
    assert [pair.level(worker, method="HEAD") for worker in (0, 1)] == ["severe", "severe"]
