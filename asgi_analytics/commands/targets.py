"""Targets of rulings, as an operator writes them, and what a network covers of the digests in the tables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from uuid import UUID

from ..clock import random_bytes
from ..decide.rulings import IN_CLEAR, WHOLE, name_network, network_key
from ..errors import CommandError
from ..identify.fingerprint import Fingerprinter
from ..settings import Network, as_counted
from ..store.rulings import Reach, Registry, StandingRow, Target
from . import MAX_SHOWN

MAX_HASHES = 1 << 23  # of one kind: about ten seconds
_ZONE = re.compile(r"(?<=[0-9a-f:])%[^/%]+", re.IGNORECASE)  # of an IPv6 address, which means nothing elsewhere
_HEX = re.compile(r"[0-9a-f]{8,32}", re.ASCII)


def read_target(text: str, registry: Registry, kind: str) -> Target:
    """Read a fingerprint (at least its first 8 hex digits), an address, a network, or the id of a ruling on one."""
    digits = text.strip().lower().replace("-", "")
    if _HEX.fullmatch(digits):
        return _ruled(digits, registry, kind) or _visitor(digits, registry)
    try:
        one = ipaddress.ip_interface(_ZONE.sub("", text.strip()))
    except ValueError:
        raise CommandError(
            f"{text!r} is no target: 8 to 32 hex digits of a fingerprint, an address, or a network like 203.0.113.0/24."
        ) from None
    network: Network = one.network
    if one.ip != network.network_address:  # a slip of the prefix would rule over millions
        raise CommandError(f"{text!r} is an address within a network: name {one.ip}, or {network} for all of it.")
    return _network(_plain(network), registry, kind)


def reach(target: Target, registry: Registry) -> Reach:
    """Return what is in the tables of a network: its client networks since yesterday, and the bans on parts of it.

    Both are stored as digests, so all that there could be are made and looked for.
    """
    packed, prefix = target.packed, target.prefix
    if packed is None or prefix is None:
        return Reach()
    standing = [one for one in registry.standing_networks("ban") if one.size == len(packed)]
    around = [one for one in standing if one.prefix < prefix and _covers(one, packed)]
    inner = [one for one in standing if one.prefix >= prefix]
    within = [one.id for one in inner if one.key is None and name_network(one.network, prefix, b"") == packed]
    digested = {(one.prefix, one.key) for one in inner if one.key is not None}
    keyed = [Fingerprinter(site, salt) for site in registry.sites() for salt in registry.salts()]
    kinds, bits = len(digested) + len(keyed), WHOLE[len(packed)] - prefix
    if kinds << bits > MAX_HASHES:
        return Reach(rulings=within, around=around, parts=WHOLE[len(packed)] + 1 - (MAX_HASHES // kinds).bit_length())
    for length, key in digested:
        names = {name_network(part, length, key) for part in _subnets(packed, prefix, length)}
        within += [one.id for one in inner if (one.prefix, one.key) == (length, key) and one.network in names]
    known = registry.known_networks()
    hashes = (one.fingerprint(b"network\0" + client) for one in keyed for client in _subnets(packed, prefix))
    return Reach([UUID(bytes=one) for one in hashes if one in known], within, around)


def allowed(target: Target, registry: Registry) -> list[str]:
    """Return what commands have allowed of a target: itself, or networks around it. No ban on it has an effect then."""
    if target.packed is None:
        standing = registry.standing("allow", MAX_SHOWN) if target.fingerprint else ()
        return [target.shown for one in standing if one.fingerprint == target.fingerprint]
    network, packed = ipaddress.ip_network(target.shown), target.packed
    around = [one for one in registry.standing_networks("allow") if one.size == target.size]
    wide = [one.prefix for one in around if one.prefix <= (target.prefix or 0) and _covers(one, packed)]
    return [str(network.supernet(new_prefix=prefix)) for prefix in wide]


def _covers(ruling: StandingRow, packed: bytes) -> bool:
    return name_network(packed, ruling.prefix, ruling.key or b"") == ruling.network


def _subnets(packed: bytes, prefix: int, length: int = WHOLE[8]) -> Iterator[bytes]:
    """Return the parts of a network that have `length` bits, at most those of a client network."""
    size = len(packed)
    step = 1 << max(0, WHOLE[size] - length)
    first = int.from_bytes(packed, "big")
    return (at.to_bytes(size, "big") for at in range(first, first + (1 << (WHOLE[size] - prefix)), step))


def _visitor(digits: str, registry: Registry) -> Target:
    found = registry.find_visitors(digits)
    if len(found) != 1:
        raise CommandError(
            f"{'No visitor' if not found else 'More than one visitor'} has a fingerprint like {digits}…."
        )
    return Target(found[0].hex, found[0].hex, fingerprint=found[0])


def _ruled(digits: str, registry: Registry, kind: str) -> Target | None:
    """Return the network that a ruling in force is on, by its id: all that `actors` can show of a narrow one."""
    standing = registry.standing_networks("allow" if kind == "allow" else "ban")
    found = [one for one in standing if one.hashed and one.id.hex.startswith(digits)]
    if len(found) != 1:
        return None
    one = found[0]
    name = _unnamed(one.prefix)
    return Target(name, name, size=one.size, prefix=one.prefix, network=one.network, key=one.key)


def _unnamed(prefix: int) -> str:
    return f"a network of {prefix} bits, not stored in clear"


def _plain(network: Network) -> Network:
    """Return a network as clients are told apart: IPv4 for what stands for it, IPv6 no narrower than /64."""
    network = as_counted(network)
    if isinstance(network, ipaddress.IPv4Network):
        return network
    return network.supernet(new_prefix=64) if network.prefixlen > 64 else network


def _network(network: Network, registry: Registry, kind: str) -> Target:
    packed, prefix = network_key(network)
    size = len(packed)
    if prefix == 0:
        raise CommandError(f"{network} is everybody.")
    keys = registry.standing_keys()
    # An address is never stored: a narrow network is written as a digest, whose key lives in the same row.
    hides = prefix > IN_CLEAR[size]
    key = (registry.key_to_share(kind) or random_bytes(32)) if hides else None
    written = {one: name_network(packed, prefix, one) for one in keys}
    return Target(
        str(network),
        stored=_unnamed(prefix) if hides else str(network),
        size=size,
        prefix=prefix,
        network=name_network(packed, prefix, key or b""),
        key=key,
        also=[*written.values(), packed],
        packed=packed,
    )
