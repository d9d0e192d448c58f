"""What verdicts read survives being packed, and what could tell on a visitor does not."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.decide.probes import is_odd, is_picture, kind_of, probe_kind
from asgi_analytics.facts import Claims
from asgi_analytics.identify.consistency import Engine, header_faults
from asgi_analytics.identify.credentials import refused_attempt
from asgi_analytics.identify.request import clean_path
from asgi_analytics.inputs import (
    BY_LENGTH,
    BY_PAGE,
    DATA,
    FAULTS,
    TRIED,
    Mask,
    attempt_of,
    bits_of,
    claims_of,
    login_of,
    path_number,
)
from asgi_analytics.replay.hidden import stand_in

NETWORK = b"n" * 16
FORGED = {b"sec-ch-ua": b'"Chromium";v="99"'}
HIDDEN = (
    *(
        "/..;/manager/html",
        "/a;/../b",
        "http://other.example/.env",
        "/.git/config;x",
        "/x\0y",
        "/wp-login.php;jsessionid=1",
        "/avatars/a.png;v=2",
    ),
    *(f"/reset/{'a1' * 30}", f"/{'x/' * 200}\\{'a1' * 30}", "/c;d/wp-config.php.bak", "/;/..", "/\udcff"),
)


@pytest.mark.parametrize(("engine", "count"), [(Engine("Chrome", 130), 3), (Engine("Firefox", 130), 3)])
def test_each_fault_of_headers_has_a_bit_of_its_own(engine: Engine, count: int) -> None:
    faults = header_faults("GET", "https", FORGED, engine)
    assert len(faults) == count
    assert len({bits_of(Claims((fault,))) for fault in faults}) == count
    again = claims_of(bits_of(Claims(faults)), 7, NETWORK)
    assert again is not None
    assert all(fault.startswith(told[:10]) for fault, told in zip(faults, again.faults, strict=True))


@given(
    st.builds(
        Claims,
        st.sets(st.sampled_from(range(len(FAULTS)))).map(
            lambda some: tuple(FAULTS[place][1] for place in sorted(some))
        ),
        *[st.booleans()] * 4,
        agent=st.integers(0, 0xFFFF_FFFF),
        network=st.just(crc32(NETWORK)),
        is_led=st.just(False),  # of pages only: IS_LED, beside these bits
    ),
    st.one_of(st.none(), st.just(0), st.integers(1 << 32, 1 << 34)),
)
def test_claims_and_tries_come_back_as_they_were_but_for_their_numbers(claims: Claims, attempt: int | None) -> None:
    mask = Mask(b"k" * 32)
    inputs, numbers = bits_of(claims) | (TRIED if attempt is not None else 0), mask.numbers(claims, attempt)
    assert 0 < inputs < 1 << 15
    assert numbers is None or 0 < numbers < 1 << 63
    again = claims_of(inputs, numbers, NETWORK)
    assert again is not None
    assert again._replace(agent=0, faults=()) == claims._replace(agent=0, faults=())
    assert len(again.faults) == len(claims.faults)
    assert again.agent % 256 == (claims.agent % 256 if claims.faults else 0)
    tried_again = attempt_of(inputs, numbers)
    assert (tried_again is None, bool(tried_again)) == (attempt is None, bool(attempt))


def test_nothing_was_read_where_nothing_is_recorded() -> None:
    assert claims_of(None, None, NETWORK) is None
    assert claims_of(0, None, NETWORK) is None


def test_refused_credentials_leave_a_number_that_another_run_gives_another() -> None:
    attempt = refused_attempt("GET", {b"authorization": b"Basic YTpi"}, 401, "/")
    one, same, other = (Mask(key).numbers(Claims(), attempt) for key in (b"1", b"1", b"2"))
    assert one == same != other
    assert one is not None
    assert one >> 32 not in (crc32(b"Basic YTpi"), crc32(b"Basic YTpi") >> 1)


def test_a_login_leaves_a_number_that_another_run_gives_another() -> None:
    one, same, other = (Mask(key).numbers(None, None, 4711) for key in (b"1", b"1", b"2"))
    assert one == same != other
    assert (login_of(DATA, one), login_of(0, one)) == ((one or 0) >> 32, 0)
    assert 0 < login_of(DATA, one) < 1 << 31


@pytest.mark.parametrize(("path", "kinds"), [("/api/save", BY_LENGTH | BY_PAGE), ("/login", BY_LENGTH)])
def test_how_credentials_were_told_apart_comes_back(path: str, kinds: int) -> None:
    for length in (b"1", b"20", b"300", b"4000"):
        headers = {b"content-length": length, b"sec-fetch-dest": b"empty"}
        attempt = attempt_of(TRIED, Mask(b"k").numbers(Claims(), refused_attempt("POST", headers, 401, path)))
        assert attempt is not None
        assert attempt & (BY_LENGTH | BY_PAGE) == kinds


@pytest.mark.parametrize("path", HIDDEN)
def test_a_path_that_is_not_stored_has_a_stand_in_that_verdicts_see_alike(path: str) -> None:
    mask = Mask(b"k")
    inputs = kind_of(path) << 32 | mask.path(path[:256])
    stored = clean_path(path).replace("\0", "?").replace("\udcff", "?")
    found = stand_in(stored, inputs)
    assert (probe_kind(found), is_odd("GET", found)) == (probe_kind(path), is_odd("GET", path))
    assert is_picture(found) == is_picture(path)
    assert path_number(found[:256]) % 1024 == path_number(path[:256]) % 1024
    assert found == stand_in(stored, inputs) != stand_in(stored, kind_of(path) << 32 | mask.path(f"{path[:200]}2"))
