from __future__ import annotations

import re
from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify import cookie
from asgi_analytics.identify.cookie import LIFETIME, MAX_BYTES, MAX_CANDIDATES, MAX_FUTURE, Ticket, VisitorCookie

OLD, NEW = "the older secret of two", "the newer secret of two"
VISITOR = bytes(range(16))
NOW = 1_795_000_000
JAR = VisitorCookie("aa_v", (NEW,))


def pair(jar: VisitorCookie = JAR, secure: bool = True, now_s: int = NOW) -> bytes:
    return jar.issue(VISITOR, secure, now_s).split(b";")[0]


def read(*lines: bytes, jar: VisitorCookie = JAR, secure: bool = True, now_s: int = NOW) -> Ticket | None:
    return jar.read([(b"host", b"a"), *((b"cookie", line) for line in lines), (b"accept", b"*/*")], secure, now_s)


FOUND = Ticket(VISITOR, NOW, False)
TOKEN = pair().partition(b"=")[2]


@given(st.binary(min_size=16, max_size=16), st.booleans(), st.integers(0, 0xFFFF_FFFF))
def test_an_issued_cookie_reads_back(visitor: bytes, secure: bool, now_s: int) -> None:
    line = JAR.issue(visitor, secure, now_s).split(b";")[0]
    assert read(line, secure=secure, now_s=now_s) == Ticket(visitor, now_s, False)


def test_attributes_follow_the_rules_for_host_cookies() -> None:
    text = JAR.issue(VISITOR, True, NOW).decode()
    morsel = SimpleCookie(text)["__Host-aa_v"]
    assert morsel["path"] == "/"
    assert morsel["domain"] == ""
    assert morsel["samesite"] == "Lax"
    assert (morsel["secure"], morsel["httponly"], morsel["max-age"]) == (True, True, str(LIFETIME))
    assert re.fullmatch(r"[\w-]{48}", morsel.value)


def test_over_plain_http_the_name_is_plain_and_secure_is_left_out() -> None:
    value = JAR.issue(VISITOR, False, NOW)
    assert value.startswith(b"aa_v=")
    assert b"Secure" not in value


def test_a_name_that_has_the_prefix_already_gets_it_once() -> None:
    jar = VisitorCookie("__Host-v", (NEW,))
    assert jar.issue(VISITOR, True, NOW).startswith(b"__Host-v=")
    assert jar.issue(VISITOR, False, NOW).startswith(b"v=")


@pytest.mark.parametrize(
    "lines",
    [
        [pair()],
        [b"a=b; " + pair()],
        [b"a=b;" + pair() + b";c=d"],
        [b"a=b;\t" + pair() + b" ; c=d"],
        [b"a=b", b"c=d; " + pair(), b"e=f"],  # HTTP/2 may send one line per cookie
        [b'__Host-aa_v="' + TOKEN + b'"'],
        [b'x="a;b"; ' + pair()],
        [b"a=b=c; =; ; noequals; \xff\x00=\xed\xa0\x80; " + pair()],
        [b"__Host-aa_v=; " + pair()],
        [b"__Host-aa_v=stale; " + pair()],
        [b"x__Host-aa_v=1; " + pair()],
        [pair() + b"; " + pair(VisitorCookie("aa_v", (NEW,)), now_s=NOW - 5)],
        [b";".join([b"a"] * 4000) + b"; " + pair()],
        [b"__Host-aa_v=1;" * (MAX_CANDIDATES - 1) + pair()],
    ],
)
def test_the_cookie_is_found_among_others(lines: list[bytes]) -> None:
    assert read(*lines) == FOUND


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b""],
        [b"aa_v=" + TOKEN],  # planted under the plain name: not for https
        [b"x" + pair()],
        [b"x=" + pair()],
        [b"__host-aa_v=" + TOKEN],
        [b"__Host-aa_v =" + TOKEN],
        [pair() + b"x"],
        [pair() + b" x"],
        [pair() + b"\n"],
        [pair() + b"="],
        [b'__Host-aa_v="' + TOKEN],
        [b"__Host-aa_v=" + TOKEN + b'"'],
        [b"__Host-aa_v=" + TOKEN[:-1]],
        [b"__Host-aa_v=" + TOKEN[:24], TOKEN[24:]],
        [b"__Host-aa_v=" + TOKEN[:20] + b"\n" + TOKEN[20:]],
        [b"__Host-aa_v=" + TOKEN[:20] + b"\n" + TOKEN[21:]],
        [b"__Host-aa_v=" + TOKEN.swapcase()],
        [b"__Host-aa_v=" + b"A" * 48],
        [b"__Host-aa_v=" + b"A" * 65536],
        [b"__Host-aa_v=1;" * MAX_CANDIDATES + pair()],
        [b"x" * MAX_BYTES + b"; " + pair()],
        [b"x" * (MAX_BYTES // 2), b"y" * (MAX_BYTES // 2), pair()],
        [b"x" * (MAX_BYTES - 30) + b"; " + pair()],
    ],
)
def test_what_is_not_exactly_our_cookie_is_not_read(lines: list[bytes]) -> None:
    assert read(*lines) is None


def test_the_prefixed_cookie_is_not_taken_for_the_plain_one() -> None:
    assert read(pair(), secure=False) is None
    assert read(pair() + b"; " + pair(secure=False), secure=False) == FOUND


@pytest.mark.parametrize("sign", [b"+", b"/", b"="])
def test_one_token_has_one_text(sign: bytes) -> None:
    for number in range(200):
        line = JAR.issue(number.to_bytes(16, "big"), True, NOW).split(b";")[0]
        spoiled = line[:15] + line[15:].replace(b"-" if sign == b"+" else b"_", sign) + (sign if sign == b"=" else b"")
        assert spoiled == line or read(spoiled) is None


@given(st.integers(0, 47), st.integers(0, 63))
def test_a_token_with_any_one_character_changed_is_rejected(position: int, letter: int) -> None:
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    changed = bytearray(TOKEN)
    changed[position] = alphabet[letter]
    assert read(b"__Host-aa_v=" + changed) == (FOUND if changed == TOKEN else None)


@given(
    st.lists(st.one_of(st.binary(max_size=200), st.just(b"__Host-aa_v="), st.just(TOKEN), st.just(b";")), max_size=9)
)
def test_any_bytes_give_our_visitor_or_nothing(parts: list[bytes]) -> None:
    assert read(b"".join(parts), *parts) in (None, FOUND)


@pytest.mark.parametrize(
    ("age", "valid"),
    [
        (0, True),
        (LIFETIME, True),
        (LIFETIME + 1, False),
        (10 * LIFETIME, False),
        (-MAX_FUTURE, True),
        (-MAX_FUTURE - 1, False),
        (-NOW, False),  # this host's clock is at 1970
    ],
)
def test_a_cookie_lives_thirteen_months_and_not_from_the_future(age: int, valid: bool) -> None:
    assert (read(pair(), now_s=NOW + age) is not None) is valid


def test_a_life_is_never_more_than_thirteen_months_of_the_calendar() -> None:
    assert LIFETIME <= (365 + 28) * 86400


@pytest.mark.parametrize(("later", "left"), [(0, LIFETIME), (100, LIFETIME - 100), (LIFETIME, 0), (2 * LIFETIME, 0)])
def test_issuing_again_does_not_prolong_it(later: int, left: int) -> None:
    value = JAR.issue(VISITOR, True, NOW + later, NOW)
    assert b"Max-Age=%d;" % left in value
    assert JAR.issue(VISITOR, True, NOW).split(b";")[0] == value.split(b";")[0]


def test_an_older_secret_verifies_and_asks_for_a_new_signature() -> None:
    before, both = VisitorCookie("aa_v", (OLD,)), VisitorCookie("aa_v", (NEW, OLD))
    ticket = read(pair(before), jar=both)
    assert ticket == Ticket(VISITOR, NOW, True)
    again = both.issue(ticket.visitor, True, NOW + 500, ticket.issued_s).split(b";")[0]
    assert read(again, now_s=NOW + 500) == FOUND


def test_a_secret_that_is_taken_out_or_unknown_verifies_nothing() -> None:
    assert read(pair(VisitorCookie("aa_v", (OLD,)))) is None
    assert read(pair(), jar=VisitorCookie("aa_v", ("some other secret text",))) is None


@pytest.mark.parametrize("now_s", [-(10**12), -1, 0, 0xFFFF_FFFF, 0xFFFF_FFFF + 1, 7_258_118_400, 10**15])
def test_a_clock_gone_wild_raises_nothing(now_s: int) -> None:
    value = JAR.issue(VISITOR, True, now_s)
    age = int(value.split(b"Max-Age=")[1].split(b";")[0])
    assert 0 <= age <= LIFETIME
    read(value.split(b";")[0], now_s=now_s)


def test_secrets_may_be_any_text() -> None:
    jar = VisitorCookie("aa_v", ("\ud800\udfff" * 8, "ü" * 500))
    assert read(pair(jar), jar=jar) == FOUND


def test_a_cookie_of_another_version_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(cookie, "_VERSION", b"\x02")
        line = pair()
        assert read(line) == FOUND
    assert read(line) is None
