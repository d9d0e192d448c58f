"""GeoIP: country, region, city and autonomous system of an address, from MaxMind DB files of any vendor.

Both layouts are read: MaxMind's nested one, and the flat one of ip-location-db and others. A file is read into memory,
never mapped: a mapped file that is cut short ends the process with SIGBUS, and so does the library's C reader
(version 3.2) with SIGSEGV on damaged records. The library decodes; the walk down the tree is ours, so that the place
of each record is decoded once and kept.
"""

from __future__ import annotations

import datetime
import io
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import maxminddb
from maxminddb.decoder import Decoder

from ..log import log
from ..model import Place
from .client import packed_address
from .countries import CountryTable

REFRESH_SECONDS = 5.0
NAME_LENGTH = 100  # characters
NOWHERE = Place()
KEPT_PLACES = 8192  # decoded records of a file
MARKER, MARKED = b"\xab\xcd\xefMaxMind.com", 128 << 10  # begins the metadata; in these last bytes of a file
PROBES = tuple(map(socket.inet_aton, ("1.1.1.1", "62.0.0.1", "100.0.0.1", "193.0.6.139", "200.0.0.1")))
TREE_GAP = 16  # zero bytes between search tree and data (MaxMind DB file format, "Data section separator")

# What a damaged file can raise, beside the library's own error, from its decoder.
READ_ERRORS = (
    maxminddb.InvalidDatabaseError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
    struct.error,
)
# RFC 6890: this network, private, loopback; and by second octet shared, link-local, private.
LOCAL_OCTETS = frozenset((0, 10, 127))
LOCAL_PAIRS = {100: range(64, 128), 169: range(254, 255), 172: range(16, 32), 192: range(168, 169)}

Signature = tuple[int, int, int]  # modification time in ns, size, inode


class GeoLocator:
    """Finds places in a city (or country) file and an ASN file; a country missing there comes from the table.

    A missing or damaged file is never fatal: its answers are None, the reason is in `describe()`.
    """

    def __init__(
        self,
        city: Path | None,
        asn: Path | None,
        table: CountryTable | None,
        read: Callable[[Callable[[], None]], None] = lambda load: load(),
    ) -> None:
        """`read` is given what loads the files, which may hang: it may call it later, in another thread."""
        self._read = read
        self._city = GeoFile(city) if city else None
        self._asn = GeoFile(asn) if asn else None
        self._table = table
        self._places = {code: Place(country=code) for code in table.countries} if table else {}
        self._checked_at: float | None = None
        self._load()

    def locate(self, address: str) -> Place:
        """Return the place of an IPv4 or IPv6 address; Place() for anything else and for private ones."""
        packed = packed_address(address)
        if packed is None or is_local(packed):
            return NOWHERE
        if self._city is None and self._asn is None:
            return self._of_table(packed)
        return self._of_files(packed)

    def refresh(self, now: float) -> None:
        """Reload files that changed, at most every five seconds; `now` in monotonic seconds. Blocks while reading."""
        if self._checked_at is not None and now - self._checked_at < REFRESH_SECONDS:
            return
        self._checked_at = now
        self._load()

    def _load(self) -> None:
        files = [file for file in (self._city, self._asn) if file is not None]
        if files:
            self._read(partial(_refresh, files))

    def describe(self) -> list[str]:
        """Return one sentence per source: file, type, build date, size, last error."""
        lines = [f"{role}: {file.describe()}" for role, file in (("city", self._city), ("asn", self._asn)) if file]
        if self._table is not None:
            lines.append(
                f"countries: bundled table of {self._table.built}, {len(self._table):,} ranges (NRO, CC BY 4.0)"
            )
        return lines

    def _of_table(self, packed: bytes) -> Place:
        country = self._table.find(packed) if self._table is not None else None
        return self._places[country] if country is not None else NOWHERE

    def _of_files(self, packed: bytes) -> Place:
        found = self._city.find(packed) if self._city is not None else NOWHERE
        system = self._asn.find(packed) if self._asn is not None else found
        if found.country is not None and system is found:
            return found
        country = found.country or self._of_table(packed).country
        return Place(country, found.region, found.city, system.asn, system.organisation)


class GeoFile:
    """One MaxMind DB file, reloaded when it changes; what was loaded stays while the file is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors = 0
        self.error: str | None = None
        self._tree: Tree | None = None
        self._signature: Signature | None = None

    def refresh(self) -> None:
        """Load the file when modification time, size or inode changed since the last try. Raises nothing."""
        try:
            status = os.stat(self.path)
            signature = status.st_mtime_ns, status.st_size, status.st_ino
            if signature == self._signature:
                return
            # Remembered before the try: a damaged file is read once, not every few seconds.
            self._signature = signature
            tree = _trees.get((self.path, signature)) or _loaded(self.path)
            _trees[self.path, signature] = tree
        except READ_ERRORS as error:
            if isinstance(error, OSError):  # such as no privilege, no descriptor: that passes, and changes no file
                self._signature = None
            before = self.error
            self._fail(error)
            if self.error != before:
                log.warning("Geo file %s is not %s: %s", self.path, "reloaded" if self._tree else "used", self.error)
            return
        self._tree, self.error = tree, None

    def find(self, packed: bytes) -> Place:
        """Return the place of an address, Place() when there is none or it cannot be read. Raises nothing."""
        if self._tree is None:
            return NOWHERE
        try:
            return self._tree.find(packed)
        except READ_ERRORS as error:
            self._fail(error)
            return NOWHERE

    def describe(self) -> str:
        """Return type, build date and number of nodes, or what is wrong."""
        wrong = f"{self.error} ({self.errors} errors)" if self.error else ""
        if self._tree is None:
            return f"{self.path}: not loaded: {wrong}"
        facts = self._tree.facts
        loaded = f"{self.path}: {facts.database_type}, built {_date(facts.build_epoch)}, {facts.node_count:,} nodes"
        return f"{loaded}; last error: {wrong}" if wrong else loaded

    def _fail(self, error: BaseException) -> None:
        self.errors += 1
        self.error = f"{type(error).__name__}: {error}"[:300]


# A file is in memory once, though a framework makes a middleware for each of a hundred routes.
_trees: WeakValueDictionary[tuple[Path, Signature], Tree] = WeakValueDictionary()


def _refresh(files: Iterable[GeoFile]) -> None:
    for file in files:
        file.refresh()


def _content(path: Path) -> bytes:
    """Return what is in a file that may be a database; others may be pipes, devices, or larger than memory."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        file.seek(max(0, status.st_size - MARKED))
        if MARKER not in file.read():
            raise maxminddb.InvalidDatabaseError("it has no metadata: is it a MaxMind DB file?")
        file.seek(0)
        return file.read()


class Tree:
    """A database in memory: walks the binary tree of the MaxMind DB file format 2.0. Raises one of READ_ERRORS."""

    def __init__(self, content: bytes) -> None:
        self.facts = facts = maxminddb.open_database(io.BytesIO(content), maxminddb.MODE_FD).metadata()
        self._content = content
        self._nodes, self._size = facts.node_count, facts.record_size
        data = facts.search_tree_size + TREE_GAP
        if self._size not in (24, 28, 32) or not 0 <= facts.search_tree_size <= len(content) - TREE_GAP:
            raise maxminddb.InvalidDatabaseError("the search tree does not fit the file")
        self._has_ipv6 = facts.ip_version == 6
        self._ipv4_root = self._descend(0, 0, 96) if self._has_ipv6 else 0
        # Not of a method of this object, which it would keep in memory until the garbage is collected.
        record = partial(_place_at, Decoder(content, data), facts.search_tree_size - self._nodes)
        self._place = lru_cache(maxsize=KEPT_PLACES)(record)

    def find(self, packed: bytes) -> Place:
        """Return the place of an address of 4 or 16 bytes, Place() when it is in no network of the file."""
        if len(packed) == 4:
            node = self._descend(self._ipv4_root, int.from_bytes(packed, "big"), 32)
        elif self._has_ipv6:
            node = self._descend(0, int.from_bytes(packed, "big"), 128)
        else:
            return NOWHERE
        return self._place(node) if node > self._nodes else NOWHERE

    def _descend(self, node: int, number: int, bits: int) -> int:
        content, nodes = self._content, self._nodes
        half = self._size // 8
        if self._size == 28:
            return self._descend_28(node, number, bits)
        while bits and node < nodes:
            bits -= 1
            at = (node * 2 + (number >> bits & 1)) * half
            node = int.from_bytes(content[at : at + half], "big")
        return node

    def _descend_28(self, node: int, number: int, bits: int) -> int:
        content, nodes = self._content, self._nodes
        while bits and node < nodes:
            bits -= 1
            both = int.from_bytes(content[node * 7 : node * 7 + 7], "big")
            # The middle byte holds the highest four bits of the left record, then of the right one.
            node = both & 0xFFF_FFFF if number >> bits & 1 else both >> 32 | (both >> 28 & 0xF) << 24
        return node


def _place_at(decoder: Decoder, to_data: int, node: int) -> Place:
    record, _ = decoder.decode(node + to_data)
    if not isinstance(record, dict):
        return NOWHERE
    return Place(country_of(record), region_of(record), city_of(record), *system_of(record))


def _loaded(path: Path) -> Tree:
    """Read a file and try it. Raises one of READ_ERRORS."""
    tree = Tree(_content(path))
    for probe in PROBES:
        tree.find(probe)
    return tree


def is_local(packed: bytes) -> bool:
    """Tell whether an address is unspecified, loopback, private, shared or link-local (RFC 6890)."""
    first = packed[0]
    if len(packed) == 4:
        return first in LOCAL_OCTETS or packed[1] in LOCAL_PAIRS.get(first, ())
    # Global unicast is 2000::/3; all that is in use outside of it is local, multicast or translated.
    return first >> 5 != 1


def country_of(record: dict[str, Any]) -> str | None:
    """Return the ISO 3166-1 alpha-2 code of a record in either layout."""
    for key in ("country", "country_code", "registered_country"):
        code = record.get(key)
        if isinstance(code, dict):
            code = code.get("iso_code")
        if isinstance(code, str) and len(code) == 2 and code.isascii() and code.isalpha():
            return code.upper()
    return None


def region_of(record: dict[str, Any]) -> str | None:
    """Return the ISO 3166-2 part of the first subdivision, else its name."""
    parts = record.get("subdivisions")
    first = parts[0] if isinstance(parts, list) and parts else None
    if isinstance(first, dict):
        return _text(first.get("iso_code")) or _named(first)
    return _text(record.get("region_code")) or _text(record.get("region")) or _text(record.get("state1"))


def city_of(record: dict[str, Any]) -> str | None:
    """Return the English name of the city, else the first there is."""
    city = record.get("city")
    return _named(city) if isinstance(city, dict) else _text(city)


def system_of(record: dict[str, Any]) -> tuple[int | None, str | None]:
    """Return number and organisation of the autonomous system (RFC 6793: 32 bits)."""
    traits = record.get("traits")
    if "autonomous_system_number" not in record and isinstance(traits, dict):
        record = traits
    number: object = record.get("autonomous_system_number", record.get("asn"))
    if isinstance(number, str):
        digits = number.removeprefix("AS")
        number = int(digits) if digits.isdecimal() and len(digits) <= 10 else None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**32:
        number = None
    names = (record.get(key) for key in ("autonomous_system_organization", "as_name", "name"))
    return number, next((text for name in names if (text := _text(name))), None)


def _named(part: dict[str, Any]) -> str | None:
    names = part.get("names")
    if not isinstance(names, dict):
        return None
    return _text(names.get("en")) or next((text for name in names.values() if (text := _text(name))), None)


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    value = value[:NAME_LENGTH]
    if not value.isprintable():
        value = "".join(sign for sign in value if sign.isprintable())
    value = value.strip()
    return value if value not in ("", "-") else None  # IP2Location writes "-" for what it does not know


def _date(epoch: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(epoch, datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError, TypeError):
        return "at an unknown time"
