"""Clocks that jump, stand still and disagree: no quota moves, no id comes twice, each hit is stored."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Any

import pytest

from asgi_analytics import cli
from asgi_analytics import clock as clocks
from asgi_analytics.clock import SystemClock
from asgi_analytics.testing import FakeClock
from tests.acceptance.faults.ledger import Account
from tests.drive import get, page, rows, start, wrapped
from tests.waiting import wait_until

DAY = 86_400.0
YEAR = 365.25 * DAY


NEAR = [-3600.0, 3600.0, DAY]
FAR = [-130 * YEAR, 100 * YEAR, -135 * YEAR, 7800 * YEAR]


def noon() -> FakeClock:
    clock = FakeClock()
    clock.jump_wall(DAY / 2)
    return clock


def across(dsn: str, jump: float) -> list[int]:
    """The statuses of five requests, and of ten after the jump, with a quota of ten; each must have its row."""
    clock = noon()
    with wrapped(page(), dsn, clock=clock, limits="10/hour") as app:
        start(app)
        statuses = [get(app, f"/a/{number}").status for number in range(5)]
        clock.jump_wall(jump)
        statuses += [get(app, f"/b/{number}").status for number in range(10)]
        clock.jump_wall(-jump)
        get(app, "/c")
    found = rows(dsn)
    assert len(found) == len({row["id"] for row in found}) == 16
    assert app.stats()["failures"] == {}
    return statuses


@pytest.mark.parametrize("jump", NEAR)
def test_a_jump_of_the_wall_clock_by_hours_loses_nothing_and_moves_no_quota(
    dsn: str, account: Account, jump: float
) -> None:
    assert across(dsn, jump) == [200] * 10 + [429] * 5
    account.round()


@pytest.mark.parametrize("jump", FAR)
def test_a_jump_of_the_wall_clock_by_a_lifetime_loses_nothing_and_moves_no_quota(
    dsn: str, account: Account, jump: float
) -> None:
    account.round()
    assert across(dsn, jump) == [200] * 10 + [429] * 5


@pytest.mark.parametrize("jump", [-3600.0, 3600.0, 30 * DAY, 100 * YEAR])
def test_a_jump_around_midnight_or_one_that_lasts_makes_no_visitor_new(dsn: str, account: Account, jump: float) -> None:
    clock = FakeClock()
    clock.jump_wall(DAY - 600 if jump > 0 else 600)
    with wrapped(page(), dsn, clock=clock, limits="5/day") as app:
        start(app)
        assert get(app).status == 200
        for lasting in (0.0, 4000.0):  # the second one is believed
            clock.jump_wall(jump)
            assert get(app).status == 200
            clock.advance(lasting)
            assert get(app).status == 200
            clock.jump_wall(-jump)
        assert get(app).status == 429
        account.round()


class Leaping(SystemClock):
    """The clock of this machine, but for leaps."""

    leap = 0.0

    def time_ns(self) -> int:
        return SystemClock.time_ns() + round(self.leap * 1e9)


def test_a_jump_of_the_wall_clock_lifts_no_ban_and_ends_no_cookie(dsn: str, account: Account) -> None:
    clock = Leaping()
    home = {"sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
    with wrapped(page(), dsn, clock=clock, session_cookie=True, secret="s" * 16) as app:
        start(app)
        returning = {**home, "cookie": get(app, "/", home).cookies[0].partition(";")[0]}
        rule(dsn, "203.0.113.9")
        wait_until(lambda: get(app, client=("203.0.113.9", 1)).status == 429, what="the ban")
        clock.leap = 100 * YEAR
        assert get(app, "/1", returning).cookies == []
        rule(dsn, "203.0.113.10")  # a ruling that is learnt by a leapt clock clears no other away
        wait_until(lambda: get(app, client=("203.0.113.10", 1)).status == 429, what="the second ban")
        assert get(app, client=("203.0.113.9", 1)).status == 429
        clock.leap = 0.0
        assert get(app, "/2", returning).cookies == []
        account.round()


def test_a_worker_whose_clock_is_wrong_by_hours_learns_and_keeps_a_ban(dsn: str, account: Account) -> None:
    clock = Leaping()
    clock.leap = 6 * 3600.0
    with wrapped(page(), dsn, clock=clock) as app:
        start(app)
        rule(dsn, "203.0.113.9")
        wait_until(lambda: get(app, client=("203.0.113.9", 1)).status == 429, what="the ban")
        assert 7100 < int(get(app, client=("203.0.113.9", 1)).header("retry-after") or 0) <= 7200
        clock.leap = 12 * 3600.0
        assert get(app, client=("203.0.113.9", 1)).status == 429
        account.round()


def rule(dsn: str, address: str) -> None:
    assert cli.main(["ban", address, "--for", "2h", "--reason", "scraping", "--dsn", dsn]) == 0


def test_eight_hours_of_standing_still_give_a_full_quota_and_no_more(dsn: str, account: Account) -> None:
    clock = FakeClock()
    with wrapped(page(kind=b"application/json"), dsn, clock=clock, limits="10/minute") as app:
        assert [get(app).status for _ in range(12)] == [200] * 10 + [429] * 2
        clock.advance(8 * 3600)
        assert [get(app).status for _ in range(12)] == [200] * 10 + [429] * 2
        account.round()
    hits = rows(dsn, "SELECT count(*) AS n FROM analytics.hits GROUP BY session_id")
    assert hits == [{"n": 12}] * 2, "the session is over by its rule, once"


def _ids(count: int, pipe: Any) -> None:
    pipe.send([clocks.next_tail() for _ in range(count)])


def test_forks_of_one_master_make_no_id_twice_within_one_millisecond(account: Account) -> None:
    context, count = get_context("fork"), 50_000
    clocks.next_tail()  # used before the fork, as by a preloaded master
    pipes = [context.Pipe() for _ in range(4)]
    children = [context.Process(target=_ids, args=(count, pipe[1])) for pipe in pipes]
    for child in children:
        child.start()
    made = [one for receiver, _ in pipes for one in receiver.recv()]
    for child in children:
        child.join(20)
    made += [clocks.next_tail() for _ in range(count)]
    assert len(set(made)) == len(made) == 5 * count
    account.round(4)


def test_workers_whose_clocks_are_five_seconds_apart_keep_one_session(dsn: str, account: Account) -> None:
    one, other = FakeClock(), FakeClock()
    other.jump_wall(5)
    with wrapped(page(), dsn, clock=one) as first, wrapped(page(), dsn, clock=other) as second:
        start(first)
        start(second)
        for number in range(6):
            get((first, second)[number % 2], f"/{number}")
            one.advance(10)
            other.advance(10)
        account.round()
    assert len({row["session_id"] for row in rows(dsn)}) == 1
