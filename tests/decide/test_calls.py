"""What pages and apps ask and send by themselves, through the whole middleware: nobody is refused for it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.benchmarks.detect import browsers
from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import JSON, Reply
from tests.benchmarks.detect.traffic import Headers, Request

BROWSER = browsers.draw(random.Random(1), browsers.DESKTOPS[:1], "de", version=157)
TYPED, CALLED = BROWSER.page(typed=True), BROWSER.call("/app")
PHONE = headers_of("okhttp/5.1.0")
PAGE, DATA = Reply(200), Reply(200, JSON)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    found = Ours(str(tmp_path))
    # Others have shown that browsers' headers reach this site, and that it has pages.
    for number in range(40):
        found.judge(Request(0.0, f"198.51.100.{number}", "GET", f"/other/{number}", b"", TYPED), PAGE)
    yield found
    found.close()


def send(
    ours: Ours,
    paths: Iterable[str],
    gap: float,
    headers: Headers,
    reply: Reply,
    method: str = "GET",
    start: float = 10.0,
) -> list[Verdict]:
    """Send one request after the other, `gap` seconds apart."""
    requests = (
        Request(start + gap * number, "84.130.9.9", method, path, b"", headers) for number, path in enumerate(paths)
    )
    return [ours.judge(request, reply) for request in requests]


def touched(verdicts: list[Verdict]) -> list[int]:
    return [place for place, verdict in enumerate(verdicts) if verdict.flagged or verdict.refused]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize("headers", [CALLED, PHONE], ids=["page", "phone"])
def test_what_is_saved_or_deleted_one_by_one_is_no_data_that_was_asked_for(
    ours: Ours, method: str, headers: Headers
) -> None:
    """Four hundred mails that were selected; notes of a phone that was offline."""
    assert touched(send(ours, [f"/api/notes/{number}" for number in range(400)], 0.1, headers, DATA, method)) == []
    walked = send(ours, [f"/api/notes/{number}" for number in range(400)], 0.1, headers, DATA, start=2_000.0)
    assert any(verdict.refused for verdict in walked)
