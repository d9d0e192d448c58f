"""Lines of real servers are read, and no bytes whatever raise."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asgi_analytics.commands.replay  # noqa: F401 - for its patterns, and those of all that it imports
from asgi_analytics.errors import ReplayError
from asgi_analytics.replay.entry import Entry
from asgi_analytics.replay.formats import FORMATS, detect, make, uncollected, unescape
from asgi_analytics.replay.timestamps import Timestamps
from tests.replay.lines import CHROME, START, combined

COMMON = '127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326'
AT = datetime(2000, 10, 10, 20, 55, 36, tzinfo=UTC).timestamp()


def one(line: str, name: str | None = None) -> Entry:
    (entry,), junk = (make(name) if name else detect(line)).read(line)
    assert junk == []
    return entry


def test_the_common_log_format_is_read() -> None:
    assert one(COMMON) == Entry(AT, "127.0.0.1", "GET", "/apache_pb.gif", 200)


def test_the_combined_log_format_is_read() -> None:
    entry = one(COMMON + ' "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"')
    assert (entry.referer, entry.agent) == ("http://www.example.com/start.html", "Mozilla/4.08 [en] (Win98; I ;Nav)")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (combined(address="2001:db8::7"), {"address": "2001:db8::7"}),
        (combined(address="unicomp6.unicomp.net"), {"address": "unicomp6.unicomp.net"}),
        (combined(agent=r"a \"quoted\" one \\ \x22 \xc3\xa4"), {"agent": 'a "quoted" one \\ " ä'}),
        (combined(target=r"/a\"b"), {"target": '/a"b'}),
        (combined(target="/%C3%A4?q=1"), {"target": "/%C3%A4?q=1"}),
        (combined(agent="-"), {"agent": "", "referer": ""}),
        (combined(more=' "203.0.113.1, 10.0.0.1"'), {"forwarded": "203.0.113.1, 10.0.0.1"}),
        (combined(more=' 0.004 0.003 "2001:db8::1"'), {"forwarded": "2001:db8::1"}),
        (combined(more=' "www.example.com" "gzip" 12'), {"forwarded": ""}),
        (combined().replace("512", "-"), {"status": 200}),
        (combined().replace("GET / HTTP/1.1", "-"), {"method": "", "target": "-"}),
        (combined().replace("GET / HTTP/1.1", r"\x16\x03\x01"), {"method": ""}),
        (combined().replace("GET / HTTP/1.1", ""), {"method": "", "target": ""}),
        (combined().replace("GET / HTTP/1.1", "GET /old"), {"method": "GET", "target": "/old"}),
        (combined().replace("GET / HTTP/1.1", "GET / 1.1"), {"method": "GET", "target": "/"}),  # Hypercorn's
        (combined().replace("- -", "- Mary [1] Ann"), {"address": "198.51.100.7", "time": START}),
        (combined().replace("12:00:00 +0000", "13:30:00 +0130"), {"time": START}),
        (combined().replace("12:00:00 +0000", "07:00:00 -0500"), {"time": START}),
        (combined().replace("12:00:00 +0000", "12:00:00.250 +0000"), {"time": START + 0.25}),
        (combined().replace("01/Mar/2026:12:00:00 +0000", "2026-03-01T12:00:00+00:00"), {"time": START}),
        (f"shop.example:443 {combined()}", {"host": "shop.example", "address": "198.51.100.7"}),
        (f"shop.example {combined(address='2001:db8::7')}", {"host": "shop.example", "address": "2001:db8::7"}),
    ],
)
def test_what_servers_write_is_read(line: str, expected: dict[str, Any]) -> None:
    entry = one(line)
    assert {name: getattr(entry, name) for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        combined().replace("Mar", "Foo"),
        combined().replace("01/Mar", "32/Mar"),
        combined().replace("12:00:00", "25:00:00"),
        combined().replace("12:00:00", "12:00:61"),
        combined()[:50],
        combined().replace(" 200 ", " many "),
    ],
)
def test_what_is_no_line_is_junk(line: str) -> None:
    entries, junk = make("combined").read(line)
    assert entries == []
    assert len(junk) == bool(line)


NGINX = {
    "time_iso8601": "2026-03-01T12:00:00+00:00", "remote_addr": "198.51.100.7", "request": "GET /a?b=1 HTTP/2.0",
    "status": "200", "body_bytes_sent": "512", "http_referer": "", "http_user_agent": CHROME, "request_time": "0.004",
}  # fmt: skip
CADDY = {
    "level": "info", "ts": START, "logger": "http.log.access", "msg": "handled request",
    "request": {
        "remote_ip": "10.0.0.1", "client_ip": "198.51.100.7", "proto": "HTTP/2.0", "method": "GET",
        "host": "shop.example:443", "uri": "/a?b=1", "headers": {"User-Agent": [CHROME], "Accept": ["*/*"]},
    },
    "duration": 0.002, "size": 512, "status": 200, "resp_headers": {"Content-Type": ["text/html; charset=utf-8"]},
}  # fmt: skip
TRAEFIK = {
    "ClientAddr": "198.51.100.7:40312", "ClientHost": "198.51.100.7", "DownstreamContentSize": 512,
    "DownstreamStatus": 200, "RequestHost": "shop.example", "RequestMethod": "GET", "RequestPath": "/a?b=1",
    "request_User-Agent": CHROME, "StartUTC": "2026-03-01T12:00:00Z", "time": "2026-03-01T12:00:00Z", "msg": "",
}  # fmt: skip
UVICORN = {
    "timestamp": "2026-03-01 12:00:00,000", "level": "INFO", "logger": "uvicorn.access",
    "message": '198.51.100.7:40312 - "GET /a?b=1 HTTP/1.1" 200',
}  # fmt: skip
CLOUD = {
    "timestamp": "2026-03-01T12:00:00.000000Z",
    "httpRequest": {
        "requestMethod": "GET", "requestUrl": "https://shop.example/a?b=1", "status": 200, "responseSize": "512",
        "userAgent": CHROME, "remoteIp": "198.51.100.7",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "log", [NGINX, CADDY, TRAEFIK, UVICORN, CLOUD], ids=["nginx", "caddy", "traefik", "uvicorn", "cloud"]
)
def test_json_lines_are_read_by_the_names_that_servers_use(log: dict[str, Any]) -> None:
    entry = one(json.dumps(log))
    assert (entry.time, entry.address, entry.method, entry.status) == (START, "198.51.100.7", "GET", 200)
    assert entry.target.endswith("/a?b=1")
    assert entry.agent == ("" if log is UVICORN else CHROME)
    assert entry.host == ("shop.example" if log in (CADDY, TRAEFIK) else "")


FRONTS = [
    "Nov 29 12:00:00 host nginx: ",
    "<190>Nov  9 12:00:00 host nginx[12]: ",
    "Nov 29 12:00:00 nginx: ",
    "2026-03-01T12:00:00.123456+00:00 host docker/web[12]: ",
    "2026-03-01T12:00:00+00:00 app[web.1]: ",
    "<134>1 2026-03-01T12:00:00Z host nginx 12 - - ",
    '<134>1 2026-03-01T12:00:00Z host nginx 12 ID47 [meta x="1"] \ufeff',
    "web-1  | ",
    "web_1 | 2026-03-01T12:00:00.000000000Z ",
    "2026-03-01 12:00:00 ",
    "2026-03-01T12:00:00.000000000Z stdout F ",
    "[pod/web-5d9/nginx] ",
    "[2026-03-01 12:00:00 +0000] [4267] [INFO] ",
]


@pytest.mark.parametrize("front", FRONTS)
def test_what_a_collector_of_logs_puts_in_front_is_left_out(front: str) -> None:
    for address in ("198.51.100.7", "2001:db8::7"):
        line = combined(address=address)
        for written in (line, f"shop.example:443 {line}"):
            assert one(f"{front}{written}") == one(written)
    assert one(f"{front}{json.dumps(NGINX)}") == one(json.dumps(NGINX))
    (entry,), _ = detect(f"{front}{COMMON}", "common").read(f"{front}{COMMON}")
    assert entry == one(COMMON)


@pytest.mark.parametrize("front", ["", "web-1  | "])
def test_a_line_of_granian_is_read(front: str) -> None:
    line = '[2026-03-01 13:30:00 +0130] 2001:db8::7 - "GET /a HTTP/1.1" 200 0.086'
    assert one(front + line) == Entry(START, "2001:db8::7", "GET", "/a", 200)


def test_what_a_server_says_when_it_starts_hides_no_format() -> None:
    lines = [f"[INFO] Started worker-{number}" for number in range(9)]
    lines += ['[2026-03-01 12:00:00 +0000] 198.51.100.7 - "GET / HTTP/1.1" 200 0.086'] * 3
    text = "\n".join(lines)
    entries, junk = detect(text).read(text)
    assert (len(entries), len(junk)) == (3, 9)


def test_what_docker_puts_around_a_line_is_left_out() -> None:
    for written in (combined(), json.dumps(NGINX), f"Nov 29 12:00:00 host nginx: {combined()}"):
        line = json.dumps({"log": f"{written}\n", "stream": "stdout", "time": "2026-11-29T12:00:00Z"})
        assert one(line.replace(": ", ":", 1)) == one(written)
    broken = json.dumps({"log": combined()}).replace(": ", ":", 1)[:-1]
    assert detect(broken).read(broken) == ([], [broken])


@pytest.mark.parametrize("front", ["", *FRONTS])
@pytest.mark.parametrize("user", ["host nginx: 192.0.2.1 -", "a - - 192.0.2.1 -", "x - | 192.0.2.1 -"])
def test_a_name_to_log_in_with_is_no_address(front: str, user: str) -> None:
    assert one(f"{front}{combined().replace('- -', f'- {user}')}").address == "198.51.100.7"


@pytest.mark.parametrize(
    "value", [START, START * 1e3, START * 1e6, int(START * 1e9), str(START), "2026-03-01T13:00+01:00"]
)
def test_times_are_seconds_or_finer_or_iso(value: object) -> None:
    assert Timestamps().any(value) == pytest.approx(START, abs=1e-3)


@pytest.mark.parametrize("took", [12, "0.012", 0])
def test_how_long_an_answer_took_is_not_when_it_was(took: object) -> None:
    (entry,), _ = make("json").read(json.dumps({**NGINX, "time": took}))
    assert entry.time == START
    assert make("json").read(json.dumps({"time": took, "ip": "192.0.2.1", "status": 200}))[0] == []


@given(st.text())
def test_no_text_is_a_reason_to_raise(text: str) -> None:
    for name in FORMATS:
        entries, junk = make(name).read(text)
        assert len(entries) + len(junk) <= text.count("\n") + 1
    detect(text).read(text)


@given(st.binary())
def test_no_bytes_between_good_lines_cost_more_than_their_own_line(raw: bytes) -> None:
    odd = raw.decode("utf-8", "surrogateescape").replace("\n", "").replace("\r", "")
    entries, _ = make("combined").read(f"{combined()}\n{odd}\n{combined(1)}")
    assert len(entries) >= 2


@given(st.text(st.characters(codec="utf-8", exclude_characters='"\\\n\r')))
def test_a_user_agent_comes_back_as_it_was(agent: str) -> None:
    assert one(combined(agent=agent), "combined").agent == ("" if agent == "-" else agent)


@given(st.text())
def test_unescaping_takes_any_text(text: str) -> None:
    assert isinstance(unescape(text), str)


@given(
    st.dictionaries(
        st.sampled_from(["time", "ip", "request", "status", "headers", "uri", "method"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda one: st.lists(one, max_size=5) | st.dictionaries(st.text(), one, max_size=5),
            max_leaves=20,
        ),
    )
)
def test_no_json_is_a_reason_to_raise(found: dict[str, Any]) -> None:
    make("json").read(json.dumps(found))


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none()))
def test_no_time_is_a_reason_to_raise(value: object) -> None:
    Timestamps().any(value)
    Timestamps().common(str(value))


def possessive(parsed: Any) -> Iterator[Any]:
    """Yield what is repeated possessively anywhere in a parsed pattern."""
    for code, value in parsed:
        for part in value if isinstance(value, tuple | list) else ():
            for inner in part if isinstance(part, list) else (part,):
                if hasattr(inner, "getwidth"):
                    if str(code) == "POSSESSIVE_REPEAT":
                        yield inner
                    yield from possessive(inner)


def goes_back(parsed: Any) -> bool:
    return any(code in str(parsed) for code in ("MAX_REPEAT", "MIN_REPEAT", "BRANCH"))


def test_no_pattern_repeats_possessively_what_may_be_gone_back_over() -> None:
    parser = importlib.import_module("re._parser")
    assert [goes_back(one) for one in possessive(parser.parse(r"(?:a*+|b)*+"))] == [True, False]
    modules = [module for name, module in sys.modules.items() if name.startswith("asgi_analytics.")]
    patterns = {one.pattern for module in modules for one in vars(module).values() if isinstance(one, re.Pattern)}
    parsed = [parser.parse(text) for text in patterns if isinstance(text, str)]
    assert sum(1 for one in parsed for _ in possessive(one)) > 20
    assert [text for text in patterns if any(goes_back(one) for one in possessive(parser.parse(text)))] == []


@pytest.mark.parametrize(
    "odd",
    [
        "[" * 200_000,
        "\\" * 200_001,
        '"' * 200_000,
        "a " * 100_000,
        "[1/" * 60_000,
        "[x" * 99_999,
        '"1.1' + ",1" * 99_999,
        '[2026-03-01 12:00:00 +0000] a - "' * 6_000,
    ],
)
def test_a_line_made_to_be_slow_is_not(odd: str) -> None:
    began = time.thread_time()
    for line in (odd, combined(agent=odd), combined(target=odd), combined().replace("- -", f"- {odd}")):
        make("combined").read(line)
        make("vhost").read(line)
    for front in ("", *FRONTS, '{"log":"'):
        uncollected(f"{front}{odd}")
    assert time.thread_time() - began < 2.0


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(ReplayError, match="Unknown format 'w3c'; allowed: combined, common, vhost, json"):
        make("w3c")
