"""What proxies wrote into X-Forwarded-For and Forwarded, and what a visitor wrote there before them."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from asgi_analytics.identify.client import MAX_ENTRIES, MAX_LINE, ClientAddress

from .proxies import ANY_BYTES, CHAINED, FORWARDED, PEER, PROXIES, XFF, read


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"203.0.113.7", "203.0.113.7"),
        (b"  203.0.113.7\t", "203.0.113.7"),
        (b"203.0.113.7:8080", "203.0.113.7"),
        (b"203.0.113.7:_hidden", "203.0.113.7"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"2001:0DB8:0000::0001", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:4711", "2001:db8::1"),
        (b"[fe80::1%25eth0]:4711", "fe80::1"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"::ffff:203.0.113.7", "203.0.113.7"),
        (b"[::ffff:203.0.113.7]:1", "203.0.113.7"),
        (b"203.0.113.7, 10.0.0.2", "203.0.113.7"),
        (b"203.0.113.7,10.0.0.2,10.0.0.3", "203.0.113.7"),
        (b"203.0.113.7, 2001:db8:ffff::2, ::ffff:10.0.0.3", "203.0.113.7"),
        (b"8.8.8.8, 203.0.113.7", "203.0.113.7"),
        (b"8.8.8.8, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        (b"10.0.0.9, 203.0.113.7", "203.0.113.7"),
        (b"<script>, ' OR 1=1, 203.0.113.7", "203.0.113.7"),
        (b",,,, 203.0.113.7", "203.0.113.7"),
        (b"\xff\xfe\x00, 203.0.113.7", "203.0.113.7"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),  # all trusted: the leftmost
        (b"10.0.0.2", "10.0.0.2"),
        (b"8.8.8.8, junk", "10.0.0.1"),
        (b"8.8.8.8, junk, 10.0.0.2", "10.0.0.2"),
        (b"8.8.8.8, unknown, 10.0.0.2", "10.0.0.2"),
        (b"8.8.8.8, unix:", "10.0.0.1"),  # nginx behind a unix socket
        (b"8.8.8.8,", "10.0.0.1"),
        (b"8.8.8.8, , 10.0.0.2", "10.0.0.2"),
        (b"8.8.8.8, _hidden", "10.0.0.1"),
        (b"8.8.8.8;203.0.113.7", "10.0.0.1"),
        (b"8.8.8.8 203.0.113.7", "10.0.0.1"),
        (b'8.8.8.8, "203.0.113.7"', "10.0.0.1"),
        (b"8.8.8.8, 203.0.113.7\xa0", "10.0.0.1"),
        (b"8.8.8.8, 203.0.113.7:port", "10.0.0.1"),
        (b"8.8.8.8, [2001:db8::1]x", "10.0.0.1"),
        (b"8.8.8.8, 0x7f.1.1.1", "10.0.0.1"),
        (b"8.8.8.8, 127.1", "10.0.0.1"),
        (b"8.8.8.8, 2130706433", "10.0.0.1"),
        (b"8.8.8.8, " + b" " * 200 + b"203.0.113.7", "10.0.0.1"),
        (b"", "10.0.0.1"),
        (b" ", "10.0.0.1"),
        (b"unknown", "10.0.0.1"),
        (b"x" * 60_000, "10.0.0.1"),
        (b"x" * 60_000 + b", 203.0.113.7", "203.0.113.7"),
        (b"1." * 30_000 + b"1.1.1.1", "10.0.0.1"),
    ],
)
def test_x_forwarded_for_is_walked_from_the_right(value: bytes, expected: str) -> None:
    assert read(PEER, (XFF, value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 7239 sections 4, 6 and 7.1
        (b'for="_gazonk"', "10.0.0.1"),
        (b'For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        (b"for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        (b"for=_hidden, for=_SEVKISEK", "10.0.0.1"),
        (b'for=192.0.2.43, for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
        (b"for=192.0.2.43,for=10.0.0.2", "192.0.2.43"),
        (b'for="192.0.2.43:47011"', "192.0.2.43"),
        (b'for="192.0.2.43:_port"', "192.0.2.43"),
        (b"for=unknown", "10.0.0.1"),
        (b'for=192.0.2.43, for="10.0.0.2:80";proto=https;host="a,b;c"', "192.0.2.43"),
        # seen in the wild
        (b"FOR=192.0.2.43:80", "192.0.2.43"),
        (b"for=[2001:db8::9]:80", "2001:db8::9"),
        (b"proto=https; for=192.0.2.43 ;by=_x", "192.0.2.43"),
        (b"for=192.0.2.43;", "192.0.2.43"),
        (b'for="\\1\\9\\2.0.2.43"', "192.0.2.43"),
        (b'for=192.0.2.43;host="' + b"x" * 400 + b'"', "192.0.2.43"),
        (b'by="x\\",for=8.8.8.8,\\"";for=192.0.2.43', "192.0.2.43"),
        # spoofing
        (b'for=8.8.8.8, for="x, for=192.0.2.43', "192.0.2.43"),
        (b'for="8.8.8.8, for="[2001:db8::9]"', "2001:db8::9"),
        (b'for="\\, for=192.0.2.43', "192.0.2.43"),
        (b'host="x;for=8.8.8.8;y"', "10.0.0.1"),
        (b'for=192.0.2.43;host="x;for=8.8.8.8;y"', "192.0.2.43"),
        (b'for=192.0.2.43;host="x,for=8.8.8.8"', "192.0.2.43"),
        (b"for=8.8.8.8;for=192.0.2.43", "10.0.0.1"),
        (b"for=8.8.8.8, proto=https", "10.0.0.1"),
        (b"for=8.8.8.8, for=junk", "10.0.0.1"),
        (b"for=8.8.8.8, =", "10.0.0.1"),
        (b"for=8.8.8.8,", "10.0.0.1"),
        (b"for=8.8.8.8, for", "10.0.0.1"),
        (b"for=8.8.8.8, for=", "10.0.0.1"),
        (b'for=8.8.8.8, for="', "10.0.0.1"),
        (b"for=8.8.8.8, xfor=192.0.2.43", "10.0.0.1"),
        (b"for=8.8.8.8, for=192.0.2.43;" + b"a=b;" * 1000, "10.0.0.1"),
        (b'for=8.8.8.8,"' + b"," * 20_000 + b'",for=10.0.0.2', "10.0.0.2"),
        (b"192.0.2.43", "10.0.0.1"),
        (b"", "10.0.0.1"),
    ],
)
def test_forwarded_is_walked_from_the_right(value: bytes, expected: str) -> None:
    assert read(PEER, (FORWARDED, value)) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([(XFF, b"8.8.8.8"), (XFF, b"203.0.113.7")], "203.0.113.7"),
        ([(XFF, b"8.8.8.8, 203.0.113.7"), (XFF, b"10.0.0.2")], "203.0.113.7"),
        ([(XFF, b"203.0.113.7"), (b"host", b"a"), (XFF, b"10.0.0.3"), (XFF, b"10.0.0.2")], "203.0.113.7"),
        ([(XFF, b"8.8.8.8"), (XFF, b"")], "10.0.0.1"),
        ([(XFF, b"8.8.8.8"), (XFF, b", 10.0.0.2")], "10.0.0.2"),
        ([(XFF, b"203.0.113.7"), (FORWARDED, b"for=8.8.8.8")], "203.0.113.7"),
        ([(FORWARDED, b"for=8.8.8.8"), (XFF, b"203.0.113.7"), (b"x-real-ip", b"9.9.9.9")], "203.0.113.7"),
        ([(b"cf-connecting-ip", b"9.9.9.9"), (b"x-real-ip", b"8.8.8.8")], "10.0.0.1"),
        ([(FORWARDED, b"for=8.8.8.8"), (FORWARDED, b"for=192.0.2.43")], "192.0.2.43"),
        ([(FORWARDED, b"for=192.0.2.43"), (FORWARDED, b"for=10.0.0.2")], "192.0.2.43"),
        ([(FORWARDED, b"for=8.8.8.8"), (FORWARDED, b',"'), (FORWARDED, b"for=10.0.0.2")], "10.0.0.2"),
        ([(FORWARDED, b"for=8.8.8.8"), (FORWARDED, b"x=" + b"y" * 600)], "10.0.0.1"),
    ],
)
def test_several_lines_count_in_their_order(lines: list[tuple[bytes, bytes]], expected: str) -> None:
    assert read(PEER, *lines) == expected


@pytest.mark.parametrize("count", [MAX_ENTRIES, MAX_ENTRIES + 1, 10_000])
@pytest.mark.parametrize(("name", "form"), [(XFF, b"10.0.%d.%d"), (FORWARDED, b"for=10.0.%d.%d")])
def test_no_more_than_a_hundred_entries_are_looked_at(count: int, name: bytes, form: bytes) -> None:
    entries = [form % divmod(number, 100) for number in range(count)]
    oldest = (b"10.0.%d.%d" % divmod(count - MAX_ENTRIES, 100)).decode()
    assert read(PEER, (name, b",".join(entries))) == oldest
    assert read(PEER, *((name, entry) for entry in entries)) == oldest


@pytest.mark.parametrize("kept", range(1, 40))
def test_an_entry_that_the_bound_cuts_is_not_read(kept: int) -> None:
    proxies = b"".join(b"," + b"10.0.0.2".rjust(108) for _ in range(74))
    oldest = b"," + b"10.0.0.3".rjust(MAX_LINE - kept - len(proxies) - 1)
    assert read(PEER, (XFF, b"9" * 28 + b"203.0.113.7" + oldest + proxies)) == "10.0.0.3"


def behind_uvicorn(peer: str, value: bytes, allowed: str, trusted: tuple[str, ...]) -> str:
    """What we read after uvicorn's own rewriting of scope["client"]."""
    reader, found = ClientAddress(tuple(map(ip_network, trusted))), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(reader.read(scope, dict(scope["headers"])))

    scope: Any = {"type": "http", "client": (peer, 4711), "headers": [(XFF, value)], "scheme": "http"}
    asyncio.run(ProxyHeadersMiddleware(app, allowed)(scope, None, None))  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize(
    ("peer", "value", "allowed", "trusted", "expected"),
    [
        # the default: a local proxy that uvicorn trusts; whether we name it as well changes nothing
        ("127.0.0.1", b"8.8.8.8, 203.0.113.7", "127.0.0.1", (), "203.0.113.7"),
        ("127.0.0.1", b"8.8.8.8, 203.0.113.7", "127.0.0.1", ("127.0.0.1",), "203.0.113.7"),
        ("127.0.0.1", b"8.8.8.8, 203.0.113.7:99", "127.0.0.1", ("127.0.0.1",), "203.0.113.7"),
        ("127.0.0.1", b"8.8.8.8, [2001:db8::7]:99", "127.0.0.1", ("127.0.0.1",), "2001:db8::7"),
        # a CDN in front of the local proxy: uvicorn stops at the CDN, we go on
        ("127.0.0.1", b"8.8.8.8, 203.0.113.7, 10.0.0.5", "127.0.0.1", ("10.0.0.0/8",), "203.0.113.7"),
        ("127.0.0.1", b"8.8.8.8, 203.0.113.7, 10.0.0.5:99", "127.0.0.1", ("10.0.0.0/8",), "203.0.113.7"),
        # a visitor who writes a trusted address in front gains nothing
        ("127.0.0.1", b"8.8.8.8, 10.0.0.5, 203.0.113.7", "127.0.0.1", ("10.0.0.0/8",), "203.0.113.7"),
        ("127.0.0.1", b"10.0.0.5, 203.0.113.7", "127.0.0.1", ("10.0.0.0/8",), "203.0.113.7"),
        # uvicorn told to trust everybody takes the leftmost, the visitor's own: undone where it is in `trusted`
        ("10.0.0.1", b"10.9.9.9, 203.0.113.7", "*", ("10.0.0.0/8",), "203.0.113.7"),
        # uvicorn does not trust this peer, we do
        ("10.0.0.1", b"8.8.8.8, 203.0.113.7", "127.0.0.1", ("10.0.0.0/8",), "203.0.113.7"),
        # neither does
        ("203.0.113.9", b"8.8.8.8, 10.0.0.5", "127.0.0.1", ("10.0.0.0/8",), "203.0.113.9"),
        ("127.0.0.1", b"unknown", "127.0.0.1", ("127.0.0.1",), ""),
    ],
)
def test_what_uvicorn_has_rewritten_is_not_walked_into_a_visitors_text(
    peer: str, value: bytes, allowed: str, trusted: tuple[str, ...], expected: str
) -> None:
    assert behind_uvicorn(peer, value, allowed, trusted) == expected


@given(ANY_BYTES, st.lists(st.sampled_from(["10.0.0.2", "2001:db8:ffff::2"]), max_size=3), st.booleans())
def test_what_a_visitor_sends_never_wins(sent: bytes, proxies: list[str], own_line: bool) -> None:
    plain = [CHAINED, *proxies]
    quoted = [f'for="[{one}]:1"' if ":" in one else f"for={one}" for one in plain]
    for name, appended in ((XFF, plain), (FORWARDED, quoted)):
        genuine = ", ".join(appended).encode()
        lines = [(name, sent), (name, genuine)] if own_line else [(name, sent + b", " + genuine)]
        assert read(PEER, *lines) == CHAINED


@given(ANY_BYTES, st.sampled_from(["127.0.0.1", "127.0.0.1,10.0.0.0/8"]), st.sampled_from([b"", b", 10.0.0.2"]))
def test_what_a_visitor_sends_never_wins_behind_uvicorn(sent: bytes, allowed: str, hop: bytes) -> None:
    value = sent + b", " + CHAINED.encode() + hop
    assert behind_uvicorn("127.0.0.1", value, allowed, ("127.0.0.1", "10.0.0.0/8")) == CHAINED


def test_what_a_visitor_writes_into_the_header_that_the_proxy_does_not_write_is_not_read() -> None:
    headers = [(XFF, b"203.0.113.9"), (b"forwarded", b"for=198.51.100.4")]
    assert read(("10.0.0.1", 1), *headers) == "203.0.113.9"
    assert read(("10.0.0.1", 1), *headers, reader=ClientAddress.of((*PROXIES, "forwarded"))) == "198.51.100.4"
    assert read(("10.0.0.1", 1), headers[0], reader=ClientAddress.of((*PROXIES, "forwarded"))) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "headers", "secure"),
    [
        ("10.0.0.1", [(b"x-forwarded-proto", b"https")], True),
        ("10.0.0.1", [(b"x-forwarded-proto", b"HTTPS, http")], True),
        ("10.0.0.1", [(b"x-forwarded-proto", b"http")], False),
        ("10.0.0.1", [(b"forwarded", b'for=203.0.113.7;proto=https, for="[2001:db8:ffff::1]"')], True),
        ("10.0.0.1", [(b"forwarded", b"for=203.0.113.7;proto=http;by=https")], False),
        ("10.0.0.1", [], False),
        ("203.0.113.7", [(b"x-forwarded-proto", b"https")], False),
    ],
)
def test_a_trusted_proxy_tells_whether_the_visitor_came_by_https(peer: str, headers: Any, secure: bool) -> None:
    scope = {"client": (peer, 1), "headers": headers, "scheme": "http"}
    reader = ClientAddress(PROXIES)
    assert reader.is_secure(scope, dict(headers)) is secure
    assert reader.is_secure({**scope, "scheme": "https"}, {})
