"""What a request says about itself, beyond who sent it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from ..inputs import is_digest, path_number
from ..protocols import Headers
from .redaction import hide_named

_MAX_PATH = 1024  # characters
_SCHEME = re.compile(r"\A[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)
# What a tab shows, too, and is no page; a name such as "/wiki/Node.js" may be that of one.
_FILE = re.compile(
    r"\.(?:avif|bmp|gif|ico|jpe?g|png|svg|tiff?|webp|aac|flac|m4[av]|mov|mp[34]|og[agv]|wav|webm|pdf|docx?|epub|od[pst]"
    r"|pptx?|rtf|txt|xlsx?|csv|tsv|json|xml|rss|atom|ics|ya?ml|css|map|woff2?|7z|bz2|gz|rar|tar|tgz|xz|zip)\Z",
    re.IGNORECASE,
)
_HTML = re.compile(rb"text/html|application/xhtml\+xml", re.IGNORECASE)
_DATA = (
    b"text/html",  # that was not asked for as a page
    b"application/xhtml+xml",
    b"application/json",
    b"application/ld+json",
    b"application/xml",
    b"application/x-ndjson",
    b"application/protobuf",
    b"application/x-protobuf",
    b"application/msgpack",
    b"application/x-msgpack",
    b"application/vnd.msgpack",
    b"application/cbor",
    b"application/yaml",
    b"application/x-yaml",
    b"text/yaml",
    b"text/x-yaml",
    b"text/json",
    b"text/tab-separated-values",
    b"text/csv",
    b"text/xml",
    b"text/vnd.turbo-stream.html",
    b"application/pdf",
    b"application/epub+zip",
    b"application/msword",
    b"application/vnd.oasis.",
    b"application/vnd.openxmlformats-",
    b"multipart/byteranges",  # of whatever: a page in two parts is one all the same
)
# What registries of packages tell of one: a client asks for hundreds at once, each that a project builds on.
_INDEX = (b"application/vnd.npm.", b"application/vnd.pypi.", b"application/vnd.oci.", b"application/vnd.docker.")
_TILE = re.compile(
    r"/(\d{1,2})/(\d{1,8})/(\d{1,8})(?:@\dx)?(?:\.\w{1,12}){0,2}\Z|/[a-z]?[0-3]{8,23}\.\w{1,12}\Z", re.ASCII
)
_LONGEST_ENDING = 6  # characters of _FILE
_LONGEST_TILE, _DEEPEST = 64, 24  # characters of such an end; zoom
# What Workbox and Angular add while a service worker fetches all that an app needs without a network.
_PRECACHED = re.compile(r"(?:^|&)(?:__WB_REVISION__|ngsw-cache-bust)=")
_MAX_QUERY = 512  # characters
_PURPOSES = frozenset((b"sec-purpose", b"x-sec-purpose", b"purpose", b"x-purpose", b"x-moz"))
_KEPT = re.compile(rb"public|s-maxage|max-age\s*=\s*\"?0*[1-9]|must-revalidate|stale-")
_NOT_SHARED = re.compile(rb"(?:^|[\s,])(?:private|no-store)\s*(?:,|$)")  # private="field" is about that field only
# Ends of names: of some the first part is the name of a CDN, or of a server (LiteSpeed, Akamai).
_FOR_CDNS = (b"-cache-control", b"surrogate-control", b"edge-control")
# By the last two a cache asks whether what it keeps still holds, however old, and sends all of it on: the cookie, too.
_FOR_CACHES = frozenset((b"expires", b"etag", b"last-modified"))
_PARTS = frozenset((b"hx-request", b"turbo-frame"))  # say that a script asks for a part
# Unless htmx or PJAX shows it as a page: a link's, or the one before, for which somebody pressed "back".
_PAGES = frozenset((b"hx-boosted", b"hx-history-restore-request", b"x-pjax"))
_PRELOADED = b"hx-preloaded"  # by htmx, as the pointer came to a link
_BY_SCRIPT, _SWUP = b"x-requested-with", b"swup"  # Swup fetches all links in view ahead, and says so of none
# What browsers ask for as they navigate, and Turbo Drive in their place; other scripts ask for "*/*".
_SHOWN_BY_SCRIPT = (b"text/html,application/xhtml+xml", b"text/html, application/xhtml+xml")
_AFTER_HOST = (b"/", b"", b"?", b"#")
_PARAMETER = re.compile(r";[^/]*")


def clean_path(path: str) -> str:
    """Return the path as it is stored: without scheme and host, path parameters and secrets, ≤ 1,024 characters."""
    cut = path[:_MAX_PATH]
    if not cut.startswith("/"):
        cut = _SCHEME.sub("", cut, count=1) or "/"
    if ";" in cut:
        cut = _PARAMETER.sub("", cut)
    return hide_named(cut, len(path) > _MAX_PATH)


def is_navigation(method: str, headers: Headers) -> bool:
    """Tell whether a browser asks for a page to show, rather than for a part of one (Fetch Metadata, section 2.1)."""
    return method == "GET" and _shows(headers)


def _shows(headers: Headers) -> bool:
    destination = headers.get(b"sec-fetch-dest")
    if destination is not None:
        if destination != b"document" and not (destination == b"empty" and _shows_by_script(headers)):
            return False
        purpose = headers.get(b"sec-purpose", headers.get(b"x-sec-purpose"))
        return not purpose or b"prefetch" not in purpose
    if _says_page(headers):
        return True
    # So does X-Requested-With, where Android's WebView names its app: com.example.app.
    by_script = b"." not in headers.get(_BY_SCRIPT, b".")
    return not by_script and _PARTS.isdisjoint(headers) and not is_prefetch(headers)


def _shows_by_script(headers: Headers) -> bool:
    """Tell whether a script shows the page: a service worker that fetches what was navigated to, htmx, PJAX, Turbo.

    In Firefox only Accept tells that a service worker does, and everywhere if it makes a request of its own for it; a
    page that is fetched ahead loses there what says so, but not its mode.
    """
    mode = headers.get(b"sec-fetch-mode")
    if mode == b"navigate" or _says_page(headers):
        return True
    asked = headers.get(b"accept", b"").startswith(_SHOWN_BY_SCRIPT)
    return asked and mode != b"no-cors" and b"turbo-frame" not in headers and headers.get(_BY_SCRIPT) != _SWUP


def _says_page(headers: Headers) -> bool:
    return not _PAGES.isdisjoint(headers) and _PRELOADED not in headers


def is_page(headers: Headers, status: object, names: Headers, by_tool: bool = False, path: str = "") -> bool:
    """Tell whether the answer to a GET delivered a page: HTML asked for as one, or its revalidation, or one of Inertia.

    `headers`: of the request, `names`: the response headers by name. `by_tool`: to an HTTP library, for which HTML is
    a page however it was asked for (what it says of that is made up), and so is the Markdown that a page was made from.
    `path` tells of a revalidation whether it is of a file: such an answer has no type.
    """
    content_type = names.get(b"content-type")
    if status == 200 and content_type is not None and content_type.startswith(b"text/html"):
        return by_tool or _shows(headers)
    if status == 304:
        asked = headers.get(b"sec-fetch-dest") == b"document" or b"text/html" in headers.get(b"accept", b"")
        return asked and _shows(headers) and _FILE.search(path, max(0, len(path) - _LONGEST_ENDING)) is None
    if content_type is None:
        content_type = _content_type(names)
    if not _HTML.match(content_type) and not (by_tool and content_type.startswith(b"text/markdown")):
        return b"x-inertia" in names and _delivers(status) and _shows_by_inertia(headers)
    return _delivers(status) and (by_tool or _shows(headers))


def _shows_by_inertia(headers: Headers) -> bool:
    """Tell whether Inertia asks for a page, whose data the app then sends as JSON, rather than for a part of it."""
    return b"x-inertia" in headers and b"x-inertia-partial-component" not in headers and not is_prefetch(headers)


def _delivers(status: object) -> bool:
    """Tell whether an answer has content: some frameworks give a type also to what has none (RFC 9110, 15.3.5)."""
    return isinstance(status, int) and 200 <= status < 300 and status not in (204, 205)


def is_prefetch(headers: Headers) -> bool:
    """Tell whether the request may be a prefetch: of a link that came into view, or under the pointer."""
    if _PRELOADED in headers or headers.get(_BY_SCRIPT) == _SWUP:
        return True
    return not _PURPOSES.isdisjoint(headers) and any(b"prefetch" in headers.get(name, b"") for name in _PURPOSES)


def is_precached_or_tile(path: str, query: bytes | str) -> bool:
    """Tell by its URL whether a service worker fetches it to work offline, or a map as one of its tiles."""
    if query:
        text = query[:_MAX_QUERY].decode("latin-1") if isinstance(query, bytes) else query[:_MAX_QUERY]
        if _PRECACHED.search(text):
            return True
    return is_tile(path)


def is_tile(path: str) -> bool:
    """Tell whether a path names a tile of a map: by a quadrant of a quadrant and so on, or by zoom, column and row.

    Of zoom z there are 2 ** z of each.
    """
    found = _TILE.search(path, max(0, len(path) - _LONGEST_TILE))
    if found is None or found[1] is None:
        return found is not None
    zoom, column, row = map(int, found.groups())
    return zoom <= _DEEPEST and not (column | row) >> zoom


def is_data(names: Headers, status: object, path: str) -> bool:
    """Tell whether an answer that is no page has content of the site: data, parts of pages, documents, text.

    Not for feeds, which a service reads by the thousand for its subscribers, for what a registry says of its packages,
    and for redirects, which some frameworks send as HTML. An answer of type text/plain, or without a type, may be a
    file of any kind: its name tells. `names`: the response headers by name.
    """
    if not _delivers(status):
        return False
    content_type = names.get(b"content-type")
    if content_type is None:
        content_type = _content_type(names)
    if content_type.startswith(_DATA) or b"+json" in content_type:
        return not content_type.startswith(_INDEX)
    return status in (200, 206) and (not content_type or content_type.startswith(b"text/plain")) and _is_text(path)


def _is_text(path: str) -> bool:
    """Tell whether a path names no file, or one of text; what is named by its digest, as Git's objects, is a file."""
    name = path[-_MAX_PATH:].rpartition("/")[2]
    return ("." not in name or name.endswith(".txt")) and not is_digest(path)


def _content_type(names: Headers) -> bytes:
    """ASGI asks for lower-case names; not all apps listen."""
    return next((value for name, value in names.items() if name.lower() == b"content-type"), b"")


def is_shared(answer: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a shared cache may keep the answer: a cookie in it would go to others (RFC 9111, section 3).

    `answer`: all lines of the response's headers.
    """
    lines = [(name.lower(), value.lower()) for name, value in answer]
    # What is for CDNs alone comes before what others are told (RFC 9213, section 2.2), and for nginx its own field.
    if any(name.endswith(_FOR_CDNS) and not _NOT_SHARED.search(value) for name, value in lines):
        return True
    if any(name == b"x-accel-expires" and value.strip() not in (b"0", b"off") for name, value in lines):
        return True
    directives = b",".join(value for name, value in lines if name == b"cache-control")
    if _NOT_SHARED.search(directives):
        return False
    return _KEPT.search(directives) is not None or any(name in _FOR_CACHES for name, _ in lines)


def is_inner(headers: Headers) -> bool:
    """Tell whether the request came from a page of this site, by Sec-Fetch-Site, else by the Referer's host."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:  # also where the site's policy keeps the Referer back
        return site == b"same-origin"
    referer, host = headers.get(b"referer"), headers.get(b"host")
    if not referer or not host:
        return False
    start = referer.find(b"://", 0, 8) + 3
    end = start + len(host)
    return referer[start:end].lower() == host.lower() and referer[end : end + 1] in _AFTER_HOST


def referring_page(referer: str) -> tuple[str, str]:
    """Return path and query of the page of this site that a Referer names."""
    target = referer[:_MAX_PATH].partition("://")[2].partition("#")[0].partition("/")[2]
    path, _, query = target.partition("?")
    return f"/{unquote(path)}", query


def is_linked(headers: Headers) -> bool:
    """Tell whether a page made the request: one of this site or its domain, or another that embeds what is here.

    Such as an app beside its API, a map with tiles of another host, a forum with pictures that are gone. Following a
    link of another site is the visitor's own request.
    """
    site = headers.get(b"sec-fetch-site")
    if site == b"cross-site":
        return headers.get(b"sec-fetch-dest", b"document") != b"document"
    if site is None and headers.get(b"accept", b"").startswith(b"image/"):  # what browsers send for one that is shown
        return True
    return site == b"same-site" or is_inner(headers)


def redirect_target(names: Headers, asked: str = "") -> int:
    """Return `target_number` of where an answer leads to on this site, by its Location; 0 where it leads nowhere.

    `asked`: the path asked for. A query that repeats it, as of a login that leads back there, is left out.
    """
    location = names.get(b"location", b"")[:_MAX_PATH].partition(b"#")[0]
    start, scheme, rest = location.partition(b"://")
    if scheme and b"/" not in start:
        location = b"/" + rest.partition(b"/")[2]
    path, _, query = location.partition(b"?")
    if len(asked) > 1 and asked in unquote_to_bytes(query).decode("utf-8", "replace"):
        query = b""
    return target_number(unquote_to_bytes(path).decode("utf-8", "replace"), query) if path[:1] == b"/" else 0


def target_on_site(names: Headers, headers: Headers, asked: str) -> int:
    """Return `redirect_target`, 0 where it is of another host; `headers`: of the request, `asked`: its path."""
    location = names.get(b"location", b"")
    start = location.find(b"//", 0, 8)
    if start >= 0 and location[start + 2 : _MAX_PATH].partition(b"/")[0] != headers.get(b"host"):
        return 0
    return redirect_target(names, asked)


def leads_to_other_origin(location: bytes, host: bytes, secure: bool) -> bool:
    """Tell whether a redirect leads to this site by another scheme, or with or without "www": cookies do not follow.

    `location` and `host`: the headers; `secure`: this request came by https.
    """
    scheme, _, rest = location.partition(b"://")
    there = rest.partition(b"/")[0]
    if scheme not in (b"http", b"https") or there.removeprefix(b"www.") != host.removeprefix(b"www."):
        return False
    return there != host or (scheme == b"https") != secure


def target_number(path: str, query: bytes) -> int:
    """Return a number of what is asked for."""
    return path_number(f"{path}?{query.decode('latin-1')}")


def opts_out(headers: Headers) -> bool:
    """Tell whether the visitor asks not to be told apart: Sec-GPC or DNT is 1."""
    return headers.get(b"sec-gpc") == b"1" or headers.get(b"dnt") == b"1"


def route_template(scope: Mapping[str, Any]) -> str | None:
    """Return the route's template where the framework left one in the scope: Starlette, FastAPI, Litestar."""
    route = scope.get("route")
    if route is None:
        template = scope.get("path_template")
        if isinstance(template, str):
            return template
        # FastAPI names no mounts, nor its pages of documentation, and older releases of Starlette name nothing.
        return _mounted(scope, None, "/{path}") if "app_root_path" in scope else _own_path(scope)
    template = _included(scope, route) or getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(template, str):
        return None
    return template if "app_root_path" not in scope else _mounted(scope, route, template)


def _own_path(scope: Mapping[str, Any]) -> str | None:
    """Return the path that was asked for where it is the very one of the endpoint's route; else None."""
    path, endpoint = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", ""))), scope.get("endpoint")
    routes = getattr(scope.get("router"), "routes", None)
    if endpoint is None or not isinstance(routes, list):
        return None
    own = ((getattr(one, "endpoint", None), getattr(one, "path", None)) for one in routes)
    return path if (endpoint, path) in own else None


def _included(scope: Mapping[str, Any], route: object) -> Any:
    """Return the template of a FastAPI route with what its router was included under; None where it has it itself."""
    told = scope.get("fastapi")
    context = told.get("effective_route_context") if isinstance(told, Mapping) else None
    if context is None or getattr(context, "original_route", None) is not route:
        return None
    return getattr(context, "path_format", None)


def _mounted(scope: Mapping[str, Any], route: object, template: str) -> str:
    """Return the template with those of the mounts before it, which leave what they match in the root path."""
    if route is not None and getattr(route, "routes", None) is not None:  # a mounted app, of which we know no more
        template = "/{path}"
    before = str(scope.get("root_path", "")).removeprefix(scope["app_root_path"]).split("/")
    params = scope.get("path_params", {}).items()
    left = deque((str(value), name) for name, value in params if f"{{{name}}}" not in template)  # in order of the path
    for place, part in enumerate(before):
        if left and left[0][0] == part:
            before[place] = f"{{{left.popleft()[1]}}}"
    beyond = set() if route is not None else set(str(scope.get("path", "")).split("/"))  # of a route that is not named
    if not {value for value, _ in left} <= beyond:  # one of several segments: no value may stand in a template
        return template
    return "/".join(before) + template
