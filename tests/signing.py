"""Requests signed as crawlers sign them, for tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import http_sf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_sf.innerlist import ser_innerlist

from asgi_analytics.identify.components import signature_base
from asgi_analytics.identify.keys import thumbprint

NOW = 1_800_000_000
AGENT_COMPONENT = ("signature-agent", {"key": "sig1"})
COVERED: Sequence[tuple[str, dict[str, Any]]] = (("@authority", {}), AGENT_COMPONENT)


class Signer:
    """An operator with a key of its own and a directory."""

    def __init__(self, host: str = "chatgpt.com", seed: int = 1) -> None:
        self.host = host
        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.keyid = thumbprint(self.public)

    def directory(self, **changes: object) -> bytes:
        """The key directory; `changes` are put into its one entry."""
        x = base64.urlsafe_b64encode(self.public).rstrip(b"=").decode()
        entry = {"kty": "OKP", "crv": "Ed25519", "kid": self.keyid, "x": x, "use": "sig", **changes}
        return json.dumps({"keys": [entry]}).encode()

    def sign(
        self,
        scope: dict[str, Any] | None = None,
        covered: Sequence[tuple[str, dict[str, Any]]] = COVERED,
        agent: str | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Return a scope with the three fields. `changes` are parameters; None leaves one out."""
        scope = scope or make_scope()
        field = agent or f'sig1="https://{self.host}"'
        given = {"created": NOW, "keyid": self.keyid, "alg": "ed25519", "expires": NOW + 300, "tag": "web-bot-auth"}
        parameters = {name: value for name, value in {**given, **changes}.items() if value is not None}
        entry: Any = (list(covered), parameters)
        headers = [*scope["headers"], (b"signature-agent", field.encode())]
        signed = self.private.sign(signature_base({**scope, "headers": headers}, "https", entry))
        headers += [
            (b"signature-input", f"sig1={ser_innerlist(entry)}".encode()),
            (b"signature", http_sf.ser({"sig1": (signed, {})}).encode()),
        ]
        return {**scope, "headers": headers}


def make_scope(
    path: str = "/page", host: str = "example.com", query: bytes = b"", method: str = "GET"
) -> dict[str, Any]:
    """The scope of a request without a signature."""
    return {
        "type": "http",
        "scheme": "https",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(b"host", host.encode())],
    }


def change(scope: dict[str, Any], name: bytes, value: bytes | None) -> dict[str, Any]:
    """The scope with another value of one header, or without it."""
    headers = [header for header in scope["headers"] if header[0] != name]
    return {**scope, "headers": headers if value is None else [*headers, (name, value)]}
