"""Old browsers, which send no Fetch Metadata, and who takes their names: through the whole middleware."""

from __future__ import annotations

from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import JSON, Reply
from tests.benchmarks.detect.traffic import Headers, Request

from .test_calls import GONE, PAGE, ours, send

__all__ = ["ours"]  # a fixture
CHROME = "Mozilla/5.0 (Windows NT {}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.{}.0 Safari/537.36"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 15_8 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.6 "
    "Mobile/15E148 Safari/604.1"
)
ASKED, CALLED = (b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8"), (b"accept", b"*/*")
NAMES = [CHROME.format(system, 40 + number, 2000 + 7 * number) for number in range(45) for system in ("6.1", "10.0")]


def under(name: str, accept: tuple[bytes, bytes]) -> Headers:
    return tuple(dict((*headers_of(name, ("accept-language", "en")), accept)).items())


def scanned(ours: Ours, names: list[str], gap: float, accept: tuple[bytes, bytes] = CALLED) -> list[Verdict]:
    """Each guess by the next name, from one address."""
    return [
        ours.judge(Request(10.0 + gap * number, "203.0.113.9", "GET", f"/{number}.php", b"", under(name, accept)), GONE)
        for number, name in enumerate(names)
    ]


def test_a_scanner_under_ever_another_old_name_is_refused_and_stays_so(ours: Ours) -> None:
    """An hour, in which levels cool down six times; each name comes back after a minute and a half."""
    verdicts = scanned(ours, NAMES * 40, 1.0)
    assert next(place for place, verdict in enumerate(verdicts) if verdict.refused) < 100
    assert sum(not verdict.refused for verdict in verdicts[200:]) < 0.05 * len(verdicts[200:])


def test_a_person_with_an_old_browser_behind_that_address_is_let_in(ours: Ours) -> None:
    assert scanned(ours, NAMES * 4, 1.0)[-1].refused
    person = ours.judge(Request(400.0, "203.0.113.9", "GET", "/", b"", under(NAMES[0], ASKED)), PAGE)
    assert person.refused  # has the very name of the scanner, and its language
    other = ours.judge(Request(401.0, "203.0.113.9", "GET", "/", b"", under(SAFARI, ASKED)), PAGE)
    assert (other.refused, other.slowed) == (False, False)


def test_pages_may_forbid_the_referer(ours: Ours) -> None:
    """What a page loads looks like nothing then; what is missing is no fault of its reader."""
    send(ours, ["/"], 0.0, under(SAFARI, ASKED), PAGE)
    called = send(ours, [f"/api/{number}" for number in range(20)], 3.0, under(SAFARI, CALLED), Reply(404, JSON))
    assert {verdict.signals for verdict in called} == {()}
    called = send(ours, [f"/api/{number}" for number in range(20)], 3.0, under(NAMES[1], CALLED), Reply(404, JSON))
    assert set(called[-1].signals) == {"inconsistent_headers", "outdated_browser"}
