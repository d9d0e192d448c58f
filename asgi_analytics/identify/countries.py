"""The bundled country table: which country an address is registered in, from open data (see data/NOTICE).

The file is zlib over one JSON line and, for IPv4 and IPv6, two columns: the starts of the ranges, split into planes of
equal byte weight, and one byte per range that numbers the country (0: none). IPv6 is told apart down to /64. As
differences and by xz it would be a quarter smaller, and take four times as long to read, which each process does.
Made by `python -m asgi_analytics.identify.countries SOURCE.mmdb OUT`.
"""

from __future__ import annotations

import json
import socket
import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

MAGIC = "asgi-analytics countries 2"
WIDTHS = {"I": 4, "Q": 8}
SAMPLES = 50_000  # addresses of each family that are compared

Range = tuple[int, str | None]  # first address (IPv6: its upper 64 bits) and country, up to the next range


def bundled() -> Traversable:
    """Return the file that ships with the package."""
    return files("asgi_analytics.identify").joinpath("data", "countries.zlib")


class CountryTable:
    """Country by address: about 610,000 ranges in 4 MB, 1 µs a look-up."""

    def __init__(self, built: str, codes: list[str], ranges: dict[int, tuple[array[int], bytes]]) -> None:
        self.built = built  # ISO date of the source
        self._codes: list[str | None] = [None, *codes]
        self._starts4, self._numbers4 = ranges[4]
        self._starts6, self._numbers6 = ranges[6]

    @classmethod
    def load(cls, path: Traversable | None = None) -> CountryTable:
        """Read a table, None: the bundled one. Raises OSError when there is none, ValueError when it is damaged."""
        path = path or bundled()
        try:
            head, _, body = zlib.decompress(path.read_bytes()).partition(b"\n")
            header = json.loads(head)
            if header["format"] != MAGIC:
                raise ValueError(header["format"])
            columns = _Columns(body)
            ranges = {4: columns.ranges("I", header["ipv4"]), 6: columns.ranges("Q", header["ipv6"])}
            return cls(header["built"], header["codes"], ranges)
        except (zlib.error, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is not a country table: {error}") from error

    def __len__(self) -> int:
        return len(self._starts4) + len(self._starts6)

    @property
    def countries(self) -> list[str]:
        """All ISO 3166-1 alpha-2 codes in the table."""
        return [code for code in self._codes if code]

    def find(self, packed: bytes) -> str | None:
        """Return the country of an address as `client.packed_address` gives it; None when it is not registered."""
        if len(packed) == 4:
            number = self._numbers4[bisect_right(self._starts4, int.from_bytes(packed, "big")) - 1]
        else:
            number = self._numbers6[bisect_right(self._starts6, int.from_bytes(packed[:8], "big")) - 1]
        return self._codes[number]


class _Columns:
    """Reads the columns of a table one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def ranges(self, typecode: str, count: int) -> tuple[array[int], bytes]:
        width = WIDTHS[typecode]
        mixed = bytearray(count * width)
        for plane in range(width):
            mixed[plane::width] = self._take(count)
        starts = array(typecode, bytes(mixed))
        if sys.byteorder == "big":
            starts.byteswap()
        if not count or starts[0] != 0:
            raise ValueError("the first range does not start at 0")
        return starts, self._take(count)

    def _take(self, count: int) -> bytes:
        taken = self._body[self._at : self._at + count]
        if len(taken) != count:
            raise ValueError("cut short")
        self._at += count
        return taken


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
    import datetime

    import maxminddb

    if len(arguments) != 2:
        print("usage: python -m asgi_analytics.identify.countries SOURCE.mmdb OUT", file=sys.stderr)
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
