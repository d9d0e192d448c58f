"""Public keys of signing crawlers: key directories and thumbprints (RFC 7517, RFC 8037)."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import NamedTuple

WELL_KNOWN = "/.well-known/http-message-signatures-directory"
MAX_DIRECTORY = 64 * 1024  # bytes
MAX_KEYS = 64  # of a directory
# Their private halves are printed in RFC 9421, appendix B.1.
TEST_KEYS = frozenset(("poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U",))


class Key(NamedTuple):
    """A public key of a directory, 32 bytes, and when it may be used: seconds since 1970."""

    public: bytes
    not_before: float
    expires: float


def read_directory(data: bytes) -> dict[str, Key]:
    """Return the Ed25519 keys of a key directory (a JWK Set, RFC 7517 section 5) by thumbprint.

    Entries of other kinds, published test keys, and entries whose `kid` is not their thumbprint are left out.
    Raises ValueError for what is no directory.
    """
    if len(data) > MAX_DIRECTORY:
        raise ValueError(f"a key directory of more than {MAX_DIRECTORY} bytes")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("no JSON") from None
    keys = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError(f'no list "keys" of at most {MAX_KEYS} entries')
    return {thumbprint: key for thumbprint, key in map(_key, keys) if key and thumbprint not in TEST_KEYS}


def thumbprint(public: bytes) -> str:
    """Return the JWK thumbprint of an Ed25519 public key (RFC 8037 appendix A.3)."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{_base64url(public)}"}}'
    return _base64url(hashlib.sha256(text.encode()).digest())


def _key(entry: object) -> tuple[str, Key | None]:
    if not isinstance(entry, dict) or entry.get("kty") != "OKP" or entry.get("crv") != "Ed25519":
        return "", None
    try:
        public = base64.urlsafe_b64decode(entry["x"] + "=")
    except (KeyError, TypeError, ValueError):
        return "", None
    name = thumbprint(public)
    if len(public) != 32 or entry.get("kid", name) != name:
        return "", None
    return name, Key(public, _seconds(entry.get("nbf"), 0.0), _seconds(entry.get("exp"), float("inf")))


def _seconds(value: object, missing: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return missing
    return float(max(0, min(value, 2**53))) / (1000 if value > 10**11 else 1)  # some directories write milliseconds


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
