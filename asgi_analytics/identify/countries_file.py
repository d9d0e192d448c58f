"""Makes the file of the bundled country table from a MaxMind DB file; countries.py reads it.

python -m asgi_analytics.identify.countries_file SOURCE.mmdb OUT
"""

from __future__ import annotations

import datetime
import json
import socket
import sys
import zlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import maxminddb

from .countries import MAGIC, CountryTable

SAMPLES = 50_000  # addresses of each family that are compared

Range = tuple[int, str | None]  # first address (IPv6: its upper 64 bits) and country, up to the next range


def make_table(networks: Iterable[tuple[Any, Any]], built: str) -> bytes:
    """Pack (network, record) pairs of a database in ascending order into the bytes of a table."""
    spans4: list[tuple[int, int, str | None]] = []
    spans6: list[tuple[int, int, str | None]] = []
    for network, record in networks:
        _add_span(spans6 if isinstance(network, IPv6Network) else spans4, network, _country(record))
    sides = [_ranges(spans4, 32), _ranges(spans6, 64)]
    codes = sorted({code for side in sides for _, code in side if code})
    if len(codes) > 255:
        raise ValueError(f"{len(codes)} countries do not fit a byte")
    counts = dict(zip(("ipv4", "ipv6"), map(len, sides), strict=True))
    header = json.dumps({"format": MAGIC, "built": built, "codes": codes, **counts}) + "\n"
    columns = (column for side, width in zip(sides, (4, 8), strict=True) for column in _columns(side, width, codes))
    raw = header.encode() + b"".join(columns)
    return zlib.compress(raw, 9)


def differences(table: CountryTable, reader: Any) -> Iterator[str]:
    """Yield addresses for which table and database disagree: steps through both spaces and edges of ranges."""
    for number in range(SAMPLES):
        # Multiples of the golden ratio spread evenly over any space without drawing lots.
        yield from _differing(table, reader, number * 0x9E3779B1 % 2**32, 4)
        yield from _differing(table, reader, 2 << 60 | number * 0x9E3779B97F4A7C15 % 2**61, 6)
    for starts, version in ((table._starts4, 4), (table._starts6, 6)):
        for start in starts[1 :: max(1, len(starts) // SAMPLES)]:
            yield from _differing(table, reader, start, version)
            yield from _differing(table, reader, start - 1, version)


def _differing(table: CountryTable, reader: Any, start: int, version: int) -> Iterator[str]:
    packed = start.to_bytes(4, "big") if version == 4 else start.to_bytes(8, "big") + bytes(8)
    address = socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, packed)
    if table.find(packed) != _country(reader.get(address)):
        yield address


def _country(record: Any) -> str | None:
    code = record.get("country_code") if isinstance(record, dict) else None
    if code is None and isinstance(record, dict) and isinstance(record.get("country"), dict):
        code = record["country"].get("iso_code")
    return code if isinstance(code, str) and len(code) == 2 and code.isascii() and code.isalpha() else None


def _add_span(spans: list[tuple[int, int, str | None]], network: Any, code: str | None) -> None:
    start, size = int(network.network_address), network.num_addresses
    if isinstance(network, IPv6Network):
        if start & 0xFFFF_FFFF_FFFF_FFFF:
            return  # inside a /64, whose first address speaks for it
        start, size = start >> 64, max(1, size >> 64)
    spans.append((start, start + size, code))


def _squash(spans: list[tuple[int, int, str | None]]) -> Iterator[Range]:
    """Join neighbours of the same country and fill the gaps, so that every address is in one range."""
    last: str | None = None
    yield 0, last
    end = 0
    for start, stop, code in spans:
        if start > end and last is not None:
            yield end, None
            last = None
        if code != last:
            yield start, code
            last = code
        end = stop
    if last is not None:
        yield end, None


def _ranges(spans: list[tuple[int, int, str | None]], bits: int) -> list[Range]:
    ranges = [one for one in _squash(spans) if one[0] < 1 << bits]
    # The first span may begin at 0 as well: then the opening range is empty and must go.
    return ranges[1:] if len(ranges) > 1 and ranges[1][0] == 0 else ranges


def _columns(side: list[Range], width: int, codes: list[str]) -> Iterator[bytes]:
    starts = b"".join(start.to_bytes(width, "little") for start, _ in side)
    for plane in range(width):
        yield starts[plane::width]
    numbers = {code: number for number, code in enumerate([None, *codes])}
    yield bytes(numbers[code] for _, code in side)


def main(arguments: list[str]) -> int:
    """Make OUT from SOURCE.mmdb and compare both. Returns the exit status: 1 when they differ anywhere."""
    if len(arguments) != 2:
        print("usage: python -m asgi_analytics.identify.countries_file SOURCE.mmdb OUT", file=sys.stderr)
        return 2
    source, out = map(Path, arguments)
    with maxminddb.open_database(source) as reader:
        built = datetime.datetime.fromtimestamp(reader.metadata().build_epoch, datetime.UTC).date().isoformat()
        packed = make_table(reader, built)
        out.write_bytes(packed)
        table = CountryTable.load(out)
        wrong = list(differences(table, reader))
    print(
        f"{out}: {len(packed)} bytes, {len(table)} ranges, {len(table.countries)} countries, {len(wrong)} differences"
    )
    for address in wrong[:10]:
        print(f"  differs: {address}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
