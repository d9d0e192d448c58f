"""Web Bot Auth: requests signed by the operator of a crawler or agent.

HTTP Message Signatures (RFC 9421) in the profile of draft-ietf-webbotauth-httpsig-protocol-01: tag "web-bot-auth",
Ed25519, the key named by its thumbprint (RFC 8037 appendix A.3) and found in the directory of the host in
Signature-Agent. Needs the extra `botauth`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from .components import Scope, Unreadable, dictionary, field, item, schemes, signature_base
from .keys import Key

TAG = "web-bot-auth"
MAX_SIGNATURES = 4  # of a request that are looked at
MAX_COMPONENTS = 20  # that a signature may cover
MAX_LINES = 256  # of a request's headers: each component is looked for in all
MAX_WINDOW = 86_400  # seconds from `created` to `expires` (section "Generating HTTP Message Signature")
SKEW = 60  # seconds that clocks may differ
MAX_TEXT = 512  # characters of keyid and nonce

_HOST = re.compile(r"https://((?:[a-z0-9_](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,10}[a-z][a-z0-9-]{1,62})(?::443)?/?", re.I)
_THUMBPRINT = re.compile(r"[\w-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a signature says nothing; `is_wrong` where it also should not be there: forged, expired, replayed."""

    text: str
    is_wrong: bool = False
    signer: str | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """One signature of a request, not yet verified."""

    signer: str  # a host name in lower case
    keyid: str  # the key's thumbprint
    created: int  # seconds since 1970
    expires: int
    nonce: str | None
    signature: bytes
    bases: tuple[bytes, ...]  # the signature base (RFC 9421 section 2.5), one per scheme that may have been signed


@cache
def is_available() -> bool:
    """Tell whether the libraries of the extra `botauth` are there."""
    try:
        import http_sf  # noqa: F401
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: F401
    except ImportError:
        return False
    return True


def read_signatures(scope: Scope) -> list[Signed | Flaw]:
    """Return the Web Bot Auth signatures of a request, at most four; none where it has other ones only."""
    try:
        field_value = field(scope, b"signature-input")
        if TAG.encode() not in field_value:
            return []
        if sum(1 for _ in scope["headers"]) > MAX_LINES:
            raise Unreadable("the request has too many header lines for a signature")
        inputs = dictionary(field_value)
        tagged = [label for label, entry in inputs.items() if _parameters(entry).get("tag") == TAG]
        if not tagged:
            return []
        signatures = dictionary(field(scope, b"signature"))
        agents = _signature_agents(field(scope, b"signature-agent"))
    except Unreadable as error:
        return [Flaw(str(error))]
    return [_read(scope, label, inputs[label], signatures.get(label), agents) for label in tagged[:MAX_SIGNATURES]]


def check_time(signed: Signed, now: float) -> Flaw | None:
    """Return what is wrong with the signature's window, None when `now` (seconds since 1970) is in it."""
    if signed.created > now + SKEW:
        return Flaw("the signature was made in the future", True, signed.signer)
    if signed.expires < now - SKEW:
        return Flaw("the signature has expired", True, signed.signer)
    if signed.expires - signed.created > MAX_WINDOW:
        return Flaw("the signature is valid for longer than a day", True, signed.signer)
    return None


def verify(signed: Signed, key: Key) -> bool:
    """Tell whether the key made the signature. Costs about 0.1 ms."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public = Ed25519PublicKey.from_public_bytes(key.public)
    for base in signed.bases:
        try:
            public.verify(signed.signature, base)
        except InvalidSignature:
            continue
        return True
    return False


def replay_key(signed: Signed) -> bytes | None:
    """Return 16 bytes that name signer, key and nonce; None without a nonce: such a signature may come again."""
    if signed.nonce is None:
        return None
    text = f"{signed.signer}\n{signed.keyid}\n{signed.nonce}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _read(scope: Scope, label: str, entry: Any, signature: Any, agents: dict[str | None, str]) -> Signed | Flaw:
    signer = None
    try:
        components, parameters = entry
        if not isinstance(components, list) or not 1 <= len(components) <= MAX_COMPONENTS:
            raise Unreadable(f"the signature covers no component, or more than {MAX_COMPONENTS}")
        signer = _signer(label, components, agents)
        if not any(name in ("@authority", "@target-uri") for name, _ in components):
            raise Unreadable("the signature does not cover the authority")
        created, expires = (_whole(parameters.get(name)) for name in ("created", "expires"))
        keyid, nonce = parameters.get("keyid"), parameters.get("nonce")
        if parameters.get("alg", "ed25519") != "ed25519" or not _THUMBPRINT.fullmatch(str(keyid)):
            raise Unreadable("the signature does not name an Ed25519 key by its thumbprint")
        if nonce is not None and not (isinstance(nonce, str) and len(nonce) <= MAX_TEXT):
            raise Unreadable("the signature's nonce is malformed")
        value = signature[0] if isinstance(signature, tuple) else None
        if not isinstance(value, bytes) or len(value) != 64:
            raise Unreadable("the signature has no value of 64 bytes")
        bases = tuple(signature_base(scope, scheme, entry) for scheme in schemes(scope, components))
    except (Unreadable, ValueError) as error:
        return Flaw(str(error), signer=signer)
    return Signed(signer, str(keyid), created, expires, nonce, value, bases)


def _parameters(entry: Any) -> dict[str, Any]:
    return entry[1] if isinstance(entry, tuple) and isinstance(entry[1], dict) else {}


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unreadable("the signature does not say from when to when it is valid")
    return value


def _signature_agents(value: bytes) -> dict[str | None, str]:
    """Return the hosts by key of the dictionary; under None, the host of a bare string, which older signers send."""
    found: dict[Any, Any] = {None: item(value)} if value.startswith(b'"') else {**dictionary(value)}
    hosts: dict[str | None, str] = {}
    for key, (text, parameters) in found.items():
        kind = str(parameters.get("type", "directory"))
        # Only the well-known place stands for its host; other types name a document that anybody may have put there.
        if kind == "directory" and isinstance(text, str) and (match := _HOST.fullmatch(text)):
            hosts[key] = match[1].lower()
    return hosts


def _signer(label: str, components: Iterable[tuple[str, dict[str, Any]]], agents: dict[str | None, str]) -> str:
    """Return the host that the signature covers: the member with its label, else the only one."""
    covered = [parameters.get("key") for name, parameters in components if name == "signature-agent"]
    keys = list(agents) if None in covered else [key for key in agents if key in covered]
    if label in keys:
        return agents[label]
    if len(keys) != 1:
        raise Unreadable("the signature does not cover one host of a key directory in Signature-Agent")
    return agents[keys[0]]
