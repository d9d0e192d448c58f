"""International bank account numbers (ISO 13616): told by country, form and check digits, hardly ever by chance."""

from __future__ import annotations

import re
from functools import cache
from string import ascii_letters

# SWIFT's registry, release 101: of what an account is made after the check digits (n: digits, a: letters, c: either).
_REGISTRY = """
10n11c2n FR MC / 11n NO / 12n BE / 14n DK FI FO GL SD / 14n15c RU / 15n SI / 16n AT BA EE LT MN XK / 17n HR
18n CR DE ME RS VA / 19n AE IL SO TL / 1a10n12c IT SM / 20c MD / 20n CZ ES SE SK TN / 21n LY PT ST / 22n IS
23n BI DJ MR / 23n1a1c BR / 24c GT / 24n HU PL / 25n EG / 2a12n FK / 2a16n GE / 2n18c SA / 3n10c2n MK / 3n13c KZ LU
3n16c OM / 4a10n NL / 4a13c LV / 4a14c BH / 4a14n GB IE / 4a15c GI / 4a15n IQ / 4a16c PK RO / 4a16n VG / 4a19n3a MU
4a20c AZ / 4a20n HN NI SV / 4a20n3a SC / 4a21c PS QA / 4a22c KW / 4a24c LC / 4a4n18c JO YE / 4a5n18c MT / 4a6n8c BG
4c20n DO / 4c4n16c BY / 4n20c LB / 5n12c CH LI / 6n16c TR / 6n19c UA / 7n16c GR / 8n12c AD / 8n16c AL CY
"""
_FORMS = {
    country: form
    for line in re.split("[/\n]", _REGISTRY)
    for form, *countries in ([line.split()] if line.strip() else [])
    for country in countries
}
_CLASSES = {"n": r"\d", "a": "[A-Z]", "c": r"[A-Z\d]"}
# The head of a number, found by its digits: they are found twice as fast as letters.
HEAD = re.compile(r"\d\d(?<=(?<![A-Za-z\d])[A-Za-z]{2}\d\d)(?=[ +-]?[A-Za-z\d]{4})", re.ASCII)
_SEPARATORS = str.maketrans("", "", " +-")
_DIGITS_ONLY = str.maketrans("", "", ascii_letters)
_NUMBERS = {ord(letter): str(int(letter, 36)) for letter in ascii_letters}


def hide_accounts(text: str) -> str:
    """Return a text with "…" in place of account numbers, bare or in groups of four."""
    kept, at = "", 0
    for head in HEAD.finditer(text):
        start = head.start() - 2
        if start < at or (country := text[start : head.start()].upper()) not in _FORMS:
            continue
        found = _pattern(country).match(text, start)
        if found is not None and _is_valid(found[0].translate(_SEPARATORS)):
            kept, at = f"{kept}{text[at:start]}…", found.end()
    return kept + text[at:] if at else text


@cache
def _pattern(country: str) -> re.Pattern[str]:
    """Return what accounts of a country look like."""
    told = "2a2n" + _FORMS[country]
    places = [_CLASSES[kind] for count, kind in re.findall(r"(\d+)([nac])", told) for _ in range(int(count))]
    groups = ["".join(places[start : start + 4]) for start in range(0, len(places), 4)]
    return re.compile("[ +-]?".join(groups) + r"(?![A-Za-z\d])", re.ASCII | re.IGNORECASE)


def _is_valid(account: str) -> bool:
    """Tell whether the check digits are those of the rest (ISO 7064, MOD 97-10); a title of words has few digits."""
    if not "02" <= account[2:4] <= "98" or 2 * len(account.translate(_DIGITS_ONLY)) < len(account):
        return False
    return int((account[4:] + account[:4]).translate(_NUMBERS)) % 97 == 1
