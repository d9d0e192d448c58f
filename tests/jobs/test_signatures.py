from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asgi_analytics.identify import botauth
from asgi_analytics.jobs import signatures
from asgi_analytics.model import ClaimStatus

from ..signing import AGENT_COMPONENT, NOW, Signer, change, make_scope
from .rig import BROWSER, CHATGPT, CRAWL, EVIL, FILES, GOOGLEBOT, GPTBOT, Rig, Web, brief


# Signatures
def test_a_signed_request_is_verified_once_the_key_is_known(rig: Rig) -> None:
    scope = Signer().sign()
    first = rig.ask(BROWSER, EVIL, scope)
    assert (brief(first), first.signer) == (("pending", "signature", "OpenAI"), "chatgpt.com")
    assert rig.web.asked == []
    found = rig.settled(BROWSER, EVIL, scope)
    assert (brief(found), found.signer) == (("verified", "signature", "OpenAI"), "chatgpt.com")
    assert len(rig.web.asked) == 1


def test_a_signature_of_the_operator_proves_the_claim_from_any_address(rig: Rig) -> None:
    assert rig.ask(GPTBOT, EVIL, Signer().sign()).status == ClaimStatus.PENDING
    assert brief(rig.settled(GPTBOT, EVIL, Signer().sign())) == ("verified", "signature", "OpenAI")


def test_a_signature_of_somebody_else_proves_no_claim(tmp_path: Path) -> None:
    stranger = Signer("evil.example", 7)
    rig = Rig(tmp_path, FILES, stranger)
    found = rig.settled(BROWSER, EVIL, stranger.sign())
    assert (brief(found), found.signer) == (("verified", "signature", None), "evil.example")
    assert brief(rig.ask(GPTBOT, EVIL, stranger.sign())) == ("false", "ranges", "OpenAI")
    assert brief(rig.ask(GPTBOT, "52.230.152.9", stranger.sign())) == ("verified", "ranges", "OpenAI")
    assert brief(rig.settled(GOOGLEBOT, EVIL, stranger.sign())) == ("false", "dns", "Google")


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (Signer(seed=2).sign(keyid=Signer().keyid), "not one of chatgpt.com"),
        (change(Signer().sign(), b"host", b"other.example"), "not one of chatgpt.com"),
        (Signer().sign(created=NOW - 900, expires=NOW - 600), "expired"),
        (Signer().sign(created=NOW + 600, expires=NOW + 900), "future"),
    ],
)
def test_a_wrong_signature_is_a_false_claim(rig: Rig, scope: dict[str, Any], reason: str) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    for agent in (BROWSER, CHATGPT, GPTBOT):
        found = rig.ask(agent, EVIL, scope)
        assert brief(found) == ("false", "signature", "OpenAI")
        assert reason in found.text
    assert brief(rig.ask(GPTBOT, "52.230.152.9", scope)) == ("verified", "ranges", "OpenAI")


def test_a_nonce_is_good_once(rig: Rig) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    scope = Signer().sign(nonce="once")
    assert rig.ask(BROWSER, EVIL, scope).status == ClaimStatus.VERIFIED
    replayed = rig.ask(BROWSER, CRAWL, scope)
    assert brief(replayed) == ("false", "signature", "OpenAI")
    assert "nonce" in replayed.text
    assert rig.ask(BROWSER, EVIL, Signer().sign(nonce="twice")).status == ClaimStatus.VERIFIED


def test_only_nonces_of_valid_signatures_are_kept_and_not_too_many(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MAX_NONCES", 10)
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(30):
        rig.ask(BROWSER, EVIL, Signer(seed=2).sign(keyid=Signer().keyid, nonce=f"forged {number}"))
    assert rig.verifier.stats()["nonces"] == 0
    for number in range(30):
        rig.ask(BROWSER, EVIL, Signer().sign(nonce=str(number)))
    assert (rig.verifier.stats()["nonces"], rig.verifier.stats()["nonces_forgotten"]) == (10, 20)


def test_an_unknown_key_is_pending_then_unverifiable_then_asked_for_again(rig: Rig) -> None:
    new = Signer(seed=2)
    rig.settled(BROWSER, EVIL, Signer().sign())
    assert rig.ask(BROWSER, EVIL, new.sign()).status == ClaimStatus.UNVERIFIABLE
    rig.web.signers = Web(new).signers
    rig.clock.advance(61)
    assert rig.ask(BROWSER, EVIL, new.sign()).status == ClaimStatus.PENDING
    rig.verifier.work_off()
    assert rig.ask(BROWSER, EVIL, new.sign()).status == ClaimStatus.VERIFIED
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.UNVERIFIABLE


def test_an_outage_of_a_directory_takes_no_key_away(rig: Rig) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    rig.web.signers = {}
    rig.clock.advance(3_601)
    later = Signer().sign(created=NOW + 3_600, expires=NOW + 3_900)
    assert rig.settled(BROWSER, EVIL, later).status == ClaimStatus.VERIFIED
    assert len(rig.web.asked) == 2


def test_a_directory_that_failed_while_the_clock_was_wrong_is_asked_again_once_it_is_right(rig: Rig) -> None:
    signers, rig.web.signers = rig.web.signers, {}
    rig.clock.jump_wall(86_400)
    ahead = Signer().sign(created=NOW + 86_400, expires=NOW + 86_700)
    assert rig.settled(BROWSER, EVIL, ahead).status == ClaimStatus.UNVERIFIABLE
    rig.clock.jump_wall(-86_400)
    rig.web.signers = signers
    rig.clock.advance(61)
    assert rig.settled(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.VERIFIED


def test_a_directory_is_kept_as_long_as_it_says_within_bounds(rig: Rig) -> None:
    rig.web.max_age = 0
    rig.settled(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    rig.clock.advance(299)
    rig.settled(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    assert len(rig.web.asked) == 1
    rig.clock.advance(2)
    rig.settled(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    assert len(rig.web.asked) == 2


def test_signers_that_do_not_exist_cost_bounded_memory_and_fetches(rig: Rig) -> None:
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(2_000):
        stranger = Signer(f"host{number}.evil.example")
        assert rig.ask(BROWSER, EVIL, stranger.sign()).status in (ClaimStatus.PENDING, ClaimStatus.UNVERIFIABLE)
        if number % 50 == 0:
            rig.verifier.work_off()
            rig.clock.advance(0.01)
    assert len(rig.web.asked) <= signatures.MAX_FETCHES
    assert rig.verifier.stats()["directories"] <= signatures.MAX_DIRECTORIES + 1
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.VERIFIED


def test_strangers_do_not_flush_the_operators_we_know(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MAX_DIRECTORIES", 5)
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(20):
        rig.settled(BROWSER, EVIL, Signer(f"host{number}.evil.example").sign())
    assert rig.verifier.stats()["directories"] == 6
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.VERIFIED


def test_junk_signatures_do_not_keep_a_false_claim_pending(rig: Rig) -> None:
    junk = Signer("host.evil.example")
    assert brief(rig.ask(GPTBOT, EVIL, junk.sign())) == ("false", "ranges", "OpenAI")
    malformed = change(Signer().sign(), b"signature", b"junk")
    assert brief(rig.ask(GPTBOT, EVIL, malformed)) == ("false", "ranges", "OpenAI")
    assert rig.ask(BROWSER, EVIL, malformed).status == ClaimStatus.UNVERIFIABLE


def test_hosts_made_up_below_an_operators_do_not_keep_a_false_claim_pending(rig: Rig) -> None:
    for number in range(100):
        signed = Signer(f"made-up{number}.chatgpt.com").sign()
        assert brief(rig.ask(GPTBOT, EVIL, signed)) == ("false", "ranges", "OpenAI")
        rig.clock.advance(1.0)
        rig.verifier.work_off()
    assert rig.ask(GPTBOT, EVIL, Signer().sign(expires=NOW + 9_000)).status == ClaimStatus.PENDING


def test_without_the_extra_signatures_are_unverifiable(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "is_available", lambda: False)
    assert brief(rig.settled(BROWSER, EVIL, Signer().sign())) == ("unverifiable", "signature", None)
    assert brief(rig.settled(GPTBOT, "52.230.152.9", Signer().sign())) == ("verified", "ranges", "OpenAI")
    assert rig.web.asked == []


def test_the_extra_is_there_for_the_tests() -> None:
    assert botauth.is_available()


def test_a_signature_for_a_host_that_a_proxy_rewrites_is_no_false_claim(rig: Rig) -> None:
    signed = change(Signer().sign(), b"host", b"backend:8000")
    assert brief(rig.settled(BROWSER, EVIL, signed))[0] == "false"
    rewritten = change(signed, b"x-forwarded-host", b"example.com")
    found = rig.settled(BROWSER, EVIL, rewritten)
    assert (found.status, found.signer) == (ClaimStatus.UNVERIFIABLE, "chatgpt.com")
    assert "let it pass Host on" in found.text


@pytest.mark.parametrize(("prefix", "status"), [(b"/app", "unverifiable"), (b"/", "false"), (None, "false")])
def test_a_signature_for_a_path_that_a_proxy_shortens_is_no_false_claim(
    rig: Rig, prefix: bytes | None, status: str
) -> None:
    signed = Signer().sign(make_scope("/app/page"), (("@authority", {}), ("@path", {}), AGENT_COMPONENT))
    shortened = change({**signed, "raw_path": b"/page"}, b"x-forwarded-prefix", prefix)
    assert brief(rig.settled(BROWSER, EVIL, shortened))[0] == status


def test_hosts_made_up_below_an_operators_do_not_flush_its_directory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MAX_DIRECTORIES", 5)
    rig.settled(BROWSER, EVIL, Signer().sign())
    for number in range(20):
        rig.settled(BROWSER, EVIL, Signer(f"made-up{number}.chatgpt.com").sign())
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.VERIFIED


def test_nonces_of_strangers_do_not_make_that_of_an_operator_good_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signatures, "MAX_NONCES", 10)
    stranger = Signer("evil.example", 7)
    rig = Rig(tmp_path, FILES, Signer(), stranger)
    for one in (Signer(), stranger):
        rig.settled(BROWSER, EVIL, one.sign())
    scope = Signer().sign(nonce="once")
    assert rig.ask(BROWSER, CRAWL, scope).status == ClaimStatus.VERIFIED
    for number in range(20):
        assert rig.ask(BROWSER, EVIL, stranger.sign(nonce=str(number))).status == ClaimStatus.VERIFIED
    assert rig.ask(BROWSER, EVIL, scope).status == ClaimStatus.FALSE


def test_a_request_that_its_sender_sends_again_is_no_forgery(rig: Rig) -> None:
    rig.settled(GPTBOT, EVIL, Signer().sign())
    scope = Signer().sign(nonce="once")
    assert rig.ask(BROWSER, EVIL, scope).status == ClaimStatus.VERIFIED
    again = rig.ask(BROWSER, EVIL, scope)
    assert brief(again) == ("unverifiable", "signature", "OpenAI")
    assert "nonce" in again.text


def test_strangers_hold_up_no_operator_we_know(rig: Rig) -> None:
    for number in range(200):
        rig.ask(BROWSER, EVIL, Signer(f"host{number}.evil.example").sign())
    assert rig.ask(BROWSER, EVIL, Signer().sign()).status == ClaimStatus.PENDING
    rig.verifier.work_off()
    assert "chatgpt.com" in rig.web.asked[0]
    rig.clock.advance(3_601)  # the directory is stale, and all that is taken in this minute is taken
    for number in range(200):
        rig.ask(BROWSER, EVIL, Signer(f"more{number}.evil.example").sign())
    rig.ask(BROWSER, EVIL, Signer().sign(expires=NOW + 9_000))
    rig.verifier.work_off()
    assert sum("chatgpt.com" in url for url in rig.web.asked) == 2
