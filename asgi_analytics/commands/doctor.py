"""What `asgi-analytics doctor` looks at: each check says what it found and, where that is wrong, what to do."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import maxminddb

from ..columns import counted
from ..errors import AnalyticsError, JournalFormatError, StoreMisconfigured
from ..folders import foreign_part
from ..identify.client import ClientAddress, network_of
from ..identify.countries import CountryTable
from ..identify.geoip import GeoLocator
from ..identify.operators import SOURCES
from ..jobs.data import FRESH, default_crawler_dir, held
from ..record.destination import Destination, read_destination
from ..record.listing import JournalState, journals
from ..record.segment import read_header
from ..settings import Settings
from ..shared import server_of
from ..store.connection import ENCODINGS, UTF8
from ..store.health import PATIENCE, HealthReader, Server, advice_on, examine
from ..threads import within

OLDEST = 140000  # server_version_num of PostgreSQL 14
FORWARDING = (b"x-forwarded-for", b"forwarded")
CLOCKS_APART = 30.0  # seconds
SAMPLES = ("8.8.8.8", "2001:4860:4860::8888")  # looked up: the metadata may be whole where the data is not
LEAST_ROOM = 64 << 20  # bytes
FILE_PATIENCE = 5.0  # seconds
ELSEWHERE = "no worker with this DSN delivers them; where it is this database under another name: asgi-analytics adopt"


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


def patiently(subject: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield checks that read files; if a mount hangs, the last one says so."""
    while True:
        try:
            check = within(FILE_PATIENCE, lambda: next(checks, None))
        except TimeoutError:
            text = f"no answer within {FILE_PATIENCE:g} s from the disk or the mount"
            yield Check(subject, text, "mend the mount, or name files and folders on a local disk")
            return
        if check is None:
            return
        yield check


def settings_checks(settings: Settings) -> Iterator[Check]:
    """Say which quotas and which durability hold with these settings."""
    quotas = ", ".join(f"{quota.limit}/{quota.name}" for quota in settings.limits) or "none"
    network = ", ".join(f"{one.limit}/{one.name.removeprefix('network-')}" for one in settings.network_limits) or "none"
    yield Check("quota", f"{quotas} per visitor; {network} per client network; mode {settings.mode}")
    yield Check("durability", f'"{settings.durability}": {_DURABILITY[settings.durability]}')


_DURABILITY = {
    "memory": "hits that are not delivered yet are lost when the process dies",
    "journal": "what was answered survives the death of the process, not a power cut",
    "fsync": "what was answered survives a power cut too",
}


def shared_checks(settings: Settings) -> Iterator[Check]:
    """Say whether the server answers that quotas are shared through, where that is not Postgres."""
    if settings.shared is None:
        return
    try:
        yield Check("shared quotas", f"through {server_of(settings.shared, asked=True)}, which answers")
    except AnalyticsError as error:
        advice = "mend shared or ASGI_ANALYTICS_SHARED: meanwhile each worker keeps to its part of each quota"
        yield Check("shared quotas", str(error), advice)


def address_checks(settings: Settings, peer: str | None, headers: Sequence[tuple[bytes, bytes]]) -> Iterator[Check]:
    """Say whom a request from this peer with these headers would be counted for, and where that is."""
    trusted = settings.trusted_proxies
    anybody = any(one != "forwarded" for one in trusted)  # that word alone names nobody
    yield Check("trusted proxies", ", ".join(map(str, trusted)) if anybody else "none: headers are not believed")
    if peer is None and not headers:
        yield Check("client address", "the peer's own (try --client ADDRESS --header 'X-Forwarded-For: …')")
        return
    resolver = ClientAddress.of(settings.trusted_proxies)
    scope = {"client": (peer, 0) if peer else None, "headers": list(headers)}
    address = resolver.read(scope, dict(headers))
    yield _address_check(peer, address, any(name in FORWARDING for name, _ in headers))
    if address:
        yield _place_check(settings, address)


def geo_checks(settings: Settings) -> Iterator[Check]:
    """Say which geo data would be used."""
    yield Check("countries", "bundled table (country only); your own file by geoip_city overrides it")
    for option, path in (("geoip_city", settings.geoip_city), ("geoip_asn", settings.geoip_asn)):
        if path is not None:
            yield _geo_file(option, path)


def crawler_checks(settings: Settings, now: float) -> Iterator[Check]:
    """Say which published address ranges crawlers are verified by; `now` in wall seconds."""
    if not settings.verify_crawlers:
        return
    folder = settings.crawler_dir or default_crawler_dir()
    found, wrong = held(folder)
    for name, text in wrong.items():
        yield Check("crawlers", f"{name}: {text}", "get it anew by `asgi-analytics data update`")
    old = sorted(name for name, one in found.items() if now - one.fetched_at > FRESH)
    if lacking := sorted(SOURCES.keys() - found.keys() - wrong.keys()):
        whose = f" of {', '.join(lacking)}" if found or wrong else ""
        text = f"no address ranges{whose} in {folder}: `asgi-analytics data update` gets them"
        yield Check("crawlers", text, note=True)
    if old:
        text = f"older than {FRESH / 86_400:.0f} days: {', '.join(old)}; such a file refutes no claim any more"
        yield Check("crawlers", text, "run `asgi-analytics data update` daily")
    if len(found) > len(old):
        yield Check("crawlers", f"{counted(len(found) - len(old), 'file')} of address ranges in {folder}")


def journal_checks(folder: Path, destination: Destination | None = None, limit: int | None = None) -> Iterator[Check]:
    """Say whether the journal folder can be used, and what is left in it, for `destination` where that is known.

    `limit`: the most bytes of a worker's journal.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        strange = folder if nearest == folder and nearest.stat().st_uid != os.geteuid() else foreign_part(nearest)
        if strange is not None:
            owner = strange.lstat().st_uid
            advice = "run this as the user that the app runs as, or choose a folder of your own by journal_dir"
            yield Check("journal", f"{strange} belongs to user {owner}", advice)
            return
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            yield Check("journal", f"{nearest} is not writable", "make it writable, or choose another by journal_dir")
            return
        yield Check("journal", f"{folder}{'' if nearest == folder else ' (made at the first start)'}")
        found = journals(folder)
        yield from _folder_checks(nearest, folder)
    except PermissionError as error:
        yield Check("journal", str(error), "choose a folder of your own by journal_dir or ASGI_ANALYTICS_JOURNAL_DIR")
        return
    except OSError as error:
        yield Check("journal", str(error), "mend the disk or the mount, or choose another folder by journal_dir")
        return
    alive = [one for one in found if one.alive]
    dead = [one for one in found if not one.alive and (destination is None or one.destination.key == destination.key)]
    if alive:
        yield Check("journal", f"{len(alive)} in use, {sum(one.bytes for one in alive):,} bytes")
    if limit is not None and (full := [one for one in alive if one.bytes > limit]):
        text = f"{len(full)} in use hold more than journal_limit ({limit:,} bytes): new hits are dropped"
        advice = "mend what keeps the database from taking them; where the app has another limit: --journal-limit"
        yield Check("journal", text, advice)
    if dead:
        size = sum(one.bytes for one in dead)
        text = f"{len(dead)} left over, {size:,} bytes: the next start of an app with their database delivers them"
        yield Check("journal", text, note=True)


def _folder_checks(nearest: Path, folder: Path) -> Iterator[Check]:
    """Say what ails the disk, and what lies in the folder that nobody will deliver."""
    disk = os.statvfs(nearest)
    if (room := disk.f_bavail * disk.f_frsize) < LEAST_ROOM or (disk.f_files and not disk.f_favail):
        text = f"the disk of {nearest} is full, or nearly: {room:,} bytes, {disk.f_favail:,} files are left"
        yield Check(
            "journal",
            text,
            "free space, or choose another disk by journal_dir: hits that it has no room for wait in memory",
        )
    destinations = [read_destination(path) for path in folder.iterdir()] if nearest == folder else []
    databases = {destination.key for destination in destinations if destination is not None}
    if len(databases) > 1:
        yield Check("journal", f"shared by apps of {len(databases)} databases: each delivers its own", note=True)
    aside = sorted(folder.glob("*.unreadable")) if nearest == folder else []
    if aside:
        size = sum(path.stat().st_size for path in aside)
        text = f"of another version, set aside: {counted(len(aside), 'segment')}, {size:,} bytes, {aside[0].name}"
        back = "/".join(aside[0].name.removesuffix(".unreadable").split("-", 1))
        advice = (
            f"move each back, as {back}, and `asgi-analytics adopt` it for the version that wrote it; or delete them"
        )
        yield Check("journal", text, advice)
    if old := _unknown_segments(folder):
        name = f"{old[0].parent.name}/{old[0].name}"
        text = f"of a format that this version does not know: {counted(len(old), 'segment')}, {name}"
        yield Check("journal", text, "start the version that wrote them once more: it delivers them")


def stray_checks(found: Sequence[JournalState], server: str) -> Iterator[Check]:
    """Name journals that are for a database of another name; `server`: what ours says of itself, "" when unknown."""
    for key in sorted({one.destination.key for one in found}):
        lying = [one for one in found if one.destination.key == key]
        since = datetime.fromtimestamp(min(one.written for one in lying), UTC)
        same = server != "" and all(one.destination.server == server for one in lying)
        what = "the same database: delivered by the next start" if same else ELSEWHERE
        address = lying[-1].destination.address or f"a database that is not named (key {key[:8]})"
        size = sum(one.bytes for one in lying)
        text = f"{len(lying)} left over for {address}, {size:,} bytes, since {since:%Y-%m-%d %H:%M} UTC: {what}"
        yield Check("journal", text, note=True)


def _unknown_segments(folder: Path) -> list[Path]:
    found: list[Path] = []
    for journal in sorted(folder.iterdir()) if folder.exists() else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # delivered and removed while we look
            found += [one for one in sorted(journal.glob("*.journal")) if one.is_file() and not _is_readable(one)]
    return found


def _is_readable(segment: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, JournalFormatError), segment.open("rb") as file:
        head = file.read(65_536)
        return not head or bool(read_header(head, segment))
    return not segment.exists()


def database_checks(
    dsn: str, now: float, patience: float = PATIENCE, *, stray: Sequence[JournalState] = ()
) -> Iterator[Check]:
    """Say whether the database answers, is up to date, and lets us write; `now` in wall seconds.

    Takes `patience` seconds at most, and as long as connecting may take. What the server calls itself tells whether
    `stray` journals are for it.
    """
    known = ""
    try:
        with examine(dsn, patience) as reader:
            server, known = reader.server(), reader.identity()
            yield from _server_checks(server, now)
            held = reader.lock_holders()
            for text in held:
                yield Check("lock", text, "end that transaction (pg_terminate_backend): hits wait for it")
            if not held:
                yield from _schema_checks(reader, server)
    except AnalyticsError as error:
        yield Check("database", str(error), advice_on(str(error)))
    yield from stray_checks(stray, known)


def _server_checks(server: Server, now: float) -> Iterator[Check]:
    place = f"PostgreSQL {server.version}, database {server.database}, user {server.username}"
    yield Check("database", place, None if server.number >= OLDEST else "use PostgreSQL 14 or later")
    if server.encoding not in ENCODINGS:
        yield Check("database", f"its encoding {server.encoding} cannot hold all text: no row is stored", UTF8)
    if server.standby:
        yield Check("database", "it is a standby, and takes no writes", "name the primary in the DSN, or promote it")
    elif server.read_only:
        advice = "name the primary in the DSN, or SET default_transaction_read_only = off"
        yield Check("database", "it is read-only for this user, database or server", advice)
    if abs(ahead := now - server.now) > CLOCKS_APART:
        text = f"this machine's is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
        yield Check("clock", text, "let NTP set both: rows, sessions and salts go by this machine's")
    if not server.may_stage:
        yield Check(
            "privileges",
            "no temporary tables",
            f'GRANT TEMPORARY ON DATABASE "{server.database}" TO "{server.username}"',
        )


def _schema_checks(reader: HealthReader, server: Server) -> Iterator[Check]:
    if not server.may_use:
        yield Check(
            "privileges", "no USAGE on schema analytics", f'GRANT USAGE ON SCHEMA analytics TO "{server.username}"'
        )
        return
    missing = reader.missing_privileges()
    lacking = Check("privileges", f"missing: {', '.join(missing)}", _grants(missing, server.username))
    if "SELECT on analytics.migrations" in missing:
        yield lacking
        return
    schema = reader.schema_state()
    if schema.newer:
        newer = f"it is of a later version: {', '.join(schema.newer)}"
        yield Check("schema", newer, "upgrade asgi-analytics here: what this version writes may not fit")
    if schema.changed:
        advice = "the files of this version were changed, or another's were applied: install one version everywhere"
        yield Check("schema", f"applied otherwise: {', '.join(schema.changed)}", advice)
    if pending := schema.pending:
        needs = "" if server.may_create else " as a user with CREATE on the database, which this one has not"
        yield Check("schema", f"not applied: {', '.join(pending)}", f"run `asgi-analytics migrate`{needs}")
        return
    if gone := reader.missing_objects():
        advice = "restore them from a backup, or drop all of the schema and run `asgi-analytics migrate`"
        yield Check("schema", f"missing: {', '.join(gone)}", advice)
        return
    if not schema.newer and not schema.changed:
        yield Check("schema", "up to date")
    yield lacking if missing else Check("privileges", "all that a writer needs")
    if not missing and not server.standby and (problem := reader.write_problem()) is not None:
        yield Check(problem.subject, problem.text, problem.advice)
    yield Check("salts", "kept for two days; leave them out of dumps: pg_dump --exclude-table-data=analytics.salts")
    yield _partition_check(reader)
    if quarantined := reader.quarantined():
        text = f"{counted(quarantined, 'row')} set aside: see `asgi-analytics quarantine list`"
        yield Check("quarantine", text, note=True)


def _grants(missing: Sequence[str], username: str) -> str:
    """Return what an owner grants them by, as one line for psql; where two roles own what one should, say so."""
    lacking: dict[str, list[str]] = {}
    for privilege, _, thing in (text.partition(" on ") for text in missing):
        lacking.setdefault(thing, []).append(privilege)
    return "; ".join(
        f'GRANT {", ".join(privileges)} ON {thing} TO "{username}"' if thing else "let one role own both"
        for thing, privileges in lacking.items()
    )


def _partition_check(reader: HealthReader) -> Check:
    try:
        days = [day.isoformat() for day in reader.missing_partitions()]
    except StoreMisconfigured as error:
        advice = "give all partitions of hits, and the functions for them, one owner: none can be made meanwhile"
        return Check("partitions", str(error), advice)
    if days:
        return Check("partitions", f"none for {', '.join(days)}: the app, or migrate, makes them", note=True)
    return Check("partitions", "there for today and tomorrow")


def _address_check(peer: str | None, address: str, forwarded: bool) -> Check:
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
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")  # a pipe would be waited for
        with maxminddb.open_database(path, maxminddb.MODE_FILE) as database:
            about = database.metadata()
            for address in SAMPLES[: 1 if about.ip_version == 4 else None]:
                database.get(address)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        text = reason if str(path) in reason else f"{path}: {reason}"
        return Check(option, text, "name a MaxMind-format file, or leave the option out")
    return Check(option, f"{path}: {about.database_type}")
