"""Requests made from an app's own schema: each is answered by the wrapped app as by the bare one, and is one row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import Body, Cookie, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from tests.acceptance.faults.ledger import Account
from tests.acceptance.faults.process import WHOLE
from tests.drive import OURS, wrapped

EXAMPLES = 100 if WHOLE else 12  # of each operation


class Colour(Enum):
    RED = "red"
    GREEN = "grün"


class Item(BaseModel):
    """A body with what JSON has."""

    name: str = Field(max_length=40)
    price: float = Field(ge=0)
    tags: list[str] = Field(default=[], max_length=4)
    colour: Colour = Colour.RED
    parent: Item | None = None


app = FastAPI()


@app.get("/items/{item_id}")
async def item(
    item_id: Annotated[int, Path(ge=0, le=1000)],
    query: Annotated[str | None, Query(alias="q", max_length=50)] = None,
    many: Annotated[Sequence[int], Query()] = (),
    trace: Annotated[str | None, Header()] = None,
    session: Annotated[str | None, Cookie()] = None,
) -> dict[str, object]:
    if item_id % 7 == 0:
        raise HTTPException(404, "no such item", {"x-reason": "seven"})
    return {"id": item_id, "query": query, "many": many, "trace": trace, "session": session}


@app.post("/items", status_code=201)
async def make(made: Item, response: Response) -> Item:
    response.headers["location"] = "/items/1"
    response.set_cookie("app", "1", httponly=True)
    return made


@app.put("/items/{name}")
async def put(name: str, price: Annotated[float, Body(embed=True)]) -> Response:
    return Response(status_code=204) if price < 1 else PlainTextResponse(f"{name}: {price}")


@app.delete("/items/{item_id}")
async def delete(item_id: int) -> None:
    raise ZeroDivisionError(item_id)


BYTES = {"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


@app.post("/upload", openapi_extra=BYTES)
async def upload(request: Request) -> dict[str, object]:
    sizes = [len(piece) async for piece in request.stream()]
    return {"size": sum(sizes), "kind": request.headers.get("content-type")}


@app.get("/stream")
async def stream(pieces: Annotated[int, Query(ge=0, le=20)] = 3, kind: Literal["text", "data"] = "text") -> Response:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(pieces):
            await asyncio.sleep(0)
            yield b"%d\n" % number

    return StreamingResponse(lines(), media_type=f"{kind}/plain")


@app.head("/page")
@app.get("/page", operation_id="page")
async def page(to: str | None = None) -> Response:
    if to is not None:
        return RedirectResponse("/page", 307)
    return Response("<h1>page</h1>", media_type="text/html", headers={"cache-control": "public", "etag": '"1"'})


@cache
def operations() -> list[Any]:
    """Those of the schema. To load what reads it takes a second, which only who runs these tests shall spend."""
    from schemathesis import openapi

    found: list[Any] = list(openapi.from_dict(app.openapi()).get_all_operations())
    return [one.ok() for one in found]


def cases() -> st.SearchStrategy[Any]:
    """Requests, valid and not."""
    from schemathesis import GenerationMode

    return st.one_of([one.as_strategy(generation_mode=mode) for one in operations() for mode in GenerationMode])


def told(case: Any, asked: Any) -> tuple[object, ...]:
    """What a client gets: status, headers but for the documented ones, body; or the error that the server gets."""
    try:
        response = case.call(app=asked, allow_redirects=False)
    except ZeroDivisionError as error:
        return type(error), error.args
    kept = {name: values for name, values in response.headers.items() if name.encode() not in OURS}
    return response.status_code, kept, response.content


def test_each_request_of_the_schema_is_answered_as_by_the_bare_app_and_is_one_row(dsn: str, account: Account) -> None:
    statuses: set[object] = set()
    count = 0
    with wrapped(app, dsn, mode="observe", batch_age=0.5) as middleware:

        @settings(max_examples=EXAMPLES * len(operations()), deadline=None, suppress_health_check=list(HealthCheck))
        @given(cases())
        def check(case: Any) -> None:
            nonlocal count
            bare, ours = told(case, app), told(case, middleware)
            assert ours == bare
            statuses.add(bare[0])
            count += 1

        check()
        assert middleware.stats()["failures"] == {}
    account.round(count)
    stats = middleware.stats()
    assert (stats["written"], stats["quarantined"]) == (count, 0)
    assert {200, 422} <= statuses


def test_the_schema_has_every_kind_of_request() -> None:
    assert {operation.method.upper() for operation in operations()} >= {"GET", "HEAD", "POST", "PUT", "DELETE"}
