from __future__ import annotations

import json
import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.errors import DataFileError
from asgi_analytics.identify.client import packed_address
from asgi_analytics.identify.ranges import MAX_BYTES, MAX_PREFIXES, Ranges, read_ranges

PUBLISHED = b"""{"creationTime": "2026-11-20T14:00:00.000000", "prefixes": [
 {"ipv6Prefix": "2001:4860:4801:10::/64"}, {"ipv6Prefix": "2001:4860:4801:11::/64"},
 {"ipv4Prefix": "66.249.64.0/27"}, {"ipv4Prefix": "66.249.64.32/27"}, {"ipv4Prefix": "192.178.4.0/27"}]}"""


def packed(address: str) -> bytes:
    found = packed_address(address)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("66.249.64.0", True),
        ("66.249.64.63", True),
        ("66.249.64.64", False),
        ("66.249.63.255", False),
        ("192.178.4.31", True),
        ("192.178.4.32", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("::ffff:66.249.64.5", True),
        ("2001:4860:4801:10::1", True),
        ("2001:4860:4801:11:ffff:ffff:ffff:ffff", True),
        ("2001:4860:4801:12::", False),
        ("::", False),
    ],
)
def test_an_address_is_in_the_ranges_or_not(address: str, inside: bool) -> None:
    ranges = read_ranges(PUBLISHED)
    assert ranges.prefixes == 5
    assert (packed(address) in ranges) is inside


NETWORKS = st.builds(
    lambda number, length: ip_network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(8, 32)
)


@given(st.lists(NETWORKS, max_size=20), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_bisection_finds_what_asking_each_network_finds(networks: list[Any], numbers: list[int]) -> None:
    ranges = Ranges(map(str, networks))
    edges = [int(edge) for one in networks for edge in (one.network_address, one.broadcast_address)]
    for number in {*numbers, *edges, *(edge + 1 for edge in edges if edge < 2**32 - 1)}:
        expected = any(ip_address(number) in network for network in networks)
        assert (number.to_bytes(4, "big") in ranges) is expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>moved</html>",
        b"[]",
        b"{}",
        b'{"prefixes": []}',
        b'{"prefixes": {}}',
        b'{"prefixes": [1]}',
        b'{"prefixes": [{}]}',
        b'{"prefixes": [{"ipv4Prefix": "66.249.64.0/33"}]}',
        b'{"prefixes": [{"ipv4Prefix": "66.249.64.1/27"}]}',
        b'{"prefixes": [{"ipv4Prefix": "0.0.0.0/0"}]}',
        b'{"prefixes": [{"ipv4Prefix": 7}]}',
        b'{"prefixes": [{"ipv6Prefix": "::/0"}]}',
        b'{"prefixes": [{"ipv6Prefix": "2001:xyz::/64"}]}',
        PUBLISHED[:200],
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
        json.dumps({"prefixes": [{"ipv4Prefix": "66.249.64.0/27"}] * (MAX_PREFIXES + 1)}).encode(),
    ],
)
def test_a_damaged_file_is_an_error(data: bytes) -> None:
    with pytest.raises(DataFileError):
        read_ranges(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(DataFileError):
        read_ranges(data)


def test_networks_of_both_versions_do_not_mix() -> None:
    ranges = Ranges(["::/32"])
    assert socket.inet_aton("0.0.0.1") not in ranges
