"""The scope is the server's own: what the app writes there is seen further out, and of ours only the findings stay."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.exchange.http import SCOPE_KEY
from asgi_analytics.middleware import ASGIApp, Receive, Scope, Send
from asgi_analytics.testing import FakeClock

from .drive import NOWHERE, ask, get, http_scope, look, page, rows, socket_scope, wrapped
from .transparent import sending, serve


@pytest.fixture
def wrap() -> Iterator[AnalyticsMiddleware]:
    with wrapped(page()) as middleware:
        yield middleware


def shop(middleware: list[Middleware], outside: dict[str, Any]) -> Starlette:
    """An app whose outermost middleware and 500 handler note what they see of the request."""

    def seen(request: Request) -> dict[str, Any]:
        route = request.scope.get("route")
        return {
            "route": getattr(route, "path", None),
            "endpoint": getattr(request.scope.get("endpoint"), "__name__", None),
            "params": request.path_params,
            "user": getattr(request.state, "user", None),
        }

    async def item(request: Request) -> Response:
        request.state.user = "ada"
        if request.path_params["n"] == "0":
            raise LookupError("no such item")
        return PlainTextResponse("item")

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(seen(request), 500)

    class Outermost:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)
            outside.update(seen(Request(scope)))

    return Starlette(
        routes=[Route("/items/{n}", item), Mount("/sub", routes=[Route("/items/{n}", item)])],
        middleware=[Middleware(Outermost), *middleware],
        exception_handlers={Exception: failed},
    )


OURS = Middleware(AnalyticsMiddleware, dsn=NOWHERE, shutdown_timeout=0.5)


@pytest.mark.parametrize("path", ["/items/5", "/sub/items/5"])
def test_middlewares_further_out_see_what_the_router_and_the_app_wrote(path: str) -> None:
    bare: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    get(shop([], bare), path)
    get(shop([OURS], ours), path)
    assert ours == bare
    assert (ours["user"], ours["params"], ours["endpoint"]) == ("ada", {"n": "5"}, "item")


def test_the_handler_of_all_errors_sees_what_the_app_wrote() -> None:
    told = []
    for middleware in ([], [OURS]):
        app = shop(middleware, {})
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        with pytest.raises(LookupError):
            asyncio.run(app(http_scope("/items/0"), send, send))  # type: ignore[arg-type]
        told.append(json.loads(sent[-1]["body"]))
    assert told[0] == told[1]
    assert told[1]["user"] == "ada"


def test_the_row_has_the_route_that_the_router_wrote_of_a_mounted_app_too(dsn: str) -> None:
    with wrapped(shop([], {}), dsn) as middleware:
        for path in ("/items/5", "/sub/items/5"):
            get(middleware, path)
    kept = [(row["path"], row["route"]) for row in rows(dsn)]
    assert kept == [("/items/5", "/items/{n}"), ("/sub/items/5", "/sub/items/{n}")]


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("no")


async def emptying(scope: Scope, receive: Receive, send: Send) -> None:
    scope.clear()
    await page()({"type": "http"}, receive, send)


@pytest.mark.parametrize("app", [page(), failing, emptying], ids=["answered", "failed", "emptied"])
def test_our_mark_is_in_the_scope_while_the_app_runs_only(app: ASGIApp, wrap: AnalyticsMiddleware) -> None:
    inside: list[bool] = []

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        inside.append(SCOPE_KEY in scope)
        await app(scope, receive, send)

    scope = http_scope()
    wrap.app = marked
    asyncio.run(_quietly(wrap, scope))
    assert (inside, SCOPE_KEY in scope) == ([True], False)
    assert wrap.stats()["failures"] == {}


async def _quietly(app: ASGIApp, scope: Scope) -> None:
    try:
        await ask(app, scope)
    except RuntimeError:
        pass


def test_a_cancelled_request_leaves_no_mark(wrap: AnalyticsMiddleware) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(ask(wrap, scope))
        await asyncio.sleep(0)
        assert SCOPE_KEY in scope
        task.cancel()
        await asyncio.wait([task])

    scope = http_scope()
    wrap.app = app
    asyncio.run(run())
    assert SCOPE_KEY not in scope


def test_a_refused_request_shows_its_findings_further_out() -> None:
    with wrapped(page(), limits="1/minute", clock=FakeClock()) as wrap:
        get(wrap)
        scope = http_scope()
        assert asyncio.run(ask(wrap, scope)).status == 429
    assert SCOPE_KEY not in scope
    assert scope["state"]["analytics"].decision.refused is True


def test_a_second_try_of_somebody_further_out_is_a_request_of_its_own_in_the_same_state(
    wrap: AnalyticsMiddleware,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["tries"] = scope["state"].get("tries", 0) + 1
        await page()(scope, receive, send)

    scope = http_scope(state={"pool": 1})
    state, findings = scope["state"], []  # what somebody further out keeps, as Starlette's Request does
    wrap.app = app
    for _ in range(2):
        asyncio.run(ask(wrap, scope))
        findings.append(state["analytics"])
    assert scope["state"] is state
    assert state["tries"] == 2
    assert findings[0] is not findings[1]
    assert wrap.stats()["queued"] == 2


def test_calls_at_once_with_one_scope_are_one_request(wrap: AnalyticsMiddleware) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await page()(scope, receive, send)

    async def run() -> list[int]:
        scope = http_scope()
        replies = await asyncio.gather(*(ask(wrap, scope) for _ in range(3)))
        assert SCOPE_KEY not in scope
        return [reply.status for reply in replies]

    wrap.app = app
    assert asyncio.run(run()) == [200] * 3
    assert wrap.stats()["queued"] == 1
    get(wrap)
    assert wrap.stats()["queued"] == 2


class OneShot:
    """Headers that are read once, though they are no iterator themselves."""

    def __init__(self, headers: Any) -> None:
        self._left: Iterator[Any] = iter(headers)

    def __iter__(self) -> Iterator[Any]:
        return self._left


class View(Mapping[str, Any]):
    """A scope that nobody can write into."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __getitem__(self, key: str) -> Any:
        return self._scope[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scope)

    def __len__(self) -> int:
        return len(self._scope)


@pytest.mark.parametrize("frozen", [dict, MappingProxyType], ids=["scope", "frozen scope"])
@pytest.mark.parametrize("once", [iter, OneShot, lambda headers: (pair for pair in headers), tuple, list])
def test_headers_that_can_be_read_once_reach_the_app_and_the_row(
    once: Callable[[Any], Any], frozen: Callable[[Scope], Scope], dsn: str
) -> None:
    got: list[Any] = []
    with wrapped(
        look(page(), lambda scope: got.extend(scope["headers"])), dsn, session_cookie=True, secret="s" * 16
    ) as middleware:
        for scope in (http_scope(), http_scope(headers={"cookie": "a=1"})):
            sent = list(scope["headers"])
            scope["headers"] = once(sent)
            assert asyncio.run(ask(middleware, frozen(scope))).status == 200
            assert got == sent
            got.clear()
        assert middleware.stats()["failures"] == {}
    assert [row["browser"] for row in rows(dsn)] == ["Chrome", "Chrome"]


def test_headers_of_excluded_paths_are_not_read(wrap: AnalyticsMiddleware) -> None:
    with wrapped(page(), exclude="/health") as middleware:
        scope = http_scope("/health", headers={"x": "1"})
        scope["headers"] = given = iter(scope["headers"])
        asyncio.run(ask(middleware, scope))
        assert scope["headers"] is given
        assert len(list(given)) == 4


@pytest.mark.parametrize("mode", ["memory", "strict"])
@pytest.mark.parametrize("frozen", [MappingProxyType, View], ids=["proxy", "mapping"])
@pytest.mark.parametrize(
    "kept", [{}, {"state": {"pool": 1}}, {"state": MappingProxyType({"pool": 1})}, {"state": None}]
)
def test_a_scope_that_takes_nothing_costs_the_app_nothing(
    kept: dict[str, Any], frozen: Callable[[Scope], Scope], mode: str
) -> None:
    seen: dict[str, Any] = {}
    more = {"shared": "redis://127.0.0.1:1/0", "shared_mode": "strict"} if mode == "strict" else {}
    with wrapped(look(page(), lambda scope: seen.update(scope["state"])), limits="2/day", **more) as middleware:
        told = [asyncio.run(ask(middleware, frozen(http_scope(**kept)))).status for _ in range(3)]
        stats = middleware.stats()
    assert told == [200, 200, 429]
    assert stats["failures"] == {}
    assert stats["queued"] == 3
    assert seen["analytics"].agent.browser == "Chrome"
    assert seen.get("pool") == (kept.get("state") or {}).get("pool")


class Noting(dict[str, Any]):
    """A scope of a kind of its own that can be written into, as some servers have."""


def test_a_scope_of_another_kind_that_can_be_written_into_is_the_apps_own(wrap: AnalyticsMiddleware) -> None:
    got: list[Scope] = []
    wrap.app, scope = look(page(), got.append), Noting(http_scope())
    asyncio.run(ask(wrap, scope))
    assert got[0] is scope
    assert SCOPE_KEY not in scope
    assert "analytics" in scope["state"]


def test_a_websocket_s_frozen_scope_costs_nothing_either(wrap: AnalyticsMiddleware) -> None:
    sent: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        sent.append(scope["state"]["analytics"].level)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    wrap.app = app
    asyncio.run(wrap(MappingProxyType(socket_scope()), send, send))  # type: ignore[arg-type]
    assert sent == ["websocket.accept", "websocket.close", 0]
    assert (wrap.stats()["queued"], wrap.stats()["failures"]) == (1, {})


def test_findings_that_a_state_cannot_take_are_left_out(wrap: AnalyticsMiddleware) -> None:
    state = object()
    scope = http_scope(state=state)
    assert asyncio.run(ask(wrap, scope)).header("x-throttle-level") == "normal"
    assert scope["state"] is state
    assert (wrap.stats()["queued"], wrap.stats()["failures"]) == (1, {"findings": 1})


def test_urls_of_a_mounted_app_that_is_wrapped_are_found() -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url_for("hello", name="ada").path)

    told = []
    for wrapping in (lambda app: app, lambda app: AnalyticsMiddleware(app, dsn=NOWHERE)):
        part = wrapping(Starlette(routes=[Route("/{name}", hello, name="hello")]))
        told.append(get(Starlette(routes=[Mount("/sub", app=part)]), "/sub/you").body)
    assert told == [b"/sub/ada"] * 2
    assert AnalyticsMiddleware(page(), dsn=NOWHERE).routes == []


@pytest.mark.parametrize("state", [{}, {"state": {}}, {"state": {"pool": [1]}}], ids=["none", "empty", "shared"])
@pytest.mark.parametrize("make", [http_scope, socket_scope])
def test_the_scope_stays_as_it_was_but_for_our_key_in_its_state(
    make: Callable[..., Scope], state: Any, wrap: AnalyticsMiddleware
) -> None:
    scope = make(**copy.deepcopy(state), extensions={"x": {}})
    before = copy.deepcopy(scope)
    wrap.app = sending()()
    asyncio.run(serve(wrap, scope, []))
    assert type(scope["state"].pop("analytics")).__name__ == "Analytics"
    assert scope == {"state": {}, **before}


def test_the_app_shares_the_state_with_who_is_further_out(wrap: AnalyticsMiddleware) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["user"] = "ada"

    scope, pool = http_scope(state={"pool": object()}), object()
    scope["state"]["pool"] = pool
    wrap.app = app
    asyncio.run(serve(wrap, scope, []))
    assert scope["state"]["user"] == "ada"
    assert scope["state"]["pool"] is pool


def test_what_the_app_keeps_in_the_state_by_our_name_stays(wrap: AnalyticsMiddleware) -> None:
    scope, own = http_scope(), object()
    scope["state"] = {"analytics": own}  # as the lifespan of the app may have it
    assert asyncio.run(ask(wrap, scope)).header("x-throttle-level") == "normal"
    assert scope["state"] == {"analytics": own}
    assert (wrap.stats()["queued"], wrap.stats()["failures"]) == (1, {"findings": 1})


def test_requests_that_share_one_state_dict_do_not_see_each_other(wrap: AnalyticsMiddleware) -> None:
    state: dict[str, Any] = {}
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        seen.append(scope["state"]["analytics"].visitor)

    async def run() -> None:
        scopes = [http_scope(state=state, client=(f"198.51.100.{number}", 1)) for number in range(3)]
        await asyncio.gather(*(serve(wrap, scope, []) for scope in scopes))

    wrap.app = app
    asyncio.run(run())
    assert len(set(seen)) == 3
