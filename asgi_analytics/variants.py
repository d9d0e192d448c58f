"""Which page of its path a query asks for: /item.php?id=17 and ?id=18 are two pages, ?sort=price and ?q=gar are none.

A parameter counts when its name says that it tells things apart (id, productId, topic, isbn), or the pages of a list
(page, offset, cursor). All others are left: campaigns, sessions, cache busters, times, searches, filters, facets,
coordinates and sizes, with which people see one thing in ever new ways.

Such a page is named by a number made with a key that no other process has, so that a row may keep it: a plain
checksum of a path and one of a thousand ids would give the id away.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import unquote, unquote_plus
from zlib import crc32

from .inputs import MAX_PATH, bounded
from .model import Variant

ITEM, TURN, CURSOR = 1, 2, 3  # a thing of its own, a numbered page of a list, a place in a list or a stream
SIZE = 4  # of the pages of a list
MAX_SHALLOW = 100  # pages of a list of data: people scroll so far, many who look alike together
MAX_QUERY, MAX_PARAMETERS, MAX_NAME, MAX_VALUE, MAX_NUMBER = 8192, 50, 40, 200, 48  # what is looked at
MAX_KEY = 400  # characters
MAX_REMEMBERED = 2048  # paths with a query
MAX_NAMES = 4096  # of parameters, that are remembered
LONGEST_REMEMBERED = 512  # characters of path and query
KIND_AT, ONWARD = 35, 1 << 37  # in hits.path_inputs, above what inputs.py tells: the kind, and what comes in order


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
    ad album article articles artikel artist artnr book case doc document ean entry event film game gtin id image
    img invoice isbn issue item job listing match member movie no node nr object offer photo pic picture player post
    prod product producto produit produkt profile property recipe recno record rezept showthread showtopic showuser sku
    slug song story t team thread title topic u video
    """
)
SIZES = _words("count length limit max maxresults pagelimit pagesize perpage rows size take")
ENDINGS = ("uuid", "guid", "id", "slug", "isbn", "sku")
# Stems that make no item of such an ending: what is new with each request, session, click, or step of a map,
FLEETING = _words(
    """
    ad adgroup aff affiliate browser build c cache call campaign cell cl click client conversation correlation creative
    device dsw ef execution fat flow frame gbra grid gtm hit hs igsh instance jfw jsession mc msclk nonce olyanon olyenc
    partner phpsess placement poll quad r ref referral referrer rel release req request s sc sess session span ss sub
    tile token trace track tracking transaction tx utm vero view visit visitor wbra wicked window
    """
)
# places in a stream, which make a CURSOR of it,
PLACES = _words(
    """
    after before change chunk current end event first from last latest log max message min msg newest next notification
    oldest part prev revision segment seq since start tick top until update version
    """
)
# and what lists are filtered by.
FACETS = _words(
    """
    area attr attribute attributes branch brand cat categoria categorie categories category ciudad city class color
    colour condition country couleur currency department dept district facet farbe feature filter gender genre group
    groesse kategorie lang language layout level locale location make manufacturer marca marke marque material mode
    model month option parent period price rating region rubrik rubrique season section shop size sort stadt state
    status store style subcategory subject tag tags theme type vendor ville warehouse year zone
    """
)
# What is guessed, by how its name ends, and which codes are not.
SECRETS = tuple(
    f"{name}="
    for name in sorted(
        _words(
            """
            access_key accesskey api-key api_key apikey code coupon invitation invite license_key licensekey otp pass
            passwd password pin promo pwd secret token voucher
            """
        )
    )
)
PLAIN = tuple(
    _words("area bar city country currency error geo lang language phone post postal region state status zip")
)
_LETTER = re.compile(r"%(?:[46][1-9A-Fa-f]|[57][0-9Aa])")
_CODES = re.compile(
    r"invit|join|verif|confirm|activ|reset|coupon|voucher|promo|gift|redeem|claim|auth|log[-_]?in|sign[-_]?[iu]|otp|2fa|mfa"
    r"|\bpin\b|codes?\b|token|unlock|device|pair|access|cart|basket|checkout|discount",
    re.IGNORECASE,
)
_ID = re.compile(r"id=\d{1,12}", re.ASCII)  # longer ones are bar codes, or cannot be guessed
MISSING = (403, 404, 410)  # the status of what is not there, or not for who asks
# What apps show beside names, which is often missing; decide.probes excuses the same in paths.
_SHOWN = re.compile(
    r"/(?:avatar|cover|image|img|logo|photo|picture|poster|thumb(?:nail)?)s?(?:\.\w+)?/?\Z", re.IGNORECASE
)
# Where who logs in elsewhere comes back to, with a code that is new each time.
_RETURN = re.compile(r"callback|oidc|/complete/|/authorized?/?\Z", re.IGNORECASE)
_NO_WORD = re.compile(r"[^A-Za-z\d]+")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_ITEM = re.compile(r"(?!0\.\d{6})[\w.~:/+%-]{1,200}", re.ASCII)
_TURN = re.compile(r"0*(?:[2-9]|[1-9]\d{1,6})", re.ASCII)  # the first page is the list itself
_NAME = re.compile(r"[A-Za-z][A-Za-z_/.-]{1,80}")  # of a page: ?page=about
_CURSOR = re.compile(r"0*[1-9]\d{0,8}|(?=[^A-Za-z]*[A-Za-z])(?!\d{4}-\d\d)[\w=+/%.:|-]{6,200}", re.ASCII)
_COUNT = re.compile(r"\d{1,8}", re.ASCII)  # what names of one letter may have: longer ones are times
_DIGIT = re.compile(r"\d")
# What apps read as numbers, too: %37, +7, 7_0, 7.0, 0000000007, digits of other scripts.
_MAY_BE_NUMBER = re.compile(r"[\d_+.%A-Fa-f]+")  # escapes included
_NUMBER = re.compile(r"(\d[\d_]{0,20})(?:\.0{0,9})?")
_DIGITS = re.compile("[0-9]+")
_kinds: dict[str, int] = {}  # by name, see name_kind


class Parameter(NamedTuple):
    """A parameter that tells pages apart. `depth`: which page of a list, 0 where that is not known."""

    kind: int
    name: str
    value: str
    depth: int = 0

    def in_pages(self, size: int) -> Parameter:
        """Return an offset as a page number where it is a multiple of the page size: a place in a stream seldom is."""
        if self.kind != CURSOR or not _COUNT.fullmatch(self.value) or int(self.value) % size:
            return self
        return self._replace(kind=TURN, depth=int(self.value) // size)

    def tells_data(self) -> bool:
        """Tell whether it tells answers with data apart: a text without a digit may be one that is being typed."""
        if self.kind == TURN:
            return (self.depth or int(self.value)) > MAX_SHALLOW
        return self.kind == ITEM and _DIGIT.search(self.value) is not None


class Variants:
    """Tells variants apart by numbers that hold as long as this process and its children run."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[tuple[str, bytes | str, bool | None], Variant | None] = {}

    def page(self, path: str, query: bytes | str, inner: bool) -> Variant | None:
        """Return the variant of a page; None where the path tells it. `inner`: a page of this site linked it.

        Following "next" is reading one list: its pages count only for visitors who come without a link.
        """
        return self._of(path, query, inner)

    def data(self, path: str, query: bytes | str) -> Variant | None:
        """Return the variant of an answer with data; None where the path tells it.

        Left out are places in streams, by which scripts poll, and the first pages of lists, through which they scroll.
        """
        return self._of(path, query, None)

    def failure(self, path: str, query: bytes | str, status: int) -> Variant | None:
        """Return the variant of what failed: another token or code is another guess, and so is another id of what is
        not there, or not for who asks. None where the path tells it.
        """
        told = ""
        if _RETURN.search(path, 0, MAX_PATH) is None:
            told = guessed(query, path, status in MISSING and _SHOWN.search(path, 0, MAX_PATH) is None)
        return Variant(self._number(f"{bounded(path)}?{told}"), "", ITEM) if told else None

    def _of(self, path: str, query: bytes | str, inner: bool | None) -> Variant | None:
        asked = (path, query, inner)
        try:
            return self._known[asked]
        except KeyError:
            found = self._found(bounded(path), parameters(query), inner)
        if len(path) + len(query) <= LONGEST_REMEMBERED:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[asked] = found
        return found

    def _found(self, path: str, told: list[Parameter], inner: bool | None) -> Variant | None:
        if inner is None:
            told = [one for one in told if one.tells_data()]
        elif inner:
            told = [one for one in told if one.kind == ITEM]
        if not told:
            return None
        kinds = {one.kind for one in told}
        text = f"{path}?{'&'.join(sorted(f'{one.name}={one.value}' for one in told))}"
        number = self._number(text)
        kind = TURN if TURN in kinds else CURSOR if CURSOR in kinds else ITEM
        key = sort_key(text) if len(text) <= MAX_KEY else f"{sort_key(text[:MAX_KEY])}#{number:08x}"
        return Variant(number, key, kind)

    def _number(self, text: str) -> int:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4, key=self._key, person=b"q").digest()
        return int.from_bytes(digest, "big")


def parameters(query: bytes | str) -> list[Parameter]:
    """Return the parameters that tell pages apart.

    Looked at are those whose names may do so, or are new here, as far as they are few. What is behind them is told from
    others as a whole: no junk in front of an id hides it.
    """
    text = query[:MAX_QUERY].decode("latin-1") if isinstance(query, bytes) else query[:MAX_QUERY]
    found, size, looked, behind = [], 0, 1, ""
    parts = text.split("&")
    for place, part in enumerate(parts):
        if "=" not in part:
            continue
        name, _, value = part.partition("=")
        kind = _kinds.get(name)
        if kind == 0 or not value or len(name) > 3 * MAX_NAME:
            continue
        if looked == MAX_PARAMETERS:
            behind = "&".join(parts[place:])
            break
        looked += 1
        if kind is None:
            kind = _learn(name)
        if kind == SIZE:
            size = int(value) if _COUNT.fullmatch(value) else 0
        elif kind and (one := _read(kind, name, value)) is not None:
            found.append(one)
    if size > 1:
        found = [one.in_pages(size) for one in found]
    if behind or len(query) > MAX_QUERY:
        further = query[MAX_QUERY:]
        behind += further.decode("latin-1") if isinstance(further, bytes) else further
        found.append(Parameter(ITEM, "", f"{_checksum(behind):010}"))
    return found


def guessed(query: bytes | str, path: str, numbered: bool = False) -> str:
    """Return the parameters by which something is guessed, such as a token or a code, in small letters; "" for none.
    `numbered`: also those that name a thing by a number, as ?order_id=17 does.

    Dozens of names that may be of one, what is behind 8 KB, and a query with an escaped letter, which nobody else
    sends, are told as a whole: neither junk nor escapes hide a guess.
    """
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    looked = text[:MAX_QUERY]
    if "%" in looked and _LETTER.search(looked) is not None:
        return text
    looked, found, most = looked.lower(), [text[MAX_QUERY:]], MAX_PARAMETERS
    takes_codes = "code=" in looked and _CODES.search(path, 0, MAX_PATH) is not None
    for word in (*SECRETS, "id=") if numbered else SECRETS:
        at = looked.find(word)
        while at >= 0:
            most -= 1
            if most < 0:
                return text
            end = looked.find("&", at)
            before = looked[max(looked.rfind("&", 0, at) + 1, at - MAX_NAME) : at]
            value = looked[at:] if end < 0 else looked[at:end]
            if _is_numbered(before, value) if word == "id=" else _is_guessed(before, word, takes_codes):
                found.append(value)
            at = looked.find(word, end) if end >= 0 else -1
    return "".join(found)


def _is_guessed(before: str, word: str, takes_codes: bool) -> bool:
    """Tell whether a name that ends so is that of a secret: not of a form's, nor of what everybody knows.

    A code without another word may be that of a product, but not where people are let in by one, or pay less.
    """
    if "=" in before or "csrf" in before or "xsrf" in before or "captcha" in before:
        return False
    if word in ("pass=", "pin="):
        return not before[-1:].isalpha()
    if word != "code=":
        return True
    return not before.rstrip("_-.").endswith(PLAIN) if before else takes_codes


def _is_numbered(before: str, value: str) -> bool:
    return _ID.fullmatch(value) is not None and (_kinds.get(f"{before}id") or _learn(f"{before}id")) == ITEM


def _learn(name: str) -> int:
    if len(_kinds) >= MAX_NAMES:
        _kinds.clear()
    kind = _kinds[name] = name_kind(name)
    return kind


def _checksum(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))


def _read(kind: int, name: str, value: str) -> Parameter | None:
    is_number = kind == TURN or name.lower() in ("t", "u")
    if len(value) > (MAX_NUMBER if is_number else MAX_VALUE):  # not worth a look, but another one all the same
        return Parameter(CURSOR if kind == CURSOR else ITEM, name.lower(), f"{_checksum(value):010}")
    if len(value) <= MAX_NUMBER and not _COUNT.fullmatch(value) and _MAY_BE_NUMBER.fullmatch(value):
        number = _NUMBER.fullmatch(unquote_plus(value).strip().removeprefix("+").lstrip("0_"))
        value = str(int(number[1].replace("_", ""))) if number is not None else value
    if kind == TURN and not _TURN.fullmatch(value):
        kind = ITEM if _NAME.fullmatch(value) else CURSOR if _DIGITS.sub("", value) else 0
    pattern = _CURSOR if kind == CURSOR else _COUNT if name.lower() in ("t", "u") else _ITEM
    return Parameter(kind, name.lower(), value) if kind and pattern.fullmatch(value) else None


def name_kind(name: str) -> int:
    """Return what a parameter's name says of it: ITEM, TURN, CURSOR, SIZE, or 0; in any case and style of writing."""
    plain = unquote(name) if "%" in name else name
    if plain.endswith("[]") or len(plain) > MAX_NAME:
        return 0
    whole = _NO_WORD.sub("", plain).lower()
    if whole in TURNS or whole in CURSORS:
        return TURN if whole in TURNS else CURSOR
    if whole in ITEMS or whole in SIZES:
        return ITEM if whole in ITEMS else SIZE
    if not whole.endswith(ENDINGS) or whole in ENDINGS:  # ?uuid= alone may be of a request, or of who asks
        return 0
    ending = next(ending for ending in ENDINGS if whole.endswith(ending))
    words = [word.lower() for word in _WORDS.findall(plain)]
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


def packed(variant: Variant) -> int:
    """Return what a row keeps of a variant."""
    return variant.number | variant.kind << KIND_AT | (ONWARD if variant.onward else 0)


def unpacked(path: str, inputs: int) -> Variant | None:
    """Return the variant that a row kept, None where it kept none; `path` as it is stored."""
    kind, number = inputs >> KIND_AT & 3, inputs & 0xFFFF_FFFF
    return Variant(number, f"{sort_key(bounded(path))}?{number:08x}", kind, bool(inputs & ONWARD)) if kind else None
