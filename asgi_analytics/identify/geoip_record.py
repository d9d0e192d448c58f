"""What a record of a MaxMind DB file says of a place, in either of the two layouts that there are.

MaxMind's is nested; that of ip-location-db and others is flat.
"""

from __future__ import annotations

from typing import Any

from ..model import Place

NAME_LENGTH = 100  # characters
NOWHERE = Place()


def place_of(record: object) -> Place:
    """Return the place of a record; NOWHERE for what is none."""
    if not isinstance(record, dict):
        return NOWHERE
    return Place(country_of(record), region_of(record), city_of(record), *system_of(record))


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
