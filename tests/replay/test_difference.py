from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from asgi_analytics.replay.difference import TOOLS, Difference, as_json, report
from asgi_analytics.replay.history import Verdict
from asgi_analytics.store.recorded import RecordedHit


def verdict(path: str, route: str | None = None, then: bool = False, now: bool = False, **more: Any) -> Verdict:
    facts: dict[str, Any] = {
        "id": UUID(int=1), "time": datetime(2026, 3, 1, tzinfo=UTC), "seconds": 0.0, "clock": 0.0,
        "fingerprint": UUID(int=7), "network": UUID(int=8), "session_id": UUID(int=9), "method": "GET",
        "path": path, "route": route, "status": 429 if then else 200, "first_byte_us": 1, "page_view": not then,
        "from_inside": False, "outdated": False, "outcome": "refused" if then else "complete", "refused": then,
        "score": 0, "level": 0, "bot_class": None, "crawler": None, "browser": "Chrome", "policy": None,
        "exempt": False, "banned": False, "claim": None,
    }  # fmt: skip
    return Verdict(RecordedHit(**{**facts, **more}), True, now, 0, 0)


def test_refused_hits_are_told_under_the_route_that_served_their_path_or_one_of_its_shape() -> None:
    difference = Difference()
    for one in (
        verdict("/articles/1", then=True),
        verdict("/articles/1", "/articles/{number}"),
        verdict("/articles/2", "/articles/{number}", now=True),
        verdict("/users/17", then=True),
        verdict("/users/18", then=True),
    ):
        difference.take(one)
    found = {name: (one.requests, one.newly, one.freed) for name, one in difference.by_route().items()}
    assert found == {"/articles/{number}": (3, 1, 1), "/users/{}": (2, 0, 2)}
    assert '"/users/{}"' in as_json(difference, {})
    assert any("/articles/{number}" in line for line in report(difference, 10))


@pytest.mark.parametrize("bot_class", ["http-library", "scanner"])
def test_a_library_is_no_crawler(bot_class: str) -> None:
    difference = Difference()
    difference.take(verdict("/", then=True, bot_class=bot_class))
    assert difference.kinds(difference.freed_actors())[TOOLS] == 1
