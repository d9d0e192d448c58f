"""The client address of a request: who really asked, as far as trusted proxies vouch for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

from ..protocols import Headers
from ..settings import EMBEDDING, Network, ProxyWord, as_counted

MAX_ENTRIES = 100  # looked at, over all lines of the header, from the right
MAX_LINE = 8192  # bytes of one line, from the right
MAX_ENTRY = 128  # bytes of one X-Forwarded-For entry
MAX_ELEMENT = 512  # bytes of one Forwarded element, and of X-Forwarded-Proto
MAX_HOST = 45  # characters of an IPv6 address in full
MAX_KNOWN = 16_384  # addresses remembered

_UNKNOWN = ("", False)
_PORT = r"(?::(?:\d{1,5}|_[\w.-]{1,16}))?"  # RFC 7239 section 6.2 lets a proxy hide the port
_IPV6 = r"([\da-f]{0,4}:[\da-f:.]{1,44})"
_NODE = re.compile(
    rf"\[{_IPV6}(?:%[^\]\s]{{1,16}})?\]{_PORT}|([\d.]{{7,15}}){_PORT}|{_IPV6}(?:%\S{{1,16}})?",
    re.ASCII | re.IGNORECASE,
)
_PAIR = re.compile(rb'[ \t]*([\w!#$%&\'*+.^`|~-]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)[ \t]*(?:;|\Z)', re.ASCII | re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_HTTPS = re.compile(rb"(?:^|[\s,])(?:https|wss)(?:[\s,]|$)", re.IGNORECASE)
_HTTPS_ELEMENT = re.compile(rb"(?:^|[\s,;])proto=\"?https(?:[\s,;\"]|$)", re.IGNORECASE)


class ClientAddress:
    """Finds client addresses behind the proxies in `trusted` (and on unix sockets, with `trust_unix`).

    A proxy must append its peer to X-Forwarded-For (or Forwarded), or overwrite the header. Entries are read from the
    right: the first address that is not trusted is the client's. What stands further left was written by a visitor, and
    is never read; an entry that is no address ends the walk at the last good one. A proxy that writes Forwarded alone
    passes on a visitor's X-Forwarded-For: with `forwarded`, only Forwarded is read. X-Real-IP and its like are ignored.

    A server may have rewritten scope["client"] already: uvicorn does for peers in --forwarded-allow-ips (127.0.0.1 by
    default), to the first entry from the right that it does not trust. If that address is not in `trusted`, it is the
    answer, and no header is read. If it is, the walk begins at the right end again. That gives visitors no choice: each
    entry it passes was written by a proxy that the server or `trusted` vouches for. Port 0, which uvicorn mostly leaves
    behind, does not end the walk: it is no sure sign of a rewrite, and all who come through a CDN and a local proxy
    would be one visitor.

    Hosts in a trusted range can always name their own client: list proxies, not whole offices.
    """

    def __init__(self, trusted: Sequence[Network], trust_unix: bool = False, forwarded: bool = False) -> None:
        self._networks = tuple(_masked(network) for network in trusted)
        self._forwarded = forwarded
        self._local = ("", trust_unix)
        self._longest_host = -1 if self._networks or trust_unix else MAX_HOST
        self._known: dict[str, tuple[str, bool]] = {}
        self._ends: dict[bytes, tuple[str, bool]] = {}  # by a line of X-Forwarded-For

    @classmethod
    def of(cls, proxies: Sequence[Network | ProxyWord]) -> ClientAddress:
        """Return the one for the option `trusted_proxies`."""
        return cls([one for one in proxies if not isinstance(one, str)], "unix" in proxies, "forwarded" in proxies)

    def peer(self, scope: Mapping[str, Any], headers: Headers) -> str:
        """Return the host as the server has it, without computing anything, if no proxy is trusted; else as `read`.

        Where this returns the same, so does `read`; texts that are no address may differ here only.
        """
        try:
            client = scope["client"]
            host = client[0]
            if isinstance(client, tuple) and isinstance(host, str) and len(host) <= self._longest_host:
                return host
        except (KeyError, TypeError, IndexError):
            pass
        return self.read(scope, headers)

    def read(self, scope: Mapping[str, Any], headers: Headers) -> str:
        """Return the normalised address, IPv4-mapped and NAT64 as IPv4, without port or zone; "" when it is not known.

        `headers` tells which headers there are; their lines are read from scope["headers"], where none are lost.
        """
        try:
            known = self._known.get(scope["client"][0])
        except (KeyError, TypeError, IndexError):
            known = None
        address, trusted = known or self._peer(scope.get("client"))
        return self._walk(scope, headers, address) if trusted else address

    def is_secure(self, scope: Mapping[str, Any], headers: Headers) -> bool:
        """Tell whether the visitor came by https: to the server, or to a trusted proxy in front that says so.

        A visitor who forges the header, where a proxy lets it through, gets a cookie that their browser drops.
        """
        if scope.get("scheme") in ("https", "wss"):
            return True
        if not self._peer(scope.get("client"))[1]:
            return False
        sent = None if self._forwarded else headers.get(b"x-forwarded-proto")
        if sent is not None:
            return _HTTPS.search(sent[-MAX_ELEMENT:]) is not None
        return any(_HTTPS_ELEMENT.search(line) for line in _lines(scope, b"forwarded"))

    def _peer(self, client: object) -> tuple[str, bool]:
        host = client[0] if isinstance(client, (list, tuple)) and client else client
        if host is None or host == "":  # what servers say of the peer of a unix socket
            return self._local
        return self._recognise(host) if isinstance(host, str) else _UNKNOWN

    def _walk(self, scope: Mapping[str, Any], headers: Headers, address: str) -> str:
        last = None if self._forwarded else headers.get(b"x-forwarded-for")
        if last is not None:
            found, trusted = self._ends.get(last) or self._end(last)
            if not trusted:  # the way of nearly all requests: one proxy in front
                return found or address
            nodes = _x_forwarded_for(_lines(scope, b"x-forwarded-for"))
        elif b"forwarded" in headers:
            nodes = _forwarded(_lines(scope, b"forwarded"))
        else:
            return address
        for node in islice(nodes, MAX_ENTRIES):
            found, trusted = self._recognise(node)
            address = found or address
            if not trusted:
                break
        return address

    def _end(self, line: bytes) -> tuple[str, bool]:
        """Recognise the last entry of a line, and remember it by the line."""
        known = self._recognise(_entry(line[line.rfind(b",") + 1 :]))
        if len(line) <= MAX_ENTRY:
            if len(self._ends) >= MAX_KNOWN:
                self._ends.clear()
            self._ends[line] = known
        return known

    def _recognise(self, text: str) -> tuple[str, bool]:
        known = self._known.get(text)
        if known is not None:
            return known
        match = _NODE.fullmatch(text)
        packed = packed_address(match[1] or match[2] or match[3]) if match else None
        if packed is None:
            return _UNKNOWN
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        known = self._known[text] = _text(packed), self._trusts(packed)
        return known

    def _trusts(self, packed: bytes) -> bool:
        number, size = int.from_bytes(packed, "big"), len(packed)
        return any(size == length and number & mask == network for length, mask, network in self._networks)


def network_of(address: str) -> bytes:
    """Return the key of the client network: 4 bytes of an IPv4 address, 8 of an IPv6 /64, none when unknown."""
    return (packed_address(address) or b"")[:8]


def shorten(address: str) -> str:
    """Return the IPv4 /24 or IPv6 /48 that the address is in, such as "203.0.113.0/24"; "" when unknown."""
    packed = packed_address(address)
    if packed is None:
        return ""
    kept = 3 if len(packed) == 4 else 6
    return f"{_text(packed[:kept] + bytes(len(packed) - kept))}/{kept * 8}"


def packed_address(address: str) -> bytes | None:
    """Return 4 or 16 bytes, None for what is no address; zone ids are cut. Bytes, since ints can be made to collide.

    IPv6 that stands for IPv4 is IPv4: mapped (RFC 4291 section 2.5.5.2), and NAT64 (RFC 6052 section 2.1).
    """
    try:
        if ":" not in address:
            return inet_pton(AF_INET, address)
        packed = inet_pton(AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(EMBEDDING) else packed


def _text(packed: bytes) -> str:
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def _masked(network: Network) -> tuple[int, int, int]:
    """Return bytes of an address, mask and number of a network; of one that stands for IPv4 those of IPv4."""
    network = as_counted(network)
    return network.max_prefixlen // 8, int(network.netmask), int(network.network_address)


def _lines(scope: Mapping[str, Any], wanted: bytes) -> list[bytes]:
    """Return a header's lines from the last to the first, each cut to its right end, never within an entry."""
    lines = [value for name, value in scope["headers"] if name == wanted]
    lines.reverse()
    return [line if len(line) <= MAX_LINE else b"," + line[-MAX_LINE:].partition(b",")[2] for line in lines]


def _x_forwarded_for(lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        for entry in reversed(line.rsplit(b",", MAX_ENTRIES)):
            yield _entry(entry)


def _entry(entry: bytes) -> str:
    return entry.strip(b" \t").decode("latin-1") if len(entry) <= MAX_ENTRY else ""


def _forwarded(lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        for element in _elements(line):
            yield _node(element)


def _elements(line: bytes) -> Iterator[bytes]:
    """Yield RFC 7239 elements from the right, empty for a malformed one.

    Quotes are paired from the right as well: a quote that a visitor left open swallows nothing a proxy appended.
    """
    tail = b""
    for piece in reversed(line.rsplit(b",", MAX_ENTRIES)):
        element = piece + tail
        tail = b"," + element
        if len(element) > MAX_ELEMENT:
            break
        if b'"' not in element or _quotes(element) % 2 == 0:
            yield element
            tail = b""
    if tail:
        yield b""


def _quotes(element: bytes) -> int:
    """Count the quotes that no backslash escapes."""
    return element.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"')


def _node(element: bytes) -> str:
    """Return the value of for=, unquoted; "" when it is missing, given twice, or the element is malformed."""
    node, position = b"", 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None or (node and pair[1].lower() == b"for"):
            return ""
        if pair[1].lower() == b"for":
            node = pair[2]
        position = pair.end()
    return (_ESCAPED.sub(rb"\1", node[1:-1]) if node.startswith(b'"') else node).decode("latin-1")
