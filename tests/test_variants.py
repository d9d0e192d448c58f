"""Which parameters of a query make another page of a path, and what a row keeps of it."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics import variants
from asgi_analytics.identify.redaction import SECRET_NAMES
from asgi_analytics.identify.referral import CAMPAIGN_NAMES, SOURCE_NAMES
from asgi_analytics.model import Variant
from asgi_analytics.variants import CURSOR, ITEM, TURN, Variants, guessed, packed, parameters, unpacked

UUID = "6f1c2a34-9d1e-4b7a-8c55-0a1b2c3d4e5f"


def kinds(query: str) -> list[int]:
    return [one.kind for one in parameters(query)]


@pytest.mark.parametrize(
    "query",
    [
        *("id=17", "ID=17", "pid=3", "product_id=40", "productId=40", "ProductID=40", "articleid=9", "tabid=57"),
        *("t=123", "u=12", "topic=5", "showtopic=88", "isbn=9783161484100", "sku=AB-12", "asin_id=B00X4WHP5E"),
        *(f"item_uuid={UUID}", f"item={UUID}", "title=Main_Page", "slug=ten-things", "page=about", "p=imprint"),
        *("item%5Fid=7", "review-id=4", "order.id=12", "id=17&utm_source=x&sort=price"),
    ],
)
def test_what_names_a_thing_makes_a_page_of_its_own(query: str) -> None:
    assert kinds(query) == [ITEM]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        *(("page=2", TURN), ("p=40", TURN), ("pg=3", TURN), ("pageNo=7", TURN), ("page_number=12", TURN)),
        *(("paged=2", TURN), ("page%5Bnumber%5D=3", TURN), ("seite=4", TURN)),
        *(("offset=40", CURSOR), ("start=15", CURSOR), ("cursor=eyJpZCI6NX0", CURSOR), ("after=t3_1abcd", CURSOR)),
        *(("nextPageToken=CAUQAA", CURSOR), ("last_id=99", CURSOR), ("since_id=12", CURSOR), ("lastEventId=4", CURSOR)),
        *(("messageId=d-8F2A", CURSOR), ("event_id=5", CURSOR)),
        ("page=eyJpZCI6NX0", CURSOR),
    ],
)
def test_pages_of_lists_and_places_in_streams_are_known_for_what_they_are(query: str, kind: int) -> None:
    assert kinds(query) == [kind]


@pytest.mark.parametrize(
    "query",
    [
        *("utm_source=a&utm_id=7", "gclid=Cj0KCQ", "fbclid=IwAR0", "yclid=12", "mc_eid=5", "li_fat_id=1", "igshid=5"),
        *("sid=8f3a", "PHPSESSID=8f3a", "jsessionid=1A", "session_id=4", "requestId=17", "client_id=9", "rid=3"),
        *("filter_tag_id=3", "_=1795564800000", "v=12", "ts=1795564800", "timestamp=1795564800", "cb=99", "nocache=4"),
        *("t=1795564800", "t=0.8374652", "r=838383", "sort=price", "order=2", "dir=1", "view=grid", "theme=2"),
        *("lang=3", "q=gar", "s=5", "search=7", "query=12", "keywords=3", "category_id=3", "brand=7", "brand_id=7"),
        *(f"uuid={UUID}", "guid=77", "tileId=1203021", "tile_id=12", "dswid=-4560", "kategorie_id=4"),
        *("colour=5", "size=42", "price_min=10&price_max=90", "year=2026&month=5", "date=2026-05-01", "day=3", "cat=4"),
        *("lat=52.5200&lng=13.4050&zoom=12", "bbox=1.0,2.0,3.0,4.0", "x=3&y=4&z=12", "w=640&h=480&dpr=2", "limit=50"),
        *("since=1795564800", "from=1795564800&to=1795568400", "step=15", "start=1795564800", "after=2026-05-01"),
        *("page=1", "page=0", "offset=0", "id=", "id", "ids=1,2,3", "id=1,2", "id%5B%5D=5", "filter[]=5", "", "=5"),
    ],
)  # fmt: skip
def test_what_shows_one_thing_in_another_way_makes_no_other_page(query: str) -> None:
    assert kinds(query) == []


@pytest.mark.parametrize("name", sorted(CAMPAIGN_NAMES | SECRET_NAMES | {*SOURCE_NAMES}))
def test_nothing_that_campaigns_and_sessions_are_known_by_makes_another_page(name: str) -> None:
    assert kinds(f"{name}=17") == []


def test_the_number_of_a_page_is_the_same_whatever_else_the_query_says() -> None:
    one = Variants(b"k")
    found = {one.page("/item.php", query, True) for query in (b"id=5&t=3", "t=3&id=5", b"utm_source=x&t=3&id=5&sort=a")}
    assert len(found) == 1
    assert found != {one.page("/item.php", b"id=5&t=4", True)} != {one.page("/items.php", b"id=5&t=4", True)}


def test_the_number_tells_nothing_to_who_has_another_key() -> None:
    one, other = (Variants(key).page("/item.php", b"id=5", True) for key in (b"1", b"2"))
    assert one is not None
    assert other is not None
    assert one.number & 1023 != other.number & 1023
    assert one.number not in (crc32(b"/item.php?id=5"), crc32(b"id=5"), other.number)


def test_pages_of_a_list_count_for_those_only_who_come_without_a_link() -> None:
    one = Variants(b"k")
    assert one.page("/list", b"page=2", inner=True) is None
    followed, came = one.page("/topic", b"t=5&start=30", inner=True), one.page("/topic", b"t=5&start=30", inner=False)
    assert followed == one.page("/topic", b"t=5", inner=True) != came
    assert one.page("/list", b"page=2", inner=False) != one.page("/list", b"page=3", inner=False) != None  # noqa: E711


def test_data_is_told_apart_by_what_is_no_text_that_is_being_typed() -> None:
    one = Variants(b"k")
    assert one.data("/api/items", b"title=gar") is None
    assert one.page("/item", b"title=gar", True) is not None
    queries = (b"id=17", b"id=17&page=9", b"id=17&page=101", b"page=100", b"cursor=eyJ5In0", b"offset=5000")
    found = [one.data("/api/items", query) for query in queries]
    assert [None if variant is None else variant.kind for variant in found] == [ITEM, ITEM, TURN, None, None, None]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("query", "depth"),
    [("offset=4000&limit=20", 200), ("size=50&from=9&start=100", 2), ("skip=30&take=20", 0), ("start=7&count=1", 0)],
)
def test_an_offset_is_a_page_where_it_is_a_multiple_of_the_size(query: str, depth: int) -> None:
    (found,) = parameters(query)
    assert (found.kind, found.depth) == (TURN if depth else CURSOR, depth)


def test_numbers_sort_as_numbers() -> None:
    one = Variants(b"k")
    keys = [variant.key for n in (2, 9, 10, 100) if (variant := one.page("/item", f"id={n}", False)) is not None]
    assert len(keys) == 4
    assert keys == sorted(keys)


def test_no_junk_in_front_of_an_id_hides_it() -> None:
    for junk in ("x=1&" * 1_500, "x=" + "1" * 7_000 + "&", "&" * 8_000, "id=&" * 1_500, "x=" + "1" * 70_000 + "&"):
        for form in (str, str.encode):
            first, other, again = (parameters(form(f"{junk}id={n}")) for n in (5, 6, 5))
            assert first == again != other
            assert [one.kind for one in first] == [ITEM]


def test_names_that_nobody_has_seen_before_hide_no_id_either_and_are_known_from_then_on() -> None:
    query = "&".join(f"n{number}$=1" for number in range(variants.MAX_PARAMETERS + 10))
    assert len({tuple(parameters(f"{query}&id={n}")) for n in (5, 6)}) == 2
    assert parameters(f"{query}&id=5") == parameters("id=5")
    assert parameters(query) == []


def test_what_is_looked_at_of_a_query_is_bounded() -> None:
    assert len(parameters("&".join(f"id={n}" for n in range(1_000)))) == variants.MAX_PARAMETERS
    assert len(parameters("&".join(f"{n}id={n}" for n in range(1_000)))) <= variants.MAX_PARAMETERS
    assert len(variants._kinds) <= variants.MAX_NAMES
    assert kinds("i" * 60 + "id=5") == []


def test_zeros_in_front_of_a_number_hide_it_from_nobody() -> None:
    for name in ("t", "id", "page"):
        assert len({one for n in range(5, 9) for one in parameters(f"{name}={'0' * 300}{n}")}) == 4


@pytest.mark.parametrize("value", ["%31%37", "+17", "%2017", "1_7", "17.0", "%D9%A1%D9%A7", "000000017"])
@pytest.mark.parametrize("name", ["t", "id", "page"])
def test_a_number_in_disguise_is_the_number_that_an_app_reads(name: str, value: str) -> None:
    assert parameters(f"{name}={value}") == parameters(f"{name}=17") != []


def test_a_name_is_as_long_as_what_it_stands_for() -> None:
    assert kinds("".join(f"%{ord(letter):02x}" for letter in "product_article_id") + "=5") == [ITEM]


def test_how_a_page_sorts_takes_bounded_room_and_tells_long_queries_apart() -> None:
    one = Variants(b"k")
    found = [one.page("/" + "p" * 300, b"&".join([b"id=" + b"a" * 190] * 9) + b"&pid=%d" % n, True) for n in (1, 2)]
    keys = {variant.key for variant in found if variant is not None}
    assert len(keys) == 2
    assert all(len(key) <= variants.MAX_KEY + 20 for key in keys)


def test_what_is_remembered_is_bounded() -> None:
    one = Variants(b"k")
    for number in range(variants.MAX_REMEMBERED + 10):
        one.page("/item", b"id=%d" % number, True)
    one.page("/item", b"id=5&x=" + b"1" * 600, True)
    assert len(one._known) <= variants.MAX_REMEMBERED
    assert all(len(path) + len(query) <= variants.LONGEST_REMEMBERED for path, query, _ in one._known)


@given(st.text(), st.one_of(st.text(), st.binary()), st.booleans())
def test_no_query_is_too_odd(path: str, query: str | bytes, inner: bool) -> None:
    one = Variants(b"k")
    for found in (one.page(path, query, inner), one.data(path, query)):
        assert found is None or (0 <= found.number < 1 << 32 and found.kind in (ITEM, TURN, CURSOR))


@given(st.integers(0, (1 << 32) - 1), st.sampled_from((ITEM, TURN, CURSOR)), st.booleans())
def test_a_variant_comes_back_from_its_row_but_for_how_it_sorts(number: int, kind: int, onward: bool) -> None:
    inputs = packed(Variant(number, "key", kind, onward))
    assert 0 < inputs < 1 << 63
    again = unpacked("/item", inputs)
    assert again is not None
    assert again._replace(key="key") == Variant(number, "key", kind, onward)


def test_a_row_without_a_variant_has_none() -> None:
    assert unpacked("/item", 0xFFFF_FFFF | 7 << 32) is None


@pytest.mark.parametrize(
    ("query", "told"),
    [
        *(("token=a&x=1", "token=a"), ("x=1&resetToken=a", "token=a"), ("invite_code=a%26b", "code=a%26b")),
        *(("code=a&pin=b", "code=apin=b"), ("user_pin=a", "pin=a"), ("x=1&%74oken=a", "x=1&%74oken=a")),
        *(("id=5&q=token", ""), ("country_code=de&zipcode=1", ""), ("csrf_token=a&captcha_code=b", "")),
        *(("next=/reset?token=a", ""), ("shopping=1&compass=2&pinned=3", ""), ("columns%5B0%5D=a", ""), ("", "")),
    ],
)
def test_what_is_guessed_is_told_by_its_name(query: str, told: str) -> None:
    assert guessed(query, "/invite") == guessed(query.encode(), "/invite") == told


@pytest.mark.parametrize(("path", "is_secret"), [("/join", True), ("/cart/apply", True), ("/api/product", False)])
def test_a_code_is_guessed_where_one_lets_in_or_makes_cheaper(path: str, is_secret: bool) -> None:
    assert (guessed("code=4006381333931", path) != "") is is_secret
    assert guessed("access_code=1", path) == "code=1"


def test_no_junk_in_front_of_a_guess_hides_it() -> None:
    for junk in ("x=1&" * 2_000, "x" * 9_000, "pin=1&" * 60, "%61=1&"):
        assert guessed(f"{junk}token=a", "/") != guessed(f"{junk}token=b", "/")
