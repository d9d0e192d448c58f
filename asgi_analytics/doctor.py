"""What `asgi-analytics doctor` looks at: each check says what it found and, where that is wrong, what to do."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import maxminddb

from .errors import AnalyticsError
from .identify.client import ClientAddress, network_of
from .identify.countries import CountryTable
from .identify.geoip import GeoLocator
from .settings import Settings
from .store.reading import Reader, Server, connect

OLDEST = 140000  # server_version_num of PostgreSQL 14
FORWARDING = (b"x-forwarded-for", b"forwarded")
_JOURNAL = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `advice` is set where something is wrong; `note` marks what only deserves a look."""

    subject: str
    text: str
    advice: str | None = None
    note: bool = False

    @property
    def mark(self) -> str:
        """ok, note or WRONG."""
        return "WRONG" if self.advice else "note" if self.note else "ok"


def settings_checks(settings: Settings) -> Iterator[Check]:
    """Say which quotas and which durability hold with these settings."""
    quotas = ", ".join(f"{quota.limit}/{quota.name}" for quota in settings.limits) or "none"
    network = ", ".join(f"{quota.limit}/{quota.name}" for quota in settings.network_limits) or "none"
    yield Check("quota", f"{quotas} per visitor; {network} per client network; mode {settings.mode}")
    yield Check("durability", f'"{settings.durability}": {_DURABILITY[settings.durability]}')


_DURABILITY = {
    "memory": "hits that are not delivered yet are lost when the process dies",
    "journal": "what was answered survives the death of the process, not a power cut",
    "fsync": "what was answered survives a power cut too",
}


def address_checks(settings: Settings, peer: str | None, headers: Sequence[tuple[bytes, bytes]]) -> Iterator[Check]:
    """Say whom a request from this peer with these headers would be counted for, and where that is."""
    networks = tuple(one for one in settings.trusted_proxies if one != "unix")
    proxies = ", ".join(map(str, settings.trusted_proxies)) or "none: headers are not believed"
    yield Check("trusted proxies", proxies)
    if peer is None and not headers:
        yield Check("client address", "the peer's own (try --client ADDRESS --header 'X-Forwarded-For: …')")
        return
    resolver = ClientAddress(networks, "unix" in settings.trusted_proxies)
    scope = {"client": (peer, 0) if peer else None, "headers": list(headers)}
    address = resolver.read(scope, dict(headers))
    yield _address_check(settings, peer, address, any(name in FORWARDING for name, _ in headers))
    if address:
        yield _place_check(settings, address)


def geo_checks(settings: Settings) -> Iterator[Check]:
    """Say which geo data would be used."""
    yield Check("countries", "bundled table (country only); your own file by geoip_city overrides it")
    for option, path in (("geoip_city", settings.geoip_city), ("geoip_asn", settings.geoip_asn)):
        if path is not None:
            yield _geo_file(option, path)


def journal_checks(folder: Path) -> Iterator[Check]:
    """Say whether the journal folder can be used, and what is left in it."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        owner = nearest.stat().st_uid
        if nearest == folder and owner != os.geteuid():
            yield Check("journal", f"{folder} belongs to user {owner}", "choose a folder of your own by journal_dir")
            return
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            yield Check("journal", f"{nearest} is not writable", "make it writable, or choose another by journal_dir")
            return
        yield Check("journal", f"{folder}{'' if nearest == folder else ' (made at the first start)'}")
        found = journals(folder)
    except PermissionError as error:
        yield Check("journal", str(error), "choose a folder of your own by journal_dir or ASGI_ANALYTICS_JOURNAL_DIR")
        return
    alive, dead = [one for one in found if one.alive], [one for one in found if not one.alive]
    if alive:
        yield Check("journal", f"{len(alive)} in use, {sum(one.bytes for one in alive):,} bytes")
    if dead:
        size = sum(one.bytes for one in dead)
        yield Check("journal", f"{len(dead)} left over, {size:,} bytes: delivered by the next start", note=True)


def database_checks(dsn: str) -> Iterator[Check]:
    """Say whether the database answers, is up to date, and lets us write."""
    try:
        with connect(dsn) as reader:
            server = reader.server()
            yield from _server_checks(server)
            yield from _schema_checks(reader, server)
    except AnalyticsError as error:
        yield Check("database", str(error), "check the DSN (--dsn, ASGI_ANALYTICS_DSN, DATABASE_URL) and the server")


def _server_checks(server: Server) -> Iterator[Check]:
    place = f"PostgreSQL {server.version}, database {server.database}, user {server.username}"
    yield Check("database", place, None if server.number >= OLDEST else "use PostgreSQL 14 or later")
    if server.read_only:
        yield Check("database", "it is read-only, such as a replica", "name the primary in the DSN")
    if not server.may_stage:
        yield Check("privileges", "no temporary tables", f"GRANT TEMPORARY ON DATABASE to {server.username}")


def _schema_checks(reader: Reader, server: Server) -> Iterator[Check]:
    if not server.may_use:
        yield Check("privileges", "no USAGE on schema analytics", f"GRANT USAGE, CREATE ON SCHEMA to {server.username}")
        return
    if pending := reader.pending():
        needs = "" if server.may_create else " as a user with CREATE on the database, which this one has not"
        yield Check("schema", f"not applied: {', '.join(pending)}", f"run `asgi-analytics migrate`{needs}")
        return
    yield Check("schema", "up to date")
    if missing := reader.missing_privileges():
        yield Check(
            "privileges", f"missing: {', '.join(missing)}", f"grant them to {server.username}, or use the owner"
        )
    else:
        yield Check("privileges", "all that a writer needs")
    days = [day.isoformat() for day in reader.missing_partitions()]
    if days:
        yield Check("partitions", f"none for {', '.join(days)}: the app, or migrate, makes them", note=True)
    else:
        yield Check("partitions", "made for today and tomorrow")
    if quarantined := reader.totals().quarantined:
        yield Check(
            "quarantine", f"{quarantined:,} rows were set aside: see `asgi-analytics quarantine list`", note=True
        )


def _address_check(settings: Settings, peer: str | None, address: str, forwarded: bool) -> Check:
    if not address:
        return Check("client address", f"none from {peer!r}", "name the server's peer address, such as 10.0.0.5")
    network = f" (counted as one network: {_network(address)})"
    if forwarded and _same(peer, address):
        advice = f"if {peer} is your proxy, add it to trusted_proxies, else all behind it count as one visitor"
        return Check("client address", f"{address}: the forwarding header is not believed", advice)
    private = ipaddress.ip_address(address).is_private
    return Check("client address", address + network + (", a private address" if private and forwarded else ""))


def _same(peer: str | None, address: str) -> bool:
    return peer is not None and network_of(peer) == network_of(address)


def _network(address: str) -> str:
    return address if ":" not in address else str(ipaddress.ip_network(f"{address}/64", strict=False))


def _place_check(settings: Settings, address: str) -> Check:
    place = GeoLocator(settings.geoip_city, settings.geoip_asn, CountryTable.load()).locate(address)
    parts = [str(part) for part in (place.country, place.region, place.city, place.asn, place.organisation) if part]
    return Check("place", ", ".join(parts) or f"nothing is known of {address}")


def _geo_file(option: str, path: Path) -> Check:
    try:
        with maxminddb.open_database(path, maxminddb.MODE_FILE) as database:
            about = database.metadata()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        return Check(option, f"{path}: {error}", "name a MaxMind-format file, or leave the option out")
    return Check(option, f"{path}: {about.database_type}")


@dataclass(frozen=True, slots=True)
class JournalState:
    """One journal on disk: its size, and whether the process that writes it lives."""

    name: str  # 32 hex digits
    bytes: int
    newest: int  # number of the newest segment; 0 when there is none
    newest_bytes: int
    alive: bool


def journals(root: Path) -> list[JournalState]:
    """Return the journals in a folder by name; none where the folder is missing. Raises PermissionError."""
    with contextlib.suppress(FileNotFoundError):
        folders = sorted(path for path in root.iterdir() if _JOURNAL.fullmatch(path.name))
        return [state for folder in folders if (state := _journal_state(folder)) is not None]
    return []


def _journal_state(folder: Path) -> JournalState | None:
    try:
        sizes = {int(file.stem): file.stat().st_size for file in folder.glob("*.journal") if file.stem.isdecimal()}
        alive = _is_held(folder / "lock")
    except FileNotFoundError:
        return None  # delivered and removed while we looked
    newest = max(sizes, default=0)
    return JournalState(folder.name, sum(sizes.values()), newest, sizes.get(newest, 0), alive)


def _is_held(lock: Path) -> bool:
    handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Held for microseconds at most: whoever wants to adopt the journal just then comes back for it.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
