from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from asgi_analytics.batch import DECISION
from asgi_analytics.decide.explain import detail
from asgi_analytics.facts import Finding, ThrottleLevel
from asgi_analytics.model import Agent, Decision, Place, Referral
from asgi_analytics.record import encoding
from asgi_analytics.record.encoding import DECISION_COLUMNS, HIT_COLUMNS
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.store.staging import COPY_HEADER, COPY_TRAILER
from tests.build import COMPILED
from tests.record.rows import batch, deliver, finished, hit, identity, one

TIME_US = 1_750_000_000_123_456
TIME = datetime(2025, 6, 15, 15, 6, 40, 123456, UTC)
WHO = identity(
    b"fingerprint",
    place=Place("DE", "BE", "Berlin", 4_294_967_295, "Example AG"),
    agent=Agent(
        *("Chrome", "130.0", "Android", "15", "mobile", "search-engine", "Examplebot"),
        outdated=True,
        operator="Example",
        purpose="search",
    ),
    language="de-ch",
    address="198.51.100.0/24",
    provisional=True,
)
HIT: dict[str, Any] = {
    "id": b"i" * 16,
    "time": TIME,
    "page_view": True,
    "duration_us": 1 << 40,
    "bytes_sent": (1 << 40) + 1,
    "score": 55,
    "level": 2,
    "status": 404,
    "first_byte_us": 77,
    "close_code": 1001,
    "level_before": 1,
    "decision_id": b"d" * 16,
    "outcome": "aborted",
    "method": "PROPFIND",
    "path": "/ä/\U0001f600\t\\.\n",
    "route": "/{name}",
    "query": "a=b&c",
    "channel": "Paid Search",
    "source": "example.com",
    **{f"utm_{name}": f"u-{name}" for name in ("source", "medium", "campaign", "term", "content")},
    "click_id": "gclid",
    "session_id": b"s" * 16,
    "fingerprint": WHO.fingerprint,
    "network": WHO.network,
    "site": "shop",
    "address": "198.51.100.0/24",
    "country": "DE",
    "region": "BE",
    "city": "Berlin",
    "asn": 4_294_967_295,
    "organisation": "Example AG",
    "browser": "Chrome",
    "browser_version": "130.0",
    "os": "Android",
    "os_version": "15",
    "device": "mobile",
    "bot_class": "search-engine",
    "crawler": "Examplebot",
    "language": "de-ch",
    "provisional": True,
    "clock": 12.5,
    "from_inside": True,
    "exempt": True,
    "outdated": True,
    "operator": "Example",
    "purpose": "search",
    "verified": "pending",
    "policy": "0123456789ab",
    "inputs": 0x7FFF,
    "numbers": (1 << 63) - 1,
    "path_inputs": 1 << 34,
}
REFERRAL = Referral("Paid Search", "example.com", "u-source", "u-medium", "u-campaign", "u-term", "u-content", "gclid")
FINDING = Finding("regular_timing", 15, 0.05, 0.1, "as regular as a clock")


def write(store: PostgresStore, rows: list[bytes], kind: bytes = b"h") -> None:
    pieces = batch(rows, kind=kind)
    deliver(store, pieces)


def full_hit() -> bytes:
    return hit(
        HIT["path"], visitor=WHO, session=HIT["session_id"], time_us=TIME_US, hit_id=HIT["id"], page_view=True,
        duration_us=1 << 40, bytes_sent=(1 << 40) + 1, score=55, level=2, level_before=1, close_code=1001,
        decision_id=HIT["decision_id"], status=404, first_byte_us=77, outcome="aborted", method="PROPFIND",
        route="/{name}", query="a=b&c", referral=REFERRAL, site="shop", clock=12.5, from_inside=True, exempt=True,
        verified="pending", policy="0123456789ab", inputs=0x7FFF, numbers=(1 << 63) - 1, path_inputs=1 << 34,
    )  # fmt: skip


@pytest.mark.parametrize(("table", "columns"), [("hits", HIT_COLUMNS), ("decisions", DECISION_COLUMNS)])
def test_columns_are_the_tables_columns(dsn: str, table: str, columns: tuple[str, ...]) -> None:
    query = (
        "SELECT array_agg(column_name::text ORDER BY ordinal_position) AS names FROM information_schema.columns"
        " WHERE table_schema = 'analytics' AND table_name = %s"
    )
    names = one(dsn, query, table)["names"]
    assert sorted(names) == sorted(columns)


@pytest.mark.parametrize("column", HIT_COLUMNS)
def test_the_test_row_has_a_value_for_each_column(column: str) -> None:
    assert HIT[column] is not None


def test_each_column_of_a_hit_arrives_as_it_was_sent(store: PostgresStore, dsn: str) -> None:
    write(store, [full_hit()])
    assert one(dsn, "SELECT * FROM analytics.hits") == HIT


def test_what_is_not_known_arrives_as_null(store: PostgresStore, dsn: str) -> None:
    who = identity(tracked=False, address="198.51.100.0/24", place=Place("DE", "BE", "Berlin", 1, "x"), language="de")
    write(store, [hit(visitor=who, session=None, status=None, first_byte_us=None)])
    row = one(dsn, "SELECT * FROM analytics.hits")
    assert row["country"] == "DE"
    for column in ("session_id", "fingerprint", "network", "address", "region", "city", "asn", "language", "status"):
        assert row[column] is None


def test_each_column_of_a_decision_arrives_as_it_was_sent(store: PostgresStore, dsn: str) -> None:
    decision = Decision(
        ThrottleLevel.SEVERE,
        60,
        refused=True,
        retry_after=30,
        violated=("minute",),
        reasons=("too many",),
        previous_level=ThrottleLevel.WARNING,
        id=b"d" * 16,
    )
    told = detail(decision, [FINDING], None, "v1")
    row = encoding.decision_row(
        decision,
        told,
        hit_id=b"h" * 16,
        time_us=TIME_US,
        enforced=False,
        site="shop",
        identity=WHO,
    )
    write(store, [row], DECISION)
    stored = one(dsn, "SELECT * FROM analytics.decisions")
    assert stored.pop("detail") == told
    assert stored == {
        "id": b"d" * 16, "time": TIME, "refused": True, "enforced": False, "level": 2, "score": 60, "retry_after": 30,
        "site": "shop", "hit_id": b"h" * 16, "fingerprint": WHO.fingerprint, "network": WHO.network,
        "level_before": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("\ud800x", "\ufffdx"),
        ("\udcff\udc80", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("x" * 300, "x" * 256),
        ("\uffff", "\uffff"),
    ],
)
def test_a_text_becomes_one_that_postgres_takes(value: str, stored: str) -> None:
    assert encoding.text(value)[4:].decode() == stored


@pytest.mark.parametrize("status", [99, 600, 999, -1, 1 << 80, "200", None, 200.0, True, b"200"])
def test_a_status_that_is_none_becomes_null(status: Any) -> None:
    done = finished(
        WHO, 5, 0, TIME_US * 1000, duration_us=3, bytes_sent=4, status=status, first_byte_us=5, started_at=1.0
    )
    assert encoding.small(0) + encoding.NULL * 3 in encoding.judged(done, done.decision)


@pytest.mark.parametrize(("code", "stored"), [(-5, 0), (1 << 70, 65535), (4999, 4999)])
def test_a_close_code_is_kept_in_its_range(code: int, stored: int) -> None:
    assert int.from_bytes(encoding.decided(code, None, None)[4:8], "big") == stored


@pytest.mark.parametrize("code", ["1000", None, 1.5, object()])
def test_a_close_code_that_is_no_number_becomes_null(code: Any) -> None:
    assert encoding.decided(code, None, None) == encoding.NULL * 3


def test_a_finding_without_a_finite_value_is_valid_json() -> None:
    findings = [Finding("s\ud800", 1, math.nan, math.inf, "nul\0")]
    row = encoding.decision_row(
        Decision(),
        detail(Decision(), findings, None, "v1"),
        hit_id=b"h" * 16,
        time_us=TIME_US,
        enforced=True,
        site="s",
        identity=WHO,
    )
    stored = json.loads(row[row.index(b"\x01{") + 1 :])
    assert stored["signals"] == [
        {"signal": "s\ufffd", "points": 1, "value": None, "threshold": None, "below": False, "text": "nul\ufffd"}
    ]


TEXTS = (
    st.none() | st.text(st.characters(), max_size=400) | st.sampled_from(["\0", "\ud800", "\udfff" * 2000, "", "\x7f"])
)
WHOLE = st.integers(-(1 << 70), 1 << 70)
LEVELS = st.integers(0, 3) if COMPILED else WHOLE  # where types are checked, there are no others
ODD_HITS = st.builds(
    hit,
    st.text(st.characters(), max_size=1100),
    time_us=WHOLE,
    duration_us=WHOLE,
    bytes_sent=WHOLE,
    score=WHOLE,
    level=LEVELS,
    close_code=st.none() | WHOLE,
    status=st.sampled_from([999, "200", None, 1 << 70]) | WHOLE,
    first_byte_us=st.none() | WHOLE,
    method=st.text(st.characters(), max_size=20),
    route=TEXTS,
    query=TEXTS,
    referral=st.builds(Referral, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    visitor=st.builds(
        lambda place, agent, language, address: identity(place=place, agent=agent, language=language, address=address),
        st.builds(Place, TEXTS, TEXTS, TEXTS, st.none() | WHOLE, TEXTS),
        st.builds(Agent, TEXTS, TEXTS, TEXTS, TEXTS, st.text(st.characters(), max_size=30), TEXTS, TEXTS),
        TEXTS,
        TEXTS,
    ),
)
NUMBERS = ("duration_us", "bytes_sent", "score", "level", "asn")
SENT = st.fixed_dictionaries(
    {
        **dict.fromkeys(NUMBERS, WHOLE),
        "level": LEVELS,
        **dict.fromkeys(("first_byte_us", "close_code", "level_before", "status"), st.none() | WHOLE),
        **dict.fromkeys(("page_view", "exempt", "outdated", "provisional"), st.booleans()),
        **dict.fromkeys(("id", "session_id", "fingerprint", "network"), st.binary(min_size=16, max_size=16)),
        "time_us": st.integers(0, 253_402_300_799_999_999),
        "clock": st.floats(allow_nan=False),
        "from_inside": st.none() | st.booleans(),
    }
)
# Columns of text, with what they are cut to.
CUT_TO = {
    1024: "path query",
    256: "outcome route source utm_source utm_medium utm_campaign utm_term utm_content organisation",
    128: "city",
    100: "site",
    64: "address region browser os crawler operator",
    35: "language",
    32: "channel click_id browser_version os_version bot_class purpose",
    16: "method device verified policy",
    2: "country",
}
LENGTHS = {name: most for most, names in CUT_TO.items() for name in names.split()}
NEVER_NULL = ("outcome", "method", "path", "site", "device")
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates and NUL too
LONG_TEXT = st.builds(lambda text, times: text * times, ANY_TEXT, st.sampled_from([1, 1, 1, 40]))
WORDS = st.fixed_dictionaries({name: LONG_TEXT if name in NEVER_NULL else st.none() | LONG_TEXT for name in LENGTHS})
ODD_DECISIONS = st.builds(
    lambda score, wait, words, value, time_us: encoding.decision_row(
        Decision(score=score, retry_after=wait, violated=words, reasons=words),
        {"signals": [{"signal": "".join(words[:1]), "value": value, "threshold": value}], "reasons": list(words)},
        hit_id=b"h" * 16,
        time_us=time_us,
        enforced=True,
        site="s",
        identity=WHO,
    ),
    WHOLE,
    WHOLE,
    st.lists(ANY_TEXT, max_size=3).map(tuple),
    st.floats(),
    WHOLE,
)


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE staging (LIKE analytics.hits)")
        connection.execute("CREATE TEMP TABLE decided (LIKE analytics.decisions)")
        yield connection


def copied(connection: psycopg.Connection, table: str, columns: tuple[str, ...], rows: list[bytes]) -> int:
    query = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"
    with connection.cursor() as cursor:
        with cursor.copy(query) as copy:
            copy.write(b"".join([COPY_HEADER, *rows, COPY_TRAILER]))
        return cursor.rowcount


odd = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@odd
@given(st.lists(ODD_HITS, min_size=1, max_size=5))
def test_postgres_takes_whatever_a_visitor_or_an_app_can_do(connection: psycopg.Connection, rows: list[bytes]) -> None:
    assert copied(connection, "staging", HIT_COLUMNS, rows) == len(rows)


def clamped(value: int | None, bits: int) -> int | None:
    return None if value is None else max(-(1 << bits), min(value, (1 << bits) - 1))


def as_text(value: str | None, most: int) -> str | None:
    """What is stored of a text: so many characters, U+FFFD for NUL and for surrogates without their other half."""
    if value is None:
        return None
    paired = value[:most].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\0", "\ufffd")


def expected(sent: dict[str, Any], words: dict[str, str | None]) -> dict[str, Any]:
    """The row, column by column."""
    row: dict[str, Any] = {name: as_text(words[name], most) for name, most in LENGTHS.items()}
    row |= {name: sent[name] for name in ("page_view", "outdated", "provisional", "clock", "from_inside")}
    row["exempt"] = sent["exempt"] or None
    row |= {name: clamped(sent[name], 63) for name in ("duration_us", "bytes_sent", "first_byte_us", "asn")}
    row |= {name: clamped(sent[name], 15) for name in ("score", "level", "level_before")}
    row |= {name: UUID(bytes=sent[name]) for name in ("id", "session_id", "fingerprint", "network")}
    status, code = sent["status"], sent["close_code"]
    row["status"] = status if status is not None and 100 <= status <= 599 else None
    row["close_code"] = None if code is None else max(0, min(code, 65535))
    row["time"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=sent["time_us"])
    return {**row, "decision_id": None, "inputs": 0, "numbers": None, "path_inputs": None}


def encoded(sent: dict[str, Any], words: dict[str, Any]) -> bytes:
    """The row as it is sent."""
    agent = Agent(
        words["browser"], words["browser_version"], words["os"], words["os_version"], words["device"],
        words["bot_class"], words["crawler"], sent["outdated"], words["operator"], words["purpose"],
    )  # fmt: skip
    place = Place(words["country"], words["region"], words["city"], sent["asn"], words["organisation"])
    who = identity(
        fingerprint=sent["fingerprint"], network=sent["network"], place=place, agent=agent, language=words["language"],
        address=words["address"], provisional=sent["provisional"],
    )  # fmt: skip
    referral = Referral(**{one.name: words[one.name] for one in fields(Referral)})
    told = ("page_view", "duration_us", "bytes_sent", "score", "level", "level_before", "close_code", "status")
    return hit(
        words["path"], visitor=who, session=sent["session_id"], hit_id=sent["id"], outcome=words["outcome"],
        referral=referral,
        **{name: sent[name] for name in (*told, "first_byte_us", "clock", "from_inside", "exempt", "time_us")},
        **{name: words[name] for name in ("method", "route", "query", "site", "verified", "policy")},
    )  # fmt: skip


@odd
@given(SENT, WORDS)
def test_the_value_in_each_column_is_the_one_sent_or_its_documented_form(
    connection: psycopg.Connection, sent: dict[str, Any], words: dict[str, str | None]
) -> None:
    connection.execute("TRUNCATE staging")
    copied(connection, "staging", HIT_COLUMNS, [encoded(sent, words)])
    with connection.cursor(row_factory=dict_row) as cursor:
        assert cursor.execute("SELECT * FROM staging").fetchone() == expected(sent, words)


@odd
@given(st.lists(ODD_DECISIONS, min_size=1, max_size=5))
def test_postgres_takes_whatever_is_decided(connection: psycopg.Connection, rows: list[bytes]) -> None:
    assert copied(connection, "decided", DECISION_COLUMNS, rows) == len(rows)
