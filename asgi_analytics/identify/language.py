"""The language a visitor prefers, from Accept-Language (RFC 9110 section 12.5.4)."""

from __future__ import annotations

import re
from functools import lru_cache

LENGTH = 512  # characters of the header that are looked at
MAX_ITEMS = 20  # that are looked at
TAG_LENGTH = 35  # RFC 5646 section 4.4.1

_ITEM = re.compile(
    r"\s*([a-z]{1,8}(?:-[a-z0-9]{1,8})*)\s*(?:;\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?",
    re.IGNORECASE | re.ASCII,
)


@lru_cache(1024)
def read_language(accept_language: str | None) -> str | None:
    """Return the tag of the highest weight, lower case, at most 35 characters; None when no item is a language tag.

    Among equals the first wins; items that are not of the grammar's shape, `*` and weight 0 do not count.
    """
    best, best_weight = None, 0.0
    for item in (accept_language or "")[:LENGTH].split(",", MAX_ITEMS)[:MAX_ITEMS]:
        match = _ITEM.fullmatch(item)
        if match is None or len(match[1]) > TAG_LENGTH:
            continue
        weight = float(match[2]) if match[2] else 1.0
        if weight > best_weight:
            best, best_weight = match[1], weight
    return best.lower() if best else None
