from __future__ import annotations

from http import HTTPStatus

import pytest

from asgi_analytics.identify.request import (
    clean_path,
    is_data,
    is_inner,
    is_linked,
    is_page,
    is_precached_or_tile,
    is_prefetch,
    is_tile,
    target_on_site,
)

HTML = {b"content-type": b"text/html; charset=utf-8"}
NAVIGATED = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
TURBO = b"text/html, application/xhtml+xml"


@pytest.mark.parametrize(
    ("headers", "shows"),
    [
        ({}, True),
        ({b"sec-fetch-dest": b"document"}, True),
        ({b"sec-fetch-dest": b"document", b"sec-purpose": b"prefetch;prerender"}, False),
        ({b"purpose": b"prefetch"}, False),  # over plain http
        ({b"sec-purpose": b"prefetch;prerender"}, False),
        ({b"sec-fetch-dest": b"iframe"}, False),
        ({b"sec-fetch-dest": b"empty"}, False),
        ({b"sec-fetch-dest": b"empty", b"sec-fetch-mode": b"navigate"}, True),  # a service worker fetches what is shown
        ({b"sec-fetch-dest": b"empty", b"sec-fetch-mode": b"same-origin", b"accept": NAVIGATED}, True),  # in Firefox
        ({b"sec-fetch-dest": b"empty", b"sec-fetch-mode": b"cors", b"accept": NAVIGATED}, True),  # by its own request
        ({b"sec-fetch-dest": b"empty", b"accept": NAVIGATED, b"sec-purpose": b"prefetch"}, False),
        ({b"sec-fetch-dest": b"empty", b"sec-fetch-mode": b"no-cors", b"accept": NAVIGATED}, False),  # fetched ahead
        ({b"sec-fetch-dest": b"empty", b"hx-request": b"true"}, False),
        ({b"sec-fetch-dest": b"empty", b"hx-request": b"true", b"hx-boosted": b"true"}, True),
        ({b"sec-fetch-dest": b"empty", b"hx-boosted": b"true", b"hx-preloaded": b"true"}, False),  # pointed at
        ({b"sec-fetch-dest": b"empty", b"hx-request": b"true", b"hx-history-restore-request": b"true"}, True),  # "back"
        ({b"hx-request": b"true"}, False),
        ({b"hx-request": b"true", b"hx-boosted": b"true"}, True),
        ({b"hx-request": b"true", b"hx-boosted": b"true", b"hx-preloaded": b"true"}, False),
        ({b"sec-fetch-dest": b"empty", b"x-pjax": b"true", b"x-requested-with": b"XMLHttpRequest"}, True),
        ({b"x-pjax": b"true", b"x-requested-with": b"XMLHttpRequest"}, True),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"x-requested-with": b"swup"}, False),  # perhaps fetched ahead
        ({b"sec-fetch-dest": b"empty", b"x-up-target": b"main", b"x-up-mode": b"root"}, False),  # likewise, by Unpoly
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO}, True),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"turbo-frame": b"cart"}, False),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"x-sec-purpose": b"prefetch"}, False),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"sec-purpose": b"prefetch"}, False),
        ({b"sec-fetch-dest": b"empty", b"accept": b"text/html"}, False),
        ({b"x-requested-with": b"XMLHttpRequest"}, False),
        ({b"x-requested-with": b"com.facebook.katana"}, True),  # within an app, over plain http
        ({b"turbo-frame": b"cart"}, False),
    ],
)
def test_html_is_a_page_where_it_is_shown_as_one(headers: dict[bytes, bytes], shows: bool) -> None:
    assert is_page(headers, 200, HTML) is shows


@pytest.mark.parametrize(
    ("headers", "shows"),
    [
        ({b"x-inertia": b"true", b"sec-fetch-dest": b"empty", b"x-requested-with": b"XMLHttpRequest"}, True),
        ({b"x-inertia": b"true", b"x-inertia-partial-component": b"Users"}, False),
        ({b"x-inertia": b"true", b"purpose": b"prefetch"}, False),
        ({}, False),
    ],
)
def test_data_of_which_inertia_makes_a_page_is_one(headers: dict[bytes, bytes], shows: bool) -> None:
    answer = {b"content-type": b"application/json", b"x-inertia": b"true"}
    assert is_page(headers, 200, answer) is shows
    assert not is_page(headers, 404, answer)
    assert not is_page(headers, 200, {b"content-type": b"application/json"})


@pytest.mark.parametrize("status", [204, HTTPStatus.NO_CONTENT, 205])
def test_what_has_no_content_is_no_page_and_no_data_though_it_has_a_type(status: int) -> None:
    """As Django, Flask and Quart give one to each answer."""
    assert [is_page({}, status, HTML, by_tool) for by_tool in (False, True)] == [False] * 2
    assert not is_data({b"content-type": b"application/json"}, status, "/items/7")
    assert is_page({}, 203, HTML)


@pytest.mark.parametrize(
    ("path", "is_it"),
    [
        ("/", True), ("/wiki/Node.js", True), ("/v1.2/guide", True), ("/notes.html", True), ("/pdf", True),
        ("/menu.pdf", False), ("/photos/7.JPEG", False), ("/feed.xml", False), ("/a/b.docx", False),
    ],
)  # fmt: skip
def test_what_is_unchanged_is_a_page_unless_its_name_is_that_of_a_file(path: str, is_it: bool) -> None:
    """A browser shows either in a tab of its own, and asks for it in the same way."""
    shown = {b"sec-fetch-dest": b"document", b"accept": b"text/html,*/*;q=0.8", b"if-none-match": b'"1"'}
    assert is_page(shown, 304, {b"etag": b'"1"'}, path=path) is is_it


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (b"application/json", True),
        (b"application/vnd.api+json", True),
        (b"application/problem+json; charset=utf-8", True),
        (b"text/csv", True),
        (b"text/html; charset=utf-8", True),  # a part of a page, as all that is asked here is no page
        (b"application/pdf", True),
        (b"application/vnd.openxmlformats-officedocument.wordprocessingml.document", True),
        (b"application/x-protobuf", True),
        (b"application/vnd.npm.install-v1+json; charset=utf-8", False),
        (b"application/vnd.pypi.simple.v1+json", False),
        (b"application/x-msgpack", True),
        (b"application/cbor", True),
        (b"application/yaml", True),
        (b"text/tab-separated-values; charset=utf-8", True),
        (b"image/svg+xml", False),
        (b"application/rss+xml", False),
        (b"text/css", False),
    ],
)
def test_data_is_told_by_its_type_in_whatever_case_the_name_comes(content_type: bytes, data: bool) -> None:
    assert is_data({b"content-type": content_type}, 200, "/items/7.data") is data
    assert is_data({b"Content-Type": content_type}, 200, "/items/7.data") is data


@pytest.mark.parametrize("names", [{b"content-type": b"text/plain; charset=utf-8"}, {b"content-length": b"5"}])
def test_text_and_what_has_no_type_are_data_by_their_names(names: dict[bytes, bytes]) -> None:
    assert [is_data(names, 200, path) for path in ("/notes/7", "/rfc/rfc1.txt", "/", "/v1.2/notes/7")] == [True] * 4
    files = ("/app.map", "/lib.jar.sha1", "/repo/objects/ab/" + "0123456789abcdef" * 2 + "012345")
    assert [is_data(names, 200, path) for path in files] == [False] * 3
    assert [is_data(names, status, "/notes/7") for status in (204, 304)] == [False] * 2


@pytest.mark.parametrize("names", [{b"content-type": b"text/plain"}, {b"content-length": b"5"}])
def test_a_range_of_all_that_a_text_has_is_the_text(names: dict[bytes, bytes]) -> None:
    assert is_data(names, 206, "/notes/7")


@pytest.mark.parametrize(
    ("target", "stored"),
    [
        ("http://shop.example/things?", "/things?"),
        ("HTTPS://shop.example:443/", "/"),
        ("http://shop.example", "/"),
        ("", "/"),
        ("*", "*"),
    ],
)
def test_a_target_that_names_its_host_is_stored_as_the_path_of_it(target: str, stored: str) -> None:
    assert clean_path(target) == stored


@pytest.mark.parametrize(
    ("location", "here"),
    [
        (b"/login", True),
        (b"https://shop.example/login", True),
        (b"//shop.example/login", True),
        (b"https://sso.example/login", False),
        (b"//sso.example/login", False),
        (b"https://shop.example.evil.example/login", False),
        (b"/back?to=//sso.example/login", True),
    ],
)
def test_a_redirect_leads_on_within_the_site_also_where_it_names_the_host(location: bytes, here: bool) -> None:
    assert (target_on_site({b"location": location}, {b"host": b"shop.example"}, "/") != 0) is here


def test_a_redirect_is_no_data_whatever_a_framework_writes_into_it() -> None:
    assert [is_data(HTML, status, "/n/7") for status in (200, 301, 302, 307)] == [True, False, False, False]


@pytest.mark.parametrize(
    "path",
    [
        "/news/apple-announces-iphone-17-with-new-camera-system",
        "/blog/2026-11-28-how-to-write-a-long-blog-slug-title",
        "/how_to_migrate_from_python_2_to_python_3_in_production",
        "/p/red-cotton-t-shirt-size-m-507f1f77bcf86cd799439011",
        "/p/red-cotton-t-shirt-size-m-for-summer-0ujtsYcgvSTl8PAuAdqWYSMnLOv",  # a KSUID
        "/items/550e8400-e29b-41d4-a716-446655440000",
        "/items/my-page-550e8400-e29b-41d4-a716-446655440000",
        "/items/507f1f77bcf86cd799439011",
        "/@reader@social.example",
        "/npm/react@18.2.0/index.js",
        "/npm/lodash@4.17.21.min.js",
        "/img/logo@2x.png",
        "/xoxo-gossip-girl-season-2",
        "/npm_install_fails_with_error_eacces",
        "/gluten-free-recipes-for-all",
        "/sk-ant-man-2018-film-online",
        "/sk_test_environment",
        "/pypi-packages-of-2026",
        "/isbn/978-3-16-148410-0",
        "/imei/352099001761481",
        "/video/1005001234567890",
        "/order/4111111111111112",
        "/order/4111111111111111b",
        "/order/94111111111111111",
        "/order/41-11-11-11-11-11-11-11",
        "/the-xoxb-of-slack",
        "/status/1790000000000000000",
        "/2026-09-10-1234-5678-9012",
        "/shops/state=ca/color=red",
        "/wiki/C++",
        "/100%25",
        "/a%20b%2Fc",
    ],
)
def test_titles_and_ids_of_pages_are_stored(path: str) -> None:
    assert clean_path(path) == path


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/reset/MQ/cabc12-0123456789abcdef0123456789abcdef/", "/reset/MQ/…/"),  # Django's
        ("/verify/0123456789abcdef0123456789abcdef", "/verify/…"),
        ("/magic/reset-password-0123456789abcdef0123456789abcdef", "/magic/…"),
        ("/magic/please-confirm-that-it-was-you-0123456789abcdef0123456789ab", "/magic/…"),  # longer than an id
        ("/magic/lkb2SJN-U7dQ_Tk9hJxK4rMxjW3v1Yy0OQm5bC8a-Zo", "/magic/…"),  # secrets.token_urlsafe()
        ("/bot123456789:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc/getMe", "/bot123456789:…/getMe"),
        ("/unsubscribe/alice.b+c@mail.example.com/now", "/unsubscribe/…/now"),
        ("/u/alice@163.com", "/u/…"),
        ("/jwt/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc/x", "/jwt/…/x"),
        ("/jwt/eyJhbGciOiJIUzI1NiJ9", "/jwt/…"),
        *(
            (f"/t/{token}/x", "/t/…/x")
            for token in (
                "AKIAIOSFODNN7EXAMPLE",
                "ghp_16C7e42F292c6912E771",
                "glpat-ABCdef1234567890abcd",
                "sk-abcDEF456ghi789jkl",
                "sk-ant-api03-abc123",
                "sk_live_4eC39HqLyjWDarjt",
                "xoxb-123456-abcdef",
                "ya29.a0AfH6SMBx1234",
                "SG.abcdefghijk.lmnopqrst",
                "hf_abcdefghijklmnopqrstuv",
                "pypi-AgEIcHlwaS5vcmc",
                "4111111111111111",
                "4111-1111-1111-1111",
                "5500 0000 0000 0004",
                "378282246310005",
                "+491701234567",
                "+1-202-555-0143",
                "+1 (202) 555-0143",
                "+44 (0)20 7946 0958",
            )
        ),
        ("/t/card_4111111111111111-1", "/t/card_…-1"),
        ("/t/visa4111111111111111.pdf", "/t/visa….pdf"),
        ("/t/2026-11-30-4111-1111-1111-1111_paid", "/t/2026-11-30-…_paid"),
        ("/t/4111111111111111 12 27", "/t/… 12 27"),
        ("/t/4111-1111-1111-1111-5500-0000-0000-0004", "/t/…-…"),
        ("/t/key_AKIAIOSFODNN7EXAMPLE_old", "/t/key_…_old"),
        ("/t/token-ghp_16C7e42F292c6912E771", "/t/token-…"),
        ("/t/stripe_sk_live_4eC39HqLyjWDarjt", "/t/stripe_…"),
        ("/t/my_sk-abcDEF456ghi789jkl", "/t/my_…"),
        ("/redirect/https://user:pw@host/x", "/redirect/https://…@host/x"),
        ("//user:pw@host/x", "//…@host/x"),
        ("/to/joe%40example.com", "/to/…"),
        ("/to/joe%2540example.com", "/to/…"),
        ("/go/https%3A%2F%2Fu%3Ap%40h%2F", "/go/https://…@h/"),
        ("/reset/token=abc123/x", "/reset/token=…/x"),
        ("/reset?a=1&access_token=abc", "/reset?a=1&access_token=…"),
    ],
)
def test_secrets_in_paths_are_not_stored(path: str, stored: str) -> None:
    assert clean_path(path) == stored


SECRETS = ["0123456789abcdef0123456789abcdef", "jane.doe@example.com", "4111111111111111", "AKIAIOSFODNN7EXAMPLE"]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_that_the_end_of_a_stored_path_would_cut_in_two_is_not_stored(secret: str) -> None:
    for before in range(990, 1024):
        stored = clean_path(f"{'/word' * 300}"[:before] + f"/{secret}/x")
        assert secret[:6] not in stored or secret in clean_path(f"/{secret}")
        assert len(stored) <= 1024
        assert stored.startswith("/word/word")


@pytest.mark.parametrize(
    ("site", "inner", "linked"),
    [(b"same-origin", True, True), (b"same-site", False, True), (b"cross-site", False, False), (b"none", False, False)],
)
def test_an_app_beside_its_api_links_it_but_is_another_site(site: bytes, inner: bool, linked: bool) -> None:
    headers = {b"sec-fetch-site": site, b"referer": b"https://app.example.com/", b"host": b"api.example.com"}
    assert (is_inner(headers), is_linked(headers)) == (inner, linked)


@pytest.mark.parametrize(
    ("headers", "is_it"),
    [
        ({b"purpose": b"prefetch"}, True),
        ({b"x-sec-purpose": b"prefetch"}, True),
        ({b"sec-purpose": b"prefetch;prerender"}, True),
        ({b"x-moz": b"prefetch"}, True),
        ({b"hx-request": b"true", b"hx-preloaded": b"true"}, True),
        ({b"x-requested-with": b"swup"}, True),
        ({b"purpose": b"preview"}, False),
        ({}, False),
    ],
)
def test_what_is_prefetched_says_so(headers: dict[bytes, bytes], is_it: bool) -> None:
    assert is_prefetch(headers) is is_it


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("/tiles/13/4400/2687.json", True), ("/0/0/0", True), ("/t/v2/7/66/42@2x.geo.json", True),
        ("/3d/9/511/511/", False), ("/tiles/9/512/3.json", False), ("/archive/2026/11/28", False),
        ("/api/users/1/orders/2", False), ("/api/1/2/3", False), ("/tiles/25/1/1", False), ("/", False),
        ("/tiles/a120231023.json", True), ("/tiles/120231023", False), ("/items/10203104.json", False),
    ],
)  # fmt: skip
def test_tiles_of_a_map_are_told_by_their_path(path: str, tile: bool) -> None:
    assert is_tile(path) is tile


@pytest.mark.parametrize(
    ("query", "stock"),
    [(b"__WB_REVISION__=5f3a", True), ("v=1&ngsw-cache-bust=0.51", True), (b"q=__WB_REVISION__", False), (b"", False)],
)
def test_what_a_service_worker_keeps_for_offline_is_told_by_its_query(query: bytes | str, stock: bool) -> None:
    assert is_precached_or_tile("/guide.html", query) is stock
