"""What the commands about actors read and write: one connection, one transaction for each ruling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from ..reputation import ReputationRules
from .command_session import CommandQueries, command_errors, opened
from .connection import ServerSession

PARDON_LENGTH = timedelta(days=1)  # in force for so long, for workers that start later


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a ruling is on: a visitor, or a network of `prefix` bits."""

    shown: str  # as the operator gave it; may be an address, which is never stored
    stored: str  # as it stands in the tables
    fingerprint: UUID | None = None
    size: int | None = None  # 4 or 8: bytes of a client network of this family
    prefix: int | None = None
    network: bytes | None = None  # its bits in clear, or their digest under `key`
    key: bytes | None = None
    also: Sequence[bytes] = ()  # how rulings in force may have stored the same network, under other keys
    packed: bytes | None = None  # the network in clear, which goes into no table


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A ruling in force on a network: its bits in clear, or their digest under `key`."""

    id: UUID
    size: int
    prefix: int
    network: bytes
    key: bytes | None
    until: datetime | None

    @property
    def hashed(self) -> bool:
        """Tell whether the network is a digest."""
        return self.key is not None


@dataclass(frozen=True, slots=True)
class Reach:
    """What a pardon of a network has to touch, besides what workers have in memory."""

    client_networks: Sequence[UUID] = ()  # keyed hashes of those that the tables have
    rulings: Sequence[UUID] = ()  # bans on it, and on parts of it
    around: Sequence[StandingRow] = ()  # bans on wider networks, which stay in force
    parts: int = 0  # shortest prefix whose client networks are few enough to look for; 0: all were


@dataclass(frozen=True, slots=True)
class Made:
    """A ruling that was made; `until` is None for an allowance without an end."""

    id: UUID
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Pardoned:
    """What a pardon changed."""

    case: UUID
    visitors: int
    incidents: int
    bans: int


@dataclass(frozen=True, slots=True)
class ActorRow:
    """A visitor as `actors` shows it; reputations and level as of now, incidents of the last seven days."""

    fingerprint: UUID
    site: str
    network: UUID | None
    reputation: float
    network_reputation: float | None
    level: int
    level_changed_at: datetime | None
    score: int
    incidents: int
    kinds: Sequence[str]
    last_incident_at: datetime | None
    sessions: int
    hits: int
    refusals: int
    first_seen_at: datetime
    last_seen_at: datetime
    banned_until: datetime | None


@dataclass(frozen=True, slots=True)
class RulingRow:
    """A ruling in force."""

    id: UUID
    kind: str
    fingerprint: UUID | None
    size: int | None
    prefix: int | None
    network: bytes | None
    hashed: bool
    reason: str
    made_by: str
    made_at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A client network with incidents under its hash of the day; its reputation as of now."""

    network: UUID
    site: str
    reputation: float
    incidents: int
    first_incident_at: datetime
    last_incident_at: datetime


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A labelled case: what was known when it was decided."""

    id: UUID
    labelled_at: datetime
    label: str
    site: str | None
    target: str
    fingerprint: UUID | None
    reason: str
    labelled_by: str
    level: int | None
    score: int | None
    reputation: float | None
    decision_id: UUID | None
    decided_at: datetime | None
    detail: Mapping[str, Any] | None
    incidents: Sequence[Mapping[str, Any]]
    bans: Sequence[Mapping[str, Any]]


class Registry(CommandQueries):
    """Rulings, actors and cases over one session. Raises StoreUnavailable, StoreMisconfigured."""

    def __init__(self, session: ServerSession) -> None:
        super().__init__(session, "rulings")

    def find_visitors(self, prefix: str) -> list[UUID]:
        """Return at most two of the visitors whose fingerprint begins with these hex digits."""
        ends = {"first": UUID(prefix.ljust(32, "0")), "last": UUID(prefix.ljust(32, "f"))}
        return [found for (found,) in self._all("find_visitors", ends)]

    def sites(self) -> list[str]:
        """Return the names of the sites that have visitors."""
        return [site for (site,) in self._all("sites")]

    def salts(self) -> list[bytes]:
        """Return the salts that fingerprints may be keyed with now."""
        return [bytes(key) for (key,) in self._all("salts")]

    def standing_keys(self) -> list[bytes]:
        """Return the keys that the networks of rulings in force are digested with."""
        return [bytes(key) for (key,) in self._all("standing_keys")]

    def key_to_share(self, kind: str) -> bytes | None:
        """Return a key that a further ruling of this kind may use, None when it needs a new one."""
        return next((bytes(key) for (key,) in self._all("key_to_share", {"kind": kind})), None)

    def known_networks(self) -> set[bytes]:
        """Return the keyed hashes of client networks that the tables have since the oldest salt was made."""
        return {found.bytes for (found,) in self._all("known_networks")}

    def standing_networks(self, kind: str) -> list[StandingRow]:
        """Return the rulings of a kind in force on networks."""
        return self._rows(StandingRow, "standing_networks", {"kind": kind})

    def rule(self, kind: str, target: Target, length: timedelta | None, reason: str, made_by: str) -> Made:
        """Make a ban or an allowance; one of the same kind in force on this target is replaced."""
        with command_errors(), self._session.transaction():
            self._lift(target, kind)
            return Made(*self._make(kind, target, length, reason, made_by))

    def lift(self, target: Target, kind: str) -> int:
        """Lift what is in force on this target and return how many rulings that were."""
        with command_errors():
            return len(self._lift(target, kind))

    def pardon(self, target: Target, reach: Reach, reason: str, made_by: str) -> Pardoned:
        """Lift bans, forgive incidents, reset level and reputation, keep the case. One transaction."""
        parameters: dict[str, Any] = {
            "fingerprint": target.fingerprint,
            "client_networks": list(reach.client_networks),
            "target": target.stored,
            "reason": reason,
            "made_by": made_by,
            "network_share": ReputationRules().network_share,
        }
        parameters["decision"] = self._decision_of(parameters)
        with command_errors(), self._session.transaction():
            concerned = [found for (found,) in self._all("concerned", parameters)]
            parameters["concerned"] = concerned
            self._run("lock_networks", parameters)  # before the lock that rulings are numbered under, as transfers do
            lifted = self._lift(target, "ban", concerned, reach.rulings)
            parameters["bans"] = Jsonb([{"reason": why, "made_by": who, "made_at": f"{at}"} for why, who, at in lifted])
            case = self._one("keep_case", parameters)[0]
            incidents = self._one("forgive_incidents", parameters)[0]
            self._run("reset_visitors", parameters)
            self._run("reset_networks", parameters)
            self._make("pardon", target, PARDON_LENGTH, reason, made_by)
        return Pardoned(case, len(concerned), incidents, len(lifted))

    def _decision_of(self, parameters: Mapping[str, Any]) -> UUID | None:
        """Return the last decision by which a level rose, else the last one; of many, those of today are soon read."""
        found: list[tuple[UUID, bool]] = []
        for days in (1, 30):
            found = self._all("case_decision", {**parameters, "days": days})
            if found and found[0][1]:
                break
        return found[0][0] if found else None

    def actors(self, most: int, *, flagged: bool = False) -> list[ActorRow]:
        """Return visitors with incidents or above Normal, the worst reputation first."""
        return self._rows(ActorRow, "actors", {"flagged": flagged, "most": most})

    def standing(self, kind: str, most: int) -> list[RulingRow]:
        """Return the rulings of a kind in force, the newest first."""
        return self._rows(RulingRow, "standing", {"kind": kind, "most": most})

    def networks(self, most: int) -> list[NetworkRow]:
        """Return client networks with incidents, the worst reputation first."""
        return self._rows(NetworkRow, "networks", {"most": most})

    def cases(self, most: int) -> list[CaseRow]:
        """Return labelled cases, the newest first."""
        return self._rows(CaseRow, "cases", {"most": most})

    def _lift(
        self, target: Target, kind: str, visitors: Sequence[UUID] = (), rulings: Sequence[UUID] = ()
    ) -> list[tuple[Any, ...]]:
        """Lift what was ruled on a target, on the visitors that came from it, and these rulings."""
        names = [one for one in (target.network, *target.also) if one is not None]
        named = [*visitors, *([target.fingerprint] if target.fingerprint else [])]
        parameters = {"kind": kind, "fingerprints": named, "networks": names, "ids": list(rulings)}
        return self._all("lift_rulings", {**parameters, "size": target.size, "prefix": target.prefix})

    def _make(
        self, kind: str, target: Target, length: timedelta | None, reason: str, made_by: str
    ) -> tuple[UUID, datetime | None]:
        values = {name: getattr(target, name) for name in ("fingerprint", "size", "prefix", "network", "key")}
        made = self._one(
            "make_ruling", {**values, "kind": kind, "length": length, "reason": reason, "made_by": made_by}
        )
        return made[0], made[1]

    def _one(self, query: str, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        (row,) = self._all(query, parameters)
        return row

    def _run(self, query: str, parameters: Mapping[str, Any]) -> None:
        with self._session.statement() as connection:
            connection.execute(self._queries[query], parameters)


@contextlib.contextmanager
def connect(dsn: str) -> Iterator[Registry]:
    """Open a connection for rulings. Raises StoreUnavailable, StoreMisconfigured."""
    with opened(dsn) as session:
        yield Registry(session)
