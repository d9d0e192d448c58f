"""Where a framework makes a middleware for each route, those of one app with equal options are one."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.middleware import ASGIApp
from asgi_analytics.testing import FakeClock

from .drive import NOWHERE, ask, get, http_scope, page, rows, wrapped
from .waiting import wait_until

MAKE = Callable[..., Starlette]


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


@pytest.fixture
def made() -> Iterator[list[AnalyticsMiddleware]]:
    """The middlewares that the apps of `by_route` made; at the end all are closed."""
    middlewares: list[AnalyticsMiddleware] = []
    yield middlewares
    for middleware in middlewares:
        middleware.close()


@pytest.fixture
def by_route(made: list[AnalyticsMiddleware]) -> MAKE:
    """A maker of apps whose routes each have a middleware of their own."""

    def make(options: dict[str, Any], paths: str = "abc", **of_path: dict[str, Any]) -> Starlette:
        def analytics(app: ASGIApp, path: str) -> AnalyticsMiddleware:
            told = {"dsn": NOWHERE, "shutdown_timeout": 0.5, **options, **of_path.get(path, {})}
            made.append(AnalyticsMiddleware(app, **told))
            return made[-1]

        return Starlette(routes=[Route(f"/{p}", hello, middleware=[Middleware(analytics, path=p)]) for p in paths])

    return make


def engines(middlewares: list[AnalyticsMiddleware]) -> int:
    return len({id(middleware._engine) for middleware in middlewares if middleware._engine.started})


def test_the_routes_of_one_app_share_quotas_threads_and_what_is_counted(
    by_route: MAKE, made: list[AnalyticsMiddleware]
) -> None:
    app = by_route({"limits": "3/minute", "clock": FakeClock()})
    statuses = [get(app, f"/{path}").status for path in "abcabc"]
    assert statuses == [200] * 3 + [429] * 3
    assert engines(made) == 1
    assert {middleware.stats()["queued"] for middleware in made} == {6}


def test_two_apps_share_nothing(by_route: MAKE, made: list[AnalyticsMiddleware]) -> None:
    options = {"limits": "3/minute", "clock": FakeClock()}
    for app in (by_route(options), by_route(options)):
        assert [get(app, f"/{path}").status for path in "abca"] == [200] * 3 + [429]
    assert engines(made) == 2


@pytest.mark.parametrize(
    "other",
    [{"limits": "9/minute"}, {"site": "other"}, {"dsn": NOWHERE + "2"}, {"refine_refusal": lambda problem: problem}],
    ids=lambda other: next(iter(other)),
)
def test_a_route_with_other_options_counts_by_itself(
    other: dict[str, Any], by_route: MAKE, made: list[AnalyticsMiddleware]
) -> None:
    app = by_route({"limits": "3/minute", "clock": FakeClock()}, b=other)
    assert [get(app, f"/{path}").status for path in "acacb"] == [200] * 3 + [429, 200]
    assert engines(made) == 2


def test_middlewares_around_apps_by_hand_share_nothing() -> None:
    clock = FakeClock()
    with wrapped(page(), limits="1/minute", clock=clock) as one, wrapped(page(), limits="1/minute", clock=clock) as two:
        assert [get(app).status for app in (one, two, one, two)] == [200, 200, 429, 429]
        assert one._engine is not two._engine


def test_what_one_closes_the_next_request_of_another_starts_again(
    dsn: str, by_route: MAKE, made: list[AnalyticsMiddleware]
) -> None:
    app = by_route({"dsn": dsn, "batch_age": 0.05, "shutdown_timeout": 10})
    get(app, "/a")
    assert made[0].close()
    get(app, "/b")
    assert made[1].close()
    assert sorted(row["path"] for row in rows(dsn)) == ["/a", "/b"]


def test_the_engine_lives_until_the_last_of_them_is_dropped(by_route: MAKE, made: list[AnalyticsMiddleware]) -> None:
    host = by_route({})
    kept, *others = (AnalyticsMiddleware(page(), dsn=NOWHERE, shutdown_timeout=0.5) for _ in range(3))
    for middleware in (*others, kept):
        asyncio.run(ask(middleware, http_scope(app=host)))
    del middleware, others
    gc.collect()
    engine = kept._engine
    assert len(engine.owners) == 1
    engine.owners.stop_if_none_left()
    get(kept)
    assert engine.started
    assert kept.stats()["queued"] == 4
    gone = weakref.ref(kept)
    del kept
    gc.collect()
    assert gone() is None
    wait_until(lambda: not engine.started)


def test_the_engine_of_an_app_that_had_the_same_id_is_not_taken_over(by_route: MAKE) -> None:
    host = by_route({})
    before, after = (AnalyticsMiddleware(page(), dsn=NOWHERE, shutdown_timeout=0.5) for _ in range(2))
    asyncio.run(ask(before, http_scope(app=host)))
    engine = before._engine
    del before
    gc.collect()
    assert len(engine.owners) == 0
    asyncio.run(ask(after, http_scope(app=host)))
    assert after._engine is not engine
    after.close()


def test_first_requests_from_several_threads_at_once_are_of_one_engine(
    by_route: MAKE, made: list[AnalyticsMiddleware]
) -> None:
    app = by_route({"limits": "100/minute"}, "abcdefgh")
    together = threading.Barrier(8)

    def ask_for(path: str) -> None:
        together.wait()
        get(app, f"/{path}")

    threads = [threading.Thread(target=ask_for, args=(path,)) for path in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engines(made) == 1
    assert made[0].stats()["queued"] == 8


def test_options_that_cannot_be_compared_are_shared_with_nobody(
    by_route: MAKE, made: list[AnalyticsMiddleware]
) -> None:
    class Odd(FakeClock):
        def __eq__(self, other: object) -> bool:
            raise ArithmeticError

        __hash__ = None  # type: ignore[assignment]

    app = by_route({}, a={"clock": Odd()}, b={"clock": Odd()})
    assert [get(app, f"/{path}").status for path in "abc"] == [200] * 3
    assert {middleware.stats()["queued"] for middleware in made} == {1}
