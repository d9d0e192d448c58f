"""What a log line lets us tell of a request: whether it delivered a page, which route it took, where it came from.

A log has neither the Content-Type of the answer nor what the browser asked for. So a page load is told by this rule:

- method GET and status 200 or 304 (others deliver none, or are not told from partial ones), and
- where the log has a Content-Type: text/html or application/xhtml+xml;
- else the last part of the path has no extension, or one of PAGES, and the path is none of what machines ask for: it
  has no segment of MACHINE_SEGMENTS and its last segment is none of MACHINE_NAMES.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from ..identify.request import is_data
from .entry import Entry

PAGES = frozenset(
    ("html", "htm", "xhtml", "shtml", "php", "asp", "aspx", "jsp", "jspx", "cfm", "do", "cgi", "pl", "py")
)
MACHINE_SEGMENTS = frozenset(
    ("api", "_next", "_nuxt", "assets", "static", "wp-json", "graphql", "socket.io", "cdn-cgi", ".well-known", "rpc")
)
MACHINE_NAMES = frozenset(
    ("health", "healthz", "livez", "readyz", "metrics", "ping", "status", "feed", "rss", "atom", "xmlrpc.php", "ws")
).union(("admin-ajax.php", "wp-cron.php", "wp-login.php", "favicon.ico", "beacon", "collect", "graphql", "sse"))
EXTENSION = re.compile(r"\.([A-Za-z][A-Za-z0-9]{0,6})$", re.ASCII)
_HTML = ("text/html", "application/xhtml+xml")
_VARIABLE = re.compile(
    r"(?<=/)(?:\d+|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=[a-f]*\d)[0-9a-f]{12,}|[^/]{64,})(?=/|$|\.)"
)
_NUMBER_IN_NAME = re.compile(r"\d{2,}")
_SCHEME = re.compile(r"\A[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_REFERER_HOST = re.compile(r"https?://(?:[^/?#@]*@)?([^/?#:]+)", re.IGNORECASE)


class Target(NamedTuple):
    """What a request's target comes to."""

    path: str  # as an app gets it: percent-decoded, without query
    page_shaped: bool
    route: str  # ids and numbers as "{}"
    query: str = ""  # as it was sent


def read_target(target: str) -> Target:
    """Return path, shape and route of a request's target. Never raises."""
    raw = _SCHEME.sub("", target, count=1) if not target.startswith("/") else target
    raw, _, query = raw.partition("#")[0].partition("?")
    path = (unquote(raw, "utf-8", "surrogateescape") if "%" in raw else raw) or "/"
    return Target(path, _is_page_shaped(path), _NUMBER_IN_NAME.sub("{}", _VARIABLE.sub("{}", path[:256])), query)


def delivers_page(status: int, content_type: str, page_shaped: bool) -> bool:
    """Tell by the rule above whether the answer to a GET is a page; `content_type` is "" where the log has none."""
    if status != 200 and status != 304:
        return False
    return content_type.lower().startswith(_HTML) if content_type and status == 200 else page_shaped


def delivers_data(status: int, content_type: str, path: str) -> bool:
    """Tell whether the answer to a GET that is no page is data; without a Content-Type, what is below "api"."""
    if not content_type:
        return "/api/" in path
    return is_data({b"content-type": content_type.lower().encode("latin-1", "replace")}, status, path)


def referer_host(referer: str) -> str:
    """Return the host of a Referer in lower case, "" for none."""
    match = _REFERER_HOST.match(referer)
    return match[1].lower() if match else ""


def own_host(entries: Iterable[Entry]) -> str:
    """Return the host that most Referers of these entries name, "" where fewer than two agree.

    Most requests of a visit are asked for by a page of the site, so that host is the site's own.
    """
    hosts = Counter(referer_host(entry.referer) for entry in entries if entry.referer)
    del hosts[""]
    (host, count), *_ = hosts.most_common(1) or [("", 0)]
    return host if count >= 2 else ""


def _is_page_shaped(path: str) -> bool:
    if not path.startswith("/"):
        return False
    *folders, name = path.lower().split("/")
    extension = EXTENSION.search(name)
    if name in MACHINE_NAMES or (extension is not None and extension[1] not in PAGES):
        return False
    return MACHINE_SEGMENTS.isdisjoint(folders) and name not in MACHINE_SEGMENTS
