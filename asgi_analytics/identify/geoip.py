"""GeoIP: country, region, city and autonomous system of an address, from MaxMind DB files of any vendor."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from ..log import log
from ..model import Place
from .client import packed_address
from .countries import CountryTable
from .geoip_record import NOWHERE
from .geoip_tree import READ_ERRORS, Tree, load_tree

REFRESH_SECONDS = 5.0
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
        self._places = table.places if table else {}
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
            tree = _trees.get((self.path, signature)) or load_tree(self.path)
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


def is_local(packed: bytes) -> bool:
    """Tell whether an address is unspecified, loopback, private, shared or link-local (RFC 6890)."""
    first = packed[0]
    if len(packed) == 4:
        return first in LOCAL_OCTETS or packed[1] in LOCAL_PAIRS.get(first, ())
    # Global unicast is 2000::/3; all that is in use outside of it is local, multicast or translated.
    return first >> 5 != 1


def _date(epoch: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(epoch, datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError, TypeError):
        return "at an unknown time"
