"""How several commands print JSON, times, folders and journals."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from ..columns import escape
from ..record.listing import JournalState


def as_json(value: object) -> str:
    """Return indented JSON; times, ids and bytes as text. What could act on a terminal is escaped as JSON escapes."""
    text = json.dumps(value, indent=2, default=plain, ensure_ascii=False)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def moment(time: datetime | None) -> str:
    """Return a time to the second, in UTC; "-" for None."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else "-"


def place(folder: Path) -> str:
    """Return the folder that was searched, so that a slip in its name is seen."""
    return f"in {escape(str(folder))}{'' if folder.exists() else ', which is not there'}"


def stray(journal: JournalState) -> tuple[str, str, str, str]:
    """Return the cells that tell of a journal for another database."""
    since = moment(datetime.fromtimestamp(journal.written, UTC))
    address = escape(journal.destination.address) or "a database that is not named"
    return (journal.name[:8], f"{journal.bytes:,} bytes", f"since {since}", f"for {address}")


def plain(value: object) -> object:
    """Return what JSON has instead of a value of another type: times, ids and bytes are texts."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
