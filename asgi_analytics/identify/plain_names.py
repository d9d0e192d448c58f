"""Names that stand where a word begins, looked up by its first letters.

What a regular expression for each finds, but compiling fifteen hundred takes fifteen times as long, and megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

KEY_LENGTH = 5  # letters
# A pattern that is a name, and maybe a bound of words behind it.
_PLAIN = re.compile(r"([A-Za-z](?:[\w /:;,!@#%&=<>~-]|\\[^\w\s])*)(\\b)?", re.ASCII)
_ESCAPED = re.compile(r"\\(.)")
_BEGINNINGS = re.compile(rf"([A-Za-z]{{1,{KEY_LENGTH}}})[A-Za-z]*")


class PlainNames:
    """Finds the first of some names that an ASCII text has."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """`patterns`: regular expressions; `others` has the places of those that are not looked up here."""
        self.others: list[int] = []
        self._names: dict[str, list[tuple[int, str, bool]]] = {}
        for place, pattern in enumerate(patterns):
            plain = _PLAIN.fullmatch(pattern)
            name = _ESCAPED.sub(r"\1", plain[1]) if plain else ""
            if plain is None or (len(name) < KEY_LENGTH and name.isalpha()):  # words may go on behind it
                self.others.append(place)
            else:
                self._names.setdefault(_BEGINNINGS.findall(name)[0], []).append((place, name, plain[2] is not None))
        self._keys = frozenset(self._names)

    def find(self, text: str) -> tuple[int, str] | None:
        """Return place and name of the one with the lowest place, None where there is none."""
        keys = self._keys.intersection(_BEGINNINGS.findall(text))
        if not keys:
            return None
        found = [name for key in keys for name in self._names[key] if name[1] in text and _stands(text, *name[1:])]
        return min(found)[:2] if found else None


def _stands(text: str, name: str, whole: bool) -> bool:
    """Whether the name begins a word somewhere, and if `whole` ends one there."""
    at = text.find(name)
    while at >= 0:
        end = at + len(name)
        if not text[at - 1 : at].isalpha() and not (whole and _in_word(text[end - 1]) == _in_word(text[end : end + 1])):
            return True
        at = text.find(name, at + 1)
    return False


def _in_word(sign: str) -> bool:
    return sign.isalnum() or sign == "_"
