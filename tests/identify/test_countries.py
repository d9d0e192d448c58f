from __future__ import annotations

import time
import zlib
from importlib.resources import files
from ipaddress import ip_network
from pathlib import Path

import maxminddb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from asgi_analytics.identify.client import packed_address
from asgi_analytics.identify.countries import CountryTable, bundled
from asgi_analytics.identify.countries_file import differences, main, make_table

TABLE = CountryTable.load()
NETWORKS = {
    "1.0.0.0/24": "AU",
    "1.0.1.0/24": "CN",
    "1.0.2.0/23": "CN",
    "9.0.0.0/8": "US",
    "255.255.255.0/24": "DE",
    "2001:db8::/32": "FR",
    "2001:db9::/48": "FR",
    "2a00::/12": "NL",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    writer = MMDBWriter(6, "country ipvAll", ipv4_compatible=True)
    for network, country in NETWORKS.items():
        writer.insert_network(IPSet([network]), {"country_code": country})
    path = tmp_path / "source.mmdb"
    writer.to_db_file(str(path))
    return path


def find(table: CountryTable, address: str) -> str | None:
    packed = packed_address(address)
    assert packed is not None
    return table.find(packed)


@pytest.mark.parametrize(
    ("address", "country"),
    [
        ("8.8.8.8", "US"),
        ("193.0.6.139", "NL"),
        ("133.11.0.1", "JP"),
        ("200.160.2.3", "BR"),
        ("196.216.2.1", "ZA"),
        ("2001:4860:4860::8888", "US"),
        ("2a00:1450:4001:81b::200e", "IE"),
        ("::ffff:8.8.8.8", "US"),
        ("0.0.0.0", None),
        ("10.0.0.1", None),
        ("127.0.0.1", None),
        ("255.255.255.255", None),
        ("::", None),
        ("fe80::1%eth0", None),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    ],
)
def test_the_bundled_table_knows_well_known_addresses(address: str, country: str | None) -> None:
    assert find(TABLE, address) == country


def test_the_bundled_table_is_whole_and_small() -> None:
    assert len(TABLE) == 609_227
    assert 240 <= len(TABLE.countries) <= 255
    assert TABLE.built == "2026-06-17"
    assert len(bundled().read_bytes()) < 700_000


def test_the_bundled_table_loads_in_a_moment() -> None:
    started = time.thread_time()
    CountryTable.load()
    assert time.thread_time() - started < 1.0


def test_the_bundled_table_names_its_source() -> None:
    notice = files("asgi_analytics.identify").joinpath("data", "NOTICE").read_text("utf-8")
    for words in ("NRO", "CC BY 4.0", "ip-location-db", "17 June 2026", "https://creativecommons.org/licenses/by/4.0/"):
        assert words in notice


@pytest.mark.parametrize(
    ("address", "packed"),
    [
        ("1.2.3.4", bytes((1, 2, 3, 4))),
        ("::ffff:1.2.3.4", bytes((1, 2, 3, 4))),
        ("64:ff9b::1.2.3.4", bytes((1, 2, 3, 4))),
        ("::1%lo", bytes(15) + b"\x01"),
        ("1.2.3", None),
        ("1.2.3.4:80", None),
        ("[::1]", None),
        ("", None),
        ("unix:", None),
        ("1.2.3.4\x00", None),
        ("\ud800", None),
    ],
)
def test_addresses_are_packed_and_junk_is_not(address: str, packed: bytes | None) -> None:
    assert packed_address(address) == packed


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_every_address_has_an_answer(packed: bytes) -> None:
    country = TABLE.find(packed)
    assert country is None or (len(country) == 2 and country.isupper())


def test_a_table_made_from_a_database_answers_as_it_does(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(source), str(out)]) == 0
    table = CountryTable.load(out)
    assert table.countries == sorted(set(NETWORKS.values()))
    for network, country in NETWORKS.items():
        parsed = ip_network(network)
        assert find(table, str(parsed[0])) == find(table, str(parsed[-1])) == country
    assert find(table, "1.0.4.0") is None
    assert find(table, "2001:db9:1::") is None


def test_the_maker_fails_when_table_and_database_differ(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(make_table([(ip_network("9.0.0.0/8"), {"country_code": "CA"})], "2026-01-01"))
    with maxminddb.open_database(source) as reader:
        assert next(differences(CountryTable.load(other), reader))


def test_the_maker_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "SOURCE.mmdb OUT" in capsys.readouterr().err


@pytest.mark.parametrize("version", [4, 6])
def test_a_network_that_holds_everything_is_one_range(version: int, tmp_path: Path) -> None:
    path = tmp_path / "all"
    network = ip_network("0.0.0.0/0" if version == 4 else "::/0")
    path.write_bytes(make_table([(network, {"country": {"iso_code": "DE"}})], "2026-01-01"))
    table = CountryTable.load(path)
    assert table.find(bytes(4 if version == 4 else 16)) == "DE"
    assert table.find(b"\xff" * (4 if version == 4 else 16)) == "DE"
    assert table.find(bytes(16 if version == 4 else 4)) is None


def test_nested_and_wrong_records_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    records = [{"country_code": "XYZ"}, {"country_code": 7}, ["DE"], None, {"country": {"iso_code": "DE"}}]
    networks = [(ip_network(f"{number}.0.0.0/8"), record) for number, record in enumerate(records, 1)]
    path.write_bytes(make_table(networks, "2026-01-01"))
    assert [find(CountryTable.load(path), f"{number}.1.1.1") for number in range(1, 6)] == [
        None,
        None,
        None,
        None,
        "DE",
    ]


@pytest.mark.parametrize("damage", ["cut", "plain", "header", "short", "empty"])
def test_a_damaged_table_says_so(damage: str, tmp_path: Path) -> None:
    sound = bundled().read_bytes()
    head, _, _ = zlib.decompress(sound).partition(b"\n")
    content = {
        "cut": sound[: len(sound) // 2],
        "plain": b"not a table",
        "header": zlib.compress(b'{"format": "other"}\n'),
        "short": zlib.compress(head + b"\n" + bytes(100)),
        "empty": b"",
    }[damage]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a country table"):
        CountryTable.load(path)
