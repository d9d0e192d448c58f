from __future__ import annotations

import tracemalloc
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify.client import MAX_HOST, MAX_KNOWN, ClientAddress, network_of, shorten

from .proxies import ANY_BYTES, FORWARDED, PEER, PROXIES, XFF, as_counted, read


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("203.0.113.7", 1234), "203.0.113.7"),
        (["203.0.113.7", 1234], "203.0.113.7"),  # daphne
        (("203.0.113.7", "1234"), "203.0.113.7"),  # granian
        (("203.0.113.7",), "203.0.113.7"),
        (("203.0.113.7", None), "203.0.113.7"),
        (("203.0.113.7:80", 0), "203.0.113.7"),  # uvicorn before 0.5x kept a forwarded port in the host
        (("::1", 1), "::1"),
        (("2001:DB8:0:0:0:0:0:1", 1), "2001:db8::1"),
        (("::ffff:203.0.113.7", 1), "203.0.113.7"),
        (("::FFFF:cb00:7107", 1), "203.0.113.7"),
        (("64:ff9b::203.0.113.7", 1), "203.0.113.7"),  # NAT64
        (("64:ff9b:1::203.0.113.7", 1), "64:ff9b:1::cb00:7107"),  # a prefix of somebody's own
        (("fe80::1%eth0", 1), "fe80::1"),
        (("[2001:db8::1]", 1), "2001:db8::1"),
        (("[2001:db8::1]:443", 1), "2001:db8::1"),
        ("203.0.113.7", "203.0.113.7"),
        (None, ""),
        ("", ""),
        (("", 0), ""),
        (("", "0"), ""),  # granian on a unix socket
        ((None, None), ""),
        ([], ""),
        ((), ""),
        ({}, ""),
        ({"weird"}, ""),
        ({"host": "203.0.113.7"}, ""),
        (42, ""),
        ((42, 1), ""),
        ((b"203.0.113.7", 1), ""),
        (([], 1), ""),
        (("testclient", 50000), ""),
        (("/run/app.sock", 0), ""),
        (("unix:", 0), ""),
        (("localhost", 1), ""),
        (("1.2.3", 1), ""),
        (("1.2.3.4.5", 1), ""),
        (("1.2.3.256", 1), ""),
        (("01.2.3.4", 1), ""),
        (("1.2.3.4%eth0", 1), ""),
        (("1.2.3.4:123456", 1), ""),
        (("[1.2.3.4]", 1), ""),
        (("[::1", 1), ""),
        (("::1]", 1), ""),
        (("fe80::1%", 1), ""),
        (("1::2::3", 1), ""),
        (("203.0.113.7\x00", 1), ""),
        (("203.0.113.7\n", 1), ""),
        (("\ud800", 1), ""),
        (("١.٢.٣.٤", 1), ""),
        (("1" * 100_000, 1), ""),
    ],
)
def test_the_peer_is_normalised_or_unknown(client: Any, expected: str) -> None:
    assert read(client) == expected


@pytest.mark.parametrize("host", ["10.0.0.1", "10.255.255.255", "127.0.0.1", "2001:db8:ffff::9", "172.16.3.4"])
def test_a_trusted_peer_may_name_its_client(host: str) -> None:
    assert read((host, 1), (XFF, b"203.0.113.7")) == "203.0.113.7"


@pytest.mark.parametrize("host", ["11.0.0.1", "127.0.0.2", "2001:db8:fffe::9", "172.32.0.1", "203.0.113.9"])
@pytest.mark.parametrize("name", [XFF, FORWARDED, b"x-real-ip", b"cf-connecting-ip", b"true-client-ip"])
def test_a_peer_that_is_not_trusted_names_nobody(host: str, name: bytes) -> None:
    assert read((host, 1), (name, b"for=8.8.8.8" if name == FORWARDED else b"8.8.8.8")) == host


@pytest.mark.parametrize("client", [None, "", ("", 0), ("", "0"), (None, 0), ["", None]])
def test_a_unix_socket_is_trusted_only_when_that_is_said(client: Any) -> None:
    header = (XFF, b"8.8.8.8, 203.0.113.7, 10.0.0.2")
    assert read(client, header) == ""
    assert read(client, header, reader=ClientAddress(PROXIES, trust_unix=True)) == "203.0.113.7"
    assert read(client, header, reader=ClientAddress((), trust_unix=True)) == "10.0.0.2"
    assert read(client, reader=ClientAddress(PROXIES, trust_unix=True)) == ""


@pytest.mark.parametrize("client", [("testclient", 1), {"weird"}, [], 42, ("/run/app.sock", 0)])
def test_unknown_peers_are_never_taken_for_a_unix_socket(client: Any) -> None:
    assert read(client, (XFF, b"8.8.8.8"), reader=ClientAddress(PROXIES, trust_unix=True)) == ""


def test_a_scope_may_lack_the_client_and_names_may_be_missing() -> None:
    assert ClientAddress(PROXIES).read({"headers": []}, {}) == ""


def test_a_server_may_give_headers_as_lists() -> None:
    scope = {"client": PEER, "headers": [[XFF, b"203.0.113.7"], [XFF, b"10.0.0.2"]]}
    assert ClientAddress(PROXIES).read(scope, {XFF: b"10.0.0.2"}) == "203.0.113.7"


ANY_CLIENT = st.one_of(
    st.none(),
    st.text(max_size=60),
    st.tuples(st.text(max_size=60), st.integers()),
    st.lists(st.one_of(st.none(), st.integers(), st.text(), st.binary()), max_size=3),
    st.just(PEER),
)


@given(ANY_CLIENT, st.lists(st.tuples(st.sampled_from([XFF, FORWARDED]), ANY_BYTES), max_size=5), st.booleans())
def test_any_bytes_give_an_address_or_nothing(client: Any, headers: list[tuple[bytes, bytes]], unix: bool) -> None:
    address = read(client, *headers, reader=ClientAddress(PROXIES, unix))
    assert address == "" or ip_address(address).compressed == address or "." in address
    assert len(network_of(address)) in ((4, 8) if address else (0,))


@given(ANY_CLIENT, ANY_CLIENT, st.booleans())
def test_who_looks_alike_without_computing_anything_has_one_address(one: Any, other: Any, trusting: bool) -> None:
    reader = ClientAddress(PROXIES if trusting else ())
    scopes = [{"client": client, "headers": [(XFF, b"203.0.113.7")]} for client in (one, other)]
    names = [reader.peer(scope, {XFF: b"203.0.113.7"}) for scope in scopes]
    addresses = [reader.read(scope, {XFF: b"203.0.113.7"}) for scope in scopes]
    assert names[0] != names[1] or addresses[0] == addresses[1]
    assert all(len(name) <= MAX_HOST for name in names)
    assert names == addresses or not trusting


def test_clients_that_are_texts_are_told_apart() -> None:
    reader = ClientAddress(())
    assert [reader.peer({"client": client}, {}) for client in ("198.51.100.1", "198.51.100.2")] == [
        "198.51.100.1",
        "198.51.100.2",
    ]


@given(st.ip_addresses(), st.ip_addresses())
def test_networks_are_trusted_as_the_standard_library_understands_them(network: Any, peer: Any) -> None:
    network = as_counted(network)
    for bits in (0, 1, 8, network.max_prefixlen - 1, network.max_prefixlen):
        trusted = ip_network((network, bits), strict=False)
        known = as_counted(peer)
        expected = "203.0.113.7" if known in trusted else known
        address = read((str(peer), 1), (XFF, b"203.0.113.7"), reader=ClientAddress((trusted,)))
        assert ip_address(address) == ip_address(str(expected))


def test_memory_of_addresses_is_bounded_in_number_and_length() -> None:
    reader = ClientAddress(PROXIES)
    for number in range(3 * MAX_KNOWN):
        read((f"2001:db8::{number:x}%{'z' * 16}", 1), (XFF, b"8.8.8.8"), reader=reader)
        read(("x" * number, 1), reader=reader)
    assert len(reader._known) <= MAX_KNOWN
    assert max(map(len, reader._known)) <= 90


def test_memory_of_lines_is_bounded_in_number_and_length() -> None:
    reader = ClientAddress(PROXIES)
    tracemalloc.start()
    for number in range(3 * MAX_KNOWN - 1):
        spoofed = b"8.8.8.%d, " % number + (b"" if number % 5 else b"x" * 2_000)
        read(PEER, (XFF, spoofed + b", 203.0.113.7"), reader=reader)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 150 * MAX_KNOWN


def test_addresses_that_would_collide_as_numbers_do_not_as_keys() -> None:
    step = (1 << 61) - 1  # hash() of an int is modulo this
    addresses = [str(ip_address((0x2001_0DB8 << 96) + number * (step << 20))) for number in range(100)]
    assert len({hash(network_of(address)) for address in addresses}) > 90


@pytest.mark.parametrize(
    ("address", "network", "short"),
    [
        ("203.0.113.7", b"\xcb\x00\x71\x07", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", b"\xcb\x00\x71\x07", "203.0.113.0/24"),
        ("64:ff9b::203.0.113.7", b"\xcb\x00\x71\x07", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", b"\x20\x01\x0d\xb8\x00\x01\x00\x02", "2001:db8:1::/48"),
        ("2001:db8:1:2::", b"\x20\x01\x0d\xb8\x00\x01\x00\x02", "2001:db8:1::/48"),
        ("::1", bytes(8), "::/48"),
        ("fe80::1%eth0", b"\xfe\x80" + bytes(6), "fe80::/48"),
        ("", b"", ""),
        ("testclient", b"", ""),
        ("1.2.3.4\x00", b"", ""),
        ("\ud800", b"", ""),
        ("::\ud800", b"", ""),
    ],
)
def test_networks_are_bytes_and_short_addresses_are_text(address: str, network: bytes, short: str) -> None:
    assert network_of(address) == network
    assert shorten(address) == short


@given(st.ip_addresses())
def test_a_short_address_is_a_network_that_holds_the_address(address: Any) -> None:
    known = as_counted(address)
    assert known in ip_network(shorten(str(address)))
