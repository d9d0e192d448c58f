"""Every parser of ours as a function over bytes, with what must hold of what it returns.

A visitor's headers come as bytes; where a parser takes several of them, lines of the input are their values.
"""

from __future__ import annotations

import gzip
import io
import ipaddress
import json
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from asgi_analytics.batch import DAMAGED
from asgi_analytics.decide.behaviour import page_facts
from asgi_analytics.decide.probes import is_injection, is_odd, is_picture, probe_kind
from asgi_analytics.identify import consistency, credentials, referral, request
from asgi_analytics.identify.botauth import Signed, check_time, read_signatures, replay_key
from asgi_analytics.identify.client import ClientAddress, network_of, packed_address, shorten
from asgi_analytics.identify.cookie import Ticket, VisitorCookie
from asgi_analytics.identify.geoip_tree import PROBES, Tree
from asgi_analytics.identify.keys import read_directory
from asgi_analytics.identify.language import read_language
from asgi_analytics.identify.operators import OPERATORS
from asgi_analytics.identify.ranges import read_ranges
from asgi_analytics.identify.reverse_dns import judge_names, names_to_confirm
from asgi_analytics.identify.useragent import LENGTH, AgentReader
from asgi_analytics.jobs.data import read_sources
from asgi_analytics.jobs.fetch import _check, max_age
from asgi_analytics.model import Agent, Decision, Identity, Place
from asgi_analytics.record import encoding, frames, segment
from asgi_analytics.replay import formats, page, source
from asgi_analytics.replay.json_lines import JsonLines
from asgi_analytics.replay.timestamps import LAST, Timestamps
from asgi_analytics.variants import MAX_PARAMETERS, Variants, parameters

NOW = 1_750_000_000
SECRETS = ("0123456789abcdef", "fedcba9876543210")
EVERYBODY = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
COOKIE = VisitorCookie("aa_v", SECRETS)
NAMES = (b"user-agent", b"referer", b"host", b"accept", b"content-type", b"cache-control", b"sec-fetch-site")
OTHERS = (b"sec-fetch-dest", b"sec-ch-ua", b"accept-language", b"authorization", b"content-length", b"dnt")
SIGNED = (b"signature-input", b"signature", b"signature-agent", b"host", b"content-digest", b"cookie")


def text_of(data: bytes) -> str:
    """A text as an app or an operator may hand it over: bytes that are no UTF-8 are lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def lines_of(data: bytes, count: int) -> list[bytes]:
    """Exactly so many lines, empty where there are fewer; the last takes the rest."""
    lines = data.split(b"\n", count - 1)
    return lines + [b""] * (count - len(lines))


def scope_of(names: tuple[bytes, ...], data: bytes) -> dict[str, Any]:
    """A request whose headers are the lines, empty ones left out."""
    headers = [(name, value) for name, value in zip(names, lines_of(data, len(names)), strict=True) if value]
    return {"type": "http", "method": "GET", "scheme": "http", "path": "/", "raw_path": b"/", "headers": headers}


def _is_address(address: str) -> None:
    assert address == "" or ipaddress.ip_address(address)
    assert len(network_of(address)) in (0, 4, 8)
    assert address == "" or shorten(address)


def forwarded_for(data: bytes) -> None:
    """X-Forwarded-For, one line of the header a line, behind proxies that are all trusted, then some."""
    _walk(b"x-forwarded-for", data)


def forwarded(data: bytes) -> None:
    """Forwarded, RFC 7239."""
    _walk(b"forwarded", data)


def _walk(name: bytes, data: bytes) -> None:
    headers = [(name, line) for line in data.split(b"\n", 8)]
    for trusted in (EVERYBODY, PROXIES):
        scope = {"client": ("10.0.0.1", 80), "headers": headers}
        _is_address(ClientAddress(trusted, True).read(scope, dict(headers)))


def peer(data: bytes) -> None:
    """What a server says the peer is."""
    for client in (text_of(data), [text_of(data)], (data, 1), {"host": text_of(data)}):
        _is_address(ClientAddress(PROXIES, True).read({"client": client, "headers": []}, {}))
    packed = packed_address(text_of(data))
    assert packed is None or len(packed) in (4, 16)


def cookies(data: bytes) -> None:
    """Cookie headers, several where HTTP/2 splits them: ours, whatever stands around it, and those of logins."""
    headers = [(b"cookie", line) for line in data.split(b"\n", 8)]
    for secure in (False, True):
        ticket = COOKIE.read(headers, secure, NOW)
        assert ticket is None or (isinstance(ticket, Ticket) and len(ticket.visitor) == 16)
    credentials._session.cache_clear()
    for name in (b"cookie", b"authorization"):
        assert 0 <= credentials.login_number({name: data}, b"") < 1 << 32


@cache
def _agents() -> AgentReader:
    return AgentReader(size=0, today=float(NOW))  # nothing is remembered: each run pays the full price


def user_agent(data: bytes) -> None:
    """User-Agent, as a visitor sends it."""
    found = _agents().read(data[:LENGTH].decode("utf-8", "replace"))
    assert len(found.browser or "") <= 64
    assert len(found.version or "") <= 32


def headers(data: bytes) -> None:
    """What other headers tell of a request, and those of its answer."""
    consistency.engine_of.cache_clear()
    scope = scope_of((*NAMES, *OTHERS), data)
    named = dict(scope["headers"])
    consistency.read_claims(scope, named, _agents().read(None), Place(), b"net4", False)
    for status in (200, 302, 304, 401):
        request.is_page(named, status, named)
        credentials.refused_attempt("POST", named, status, "/login", named)
    (
        request.is_inner(named),
        request.is_data(named, 200, scope["path"]),
        request.is_shared(named.items()),
        request.opts_out(named),
    )


def referrals(data: bytes) -> None:
    """Query, Referer and Host."""
    referral.read_origin.cache_clear()
    referral._by_origin.cache_clear()
    query, referer, host = lines_of(data, 3)
    found = referral.read_referral(query, referer.decode("latin-1"), host.decode("latin-1") or None)
    texts = (found.source, found.utm_source, found.utm_medium, found.utm_campaign, found.utm_term, found.utm_content)
    assert all(text is None or len(text) <= 400 for text in texts)
    referral.read_referral(text_of(query), text_of(referer), text_of(host))


def query(asked: bytes | str) -> None:
    """A query, made fit to be stored."""
    found = referral.clean_query(asked)
    assert len(found) <= referral.STORED_QUERY_LENGTH
    assert found.isprintable()


def query_text(data: bytes) -> None:
    """A query as logs and rows have it."""
    query(text_of(data))


def page_parameters(data: bytes) -> None:
    """What a query makes of a page, as servers and as logs have it."""
    for asked in (data, text_of(data)):
        assert len(parameters(asked)) <= MAX_PARAMETERS
        variant = Variants(b"k").page("/", asked, inner=False)
        assert variant is None or 0 <= variant.number < 1 << 32


def guesses(data: bytes) -> None:
    """What a query makes of a failure."""
    variant = Variants(b"k").failure("/", data, 404)
    assert variant is None or 0 <= variant.number < 1 << 32


def language(data: bytes) -> None:
    """Accept-Language."""
    found = read_language(data.decode("latin-1"))
    assert found is None or 0 < len(found) <= 35


def path(data: bytes) -> None:
    """A path: as it is stored, as a page, as a probe."""
    text = text_of(data)
    assert len(request.clean_path(text)) <= 1024
    page_facts(text)
    assert probe_kind(text) in (0, 1, 2, 3)
    is_odd("GET", text)
    is_picture(text)


def injection(data: bytes) -> None:
    """A query that an app failed at: whether a scanner wrote it."""
    assert is_injection(data) in (False, True)


def web_bot_auth(data: bytes) -> None:
    """Signature-Input, Signature, Signature-Agent and what they cover: RFC 9421 and Web Bot Auth."""
    for found in read_signatures(scope_of(SIGNED, data)):
        if isinstance(found, Signed):
            check_time(found, NOW)
            key = replay_key(found)
            assert key is None or len(key) == 16
            assert found.bases


def key_directory(data: bytes) -> None:
    """A signer's keys."""
    assert all(len(key.public) == 32 for key in read_directory(data).values())


def ranges(data: bytes) -> None:
    """An operator's address ranges."""
    found = read_ranges(data)
    assert found.prefixes > 0
    for entry in json.loads(data)["prefixes"][:8]:
        network = ipaddress.ip_network(entry.get("ipv4Prefix") or entry["ipv6Prefix"])
        assert network[0].packed in found
        assert network[-1].packed in found


def reverse_names(data: bytes) -> None:
    """What a name server says an address is called."""
    names = text_of(data).split("\n")
    for operator in list(OPERATORS)[:3]:
        confirmed = dict.fromkeys(names_to_confirm(operator, names), names)
        judge_names(operator, "192.0.2.1", names, confirmed, True)


def geo_file(data: bytes) -> None:
    """A damaged MaxMind DB file: read, and asked."""
    tree = Tree(data)
    for probe in (*PROBES, bytes(16), b"\x20\x01\x0d\xb8" + bytes(12)):
        tree.find(probe)


def answer_headers(data: bytes) -> None:
    """Cache-Control of a key directory's answer, and the address that it redirects to."""
    age = max_age(data.decode("latin-1"))
    assert age is None or age >= 0
    _check(text_of(data))


def sources(data: bytes) -> None:
    """The JSON file of `data update --sources`."""
    file: Any = _Blob(data)
    assert all(isinstance(url, str) for url in read_sources(file).values())


class _Blob:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_bytes(self) -> bytes:
        return self._data


def segment_header(data: bytes) -> None:
    """The head of a segment whose checksum fits, whatever it says."""
    whole = data.startswith(segment.MAGIC)
    head = data if whole else segment.MAGIC + frames.FRAME.pack(len(data), crc32(data)) + data
    journal, number, columns, body = segment.read_header(head, Path("1.journal"))
    assert (len(journal), 0 <= number < 1 << 31, body <= len(head)) == (16, True, True)
    frames.beginnings(columns)


HEADS = frames.beginnings(dict.fromkeys(frames.KINDS, ("",) * 47))


def segment_frames(data: bytes) -> None:
    """Frames, damaged ones among them: what is cut out is all that was there, in order."""
    for at_end in (True, False):
        at = 0
        for frame in frames.parse(data, 0, at_end, HEADS):
            assert (frame.start, frame.end > at) == (at, True)
            assert frame.kind == DAMAGED or frame.end - frame.start == len(frame.row) + 9
            at = frame.end
        assert at == len(data) or (at < len(data) and not at_end)


def segment_mended(data: bytes) -> None:
    """Pieces of the input as frames with right checksums, and pieces between them that are none."""
    parts = data.split(b"\n")
    made = (frames.frame(part[:1], part[1:]) if part[:1] in frames.KINDS else part for part in parts)
    segment_frames(b"".join(made)[: 8 << 10])


def row_texts(data: bytes) -> None:
    """Texts of a row: sound UTF-8 without NUL, of the length that stands before them."""
    text = text_of(data)
    for most in (2, 64, 1024):
        raw = encoding.text(text, most)
        assert int.from_bytes(raw[:4], "big") == len(raw) - 4
        assert "\0" not in raw[4:].decode()
    wide = data[: len(data) // 2 * 2][:512].decode("utf-16-le", "surrogatepass")
    encoding.text(wide)[4:].decode()


def decision_detail(data: bytes) -> None:
    """The detail of a decision: any JSON becomes one that jsonb takes."""
    try:
        detail = json.loads(data)
    except (ValueError, RecursionError):
        return
    told = detail if isinstance(detail, dict) else {"reasons": [detail]}
    who = Identity(bytes(16), bytes(16), Place(), Agent(), tracked=False)
    raw = encoding.decision_row(Decision(), told, hit_id=bytes(16), time_us=0, enforced=True, site="s", identity=who)
    stored = raw[raw.index(b"\x01{") + 1 :].decode()
    assert "NaN" not in stored or "NaN" in text_of(data)
    assert "\\u0000" not in stored


def log_line(data: bytes) -> None:
    """One line of an access log in each of the formats of Apache and nginx."""
    text = text_of(data).replace("\n", " ")
    for name in ("combined", "vhost"):
        found, junk = formats.make(name).read(text)
        assert len(found) + len(junk) <= 1
        assert all(0 <= entry.time < LAST and entry.address for entry in found)


def json_line(data: bytes) -> None:
    """One line of a JSON access log."""
    found, junk = JsonLines().read(text_of(data).replace("\n", " "))
    assert len(found) + len(junk) <= 1
    assert all(0 <= entry.time < LAST and 0 <= entry.status <= 999 for entry in found)


def log_file(data: bytes) -> None:
    """A whole file: gzip or plain, its format told by its first lines. One of another encoding is refused."""
    for content in (data, gzip.compress(data, 1)[: len(data) + 12]):
        reading = source.Reading()
        batches = source._batches("a", io.BytesIO(content), None, reading, lambda _: None)
        assert sum(len(batch) for batch in batches) + reading.junk == reading.lines


def timestamp(data: bytes) -> None:
    """A time in any of the ways of logs, as text and as the number that JSON makes of it."""
    text = text_of(data)
    found = [Timestamps().common(text), Timestamps().any(text)]
    try:
        found.append(Timestamps().any(json.loads(text)))
    except (ValueError, RecursionError):
        pass
    assert all(one is None or 0 <= one < LAST for one in found)


def target(data: bytes) -> None:
    """A request's target in a log, and its Referer."""
    text = text_of(data)
    assert page.read_target(text).path
    page.referer_host(text)
    formats.unescape(text)
