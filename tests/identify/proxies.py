"""A visitor behind proxies, and what may stand in the headers that they write."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import strategies as st

from asgi_analytics.identify.client import ClientAddress

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.1/32", "2001:db8:ffff::/48", "::ffff:172.16.0.0/108")))
PEER = ("10.0.0.1", 4711)
CHAINED = "198.51.100.9"  # the address that a trusted proxy saw
XFF, FORWARDED = b"x-forwarded-for", b"forwarded"
SPICE = st.sampled_from(
    [b"for=", b'"', b"\\", b",", b";", b" ", b"10.0.0.2", b"8.8.8.8", b"[::1]", b":80", b"for=8.8.8.8,"]
)
ANY_BYTES = st.one_of(st.binary(max_size=300), st.lists(SPICE, max_size=40).map(b"".join))


def as_counted(address: Any) -> Any:
    """What stands for IPv4 counts as IPv4."""
    translated = address in ip_network("64:ff9b::/96")
    return ip_address(int(address) & 0xFFFF_FFFF) if translated else getattr(address, "ipv4_mapped", None) or address


def read(client: Any, *headers: tuple[bytes, bytes], reader: ClientAddress | None = None) -> str:
    scope = {"type": "http", "client": client, "headers": list(headers)}
    return (reader or ClientAddress(PROXIES)).read(scope, dict(headers))
