"""The seams. Most have an implementation at work and one in `asgi_analytics.testing`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .batch import Batch, Refused
from .model import Merged, Place, Ruling

# ASGI 3.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = dict[bytes, bytes]  # lines of a header by name, in lower case; of several with one name, the last


class Clock(Protocol):
    """Tells the time: wall time for rows, monotonic seconds for decisions."""

    def time_ns(self) -> int: ...

    def monotonic(self) -> float: ...


class Locator(Protocol):
    """Finds the place of a client address; never raises, unknown parts are None."""

    def locate(self, address: str) -> Place: ...


@dataclass(frozen=True, slots=True)
class Salt:
    """A secret that fingerprints are keyed with for one period."""

    period: str  # e.g. "2026-11-24"
    key: bytes  # 32 bytes


class SharedState(Protocol):
    """Takes what all workers share back into this worker's view."""

    def learn_salts(self, salts: Sequence[Salt]) -> None: ...

    def merge(self, totals: Sequence[Merged]) -> None: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What a worker reports of one counter, and what it wants to be lent."""

    counter: bytes
    window: float  # seconds
    limit: int
    share: int  # units that each worker may admit unasked
    used: int  # units admitted since the last report
    keep: int  # units lent before that it does not give back
    wanted: int  # units that it would like to hold, `keep` included


class Grant(NamedTuple):
    """What a worker is lent of one counter."""

    counter: bytes
    units: int  # it may admit from now on, in place of all that it was lent before
    left: int  # to all workers together
    wait: float  # seconds until a unit is free; 0.0 when one is


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The answer to an exchange."""

    workers: int  # that live, this one too
    revision: int  # of the newest change in `scarce`
    scarce: Mapping[bytes, int]  # counter → stage (1, 2) at which less or nothing may be admitted unasked, if changed
    grants: Sequence[Grant]


class SharedQuotas(Protocol):
    """Lends units of quotas to workers, so that all together keep to the limit. Raises SharedUnavailable."""

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        """Take in what a worker used, and lend: at once, or not at all.

        `revision`: up to where the worker has heeded `scarce`.
        """
        ...

    def leave(self, worker: bytes) -> None:
        """Forget a worker; it has given back what it was lent."""
        ...

    def close(self) -> None: ...

    def interrupt(self) -> None:
        """Unblock the thread that waits for an answer; callable from another thread."""
        ...

    def abandon(self) -> None:
        """In a forked child: drop the parent's connection without a message to the server."""
        ...


class StrictAnswer(NamedTuple):
    """What StrictQuotas answers to one request: the visitor's quotas first, then the network's."""

    passes: bool  # one unit of each quota was taken
    left: Sequence[int]  # units, before that
    waits: Sequence[float]  # seconds until a unit is free


class StrictQuotas(Protocol):
    """Counts each request of all workers in one place, before the app runs. None when no answer comes in time."""

    failures: int  # requests without an answer in time

    async def take(self, quotas: Sequence[tuple[bytes, Sequence[tuple[float, int]]]]) -> StrictAnswer | None:
        """Take one unit of each quota or none: actors by their keys, with seconds and limit of each quota."""
        ...

    async def close(self) -> None:
        """Close what is open for this event loop; the next question opens it again."""
        ...


class SharedRulings(Protocol):
    """Takes rulings into this worker's view; each call brings what changed. `now` in monotonic seconds."""

    def learn_rulings(self, rulings: Sequence[Ruling], now: float) -> None: ...


class Store(Protocol):
    """Where batches go, exactly once. Raises StoreUnavailable, StoreMisconfigured and RowRejected."""

    migrating: bool  # while connecting: may take any time

    def connect(self) -> None: ...

    def server(self) -> str: ...

    def make_partitions(self) -> None: ...

    def exchange_salts(self, known: Sequence[Salt], periods: Sequence[str]) -> list[Salt]: ...

    def position(self, journal: bytes, end: tuple[int, int] | None = None, own: bool = False) -> tuple[int, int]:
        """Return up to where a journal is committed; registers a new one. It is never after the journal's `end`."""
        ...

    def write(self, batch: Batch) -> list[Merged]: ...

    def refuses(self, batch: Batch, others: Batch | None = None) -> bool:
        """Tell whether a batch of one row is refused where others get in. Raises StoreMisconfigured where none do."""
        ...

    def refused_hits(self, batch: Batch) -> Mapping[int, Refused]:
        """Return which hits of a batch are refused for what they are, by index; none where there is more to it."""
        ...

    def slow_row(self, batch: Batch) -> int | None:
        """Return the index of the one row that makes a batch too slow, None where it is not one row."""
        ...

    def quarantine(self, batch: Batch, error: str, sqlstate: str | None) -> None: ...

    def rulings(self, since: int) -> list[Ruling]:
        """Return what changed after revision `since`; times in seconds from now on."""
        ...

    def tidy(self) -> bool:
        """Clear away a part of what is old; tells whether there is more for the next call."""
        ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Resolver(Protocol):
    """Asks the name server; may wait for seconds. Raises ResolverError where there is no answer."""

    def names(self, address: str) -> Sequence[str]:
        """Return the names of an address, none where it has none."""
        ...

    def addresses(self, name: str) -> Sequence[str]:
        """Return the addresses of a name, none where it has none."""
        ...


class Fetch(Protocol):
    """Gets a document named by a stranger. Raises DataFileError."""

    def __call__(self, url: str) -> Fetched: ...


class Fetched(NamedTuple):
    """A document and for how many seconds it may be kept, None where the server does not say."""

    data: bytes
    max_age: float | None
