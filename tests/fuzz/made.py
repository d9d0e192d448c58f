"""Seeds that are binary by nature, made rather than stored: journal frames, geo files, gzip, signed fields."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet

from asgi_analytics.record.frames import frame
from tests.fuzz.parsers import COOKIE, NOW, SIGNED
from tests.record.rows import hit, hit_frame
from tests.signing import AGENT_COMPONENT, Signer, make_scope

TIME_US = NOW * 1_000_000
LOG = b'198.51.100.7 - - [10/Oct/2025:13:55:36 +0000] "GET /a HTTP/1.1" 200 512 "-" "curl/8.5"\n'
PLACE = {"country": {"iso_code": "AU"}, "city": {"names": {"en": "Sydney"}}, "subdivisions": [{"iso_code": "NSW"}]}
SYSTEM = {"autonomous_system_number": 13335, "autonomous_system_organization": "Example AG"}


def cookies() -> list[bytes]:
    """Our cookie among others, over http and https, and cut short."""
    plain, secure = (COOKIE.issue(b"v" * 16, https, NOW, NOW - 9).partition(b";")[0] for https in (False, True))
    quoted = plain.replace(b"=", b'="') + b'"'
    return [plain, secure, b"a=b; " + plain + b"; c=d\n" + secure, plain[:-1], quoted]


def frames() -> list[bytes]:
    """Frames of a journal: whole, cut, with a byte turned, with rubbish between them."""
    whole = b"".join(hit_frame(f"/{name}", time_us=TIME_US, hit_id=name.encode() * 16) for name in "abc")
    return [whole, whole[:-5], whole[5:], whole[:300] + b"?" + whole[301:], whole[:200] + bytes(64) + whole, bytes(99)]


def mended() -> list[bytes]:
    """Records one a line, whole and broken ones."""
    row = hit("/", time_us=TIME_US, hit_id=bytes(16)).replace(b"\n", b" ")
    return [b"h" + row, b"h" + row + b"\nrubbish\nd" + row, b"\n".join([b"h" + row[:3]] * 9), frame(b"h", row)]


def geo_files() -> list[bytes]:
    """Small files of both layouts and address families."""
    return [geo_file(4, {"1.0.0.0/8": PLACE, "62.0.0.0/16": SYSTEM}), geo_file(6, {"2001:db8::/32": PLACE})]


def geo_file(version: int, networks: Mapping[str, Any]) -> bytes:
    """A MaxMind DB file."""
    writer = MMDBWriter(version, "GeoLite2-City", ipv4_compatible=False)
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made.mmdb")
        writer.to_db_file(str(path))
        return path.read_bytes()


def log_files() -> list[bytes]:
    """Logs as they lie on disks: gzip, cut short, several members."""
    member = gzip.compress(LOG * 3, mtime=0)
    return [member, member * 2, member[:-9], member + bytes(20)]


def signatures() -> list[bytes]:
    """The fields of a signed request, one a line."""
    covered: list[tuple[str, dict[str, Any]]] = [("@authority", {}), ("@method", {}), ("@path", {})]
    signed = [
        Signer().sign(make_scope(), [*covered, AGENT_COMPONENT], nonce="n"),
        Signer().sign(make_scope(), [*covered, ("signature-agent", {})], '"https://chatgpt.com"'),
    ]
    return [b"\n".join(dict(scope["headers"]).get(name, b"") for name in SIGNED) for scope in signed]


MADE: Mapping[str, Callable[[], list[bytes]]] = {
    "cookies": cookies,
    "geo_file": geo_files,
    "injection": lambda: [b"%" * 8192, b"a=b%" * 2048, b"a" * 63 + b"%%c" * 2700],
    "key_directory": lambda: [Signer().directory(), Signer().directory(nbf=1, exp=1e12)],
    "log_file": log_files,
    "segment_frames": frames,
    "segment_mended": mended,
    "web_bot_auth": signatures,
}
