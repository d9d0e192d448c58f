from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from asgi_analytics.identify.client import packed_address
from asgi_analytics.identify.countries import CountryTable
from asgi_analytics.identify.geoip import GeoFile, GeoLocator, is_local
from asgi_analytics.identify.geoip_record import city_of, country_of, region_of, system_of
from asgi_analytics.identify.geoip_tree import Tree
from asgi_analytics.model import Place
from asgi_analytics.protocols import Locator

TABLE = CountryTable.load()
SYDNEY = {
    "country": {"iso_code": "AU", "names": {"en": "Australia"}},
    "subdivisions": [{"iso_code": "NSW", "names": {"en": "New South Wales"}}],
    "city": {"names": {"de": "Sidney", "en": "Sydney"}},
}
FLAT = {"city": "Lyon", "country_code": "FR", "state1": "Auvergne-Rhône-Alpes", "latitude": 45.7, "postcode": "69001"}
CITIES = {"1.0.0.0/24": SYDNEY, "62.0.0.0/16": FLAT, "2001:db8::/32": SYDNEY, "5.0.0.0/8": {"country": "odd"}}
SYSTEM = {"autonomous_system_number": 13335, "autonomous_system_organization": "Cloudflare, Inc."}


def write(path: Path, networks: dict[str, Any], version: int = 6, kind: str = "GeoLite2-City") -> Path:
    writer = MMDBWriter(version, kind, ipv4_compatible=version == 6)
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(path.with_suffix(".new")))
    os.replace(path.with_suffix(".new"), path)
    return path


@pytest.fixture
def city(tmp_path: Path) -> Path:
    return write(tmp_path / "city.mmdb", CITIES)


@pytest.fixture
def asn(tmp_path: Path) -> Path:
    return write(tmp_path / "asn.mmdb", {"1.0.0.0/24": SYSTEM}, kind="GeoLite2-ASN")


def test_the_bundled_table_gives_countries_out_of_the_box() -> None:
    locator: Locator = GeoLocator(None, None, TABLE)
    assert locator.locate("8.8.8.8") == Place(country="US")
    assert locator.locate("::ffff:8.8.8.8") == Place(country="US")
    assert locator.locate("2001:4860:4860::8888") == Place(country="US")


@pytest.mark.parametrize("address", ["1.0.0.77", "::ffff:1.0.0.77", "2001:db8::1"])
def test_the_nested_layout_is_read(address: str, city: Path) -> None:
    assert GeoLocator(city, None, TABLE).locate(address) == Place("AU", "NSW", "Sydney")


def test_the_flat_layout_is_read(city: Path) -> None:
    assert GeoLocator(city, None, TABLE).locate("62.0.1.1") == Place("FR", "Auvergne-Rhône-Alpes", "Lyon")


def test_the_autonomous_system_comes_from_its_own_file(city: Path, asn: Path) -> None:
    both = GeoLocator(city, asn, TABLE)
    assert both.locate("1.0.0.1") == Place("AU", "NSW", "Sydney", 13335, "Cloudflare, Inc.")
    assert both.locate("62.0.0.1").asn is None
    assert GeoLocator(None, asn, TABLE).locate("1.0.0.1") == Place("AU", None, None, 13335, "Cloudflare, Inc.")


def test_a_users_file_overrides_the_table_and_the_table_fills_its_gaps(tmp_path: Path) -> None:
    path = write(tmp_path / "own.mmdb", {"8.8.8.0/24": {"country_code": "CH"}, "8.8.4.0/24": {"city": "Nowhere"}})
    locator = GeoLocator(path, None, TABLE)
    assert locator.locate("8.8.8.8").country == "CH"
    assert locator.locate("8.8.4.4") == Place("US", None, "Nowhere")
    assert locator.locate("193.0.6.139").country == "NL"


def test_a_file_for_ipv4_only_has_no_answer_for_ipv6(tmp_path: Path) -> None:
    locator = GeoLocator(write(tmp_path / "v4.mmdb", {"1.0.0.0/24": SYDNEY}, version=4), None, None)
    assert locator.locate("1.0.0.1").city == "Sydney"
    assert locator.locate("2001:db8::1") == Place()
    assert locator._city is not None
    assert locator._city.error is None


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.1.1", "169.254.1.1", "100.64.0.1", "0.0.0.0",
     "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "ff02::1", "", "unix:", "testclient", "1.2.3.4:5",
     "\x00", "\ud800", "1" * 10_000, "[::1]"],
)  # fmt: skip
def test_what_is_local_or_no_address_has_no_place(address: str, city: Path) -> None:
    assert GeoLocator(city, None, TABLE).locate(address) == Place()


@pytest.mark.parametrize(
    "address", ["172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.167.0.1", "11.0.0.1"]
)
def test_neighbours_of_private_networks_are_public(address: str) -> None:
    packed = packed_address(address)
    assert packed is not None
    assert not is_local(packed)


@pytest.mark.parametrize("size", [24, 28, 32])
def test_every_record_size_is_walked_as_the_library_walks_it(size: int, city: Path) -> None:
    content = resized(city.read_bytes(), size)
    tree = Tree(content)
    city.write_bytes(content)
    with maxminddb.open_database(city, maxminddb.MODE_MEMORY) as library:
        assert library.metadata().record_size == size
        for address in ("1.0.0.1", "1.0.1.0", "62.0.255.255", "62.1.0.0", "5.5.5.5", "2001:db8::1", "2001:db9::"):
            packed = packed_address(address)
            record: Any = library.get(address) or {}
            assert packed is not None
            assert tree.find(packed).city == city_of(record)


def resized(content: bytes, size: int) -> bytes:
    """Write the search tree of a database of 24-bit records again with records of another size."""
    metadata = content.rfind(b"\xab\xcd\xefMaxMind.com")
    nodes = maxminddb.open_database(_stream(content), maxminddb.MODE_FD).metadata().node_count
    records = [int.from_bytes(content[at : at + 3], "big") for at in range(0, nodes * 6, 3)]
    tree = b""
    for left, right in zip(records[::2], records[1::2], strict=True):
        if size == 28:
            tree += (left & 0xFFFFFF).to_bytes(3, "big") + bytes([left >> 24 << 4 | right >> 24])
            tree += (right & 0xFFFFFF).to_bytes(3, "big")
        else:
            tree += left.to_bytes(size // 8, "big") + right.to_bytes(size // 8, "big")
    return tree + content[nodes * 6 : metadata] + content[metadata:].replace(b"\xa1\x18", bytes([0xA1, size]))


def _stream(content: bytes) -> Any:
    import io

    return io.BytesIO(content)


def test_a_changed_file_is_loaded_at_the_next_refresh(city: Path) -> None:
    locator = GeoLocator(city, None, None)
    write(city, {"1.0.0.0/24": FLAT})
    locator.refresh(0.0)
    assert locator.locate("1.0.0.1").city == "Lyon"


def test_a_file_that_cannot_be_used_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    locator = GeoLocator(tmp_path / "none.mmdb", None, None)
    for now in (0.0, 10.0, 20.0):
        locator.refresh(now)
    (said,) = caplog.messages
    assert "none.mmdb is not used: FileNotFoundError" in said


def test_a_file_that_could_not_be_opened_once_is_loaded_when_it_can_though_it_did_not_change(
    city: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        locator = GeoLocator(city, None, None)
        assert "PermissionError" in locator.describe()[0]
    locator.refresh(0.0)
    assert locator.locate("1.0.0.1").city == "Sydney"


def test_a_file_that_several_use_is_in_memory_once_and_no_longer_than_it_is_used(city: Path) -> None:
    one, two = GeoFile(city), GeoFile(city)
    one.refresh()
    two.refresh()
    assert one._tree is two._tree is not None
    before = weakref.ref(one._tree)
    write(city, {"1.0.0.0/24": FLAT})
    one.refresh()
    assert one._tree is not two._tree is before()
    two.refresh()
    assert one._tree is two._tree
    assert before() is None


def test_refresh_looks_at_most_every_five_seconds(city: Path) -> None:
    locator = GeoLocator(city, None, None)
    locator.refresh(0.0)
    write(city, {"1.0.0.0/24": FLAT})
    locator.refresh(4.9)
    assert locator.locate("1.0.0.1").city == "Sydney"
    locator.refresh(5.0)
    assert locator.locate("1.0.0.1").city == "Lyon"


@pytest.mark.parametrize("damage", ["missing", "empty", "junk", "cut", "folder"])
def test_a_broken_new_file_keeps_the_data_of_the_last_good_one(damage: str, city: Path) -> None:
    locator = GeoLocator(city, None, TABLE)
    spoil(city, damage)
    locator.refresh(100.0)
    assert locator.locate("1.0.0.1").city == "Sydney"
    assert "last error" in locator.describe()[0]


@pytest.mark.parametrize("damage", ["missing", "empty", "junk", "cut", "folder"])
def test_a_file_broken_from_the_start_is_not_fatal_and_loads_once_it_is_sound(damage: str, city: Path) -> None:
    spoil(city, damage)
    locator = GeoLocator(city, city, TABLE)
    assert locator.locate("8.8.8.8") == Place(country="US")
    assert "not loaded" in locator.describe()[0]
    if city.is_dir():
        city.rmdir()
    write(city, CITIES)
    locator.refresh(1.0)
    assert locator.locate("1.0.0.1").city == "Sydney"
    assert "GeoLite2-City, built 20" in locator.describe()[0]


@pytest.mark.parametrize("what", ["pipe", "device", "larger than memory"])
def test_what_is_no_file_is_not_read(what: str, tmp_path: Path) -> None:
    path = tmp_path / "geo"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path = Path("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    locator = GeoLocator(path, None, TABLE)
    assert locator.locate("8.8.8.8") == Place(country="US")
    assert ("it has no metadata" if what.startswith("larger") else "it is no regular file") in locator.describe()[0]


def test_files_may_be_read_elsewhere_and_later(city: Path, asn: Path) -> None:
    loads: list[Callable[[], None]] = []
    locator = GeoLocator(city, asn, TABLE, loads.append)
    assert locator.locate("1.0.0.1") == Place(country="AU")
    (load,) = loads
    load()
    assert locator.locate("1.0.0.1") == Place("AU", "NSW", "Sydney", 13335, "Cloudflare, Inc.")


def spoil(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "junk": b"x" * 5000, "cut": content[: len(content) // 2]}[damage])


def test_a_file_cut_short_while_it_is_in_use_changes_nothing(city: Path) -> None:
    locator = GeoLocator(city, None, None)
    os.truncate(city, 0)
    assert locator.locate("1.0.0.1").city == "Sydney"


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=20), cut=st.integers(0, 5000))
def test_no_damage_to_a_file_raises(changes: list[tuple[int, int]], cut: int, city: Path, tmp_path: Path) -> None:
    content = bytearray(city.read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    damaged = tmp_path / "damaged.mmdb"
    damaged.write_bytes(content[cut % 40 :] if cut % 7 == 0 else content)
    locator = GeoLocator(damaged, damaged, None)
    for address in ("1.0.0.1", "62.0.0.1", "5.5.5.5", "2001:db8::1", "9.9.9.9"):
        assert isinstance(locator.locate(address), Place)
    assert locator.describe()


def test_errors_of_records_are_counted_with_the_last_text(city: Path) -> None:
    content = bytearray(city.read_bytes())
    at = content.index(b"Sydney")
    content[at : at + 6] = b"\xff" * 6
    city.write_bytes(content)
    file = GeoFile(city)
    file.refresh()
    packed = packed_address("1.0.0.1")
    assert packed is not None
    assert file.find(packed) == Place()
    assert file.errors >= 1
    assert file.error is not None
    assert "UnicodeDecodeError" in file.describe()


@pytest.mark.parametrize(
    ("record", "country"),
    [
        ({"country": {"iso_code": "de"}}, "DE"),
        ({"country": "NO"}, "NO"),
        ({"country_code": "SE"}, "SE"),
        ({"country": {}, "registered_country": {"iso_code": "US"}}, "US"),
        ({"country": {"iso_code": 5}}, None),
        ({"country": {"iso_code": "XXX"}}, None),
        ({"country_code": "ÅÄ"}, None),
        ({"country_code": ["SE"]}, None),
    ],
)
def test_countries_of_all_layouts(record: dict[str, Any], country: str | None) -> None:
    assert country_of(record) == country


@pytest.mark.parametrize(
    ("record", "region"),
    [
        ({"subdivisions": [{"names": {"en": "Bavaria"}}]}, "Bavaria"),
        ({"subdivisions": []}, None),
        ({"subdivisions": ["odd"], "region_code": "BY"}, "BY"),
        ({"region": "California"}, "California"),
        ({"state1": 7}, None),
        ({"subdivisions": [{"names": {"en": "-"}}]}, None),  # IP2Location: not known
    ],
)
def test_regions_of_all_layouts(record: dict[str, Any], region: str | None) -> None:
    assert region_of(record) == region


@pytest.mark.parametrize(
    ("record", "city"),
    [
        ({"city": {"names": {"ja": "東京"}}}, "東京"),
        ({"city": "A\x00B\n"}, "AB"),
        ({"city": "x" * 500}, "x" * 100),
        ({"city": {"names": ["odd"]}}, None),
        ({"city": " "}, None),
    ],
)
def test_cities_of_all_layouts(record: dict[str, Any], city: str | None) -> None:
    assert city_of(record) == city


@pytest.mark.parametrize(
    ("record", "system"),
    [
        (SYSTEM, (13335, "Cloudflare, Inc.")),
        ({"traits": SYSTEM}, (13335, "Cloudflare, Inc.")),
        ({"asn": "AS15169", "name": "Google LLC", "country": "US"}, (15169, "Google LLC")),
        ({"asn": "AS15169", "as_name": "Google LLC"}, (15169, "Google LLC")),
        ({"autonomous_system_number": "-", "autonomous_system_organization": "-"}, (None, None)),
        ({"autonomous_system_number": True}, (None, None)),
        ({"autonomous_system_number": -1}, (None, None)),
        ({"autonomous_system_number": 2**32}, (None, None)),
        ({"autonomous_system_number": 1.5, "autonomous_system_organization": b"x"}, (None, None)),
        ({"asn": "AS" + "9" * 5000}, (None, None)),
    ],
)
def test_autonomous_systems_of_all_layouts(record: dict[str, Any], system: tuple[int | None, str | None]) -> None:
    assert system_of(record) == system


def test_the_sources_are_described(city: Path, asn: Path) -> None:
    lines = GeoLocator(city, asn, TABLE).describe()
    assert [line.split(":")[0] for line in lines] == ["city", "asn", "countries"]
    assert "GeoLite2-ASN" in lines[1]
    assert "609,227 ranges" in lines[2]
    assert "CC BY 4.0" in lines[2]
