"""The search tree of a MaxMind DB file, in memory.

A file is read, never mapped: a mapped file that is cut short ends the process with SIGBUS, and so does the library's C
reader (version 3.2) with SIGSEGV on damaged records. The library decodes; the walk down the tree is ours, so that the
place of each record is decoded once and kept.
"""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
from functools import lru_cache, partial
from pathlib import Path

import maxminddb
from maxminddb.decoder import Decoder

from ..model import Place
from .geoip_record import NOWHERE, place_of

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
        if self._size == 28:
            return self._descend_28(node, number, bits)
        content, nodes, half = self._content, self._nodes, self._size // 8
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
    return place_of(record)


def load_tree(path: Path) -> Tree:
    """Read a file and try it. Raises one of READ_ERRORS."""
    tree = Tree(_content(path))
    for probe in PROBES:
        tree.find(probe)
    return tree


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
