"""Rulings, claims of crawlers and explanations on the way of a real request, through the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import AnalyticsMiddleware, cli
from asgi_analytics.decide.explain import reproduce
from asgi_analytics.inputs import FORGIVEN
from asgi_analytics.jobs.verification import Verifier
from asgi_analytics.testing import FixedResolver

from .drive import Reply, called, get, page, rows, start, wrapped
from .waiting import wait_until

ADDRESS = "198.51.100.7"
OLD = {"user-agent": "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0 Safari/537.36"}
STRICT: dict[str, Any] = {"bot_score": 1, "signal_thresholds": {"high_request_count": 1}}
GOOGLEBOT = {"user-agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
CRAWLER = ("66.249.66.1", 40000)


def command(dsn: str, *arguments: str) -> None:
    assert cli.main([*arguments, "--dsn", dsn]) == 0


def until(app: AnalyticsMiddleware, met: Callable[[Reply], bool]) -> Reply:
    """Ask again until an answer is as it should be; a worker learns of a ruling within a transfer."""
    replies: list[Reply] = []

    def asked() -> bool:
        replies.append(get(app, "/"))
        return met(replies[-1])

    wait_until(asked, 10, "the ruling")
    return replies[-1]


def problem(reply: Reply) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(reply.body)
    return told


def test_a_ban_refuses_with_its_reason_until_it_is_lifted(dsn: str) -> None:
    with wrapped(page(), dsn) as app:
        start(app)
        assert get(app, "/").status == 200
        command(dsn, "ban", ADDRESS, "--for", "2h", "--reason", "scraping", "--by", "alice")
        refused = until(app, lambda reply: reply.status == 429)
        assert problem(refused)["reasons"] == ["banned: scraping"]
        assert problem(refused)["violated-policies"] == ["ban"]
        assert b"alice" not in refused.body
        assert 7100 < int(refused.header("retry-after") or 0) <= 7200
        command(dsn, "pardon", ADDRESS)
        assert until(app, lambda reply: reply.status == 200).header("x-throttle-level") == "normal"
    (decision,) = rows(dsn, "SELECT id, detail FROM analytics.decisions ORDER BY time LIMIT 1")
    assert reproduce(decision["detail"]).refused
    assert "banned by alice" in called("explain", str(decision["id"]), "--dsn", dsn).stdout


def test_observe_mode_records_a_ban_and_refuses_nobody(dsn: str) -> None:
    with wrapped(page(), dsn, mode="observe") as app:
        start(app)
        get(app, "/")
        command(dsn, "ban", ADDRESS, "--for", "1h", "--reason", "scraping")
        wait_until(lambda: get(app, "/").header("x-throttle-level") == "blocked", 10, "the ban")
        assert get(app, "/").status == 200
    stored = rows(dsn, "SELECT refused, enforced FROM analytics.decisions")
    assert stored
    assert {(row["refused"], row["enforced"]) for row in stored} == {(True, False)}


def test_a_pardon_frees_a_blocked_visitor_and_keeps_the_case(dsn: str) -> None:
    with wrapped(page(), dsn, **STRICT) as app:
        start(app)
        for path in "abcd":
            blocked = get(app, f"/{path}", OLD)
        assert blocked.status == 429
        (visitor,) = {row["fingerprint"].hex for row in _when(dsn, "fingerprint IS NOT NULL")}
        command(dsn, "pardon", visitor, "--reason", "our own monitor")
        wait_until(lambda: get(app, "/a", OLD).status == 200, 10, "the pardon")
    (case,) = rows(dsn, "SELECT * FROM analytics.cases")
    assert case["fingerprint"].hex == visitor


def test_a_pardon_of_its_address_frees_who_was_pardoned_before(dsn: str) -> None:
    with wrapped(page(), dsn, **STRICT) as app:
        start(app)
        for path in "abcd":
            get(app, f"/{path}", OLD)
        (visitor,) = {row["fingerprint"].hex for row in _when(dsn, "fingerprint IS NOT NULL")}
        command(dsn, "pardon", visitor)
        wait_until(lambda: get(app, "/a", OLD).status == 200, 10, "the pardon")
        assert [get(app, f"/again/{path}", OLD).status for path in "abcd"][-1] == 429
        command(dsn, "pardon", ADDRESS)
        wait_until(lambda: get(app, "/a", OLD).status == 200, 10, "the pardon of the address")


def _when(dsn: str, condition: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def stored() -> bool:
        found[:] = rows(dsn, f"SELECT DISTINCT fingerprint FROM analytics.fingerprints WHERE level = 3 AND {condition}")
        return bool(found)

    wait_until(stored, 10, "the blocked visitor's row")
    return found


def test_who_is_allowed_is_neither_banned_nor_judged(dsn: str) -> None:
    with wrapped(page(), dsn, allow="198.51.100.0/24", **STRICT) as app:
        start(app)
        command(dsn, "ban", ADDRESS, "--for", "1h", "--reason", "a mistake")
        replies = [get(app, f"/{number}", OLD) for number in range(20)]
        wait_until(lambda: app.stats()["queued"] <= app.stats()["written"], 10, "the rows")
        replies += [get(app, f"/{number}", OLD) for number in range(20)]
    assert {(reply.status, reply.header("x-throttle-level")) for reply in replies} == {(200, "normal")}
    assert {row["exempt"] for row in rows(dsn)} == {True}


@pytest.fixture
def ranges(tmp_path: Path) -> Path:
    """A folder with Google's published ranges, as `data update --from` leaves it."""
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.mkdir()
    published = {"prefixes": [{"ipv4Prefix": str(ip_network("66.249.66.0/24"))}]}
    (given / "google-common-crawlers.json").write_text(json.dumps(published))
    assert cli.main(["data", "update", "--from", str(given), "--dir", str(kept)]) in (0, 1)  # one of many files
    return kept


def test_a_verified_search_crawler_is_not_judged_by_its_behaviour(dsn: str, ranges: Path) -> None:
    strict = {"signal_thresholds": {"high_request_count": 1}, "bot_score": 1, "crawler_dir": ranges}
    with wrapped(page(), dsn, **strict) as app:
        start(app)
        replies = [get(app, f"/page/{number}", GOOGLEBOT, client=CRAWLER) for number in range(80)]
    assert {reply.status for reply in replies} == {200}
    stored = rows(dsn, "SELECT DISTINCT verified, operator, purpose, exempt, level FROM analytics.hits")
    assert stored == [{"verified": "verified", "operator": "Google", "purpose": "search", "exempt": True, "level": 0}]


def test_a_search_crawler_that_was_blocked_before_its_claim_was_verified_is_served_from_then_on(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Verifier, "start", lambda verifier: None)  # nothing is looked up by a thread
    with wrapped(page(status=404), dsn) as app:
        verifier = Verifier(app._engine.clock, tmp_path, FixedResolver({CRAWLER[0]: ["crawl.googlebot.com"]}))
        app._engine.verifier = verifier
        start(app)
        before = [get(app, f"/{number}/.env", GOOGLEBOT, client=CRAWLER) for number in range(20)]
        verifier.work_off()
        # The answer that was given last may be given again, for a second.
        wait_until(lambda: get(app, "/", GOOGLEBOT, client=CRAWLER).status == 404, 5, "an answer of the app")
        after = [get(app, f"/{number}/.env", GOOGLEBOT, client=CRAWLER) for number in range(20)]
    assert (before[-1].status, before[-1].header("x-throttle-level")) == (429, "blocked")
    assert {(reply.status, reply.header("x-throttle-level")) for reply in after} == {(404, "normal")}
    capsys.readouterr()
    command(dsn, "what-if", "--since", "1h")
    assert "Nothing differs" in capsys.readouterr().out


def test_what_if_of_the_live_policy_differs_in_nothing_where_rulings_decided(
    dsn: str, ranges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with wrapped(page(), dsn, crawler_dir=ranges, **STRICT) as app:
        start(app)
        for number in range(30):
            get(app, f"/page/{number}", GOOGLEBOT, client=CRAWLER)
        command(dsn, "ban", ADDRESS, "--for", "1h", "--reason", "scraping")
        until(app, lambda reply: reply.status == 429)
    capsys.readouterr()
    command(dsn, "what-if", "--since", "1h")
    assert "Nothing differs" in capsys.readouterr().out


@pytest.mark.parametrize("ruling", ["pardon", "allow"])
def test_what_if_forgives_whom_an_operator_forgave(dsn: str, ruling: str, capsys: pytest.CaptureFixture[str]) -> None:
    with wrapped(page(), dsn, **STRICT) as app:
        start(app)
        for path in "abcdefghijkl":
            reply = get(app, f"/{path}")
        assert reply.status == 429
        command(dsn, ruling, ADDRESS, "--reason", "a mistake")
        until(app, lambda reply: reply.status == 200)
        for path in "mnopq":
            get(app, f"/{path}")
    capsys.readouterr()
    command(dsn, "what-if", "--since", "1h")
    assert "Nothing differs" in capsys.readouterr().out
    assert {row["inputs"] & FORGIVEN for row in rows(dsn)} == {0, FORGIVEN}


SENT = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def test_a_pardon_holds_for_who_is_judged_together_with_others(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody whose browser strips headers, behind one address with a scraper that changes its name."""
    secure: dict[str, Any] = {
        "scheme": "https",
        "headers": OLD | {"user-agent": OLD["user-agent"].replace("70", "157")},
    }
    with wrapped(page(), dsn) as app:
        start(app)
        for number in range(25):
            get(app, "/", SENT, scheme="https", client=(f"203.0.113.{number}", 4000))
        for number in range(60):
            name = {"user-agent": OLD["user-agent"].replace("70", str(100 + number % 20))}
            get(app, f"/{number}", name, scheme="https")
        assert get(app, "/", **secure).status == 429
        command(dsn, "pardon", ADDRESS)
        wait_until(lambda: get(app, "/", **secure).status == 200, 10, "the pardon")
        levels = [get(app, f"/read/{number}", **secure).header("x-throttle-level") for number in range(3)]
    assert levels == ["normal"] * 3
    capsys.readouterr()
    command(dsn, "what-if", "--since", "1h")
    assert "Nothing differs" in capsys.readouterr().out
