"""What a request says about itself, beyond who sent it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Headers = Mapping[bytes, bytes]

_MOST_PATH = 1024
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)
# A JSON Web Token, or a run of 32 and more letters and digits mixed: ids of pages are shorter or have words.
_SECRET = re.compile(r"eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?|(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[\w-]{40,}")
_PARAMETER = re.compile(r";[^/]*")


def clean_path(path: str) -> str:
    """Return the path as it is stored: without scheme and host, path parameters and long tokens, ≤ 1,024 characters."""
    cut = path[:_MOST_PATH]
    if not cut.startswith("/"):
        cut = _SCHEME.sub("", cut, count=1) or "/"
    if ";" in cut:
        cut = _PARAMETER.sub("", cut)
    return _SECRET.sub("…", cut) if len(cut) > 20 else cut


def is_navigation(method: str, headers: Headers) -> bool:
    """Tell whether a browser asks for a page to show, rather than for a part of one (Fetch standard, section 3.8)."""
    if method != "GET" or b"x-requested-with" in headers or b"hx-request" in headers:
        return False
    destination = headers.get(b"sec-fetch-dest")
    if destination is not None:
        return destination == b"document" and b"prefetch" not in headers.get(b"sec-purpose", b"")
    return True


def is_page(method: str, headers: Headers, status: object, content_type: bytes) -> bool:
    """Tell whether a hit delivered a page: HTML that was asked for as a page, or its revalidation."""
    if status == 304:
        asked = headers.get(b"sec-fetch-dest") == b"document" or b"text/html" in headers.get(b"accept", b"")
        return asked and is_navigation(method, headers)
    html = content_type[:9].lower() == b"text/html" or content_type[:21].lower() == b"application/xhtml+xml"
    return html and isinstance(status, int) and 200 <= status < 300 and is_navigation(method, headers)


def content_type(headers: Iterable[Any]) -> bytes:
    """Return the value of Content-Type among response headers, b"" when there is none."""
    for name, value in headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return bytes(value)
    return b""


def is_inner(headers: Headers) -> bool:
    """Tell whether the request came from a page of the same host: the Referer's host is the Host header's."""
    referer, host = headers.get(b"referer", b""), headers.get(b"host", b"")
    if not host or len(referer) > 8192:
        return False
    return referer.partition(b"://")[2].partition(b"/")[0].lower() == host.lower()


def wants_quiet(headers: Headers) -> bool:
    """Tell whether the visitor asks not to be told apart: Sec-GPC or DNT is 1."""
    return headers.get(b"sec-gpc") == b"1" or headers.get(b"dnt") == b"1"


def route_template(scope: Mapping[str, Any]) -> str | None:
    """Return the route's template where the framework left one in the scope: Starlette, FastAPI, Litestar, Django."""
    route = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None) or scope.get("path_template")
    return template if isinstance(template, str) else None
