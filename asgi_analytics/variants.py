"""Which page of its path a query asks for: /item.php?id=17 and ?id=18 are two pages, ?sort=price and ?q=gar are none.

A parameter counts when its name says that it tells things apart (id, productId, topic, isbn), or the pages of a list
(page, offset, cursor). All others are left: campaigns, sessions, cache busters, times, searches, filters, facets,
coordinates and sizes, with which people see one thing in ever new ways.

What such a page is called here is a number made with a key that no other process has, so that a row may keep it: a
checksum of a path and one of a thousand ids would tell which.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import unquote

ITEM, TURN, CURSOR = 1, 2, 3  # a thing of its own, a numbered page of a list, a place in a list
MOST_QUERY, MOST_PARAMETERS, MOST_NAME, MOST_PATH = 2048, 32, 48, 256  # what is looked at
MOST_REMEMBERED = 2048
LONGEST_REMEMBERED = 512  # characters of path and query
# In hits.path_inputs, above what inputs.py tells: the kind, whether the page comes in order, and the path's own place.
KIND_AT, ONWARD, HIDDEN, PLACE_AT = 35, 1 << 37, 1 << 38, 40


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TURNS = _words("curpage currentpage p pag page pageindex pageno pagenr pagenum pagenumber paged pagina pg seite")
CURSORS = _words(
    """
    after before continuation cursor next nextcursor nextpagetoken offset pageafter pagebefore pagecursor pageoffset
    pagetoken skip start startat startindex
    """
)
ITEMS = _words(
    """
    ad album article articles artikel artist artnr book case doc document ean entry event film game gtin guid id image
    img invoice isbn issue item job listing match member movie no node nr object offer photo pic picture player post
    prod product producto produit produkt profile property recipe recno record rezept showthread showtopic showuser sku
    slug song story t team thread ticket title topic u user uuid video
    """
)
ENDINGS = ("id", "uuid", "guid", "slug", "isbn", "sku")
# Before these endings: what is new with each request, session or click,
FLEETING = _words(
    """
    ad adgroup aff affiliate browser c campaign cl click client conversation correlation creative device ef execution
    fat flow frame gtm hs igsh instance jsession mc nonce olyanon olyenc partner phpsess placement poll r ref referral
    referrer req request s sc seq sess session span ss sub token trace track tracking transaction utm vero view visit
    visitor wicked window
    """
)
# where in a stream somebody is,
PLACES = _words("after before current end first from last latest max min newest next oldest prev since start top until")
# and what lists are filtered by.
FACETS = _words(
    """
    area attr attribute branch brand cat categories category city class color colour condition country currency
    department dept district facet feature filter gender genre group lang language layout level locale location make
    manufacturer material mode model month option parent period price rating region season section shop size sort state
    status store style subcategory subject tag tags theme type vendor warehouse year zone
    """
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_ITEM = re.compile(r"(?!0\.\d{6})[\w.~:/+%-]{1,200}", re.ASCII)
_TURN = re.compile(r"0*(?:[2-9]|[1-9]\d{1,6})", re.ASCII)  # the first page is the list itself
_NAME = re.compile(r"[A-Za-z][A-Za-z_/.-]{1,80}")  # of a page: ?page=about
_CURSOR = re.compile(r"0*[1-9]\d{0,8}|(?=[^A-Za-z]*[A-Za-z])(?!\d{4}-\d\d)[\w=+/%.:|-]{6,200}", re.ASCII)
_SHORT = re.compile(r"\d{1,8}", re.ASCII)  # of names of one letter: longer ones are times
_DIGIT = re.compile(r"\d")
_DIGITS = re.compile("[0-9]+")


class Variant(NamedTuple):
    """A page that its query tells from others of its path."""

    number: int  # 32 bits
    key: str  # what it sorts by; in a replay of rows, where it is not known, a text that is the same for the same page
    kind: int  # ITEM, TURN or CURSOR
    onward: bool = False  # sorts after the page that this visitor loaded before, and is new to it


class Variants:
    """Tells variants apart by numbers that hold as long as this process and its children run."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[tuple[str, bytes | str, bool | None], Variant | None] = {}

    def page(self, path: str, query: bytes | str, inner: bool) -> Variant | None:
        """Return the variant of a page; None where the path tells it. `inner`: a page of this site linked it.

        Who follows "next" from page to page reads one list: its pages count for those only who come without a link.
        """
        return self._of(path, query, inner)

    def data(self, path: str, query: bytes | str) -> Variant | None:
        """Return the variant of an answer with data; None where the path tells it."""
        return self._of(path, query, None)

    def _of(self, path: str, query: bytes | str, inner: bool | None) -> Variant | None:
        asked = (path, query, inner)
        try:
            return self._known[asked]
        except KeyError:
            found = self._found(path[:MOST_PATH], parameters(query), inner)
        if len(path) + len(query) <= LONGEST_REMEMBERED:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[asked] = found
        return found

    def _found(self, path: str, told: list[tuple[int, str, str]], inner: bool | None) -> Variant | None:
        if inner is None:  # a text without a digit may be one that is being typed
            told = [one for one in told if one[0] != ITEM or _DIGIT.search(one[2])]
        elif inner:
            told = [one for one in told if one[0] == ITEM]
        if not told:
            return None
        kinds = {kind for kind, _, _ in told}
        text = f"{path}?{'&'.join(sorted(f'{name}={value}' for _, name, value in told))}"
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4, key=self._key, person=b"q").digest()
        kind = TURN if TURN in kinds else CURSOR if CURSOR in kinds else ITEM
        return Variant(int.from_bytes(digest, "big"), sort_key(text), kind)


def parameters(query: bytes | str) -> list[tuple[int, str, str]]:
    """Return kind, name and value of the parameters that tell pages apart, among the first 32 of 2,048 characters."""
    text = query[:MOST_QUERY].decode("latin-1") if isinstance(query, bytes) else query[:MOST_QUERY]
    found = []
    for part in text.split("&", MOST_PARAMETERS)[:MOST_PARAMETERS]:
        name, sign, value = part.partition("=")
        if not sign or not value or len(name) > MOST_NAME or not (kind := name_kind(name)):
            continue
        if kind == TURN and not _TURN.fullmatch(value):
            kind = ITEM if _NAME.fullmatch(value) else CURSOR if _DIGITS.sub("", value) else 0
        pattern = _CURSOR if kind == CURSOR else _SHORT if name in "tuTU" else _ITEM
        if kind and pattern.fullmatch(value):
            found.append((kind, name.lower(), value))
    return found


@lru_cache(maxsize=4096)
def name_kind(name: str) -> int:
    """Return what a parameter's name says of it: ITEM, TURN, CURSOR, or 0; in any case and style of writing."""
    plain = unquote(name) if "%" in name else name
    if plain.endswith("[]"):
        return 0
    words = [word.lower() for word in _WORDS.findall(plain)]
    whole = "".join(words)
    if whole in TURNS or whole in CURSORS:
        return TURN if whole in TURNS else CURSOR
    if whole in ITEMS:
        return ITEM
    ending = next((ending for ending in ENDINGS if whole.endswith(ending)), None)
    if ending is None:
        return 0
    stems = {*words[:-1], words[-1].removesuffix(ending)} | {whole.removesuffix(ending)}
    if stems & FLEETING or stems & FACETS or whole.endswith("clid"):
        return 0
    return CURSOR if stems & PLACES or whole.startswith("last") else ITEM


def sort_key(text: str) -> str:
    """Return what a page sorts by: runs of digits compare as numbers, /page/9 before /page/10."""
    return _DIGITS.sub(_numeral, text)


def _numeral(run: re.Match[str]) -> str:
    digits = run[0].lstrip("0")
    return chr(len(digits)) + digits  # of two numbers the longer is the greater


def packed(variant: Variant, place: int | None) -> int:
    """Return what a row keeps of a variant; `place`: that of its path in bitmaps, where the path is not stored."""
    found = variant.number | variant.kind << KIND_AT | (ONWARD if variant.onward else 0)
    return found if place is None else found | HIDDEN | place << PLACE_AT


def unpacked(path: str, inputs: int) -> Variant | None:
    """Return the variant that a row kept, None where it kept none; `path` as it is stored."""
    kind, number = inputs >> KIND_AT & 3, inputs & 0xFFFF_FFFF
    return Variant(number, f"{sort_key(path[:MOST_PATH])}?{number:08x}", kind, bool(inputs & ONWARD)) if kind else None
