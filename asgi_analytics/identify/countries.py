"""The bundled country table: which country an address is registered in, from open data (see data/NOTICE).

The file is zlib over one JSON line and, for IPv4 and IPv6, two columns: the starts of the ranges, split into planes of
equal byte weight, and one byte per range that numbers the country (0: none). IPv6 is told apart down to /64. As
differences and by xz it would be a quarter smaller, and take four times as long to read, which each process does.
Made by countries_file.py.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from bisect import bisect_right
from importlib.resources import files
from importlib.resources.abc import Traversable

from ..model import Place

MAGIC = "asgi-analytics countries 2"
WIDTHS = {"I": 4, "Q": 8}  # bytes of a start, by the typecode of its array


def bundled() -> Traversable:
    """Return the file that ships with the package."""
    return files("asgi_analytics.identify").joinpath("data", "countries.zlib")


class CountryTable:
    """Country by address: about 610,000 ranges in 4 MB, 1 µs a look-up."""

    def __init__(self, built: str, codes: list[str], ranges: dict[int, tuple[array[int], bytes]]) -> None:
        self.built = built  # ISO date of the source
        self._codes: list[str | None] = [None, *codes]
        self.places = {code: Place(country=code) for code in self.countries}
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
