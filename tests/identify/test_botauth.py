from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify.botauth import Flaw, Signed, check_time, read_signatures, replay_key, verify
from asgi_analytics.identify.components import signature_base
from asgi_analytics.identify.keys import MAX_DIRECTORY, TEST_KEYS, Key, read_directory, thumbprint

from ..signing import AGENT_COMPONENT, COVERED, NOW, Signer, change, make_scope

# RFC 9421 appendix B.1.4
RFC_KEY = Key(base64.urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs="), 0, 1e12)
RFC_KEYID = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
# draft-ietf-webbotauth-httpsig-protocol, appendix "Test Vectors", EdDSA: dictionary form, then bare string
DICTIONARY_VECTOR = [
    (b"host", b"example.com"),
    (b"signature-agent", b'agent2="https://signature-agent.test"'),
    (
        b"signature-input",
        b'sig2=("@authority" "signature-agent";key="agent2");created=1735689600;keyid="' + RFC_KEYID.encode() + b'"'
        b';alg="ed25519";expires=4889289600;nonce="n9p433xm+NJ3ph3upfBIGmsuwHw387YV7Q/F+6BSpGCVjYCqQw6rznNA8PVVLySrAWs'
        b'v0hQtFioQb6E1YsauiA==";tag="web-bot-auth"',
    ),
    (
        b"signature",
        b"sig2=:RdNFx5Bj6au3YgAMQL/RzmUlZE8QZLIaXGRpw985hWnwPfMxT228NMk6ehRS1PSl4e8PhbNZACSanGdhEwYCCg==:",
    ),
]
STRING_VECTOR = [
    (b"host", b"example.com"),
    (b"signature-agent", b'"https://signature-agent.test"'),
    (
        b"signature-input",
        b'sig2=("@authority" "signature-agent");created=1735689600;keyid="' + RFC_KEYID.encode() + b'"'
        b';alg="ed25519";expires=1735693200;nonce="e8N7S2MFd/qrd6T2R3tdfAuuANngKI7LFtKYI/vowzk4lAZYadIX6wW25MwG7DCT9RU'
        b'KAJ0qVkU0mEeLElW1qg==";tag="web-bot-auth"',
    ),
    (
        b"signature",
        b"sig2=:jdq0SqOwHdyHr9+r5jw3iYZH6aNGKijYp/EstF4RQTQdi5N5YYKrD+mCT1HA1nZDsi6nJKuHxUi/5Syp3rLWBA==:",
    ),
]
SIGNER = Signer()
KEY = Key(SIGNER.public, 0, float("inf"))


def read_one(scope: dict[str, Any]) -> Signed | Flaw:
    (found,) = read_signatures(scope)
    return found


def signed(scope: dict[str, Any]) -> Signed:
    found = read_one(scope)
    assert isinstance(found, Signed), found
    return found


@pytest.mark.parametrize("headers", [DICTIONARY_VECTOR, STRING_VECTOR], ids=["dictionary", "bare string"])
def test_the_drafts_own_vectors_verify(headers: list[tuple[bytes, bytes]]) -> None:
    found = signed({**make_scope(), "headers": headers})
    assert (found.signer, found.keyid, found.created) == ("signature-agent.test", RFC_KEYID, 1735689600)
    assert verify(found, RFC_KEY)
    assert not verify(found, KEY)


def test_the_ed25519_example_of_rfc_9421_verifies() -> None:
    headers = [
        (b"host", b"example.com"),
        (b"date", b"Tue, 20 Apr 2021 02:07:55 GMT"),
        (b"content-type", b"application/json"),
        (b"content-length", b"18"),
    ]
    scope = {**make_scope("/foo", query=b"param=Value&Pet=dog", method="POST"), "headers": headers}
    names = ("date", "@method", "@path", "@authority", "content-type", "content-length")
    entry: Any = ([(name, {}) for name in names], {"created": 1618884473, "keyid": "test-key-ed25519"})
    value = base64.b64decode("wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==")
    example = Signed("", "", 0, 0, None, value, (signature_base(scope, "https", entry),))
    assert verify(example, RFC_KEY)


@pytest.mark.parametrize(
    "covered",
    [
        (("@authority", {}), ("@method", {}), ("@path", {}), ("@query", {}), AGENT_COMPONENT),
        (("@target-uri", {}), ("@scheme", {}), ("@request-target", {}), AGENT_COMPONENT),
        (("@authority", {}), ("accept", {}), AGENT_COMPONENT),
        (("@authority", {}), ("signature-agent", {})),
    ],
)
def test_what_a_signature_covers_is_taken_from_the_request(covered: Any) -> None:
    scope = make_scope("/caf%C3%A9", query=b"a=1&b=%20")
    scope["headers"] += [(b"accept", b"text/html "), (b"accept", b" */*")]
    found = signed(SIGNER.sign(scope, covered))
    assert verify(found, KEY)
    assert found.signer == "chatgpt.com"


def test_a_proxy_that_ends_tls_does_not_break_signatures() -> None:
    scope = SIGNER.sign(covered=(("@target-uri", {}), AGENT_COMPONENT))
    assert verify(signed({**scope, "scheme": "http"}), KEY)
    assert verify(signed(change(scope, b"host", b"EXAMPLE.com:443")), KEY)


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"host", b"evil.example"), (b"signature-agent", b'sig1="https://openai.com"'), (b"accept", b"text/plain")],
)
def test_a_signature_of_another_request_does_not_verify(name: bytes, value: bytes) -> None:
    scope = make_scope()
    scope["headers"].append((b"accept", b"text/html"))
    scope = SIGNER.sign(scope, (*COVERED, ("accept", {})))
    assert verify(signed(scope), KEY)
    assert not verify(signed(change(scope, name, value)), KEY)


def test_a_path_that_is_covered_cannot_be_another() -> None:
    scope = SIGNER.sign(covered=(*COVERED, ("@path", {})))
    assert not verify(signed({**scope, "raw_path": b"/other"}), KEY)


@pytest.mark.parametrize("covered", ["@path", "@request-target", "@target-uri"])
@pytest.mark.parametrize("taken_off", [b"/page", b"/app/page"], ids=["by the proxy", "by nobody, or put there again"])
def test_a_path_is_covered_as_it_was_asked_for_though_a_proxy_takes_off_its_beginning(
    covered: str, taken_off: bytes
) -> None:
    scope = SIGNER.sign(make_scope("/app/page"), (*COVERED, (covered, {})))
    assert verify(signed({**scope, "raw_path": taken_off, "root_path": "/app"}), KEY)
    assert not verify(signed({**scope, "raw_path": b"/page", "root_path": ""}), KEY)


def test_requests_without_a_signature_of_this_kind_have_none() -> None:
    assert read_signatures(SIGNER.sign(tag="other")) == []
    assert read_signatures(SIGNER.sign(tag=None)) == []


@pytest.mark.parametrize(
    "scope",
    [
        change(SIGNER.sign(), b"signature", None),
        change(SIGNER.sign(), b"signature", b"sig1=:YQ==:"),
        change(SIGNER.sign(), b"signature", b"sig1=1"),
        change(SIGNER.sign(), b"signature", b"sig2=:YQ==:"),
        change(SIGNER.sign(), b"signature", b"sig1=:" + b"A" * 3000),
        change(SIGNER.sign(), b"signature-agent", None),
        change(SIGNER.sign(), b"signature-agent", b"sig1=1"),
        change(SIGNER.sign(), b"signature-agent", b'other="https://chatgpt.com"'),
        change(SIGNER.sign(), b"signature-input", b'sig1=(((((";tag="web-bot-auth"'),
        SIGNER.sign(covered=(("@authority", {}),)),
        SIGNER.sign(covered=(AGENT_COMPONENT,)),
        SIGNER.sign(covered=(("@method", {}), AGENT_COMPONENT)),
        SIGNER.sign(created=None),
        SIGNER.sign(expires=None),
        SIGNER.sign(expires="soon"),
        SIGNER.sign(keyid="test-key"),
        SIGNER.sign(keyid=None),
        SIGNER.sign(alg="hmac-sha256"),
        SIGNER.sign(nonce="n" * 513),
        SIGNER.sign(agent='sig1="http://chatgpt.com"'),
        SIGNER.sign(agent='sig1="https://127.0.0.1"'),
        SIGNER.sign(agent='sig1="https://localhost"'),
        SIGNER.sign(agent='sig1="https://chatgpt.com:8443"'),
        SIGNER.sign(agent='sig1="https://chatgpt.com/path"'),
        SIGNER.sign(agent='sig1="https://user@chatgpt.com"'),
        SIGNER.sign(agent='sig1="https://chatgpt.com/keys";type=jwks_uri'),
    ],
)
def test_what_cannot_be_read_is_a_flaw_and_no_error(scope: dict[str, Any]) -> None:
    found = read_one(scope)
    assert isinstance(found, Flaw)
    assert not found.is_wrong
    assert found.text


@pytest.mark.parametrize(
    "listed",
    [
        b'("@authority" "@authority" "signature-agent";key="sig1")',
        b'("@authority" "@query-param";name="a" "signature-agent";key="sig1")',
        b'("@authority" "@status" "signature-agent";key="sig1")',
        b'("@authority" "cookie";sf "signature-agent";key="sig1")',
        b'("@authority" "cookie" "signature-agent";key="sig1")',
        b'("@authority" "Host" "signature-agent";key="sig1")',
        b'("@authority" 1 "signature-agent";key="sig1")',
        b'("@authority" "signature-agent";key="sig1" "signature-agent";key="none")',
        b"(" + b'"@method" ' * 30 + b'"signature-agent";key="sig1")',
        b"()",
        b"1",
    ],
)
def test_components_that_are_strange_are_a_flaw(listed: bytes) -> None:
    rest = f';created={NOW};expires={NOW + 9};keyid="{SIGNER.keyid}";tag="web-bot-auth"'.encode()
    found = read_one(change(SIGNER.sign(), b"signature-input", b"sig1=" + listed + rest))
    assert isinstance(found, Flaw)


def test_at_most_four_signatures_of_a_request_are_looked_at() -> None:
    scope = SIGNER.sign()
    (line,) = [value for name, value in scope["headers"] if name == b"signature-input"]
    many = b", ".join(b"s%d=%s" % (number, line.partition(b"=")[2]) for number in range(8))
    assert len(read_signatures(change(scope, b"signature-input", many))) == 4


@pytest.mark.parametrize(
    ("changes", "later", "flaw"),
    [
        ({}, 0, None),
        ({}, 359, None),
        ({}, 361, "expired"),
        ({}, -59, None),
        ({}, -61, "future"),
        ({"expires": NOW + 86_400}, 0, None),
        ({"expires": NOW + 86_401}, 0, "longer than a day"),
        ({"expires": NOW - 1000}, 0, "expired"),
    ],
)
def test_a_signature_holds_from_created_to_expires(changes: dict[str, Any], later: int, flaw: str | None) -> None:
    found = check_time(signed(SIGNER.sign(**changes)), NOW + later)
    assert (found is None) is (flaw is None)
    if found is not None and flaw is not None:
        assert flaw in found.text
        assert found.is_wrong


def test_a_nonce_belongs_to_its_signer_and_key() -> None:
    keys = [
        replay_key(signed(one.sign(nonce=nonce)))
        for one in (SIGNER, Signer("openai.com"), Signer(seed=2))
        for nonce in ("a", "b")
    ]
    assert len(set(keys)) == 6
    assert replay_key(signed(SIGNER.sign())) is None


def test_a_directory_gives_keys_by_thumbprint() -> None:
    assert read_directory(SIGNER.directory()) == {SIGNER.keyid: KEY}
    assert read_directory(SIGNER.directory(nbf=5, exp=1_900_000_000_000)) == {
        SIGNER.keyid: Key(SIGNER.public, 5, 1_900_000_000)
    }
    assert thumbprint(RFC_KEY.public) == RFC_KEYID


@pytest.mark.parametrize(
    "changes",
    [
        {"kid": "mine"},
        {"kty": "RSA"},
        {"crv": "X25519"},
        {"x": "AAAA", "kid": thumbprint(b"\x00" * 3)},
        {"x": 5},
        {"x": "é"},
        {"x": base64.urlsafe_b64encode(RFC_KEY.public).rstrip(b"=").decode(), "kid": next(iter(TEST_KEYS))},
    ],
)
def test_keys_that_prove_nothing_are_left_out(changes: dict[str, object]) -> None:
    assert read_directory(SIGNER.directory(**changes)) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"keys": {}}',
        b"[" * 50_000,
        b" " * (MAX_DIRECTORY + 1),
        b'{"keys": [%s]}' % (b"1," * 64 + b"1"),
    ],
)
def test_what_is_no_directory_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_directory(data)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=100))
def test_any_three_fields_can_be_read(given_input: bytes, value: bytes, agent: bytes) -> None:
    scope = make_scope()
    scope["headers"] += [(b"signature-input", given_input), (b"signature", value), (b"signature-agent", agent)]
    for found in read_signatures(scope):
        assert isinstance(found, (Flaw, Signed))


SIMPLE = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(SIMPLE | st.lists(SIMPLE | st.lists(SIMPLE, max_size=3), max_size=3))
def test_any_directory_is_read_or_refused(content: object) -> None:
    data = json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": content, "nbf": content}]}).encode()
    assert read_directory(data) == {}


def test_reading_costs_little_even_when_it_is_made_to_be_slow() -> None:
    line = b"sig1=(" + b"1 " * 1000 + b');tag="web-bot-auth"'
    scope = change(SIGNER.sign(), b"signature-input", line)
    spent = []
    for _ in range(20):
        started = time.thread_time()
        read_signatures(scope)
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.05, "going back over what was read would take seconds"


@pytest.mark.parametrize(("field", "lines"), [("x", 0), ("signature-agent", 0), ("signature-agent", 10_000)])
def test_a_signature_that_covers_much_costs_little_before_it_is_known_to_be_one(field: str, lines: int) -> None:
    spent = []
    for run in range(5):
        keys = [f"k{number}" for number in range(18)]
        agents = ", ".join(f'{key}="https://s{run}.example"' for key in keys)
        covered = " ".join(f'"{field}";key="{key}"' for key in keys[1:])
        one = f'("@target-uri" "signature-agent";key="k0" {covered});created=1;expires=2;keyid="{SIGNER.keyid}"'
        inputs = ", ".join(f'{label}={one};tag="web-bot-auth"' for label in keys[:3])
        headers = [*make_scope()["headers"], *[(b"a", b"")] * lines, (b"signature-agent", agents.encode())]
        headers.append((b"x", ", ".join([*keys, *(f"p{number}={run}" for number in range(900))]).encode()))
        headers.append((b"signature-input", inputs.encode()))
        headers.append((b"signature", b", ".join(b"%b=:%b==:" % (key.encode(), b"A" * 86) for key in keys[:3])))
        started = time.thread_time()
        read_signatures({**make_scope(), "scheme": "http", "headers": headers})
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.02
