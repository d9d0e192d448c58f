"""What a signature proves of a request, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from asgi_analytics import AnalyticsMiddleware
from asgi_analytics.inputs import FALSE_CLAIM, READ
from asgi_analytics.jobs.verification import Verifier
from asgi_analytics.middleware import Receive, Scope, Send
from asgi_analytics.model import Analytics, ClaimStatus, Verification
from asgi_analytics.testing import FakeClock, FixedResolver

from .drive import ask, found, http_scope, page, rows, wrapped
from .jobs.rig import Web
from .signing import NOW, Signer

SEEN: list[Analytics] = []
STRANGER = Signer("stranger.example", 7)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW * 1_000_000_000)


@pytest.fixture
def app(dsn: str, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnalyticsMiddleware]:
    """Knows the key of one signer, and where that of another is; nothing is fetched by a thread."""
    monkeypatch.setattr(Verifier, "start", lambda verifier: None)
    with wrapped(found(page(), SEEN), dsn, clock=clock) as middleware:
        middleware._engine.verifier = Verifier(clock, tmp_path, FixedResolver({}), Web(Signer(), STRANGER))
        verified(middleware, Signer().sign(dict(http_scope("/known"))))
        middleware._engine.verifier.work_off()
        yield middleware


def verified(app: AnalyticsMiddleware, scope: Scope) -> Verification | None:
    asyncio.run(ask(app, {**scope}))
    return SEEN[-1].verification


def test_who_signed_once_is_not_verified_without_a_signature(app: AnalyticsMiddleware, dsn: str) -> None:
    signed = verified(app, Signer().sign(dict(http_scope("/signed"))))
    assert signed is not None
    assert signed.status == ClaimStatus.VERIFIED
    assert verified(app, http_scope("/unsigned")) is None
    app.close()
    told = {row["path"]: (row["verified"], row["operator"], row["bot_class"]) for row in rows(dsn)}
    assert told == {
        "/known": ("pending", "OpenAI", None),
        "/signed": ("verified", "OpenAI", None),
        "/unsigned": (None, None, None),
    }


def test_whose_key_signed_is_told_of_operators_that_we_know(app: AnalyticsMiddleware, dsn: str) -> None:
    verified(app, STRANGER.sign(dict(http_scope("/asks"))))
    assert app._engine.verifier is not None
    app._engine.verifier.work_off()
    for path, signer in (("/stranger", STRANGER), ("/openai", Signer()), ("/again", STRANGER)):
        verified(app, signer.sign(dict(http_scope(path))))
    app.close()
    told = {row["path"]: (row["verified"], row["operator"]) for row in rows(dsn)}
    assert told["/openai"] == ("verified", "OpenAI")
    assert told["/stranger"] == told["/again"] == ("verified", None)


def test_a_leap_of_the_clock_makes_no_signature_false(app: AnalyticsMiddleware, clock: FakeClock) -> None:
    clock.jump_wall(10 * 365 * 86_400)
    leapt = verified(app, Signer().sign(dict(http_scope("/signed"))))
    assert leapt is not None
    assert leapt.status == ClaimStatus.VERIFIED


EXPECTED = {"/signed": "verified", "/unsigned": None, "/forged": "false"}


@pytest.mark.parametrize(("outer", "inner"), list(permutations(EXPECTED, 2)))
def test_what_a_request_proves_is_its_own_though_others_that_look_alike_come_while_it_is_answered(
    app: AnalyticsMiddleware, dsn: str, outer: str, inner: str
) -> None:
    forger = Signer(seed=2)
    forger.keyid = Signer().keyid
    signers = {"/signed": Signer(), "/forged": forger}
    told: dict[str, Verification | None] = {}

    async def request(path: str) -> None:
        scope = dict(http_scope(path))
        await ask(app, signers[path].sign(scope) if path in signers else scope)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        found = scope["state"]["analytics"]
        if scope["path"] == outer:
            await request(inner)
        told[scope["path"]] = found.verification
        await page()(scope, receive, send)

    app.app = answer
    asyncio.run(request(outer))
    assert {path: found and found.status for path, found in told.items()} == {
        path: EXPECTED[path] for path in (outer, inner)
    }
    app.close()
    stored = {row["path"]: row for row in rows(dsn)}
    for path in (outer, inner):
        assert stored[path]["verified"] == EXPECTED[path]
        read = bool(stored[path]["inputs"] & READ)
        assert not read or bool(stored[path]["inputs"] & FALSE_CLAIM) == (path == "/forged")


def test_the_very_first_page_of_who_forges_a_signature_is_a_false_claim(app: AnalyticsMiddleware, dsn: str) -> None:
    forger = Signer(seed=2)
    forger.keyid = Signer().keyid
    verified(app, forger.sign(dict(http_scope("/first", client=("203.0.113.5", 1)))))
    app.close()
    (row,) = (row for row in rows(dsn) if row["path"] == "/first")
    assert row["verified"] == "false"
    assert row["inputs"] & FALSE_CLAIM
