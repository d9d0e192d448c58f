"""The optional signed first-party cookie that tells one visitor from another."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from hmac import compare_digest
from itertools import islice
from typing import NamedTuple

LIFETIME = 393 * 86400  # seconds: 12 months and the shortest month, never above the 13 months that CNIL allows
MAX_FUTURE = 86400  # seconds that another host's clock may be ahead
MAX_BYTES = 16_384  # of all Cookie lines
MAX_CANDIDATES = 8  # cookies of our name looked at; a sub-domain can set more than the one we set

_VERSION = b"\x01"
_BODY = 21  # version 1, visitor 16, issued 4
_TAG = 15  # 36 bytes together: base64 has no spare bits, so there is one text per token
_STANDARD = bytes.maketrans(b"-_", b"+/")
_VALUE = re.compile(rb'("?)([\w-]{48})\1[ \t]*(?:;|\Z)', re.ASCII)


class Ticket(NamedTuple):
    """What a valid cookie says. With `outdated`, an older secret signed it: issue it again with `issued_s`."""

    visitor: bytes  # 16 bytes
    issued_s: int  # seconds since 1970
    outdated: bool


class VisitorCookie:
    """Signs and reads visitor ids: version, id, time of issue and a keyed BLAKE2b tag in 48 characters of base64url.

    The first of `secrets` signs, all verify; a secret that is taken out makes its cookies worthless. Over https the
    name gets the prefix __Host-, so that no sub-domain and nobody on the wire can plant one (RFC 6265bis 4.1.3.2).
    """

    def __init__(self, name: str, secrets: tuple[str, ...]) -> None:
        plain = name.removeprefix("__Host-").encode()
        self._begins = (plain + b"=", b"__Host-" + plain + b"=")
        self._keys = tuple(_key(secret) for secret in secrets)

    def read(self, headers: Iterable[tuple[bytes, bytes]], secure: bool, now_s: int) -> Ticket | None:
        """Return the first valid cookie of the request's headers, None when there is none. `secure`: came by https."""
        for value in islice(_values(headers, self._begins[secure]), MAX_CANDIDATES):
            match = _VALUE.match(value)
            ticket = self._verify(match[2], now_s) if match else None
            if ticket is not None:
                return ticket
        return None

    def issue(self, visitor: bytes, secure: bool, now_s: int, issued_s: int | None = None) -> bytes:
        """Return a Set-Cookie value for a 16-byte visitor id. `issued_s`: its first issue, which decides its end."""
        issued = min(max(now_s if issued_s is None else issued_s, 0), 0xFFFF_FFFF)
        body = _VERSION + visitor + issued.to_bytes(4, "big")
        token = urlsafe_b64encode(body + _tag(body, self._keys[0]))
        age = min(max(issued + LIFETIME - now_s, 0), LIFETIME)
        flags = b"; Secure" if secure else b""
        return b"%b%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%b" % (self._begins[secure], token, age, flags)

    def _verify(self, token: bytes, now_s: int) -> Ticket | None:
        raw = a2b_base64(token.translate(_STANDARD))
        body, tag = raw[:_BODY], raw[_BODY:]
        for position, key in enumerate(self._keys):
            if compare_digest(tag, _tag(body, key)):
                issued = int.from_bytes(body[17:], "big")
                timely = -MAX_FUTURE <= now_s - issued <= LIFETIME
                return Ticket(body[1:17], issued, position > 0) if timely and body[:1] == _VERSION else None
        return None


def _key(secret: str) -> bytes:
    return blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=32, person=b"visitor cookie").digest()


def _tag(body: bytes, key: bytes) -> bytes:
    return blake2b(body, digest_size=_TAG, key=key).digest()


def _values(headers: Iterable[tuple[bytes, bytes]], begin: bytes) -> Iterator[bytes]:
    """Yield what follows each `name=` in the Cookie lines (HTTP/2 sends several), b"" where it is part of a name."""
    left, room = MAX_BYTES, len(begin) + 64
    for name, value in headers:
        if name != b"cookie":
            continue
        line = value[:left]
        left -= len(line)
        start = line.find(begin)
        while start >= 0:
            bounded = start == 0 or line[start - 1] in b"; \t"
            yield line[start + len(begin) : start + room] if bounded else b""
            start = line.find(begin, start + 1)
