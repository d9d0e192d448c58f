"""What `asgi-analytics doctor` looks at in the options: quotas, the client address, files of places and crawlers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from pathlib import Path

import maxminddb

from ...columns import counted
from ...errors import AnalyticsError, ConfigurationError
from ...identify.client import ClientAddress, network_of
from ...identify.countries import CountryTable
from ...identify.geoip import GeoLocator
from ...identify.operators import SOURCES
from ...jobs.data import FRESH, default_crawler_dir, held
from ...settings import Settings
from ...shared import resolve_shared, server_of
from .check import Check

FORWARDING = (b"x-forwarded-for", b"forwarded")
SAMPLES = ("8.8.8.8", "2001:4860:4860::8888")  # looked up: the metadata may be whole where the data is not


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


def shared_checks() -> Iterator[Check]:
    """Say whether the server answers that quotas are shared through, where that is not Postgres."""
    try:
        if (url := resolve_shared(None)) is not None:
            yield Check("shared quotas", f"through {server_of(url, asked=True)}, which answers")
    except AnalyticsError as error:
        is_wrong = isinstance(error, ConfigurationError)
        meanwhile = "no app starts" if is_wrong else "each worker keeps to its part of each quota"
        yield Check("shared quotas", str(error), f"mend ASGI_ANALYTICS_SHARED: meanwhile {meanwhile}")


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
