"""JSON lines: access logs of nginx, Caddy, Traefik, uvicorn, cloud load balancers, and others with such names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .entry import Entry
from .timestamps import Timestamps

# Field → the keys it goes by, likeliest first; nested ones with a dot. Compared in lower case.
KEYS: Mapping[str, tuple[str, ...]] = {
    "time": (
        *("time", "ts", "timestamp", "@timestamp", "time_iso8601", "msec", "time_local", "startutc", "starttime"),
        *("datetime", "date", "asctime", "time_received"),
    ),
    "address": (
        *("remote_addr", "request.client_ip", "request.remote_ip", "clienthost", "client_addr", "clientaddr", "client"),
        *("client_ip", "remote_ip", "remoteip", "ip", "remote", "remote_address", "remote_host", "clientip", "host_ip"),
        *("httprequest.remoteip", "http.client_ip", "client.ip", "source.ip", "request.remote_addr"),
    ),
    "line": ("request", "request_line", "requestline", "message", "msg"),
    "method": (
        *("request_method", "request.method", "requestmethod", "method", "http_method", "verb", "http.method"),
        *("httprequest.requestmethod", "http.request.method"),
    ),
    "target": (
        *("request_uri", "request.uri", "requestpath", "uri", "path", "url", "request.url", "full_path", "http.url"),
        *("httprequest.requesturl", "url.original", "http.target"),
    ),
    "status": (
        *("status", "downstreamstatus", "status_code", "statuscode", "code", "response", "httprequest.status"),
        *("http.status_code", "http.response.status_code", "originstatus"),
    ),
    "referer": (
        *("http_referer", "request.headers.referer", "request_referer", "referer", "referrer", "http_referrer"),
        "httprequest.referer",
    ),
    "agent": (
        *("http_user_agent", "request.headers.user-agent", "request_user-agent", "user_agent", "useragent", "agent"),
        *("ua", "httprequest.useragent", "user_agent.original"),
    ),
    "host": ("http_host", "request.host", "requesthost", "host", "server_name", "vhost", "virtual_host"),
    "forwarded": (
        *("http_x_forwarded_for", "request.headers.x-forwarded-for", "request_x-forwarded-for", "x_forwarded_for"),
        *("xff", "x-forwarded-for"),
    ),
    "content_type": (
        *("sent_http_content_type", "resp_headers.content-type", "downstream_content-type", "content_type"),
        "upstream_http_content_type",
    ),
}
_LINE = re.compile(r'(?:(\S+) - )?"?([A-Z]{1,32}) (\S+)(?: HTTP/[\d.]{1,3})?"?(?: (\d{3})\b.*)?', re.ASCII)
# What follows an address: behind IPv6 in brackets, or told by its five digits, which no group has (uvicorn, Hypercorn
# and Daphne write so).
_WITH_PORT = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|((?:[0-9A-Fa-f:]*:)?(?:\d{1,3}\.){3}\d{1,3}):\d{1,5}"
    r"|([0-9A-Fa-f]*:[0-9A-Fa-f:.]*):\d{5}",
    re.ASCII,
)
DEPTH = 3  # of objects within objects that are read
EARLIEST = 1e8  # seconds since 1970: what is called a time, and is less, is how long an answer took


class JsonLines:
    """Reads one JSON object per line. Where a field goes by several keys, the first in KEYS that is there counts."""

    name = "json"

    def __init__(self) -> None:
        self._timestamps = Timestamps()

    def read(self, text: str) -> tuple[list[Entry], list[str]]:
        """Return entries and junk lines."""
        entries: list[Entry] = []
        junk: list[str] = []
        for line in text.split("\n"):
            entry = self._entry(line) if line.lstrip()[:1] == "{" else None
            if entry is not None:
                entries.append(entry)
            elif line.strip():
                junk.append(line)
        return entries, junk

    def _entry(self, line: str) -> Entry | None:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return None
        flat = flatten(found)
        seconds = self._time(flat)
        client, method, target, status = _request_line(flat)
        method, target = _first(flat, "method") or method, _first(flat, "target") or target
        number = _whole(_first(flat, "status") or status)
        address = without_port(_first(flat, "address") or client)
        if seconds is None or not address or not 0 <= number <= 999:
            return None
        return Entry(
            seconds,
            address,
            method.upper() if method.isascii() and method.isalpha() and target else "",
            target,
            number,
            _told(_first(flat, "referer")),
            _told(_first(flat, "agent")),
            _told(_first(flat, "host")).rpartition("://")[2].partition(":")[0].lower(),
            _told(_first(flat, "forwarded")),
            _told(_first(flat, "content_type")),
        )

    def _time(self, flat: Mapping[str, Any]) -> float | None:
        for key in KEYS["time"]:
            if key in flat and (seconds := self._timestamps.any(flat[key])) is not None and seconds >= EARLIEST:
                return seconds
        return None


def flatten(found: object, prefix: str = "", depth: int = DEPTH) -> dict[str, Any]:
    """Return the scalars of nested objects under dotted lower-case keys; of a list its first member."""
    flat: dict[str, Any] = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        name = f"{prefix}{key}".lower()
        if isinstance(value, dict):
            if depth > 1:
                flat |= flatten(value, f"{name}.", depth - 1)
        elif isinstance(value, list):
            flat[name] = value[0] if value else ""
        else:
            flat[name] = value
    return flat


def _first(flat: Mapping[str, Any], field: str) -> str:
    for key in KEYS[field]:
        value = flat.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
    return ""


def _request_line(flat: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return client, method, target, status of "GET / HTTP/1.1", or of uvicorn's '1.2.3.4:5 - "GET / HTTP/1.1" 200'."""
    for key in KEYS["line"]:
        value = flat.get(key)
        if isinstance(value, str) and (match := _LINE.fullmatch(value.strip())):
            return match[1] or "", match[2], match[3], match[4] or ""
    return "", "", "", ""


def without_port(address: str) -> str:
    """Return an address without the port behind it."""
    match = _WITH_PORT.fullmatch(address)
    return next(filter(None, match.groups()), "") if match else address


def _whole(text: str) -> int:
    try:
        return int(float(text)) if len(text) < 20 else -1
    except (ValueError, OverflowError):
        return -1


def _told(text: str) -> str:
    return "" if text == "-" else text
