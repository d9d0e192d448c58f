"""What is kept of a visitor, and what of one who asks not to be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asgi_analytics import Analytics, Privacy

from .drive import COOKIE, found, get, page, rows, wrapped


@pytest.mark.parametrize("signal", [{"sec-gpc": "1"}, {"dnt": "1"}])
def test_a_privacy_signal_leaves_a_count_without_visitor(dsn: str, signal: dict[str, str]) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen), dsn, privacy=Privacy(address="full"), **COOKIE) as wrap:
        reply = get(wrap, headers=signal)
    (row,) = rows(dsn)
    assert (seen[0].visitor, seen[0].session, reply.cookies) == (None, None, [])
    unknown = ("session_id", "fingerprint", "network", "address", "region", "city", "asn", "organisation", "language")
    assert {row[name] for name in unknown} == {None}
    assert (row["browser"], row["page_view"]) == ("Chrome", True)
    assert rows(dsn, "SELECT 1 FROM analytics.sessions UNION ALL SELECT 1 FROM analytics.fingerprints") == []


def test_signals_drop_stores_nothing_and_counts_it(dsn: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(signals="drop"), limits="1/day") as wrap:
        statuses = [get(wrap, headers={"sec-gpc": "1"}).status for _ in range(2)]
        assert wrap.stats()["dropped"] == {"privacy_signal": 2}
    assert (statuses, rows(dsn), rows(dsn, "SELECT * FROM analytics.decisions")) == ([200, 429], [], [])


def test_signals_ignore_treats_all_alike(dsn: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(signals="ignore")) as wrap:
        get(wrap, headers={"sec-gpc": "1"})
    (row,) = rows(dsn)
    assert row["fingerprint"]
    assert row["session_id"]


@pytest.mark.parametrize("value", ["0", "", "yes", "11"])
def test_only_the_value_1_is_a_privacy_signal(value: str) -> None:
    seen: list[Analytics] = []
    with wrapped(found(page(), seen)) as wrap:
        get(wrap, headers={"sec-gpc": value, "dnt": value})
    assert seen[0].visitor


@pytest.mark.parametrize(
    ("address", "client", "kept"),
    [
        ("none", "198.51.100.7", None),
        ("network", "198.51.100.7", "198.51.100.0/24"),
        ("network", "2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("full", "198.51.100.7", "198.51.100.7"),
        ("full", "::ffff:198.51.100.7", "198.51.100.7"),
    ],
)
def test_of_the_address_only_what_the_settings_keep_is_stored(dsn: str, address: Any, client: str, kept: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(address=address)) as wrap:
        get(wrap, client=(client, 1))
    (row,) = rows(dsn)
    assert row["address"] == kept


def test_by_default_no_address_no_query_and_no_secret_is_anywhere_in_the_journal_or_the_tables(
    dsn: str, tmp_path: Path
) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"
    with wrapped(page(), dsn, journal_dir=tmp_path / "j") as wrap:
        get(wrap, f"/reset/{token}", query_string=b"password=hunter2&token=s3cr3t")
        written = b"".join(path.read_bytes() for path in (tmp_path / "j").rglob("*") if path.is_file())
    text = str(rows(dsn)) + written.decode("latin-1")
    assert "/reset/" in text
    assert [word for word in ("hunter2", "s3cr3t", token, "198.51.100.7") if word in text] == []


def test_a_full_address_is_the_one_that_a_hit_came_from_though_a_network_of_ipv6_is_one_visitor(dsn: str) -> None:
    with wrapped(page(), dsn, privacy=Privacy(address="full")) as wrap:
        for host in ("a", "b", "a"):
            get(wrap, f"/{host}", client=(f"2001:db8:1:2::{host}", 1))
    found = rows(dsn)
    assert [row["address"] for row in found] == ["2001:db8:1:2::a", "2001:db8:1:2::b", "2001:db8:1:2::a"]
    assert len({row["session_id"] for row in found}) == 1
