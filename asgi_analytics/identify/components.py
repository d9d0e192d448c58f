"""What an HTTP message signature covers: components and the signature base (RFC 9421 section 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import quote

Scope = Mapping[str, Any]
MAX_FIELD = 8192  # bytes of a covered field
MAX_SIGNATURE_FIELD = 2048  # bytes of Signature, Signature-Input, Signature-Agent: each costs up to 1 µs to parse
MAX_PARSED = 16  # fields that are remembered as parsed: a signature may cover many members of one


class Unreadable(Exception):
    """Carries the sentence of why a signature cannot be read; caught in this stage."""


@lru_cache(MAX_PARSED)
def dictionary(value: bytes) -> dict[str, Any]:
    """Parse a Dictionary (RFC 9651 section 3.2): (item or list, parameters) by key; not to be changed.

    Raises Unreadable.
    """
    import http_sf

    try:
        return cast("dict[str, Any]", http_sf.parse(value, tltype="dictionary"))
    except (ValueError, RecursionError):  # StructuredFieldError is a ValueError
        raise Unreadable("the signature's fields are malformed") from None


def item(value: bytes) -> tuple[Any, dict[str, Any]]:
    """Parse an Item (RFC 9651 section 3.3) with its parameters. Raises Unreadable."""
    import http_sf

    try:
        return cast("tuple[Any, dict[str, Any]]", http_sf.parse(value, tltype="item"))
    except (ValueError, RecursionError):
        raise Unreadable("the signature's fields are malformed") from None


def field(scope: Scope, wanted: bytes) -> bytes:
    """Return a field's lines, joined (RFC 9421 section 2.1). Raises Unreadable."""
    lines = [bytes(value).strip(b" \t") for name, value in scope["headers"] if name == wanted]
    joined = b", ".join(lines)
    most = MAX_SIGNATURE_FIELD if wanted.startswith(b"signature") else MAX_FIELD
    if not lines or len(joined) > most or b"\n" in joined or b"\r" in joined:
        raise Unreadable(f"{wanted.decode('latin-1')[:100]} is missing, or too long")
    return joined


def schemes(scope: Scope, components: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield the schemes that a signature over these components may have been made with."""
    yield "https"
    # Behind a proxy that ends TLS the scheme of the scope is not the one that was signed.
    if any(name in ("@scheme", "@target-uri") for name, _ in components) and scope.get("scheme") in ("http", "ws"):
        yield "http"


def signature_base(scope: Scope, scheme: str, entry: Any) -> bytes:
    """Return the signature base (RFC 9421 section 2.5). Raises Unreadable."""
    from http_sf.innerlist import ser_innerlist
    from http_sf.item import ser_item

    lines: dict[bytes, bytes] = {}
    for name, parameters in entry[0]:
        if not isinstance(name, str) or not name.isascii() or name != name.lower():
            raise Unreadable("the signature covers a component without a name")
        identifier = ser_item((name, parameters)).encode()
        if identifier in lines:
            raise Unreadable("the signature covers a component twice")
        lines[identifier] = _component(scope, scheme, name, parameters)
    lines[b'"@signature-params"'] = ser_innerlist(entry).encode()
    return b"\n".join(identifier + b": " + value for identifier, value in lines.items())


def _component(scope: Scope, scheme: str, name: str, parameters: dict[str, Any]) -> bytes:
    """Return the value of a covered component (RFC 9421 sections 2.1 and 2.2). Raises Unreadable."""
    if name.startswith("@") and not parameters and name in _DERIVED:
        return _DERIVED[name](scope, scheme)
    # Of other fields nobody signs single members, and each would have to be parsed.
    if name.startswith("@") or parameters.keys() - {"key"} or (parameters and name != "signature-agent"):
        raise Unreadable(f"the signature covers {name[:40]} in a way that is not supported")
    value = field(scope, name.encode())
    return _member(value, parameters["key"]) if parameters else value


def _member(value: bytes, key: object) -> bytes:
    from http_sf.innerlist import ser_innerlist
    from http_sf.item import ser_item

    member = dictionary(value).get(key) if isinstance(key, str) else None
    if member is None:
        raise Unreadable("the signature covers a member that is not there")
    return (ser_innerlist(member) if isinstance(member[0], list) else ser_item(member)).encode()


def is_rewritten(scope: Scope) -> bool:
    """Tell whether a proxy says that the visitor asked for another host, or a longer path, than it passed on."""
    headers = dict(scope["headers"])
    if bytes(headers.get(b"x-forwarded-prefix", b"")).strip(b"/ "):
        return True
    asked = headers.get(b"x-forwarded-host")
    return asked is not None and bytes(asked).lower() != bytes(headers.get(b"host", b"")).lower()


def _authority(scope: Scope, scheme: str) -> bytes:
    host = field(scope, b"host").lower()
    return host.removesuffix(b":443" if scheme == "https" else b":80")


def _path(scope: Scope, scheme: str) -> bytes:
    raw = scope.get("raw_path")
    path = raw.partition(b"?")[0] if isinstance(raw, bytes) else _quoted(scope.get("path", ""))
    root = _quoted(str(scope.get("root_path") or "").rstrip("/"))
    if not (path + b"/").startswith(root + b"/"):  # a proxy has taken off what the app is mounted at
        path = root + path
    return path or b"/"


def _quoted(path: str) -> bytes:
    return quote(path, safe="/!$&'()*+,;=:@~").encode()


def _query(scope: Scope, scheme: str) -> bytes:
    return b"?" + bytes(scope.get("query_string", b""))


def _request_target(scope: Scope, scheme: str) -> bytes:
    return _path(scope, scheme) + (_query(scope, scheme) if scope.get("query_string") else b"")


_DERIVED: dict[str, Callable[[Scope, str], bytes]] = {
    "@authority": _authority,
    "@method": lambda scope, scheme: str(scope.get("method", "GET")).encode(),
    "@path": _path,
    "@query": _query,
    "@request-target": _request_target,
    "@scheme": lambda scope, scheme: scheme.encode(),
    "@target-uri": lambda scope, scheme: (
        scheme.encode() + b"://" + _authority(scope, scheme) + _request_target(scope, scheme)
    ),
}
