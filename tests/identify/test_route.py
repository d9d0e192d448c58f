"""The route that an app took for a request, by what its framework has left in the scope."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from asgi_analytics.identify.request import route_template


async def _answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


def _api() -> FastAPI:
    app, items = FastAPI(), APIRouter(prefix="/items")
    items.get("/{item}")(lambda item: item)
    app.include_router(items)
    app.include_router(items, prefix="/of/{shop}")
    return app


ROUTES = [Route("/", _answer), Route("/items/{item:int}", _answer)]
MOUNTS = [
    *ROUTES,
    Mount("/v1", routes=ROUTES),
    Mount("/v2", routes=[Mount("/of/{tenant}", routes=ROUTES)]),
    Mount("/v3/{shop}", routes=[Mount("/at/{place}", routes=ROUTES)]),
    Mount("/any/{where:path}/end", routes=ROUTES),
    Mount("/api", _api()),
    Mount("/static", StaticFiles(directory=".", check_dir=False)),
]


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/items/5", "/items/{item}"),
        ("/v1/", "/v1/"),
        ("/v1/items/5", "/v1/items/{item}"),
        ("/v2/of/7/items/7", "/v2/of/{tenant}/items/{item}"),
        ("/v2/of/items/items/7", "/v2/of/{tenant}/items/{item}"),
        ("/v3/7/at/7/items/7", "/v3/{shop}/at/{place}/items/{item}"),
        ("/any/a-secret/way/end/items/7", "/items/{item}"),
        ("/api/items/5", "/api/items/{item}"),
        ("/api/of/9/items/5", "/api/of/{shop}/items/{item}"),
        ("/static/site.css", "/static/{path}"),
        ("/v1/nothing", "/v1/{path}"),
        ("/nothing", None),
    ],
)
@pytest.mark.parametrize("root", ["", "/behind/a/proxy"])
def test_a_routes_template_has_those_of_the_mounts_before_it(root: str, path: str, template: str | None) -> None:
    assert _template(Starlette(routes=MOUNTS), root, path) == template


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/v1/items/5", "/v1/items/{item}"),
        ("/v2/of/7/nothing", "/v2/of/{tenant}/{path}"),
        ("/any/a-secret/way/end/no", "/{path}"),
        ("/api/items/5", "/api/items/{item}"),
        ("/api/nothing", "/api/{path}"),
        ("/static/site.css", "/static/{path}"),
        ("/nothing", None),
    ],
)
@pytest.mark.parametrize("root", ["", "/behind/a/proxy"])
def test_what_is_mounted_in_a_fastapi_app_has_the_mounts_template(root: str, path: str, template: str | None) -> None:
    assert _template(FastAPI(routes=MOUNTS), root, path) == template


@pytest.mark.parametrize(
    ("path", "template"), [("/docs", "/docs"), ("/openapi.json", "/openapi.json"), ("/docs/", None), ("/no", None)]
)
@pytest.mark.parametrize("root", ["", "/behind/a/proxy"])
def test_the_pages_of_documentation_that_fastapi_makes_have_their_paths_as_routes(
    root: str, path: str, template: str | None
) -> None:
    assert _template(FastAPI(), root, path) == template


@pytest.mark.parametrize(
    ("path", "params", "template"),
    [
        ("/v2/of/7/items/5", {"tenant": 7, "item": "5"}, "/v2/of/{tenant}/{path}"),
        ("/v2/of/7/items/7", {"tenant": 7, "item": "7"}, "/v2/of/{tenant}/{path}"),
        ("/v2/of/7/files/a/b", {"tenant": 7, "file": "a/b"}, "/{path}"),
    ],
)
def test_where_a_framework_names_no_routes_the_mounts_are_known(
    path: str, params: dict[str, Any], template: str
) -> None:
    """As in older releases of Starlette."""
    scope = {"path": path, "root_path": "/v2/of/7", "app_root_path": "", "path_params": params}
    assert route_template(scope) == template


def _template(app: Starlette, root: str, path: str) -> str | None:
    """The template in the scope of a request that the app has answered."""
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": root + path, "root_path": root, "headers": []}
    scope |= {"query_string": b"", "scheme": "http", "server": ("127.0.0.1", 80)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    asyncio.run(app(scope, receive, send))
    return route_template(scope)
