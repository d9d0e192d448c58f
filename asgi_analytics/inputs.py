"""What verdicts read of a hit that its other columns do not tell, packed into numbers: so that it can be judged again.

`inputs` holds one bit per fact. `numbers` holds two masked numbers, the agent's in its low 32 bits and above it that of
refused credentials, or of one of several logins; `path_inputs`, only where the stored path is not the
one that was asked for, its masked number in the low 32 bits and what `decide.probes.kind_of` says of it above; where
the query made another page of it, or another guess, what `variants.packed` says instead.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from zlib import crc32

from .facts import Claims

# Bits of `inputs`. Some have several meanings, by what a row is of: a page, data, an error, a redirect or a websocket.
DATA = 1  # answered with data, such as JSON
UNABLE = 1  # a websocket: the app did not take it, for a reason of its own
BETWEEN = 1  # a page: somebody else had come since the one that linked it was loaded, see behaviour.comes_between
FORM = 1  # something sent: a form that no page sent, answered by a page, or failed at
FORGIVEN = 2  # a pardon, an allowance or a verified claim reset level and evidence
READ = 4  # what the request claims was read, into the bits from IS_BROWSER on
TRIED = 8  # credentials were refused
IS_BROWSER, TELLS_ORIGIN, IS_HOSTED, FALSE_CLAIM = 16, 32, 64, 128
FAULT = 256  # and the three bits above: one per line of FAULTS
QUERIED = 4096  # a page: asked for with a query
PREFETCHED = 4096  # data: prefetched by a browser, a script or a service worker, or a tile of a map
KNOWN = 4096  # something sent and accepted: by one of several logins
INJECTED = 4096  # an error: asked for with a query or a header that scanners try
LED_ON = 4096  # a redirect: of somebody who asked for a page; what counts is the answer where it leads
IS_LED = 8192  # a page: a link of another site led to it; noted where it is judged in full
TRUSTED = 8192  # data, or an error: answered to credentials that were not refused
TYPED = 8192  # an error, with TRIED: what was refused has grown, as what somebody types in an app that checks each key
REDIRECTED = 16384  # a page: the app's answer to a form led to it; else: a redirect that stands for an error
BORROWED = -32768  # of 16 bits, the sign: judged with those who look alike, as the cookie has not come back yet
# How the texts of identify.consistency.header_faults begin, and what is told of each that was read back.
FAULTS: tuple[tuple[str | tuple[str, ...], str], ...] = (
    ("no Sec-Fetch-Site", "no Sec-Fetch-Site"),
    ("Sec-CH-UA,", "Sec-CH-UA, which that browser does not send"),
    ("Sec-CH-UA of", "Sec-CH-UA of another release"),
    (("no Accept-Language", "asked for neither"), "no Accept-Language, or asked for neither as a page nor from one"),
)
LOW_32_BITS = 0xFFFF_FFFF
BY_LENGTH = 1  # in the number of credentials: told by the length of what a script sent
BY_PAGE = 1 << 30  # and, beside it: whatever the script of a page sent, to where it sends by itself
MAX_PATH = 256  # characters of a path that are looked at one by one
AGENT_BITS, PATH_BITS = 8, 10  # low bits of a number that a mask keeps: the places in bitmaps
# A name made of the content, whole or with a slash after two digits as Git writes it.
_DIGEST = re.compile(
    r"/(?:[\da-f]{2}/(?=[\da-f]{38}))?(?:sha\d+:)?(?:[\da-f]{32,128}|[\da-z]{32})(?:\.\w{1,12})?\Z", re.ASCII
)
_LONGEST_DIGEST = 160  # characters
_GTIN = re.compile(r"/(\d{12,14})\Z", re.ASCII)


def bounded(path: str) -> str:
    """Return a path as verdicts tell it from others: its first MAX_PATH characters, and a checksum if it is longer.

    File servers read "/./././page" as "/page": long paths may differ in their ends only.
    """
    if len(path) <= MAX_PATH:
        return path
    return f"{path[:MAX_PATH]}#{crc32(path.encode('utf-8', 'surrogatepass')):08x}"


def path_number(path: str) -> int:
    """Return 32 bits of a path, for any text, lone surrogates too: its crc32, mixed.

    The low bits of a bare crc32 take few values for paths that count up (/users/1/orders, /users/2/orders).
    """
    number = crc32(path.encode("utf-8", "surrogatepass"))
    number = (number ^ number >> 15) * 0x2C1B_3C6D & LOW_32_BITS
    return number ^ number >> 13


def is_digest(path: str) -> bool:
    """Tell whether a path ends with what nobody can guess: the digest by which a store, a cache or Git names things."""
    found = _DIGEST.search(path, max(0, len(path) - _LONGEST_DIGEST))
    return found is not None and any(map(str.isdigit, found[0]))


def is_unguessed(path: str) -> bool:
    """Tell whether a path ends with what nobody guesses: a digest, or the number below a bar code (GTIN).

    The phone of somebody who takes stock asks for these. Their last digit is a check digit, which one in ten numbers
    fits.
    """
    found = _GTIN.search(path, max(0, len(path) - 15))
    if found is None:
        return is_digest(path)
    return not sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(reversed(found[1]))) % 10


def bits_of(claims: Claims) -> int:
    """Return the bits that `claims_of` reads."""
    bits = READ
    if claims.is_browser:
        bits |= IS_BROWSER
    if claims.tells_origin:
        bits |= TELLS_ORIGIN
    if claims.is_hosted:
        bits |= IS_HOSTED
    if claims.false_claim:
        bits |= FALSE_CLAIM
    for fault in claims.faults:
        bits |= next((FAULT << place for place, (start, _) in enumerate(FAULTS) if fault.startswith(start)), 0)
    return bits


def claims_of(inputs: int | None, numbers: int | None, network: bytes) -> Claims | None:
    """Return what was read of a hit's claims; None where nothing was. `network` as in Identity."""
    if inputs is None or not inputs & READ:
        return None
    return Claims(
        tuple(text for place, (_, text) in enumerate(FAULTS) if inputs & FAULT << place),
        bool(inputs & IS_BROWSER),
        bool(inputs & TELLS_ORIGIN),
        bool(inputs & IS_HOSTED),
        bool(inputs & FALSE_CLAIM),
        (numbers or 0) & LOW_32_BITS,
        crc32(network),
    )


def attempt_of(inputs: int, numbers: int | None) -> int | None:
    """Return the number of the credentials that were refused; None where none were, 0: taken for others each time."""
    return (numbers or 0) >> 32 if inputs & TRIED else None


def login_of(inputs: int, numbers: int | None) -> int:
    """Return the number of the login that asked for data, or sent what was accepted; 0 where there was none, or nobody
    else's was known.
    """
    return (numbers or 0) >> 32 if inputs & (DATA | KNOWN) else 0


class Mask:
    """Replaces numbers by others: equal ones by equal ones, as long as this process runs."""

    def __init__(self, key: bytes) -> None:
        # The key is kept nowhere else and dies with the process. A checksum of a password would tell right guesses from
        # wrong ones; what is stored tells only whether two tries in one run were alike.
        self._key = key

    def numbers(self, claims: Claims | None, attempt: int | None, login: int = 0) -> int | None:
        """Return both numbers as one; None where neither is needed. The agent's matters with faults only."""
        agent = self._masked(b"a", claims.agent, AGENT_BITS) if claims is not None and claims.faults else 0
        above = self._tried(attempt) if attempt else 0
        if login:
            above = self._masked(b"l", login, 0) >> 1 or 1
        return above << 32 | agent or None

    def _tried(self, attempt: int) -> int:
        return self._masked(b"t", attempt, BY_LENGTH) & LOW_32_BITS >> 2 | attempt & BY_PAGE or 2

    def path(self, path: str) -> int:
        """Return the masked number of a path."""
        return self._masked(b"p", path_number(bounded(path)), PATH_BITS)

    def _masked(self, kind: bytes, number: int, kept: int) -> int:
        digest = blake2b(number.to_bytes(8, "big"), digest_size=4, key=self._key, person=kind).digest()
        low = (1 << kept) - 1
        return int.from_bytes(digest, "big") & ~low | number & low
