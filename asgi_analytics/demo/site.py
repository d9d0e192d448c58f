"""The sample site of the demo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ARTICLES = 40
STYLE = "body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }"


def site() -> Starlette:
    """Return the sample site: pages that link to each other, articles, an asset, an API, a slow page, 404s."""
    return Starlette(
        routes=[
            Route("/", _home),
            Route("/articles", _articles),
            Route("/articles/{number:int}", _article),
            Route("/about", _about),
            Route("/pricing", _pricing),
            Route("/slow", _slow),
            Route("/static/site.css", _style),
            Route("/api/articles", _api_articles),
            Route("/api/status", _api_status),
        ]
    )


async def _home(request: Request) -> Response:
    return _page("A small site", "<p>Each request to it is a row in Postgres.</p>")


async def _articles(request: Request) -> Response:
    links = "".join(f'<li><a href="/articles/{number}">Article {number}</a>' for number in range(1, ARTICLES + 1))
    return _page("Articles", f"<ol>{links}</ol>")


async def _article(request: Request) -> Response:
    number = request.path_params["number"]
    if not 1 <= number <= ARTICLES:
        return _page("No such article", "", 404)
    following = f'<a href="/articles/{number % ARTICLES + 1}">Next</a>'
    return _page(f"Article {number}", f"<p>What article {number} says.</p><p>{following}</p>")


async def _about(request: Request) -> Response:
    return _page("About", "<p>A sample site of asgi-analytics.</p>")


async def _pricing(request: Request) -> Response:
    return _page("Pricing", "<p>Nothing costs anything here.</p>")


async def _slow(request: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        yield _html("Slow", "<p>A stream: a paragraph each second.</p>")
        for second in range(1, 4):
            await asyncio.sleep(1.0)
            yield f"<p>{second} s</p>"

    return StreamingResponse(parts(), media_type="text/html")


async def _style(request: Request) -> Response:
    return Response(STYLE, media_type="text/css")


async def _api_articles(request: Request) -> Response:
    return JSONResponse([{"number": number, "url": f"/articles/{number}"} for number in range(1, ARTICLES + 1)])


async def _api_status(request: Request) -> Response:
    return JSONResponse({"status": "fine"})


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_html(title, body), status)


def _html(title: str, body: str) -> str:
    links = " · ".join(f'<a href="{path}">{path}</a>' for path in ("/", "/articles", "/about", "/pricing", "/slow"))
    head = f'<!doctype html><html lang="en"><title>{title}</title><link rel="stylesheet" href="/static/site.css">'
    return f"{head}<nav>{links}</nav><h1>{title}</h1>{body}"
