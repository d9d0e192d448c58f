"""Documents from the web: bounded in size and time, over https only."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from ipaddress import ip_address
from typing import IO, Any
from urllib.parse import urlsplit

from ..clock import jitter
from ..errors import DataFileError
from ..identify.client import packed_address
from ..identify.geoip import is_local
from ..identify.keys import MAX_DIRECTORY
from ..protocols import Fetched
from ..threads import within

USER_AGENT = "asgi-analytics (+https://pypi.org/project/asgi-analytics/)"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_REDIRECTS = 3  # that are followed
# With any IPv4 address in them, 6to4 (RFC 3056) and Teredo (RFC 4380); 192.0.0.0/24, which Python knows in part.
_SPECIAL = (b"\x20\x02", b"\x20\x01\0\0", b"\xc0\0\0")
_MAX_AGE = re.compile(r"(?:^|[\s,])(?:s-maxage|max-age)=\"?(\d{1,9})", re.IGNORECASE)


def download(url: str, limit: int, timeout: float) -> bytes:
    """Return what an operator's URL holds, at most `limit` bytes in `timeout` seconds, through a proxy if one is set.

    Follows redirects to https. http is taken for loopback addresses only. Raises DataFileError.
    """
    _check(url)
    opener = urllib.request.build_opener(_Redirects)
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, "Accept": "application/json"})  # noqa: S310 - _check() saw it

    def answer() -> bytes:
        with opener.open(request, timeout=timeout) as response:
            data: bytes = response.read(limit + 1)
            return data

    try:
        data = within(timeout, answer)
    except TimeoutError:
        raise DataFileError(f"{url}: not all there within {timeout:g} seconds") from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise DataFileError(f"{url}: {_reason(error)}") from None
    if len(data) > limit:
        raise DataFileError(f"{url}: more than {limit} bytes")
    return data


def fetch_directory(url: str, timeout: float = 5.0) -> Fetched:
    """Return the key directory at an https URL that a stranger named. Raises DataFileError.

    Not from private, loopback and link-local addresses, without redirects, at most MAX_DIRECTORY bytes, in `timeout`
    seconds for the name, and as many for the rest (draft-ietf-webbotauth-httpsig-protocol, "Server-Side Request
    Forgery").
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" or parts.port not in (None, 443) or packed_address(host) is not None:
        raise DataFileError(f"{url}: not an https URL with a host name, on port 443")
    try:
        connection = _Pinned(host, within(timeout, lambda: public_address(host)), timeout)
        with _Deadline(timeout, connection):
            return _get(connection, parts.path or "/")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataFileError(f"{url}: {_reason(error)}") from None


def public_address(host: str) -> str:
    """Return one of the host's addresses, not always the first: the way by IPv6 may lead nowhere, and we ask again.

    Raises DataFileError where one of them is local, OSError where there is none.
    """
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]
    packed = [packed_address(address) for address in found]
    if not found or any(one is None or not _is_public(one) for one in packed):
        raise DataFileError(f"{host} has a local address")
    return found[int(jitter() * len(found))]


def _is_public(packed: bytes) -> bool:
    """Tell whether an address is one of the internet's: no reserved one, and none that stands for an IPv4 address."""
    address = ip_address(packed)
    return address.is_global and not (is_local(packed) or address.is_multicast or packed.startswith(_SPECIAL))


def max_age(cache_control: str | None) -> float | None:
    """Return the seconds of max-age (RFC 9111 section 5.2.2.1), 0 for no-store and no-cache, None without any."""
    text = (cache_control or "").lower()
    if "no-store" in text or "no-cache" in text:
        return 0.0
    return float(match[1]) if (match := _MAX_AGE.search(text)) else None


def _get(connection: http.client.HTTPSConnection, path: str) -> Fetched:
    accept = "application/http-message-signatures-directory+json"
    try:
        connection.request("GET", path, headers={"User-Agent": USER_AGENT, "Accept": accept})
        response = connection.getresponse()
        if response.status != 200:
            raise DataFileError(f"{connection.host}: status {response.status}")
        data = response.read(MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise DataFileError(f"{connection.host}: more than {MAX_DIRECTORY} bytes")
        return Fetched(data, max_age(response.getheader("cache-control")))
    finally:
        connection.close()


class _Pinned(http.client.HTTPSConnection):
    """Connects to the address that was checked: the name may resolve to another one by now (DNS rebinding)."""

    wire: socket.socket | None = None  # a duplicate of its socket, for _Deadline to shut down
    is_late = False  # the deadline is over

    def __init__(self, host: str, address: str, timeout: float) -> None:
        self._address = address
        self._tls = ssl.create_default_context()
        super().__init__(host, timeout=timeout, context=self._tls)

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.wire = plain.dup()
        if self.is_late:  # in that moment: nothing is left that would end the time of what follows
            plain.close()
            raise TimeoutError("connected too late")
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


class _Deadline:
    """Bounds the time of a whole exchange: with a time-out per read alone, a slow server may hold us for hours."""

    def __init__(self, seconds: float, held: _Pinned) -> None:
        self._held = held
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._held.wire is not None:
            self._held.wire.close()
        if self._held.is_late:  # what was cut off may look complete
            raise TimeoutError("not all there in time")

    def _end(self) -> None:
        self._held.is_late = True  # before the look: connect() looks the other way round
        if self._held.wire is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._held.wire.shutdown(socket.SHUT_RDWR)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https" and req.type == "https":
            raise DataFileError(f"{req.full_url}: redirects away from https")
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DataFileError(f"{url[:200]!r} is no URL") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise DataFileError(f"{url[:200]}: not an https address")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
