"""One line of an access log, as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Entry(NamedTuple):  # made for every line: a frozen dataclass costs three times as much
    """What a line tells. Texts are "" where it tells nothing; they are what visitors sent, lone surrogates included."""

    time: float  # seconds since 1970
    address: str  # of the peer: an IP address, or the host name that the server looked up
    method: str  # "" for a request that was none, which no app gets to see
    target: str  # with query, percent-encoded as it was sent
    status: int
    referer: str = ""
    agent: str = ""
    host: str = ""  # that the request was for
    forwarded: str = ""  # X-Forwarded-For
    content_type: str = ""  # of the answer


class Format(Protocol):
    """Reads whole lines of one kind of log."""

    name: str

    def read(self, text: str) -> tuple[list[Entry], list[str]]:
        """Return the entries of a text of whole lines, and the lines that are none. Never raises for any text."""
        ...


Batch = Sequence[Entry]
