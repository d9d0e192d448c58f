"""Address ranges that operators publish for their crawlers: read from JSON, asked by bisection."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_pton

from ..errors import DataFileError

MAX_BYTES = 2 * 1024 * 1024  # of a file
MAX_PREFIXES = 20_000  # in a file
# A file that lists half of the internet is damaged, or no longer the operator's.
SHORTEST_IPV4, SHORTEST_IPV6 = 8, 19  # bits of a prefix

Span = tuple[int, int, int]  # bytes of an address, first address, last one


class Ranges:
    """Addresses of a crawler. Asking costs 1 µs, whatever the number of ranges."""

    __slots__ = ("_ends", "_starts", "prefixes")

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks` such as "192.0.2.0/24", without host bits. Raises ValueError."""
        spans: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
        self.prefixes = 0  # that were given
        for size, first, last in map(_span, networks):
            self.prefixes += 1
            spans[size].append((first, last))
        merged = {size: _merge(found) for size, found in spans.items()}
        self._starts = {size: [start for start, _ in found] for size, found in merged.items()}
        self._ends = {size: [end for _, end in found] for size, found in merged.items()}

    def __contains__(self, packed: bytes) -> bool:
        """Tell whether an address is in one of the ranges: 4 or 16 bytes in network order, IPv4-mapped as IPv4."""
        size, number = len(packed), int.from_bytes(packed, "big")
        place = bisect_right(self._starts[size], number) - 1
        return place >= 0 and number <= self._ends[size][place]


def read_ranges(data: bytes) -> Ranges:
    """Read `{"prefixes": [{"ipv4Prefix": …} or {"ipv6Prefix": …}]}`.

    Raises DataFileError for anything else, so that a damaged file never takes the place of a good one.
    """
    if len(data) > MAX_BYTES:
        raise DataFileError(f"more than {MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise DataFileError("no JSON") from None
    prefixes = content.get("prefixes") if isinstance(content, dict) else None
    if not isinstance(prefixes, list) or not 1 <= len(prefixes) <= MAX_PREFIXES:
        raise DataFileError(f'no list "prefixes" of 1 to {MAX_PREFIXES} entries')
    try:
        return Ranges(map(_prefix, prefixes))
    except ValueError as error:
        raise DataFileError(str(error)) from None


def _prefix(entry: object) -> str:
    text = entry.get("ipv4Prefix") or entry.get("ipv6Prefix") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"{str(entry)[:80]!r} is no prefix")
    return text


def _span(text: str) -> Span:
    """Return what a network spans. The ipaddress module takes ten times as long."""
    address, slash, bits = text.partition("/")
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):
        raise ValueError(f"{text[:80]!r} is no prefix") from None
    size = len(packed)
    whole = size * 8
    prefix = int(bits) if bits.isascii() and bits.isdecimal() and len(bits) <= 3 else -1 if slash else whole
    first, others = int.from_bytes(packed, "big"), (1 << max(0, whole - prefix)) - 1
    if not 0 <= prefix <= whole or first & others:
        raise ValueError(f"{text[:80]!r} is no prefix")
    if prefix < (SHORTEST_IPV4 if size == 4 else SHORTEST_IPV6):
        raise ValueError(f"{text[:80]} is too wide for an operator's range")
    return size, first, first | others


def _merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
