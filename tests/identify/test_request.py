from __future__ import annotations

import pytest

from asgi_analytics.identify.request import is_data, is_page

HTML = {b"content-type": b"text/html; charset=utf-8"}
TURBO = b"text/html, application/xhtml+xml"


@pytest.mark.parametrize(
    ("headers", "shows"),
    [
        ({}, True),
        ({b"sec-fetch-dest": b"document"}, True),
        ({b"sec-fetch-dest": b"document", b"sec-purpose": b"prefetch;prerender"}, False),
        ({b"sec-fetch-dest": b"iframe"}, False),
        ({b"sec-fetch-dest": b"empty"}, False),
        ({b"sec-fetch-dest": b"empty", b"sec-fetch-mode": b"navigate"}, True),  # a service worker fetches what is shown
        ({b"sec-fetch-dest": b"empty", b"hx-request": b"true"}, False),
        ({b"sec-fetch-dest": b"empty", b"hx-request": b"true", b"hx-boosted": b"true"}, True),
        ({b"hx-request": b"true"}, False),
        ({b"hx-request": b"true", b"hx-boosted": b"true"}, True),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO}, True),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"turbo-frame": b"cart"}, False),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"x-sec-purpose": b"prefetch"}, False),
        ({b"sec-fetch-dest": b"empty", b"accept": TURBO, b"sec-purpose": b"prefetch"}, False),
        ({b"sec-fetch-dest": b"empty", b"accept": b"text/html"}, False),
        ({b"x-requested-with": b"XMLHttpRequest"}, False),
    ],
)
def test_html_is_a_page_where_it_is_shown_as_one(headers: dict[bytes, bytes], shows: bool) -> None:
    assert is_page(headers, 200, HTML) is shows


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (b"application/json", True),
        (b"application/vnd.api+json", True),
        (b"application/problem+json; charset=utf-8", True),
        (b"text/csv", True),
        (b"text/html; charset=utf-8", True),  # a part of a page, as all that is asked here is no page
        (b"image/svg+xml", False),
        (b"application/rss+xml", False),
        (b"text/css", False),
    ],
)
def test_data_is_told_by_its_type_in_whatever_case_the_name_comes(content_type: bytes, data: bool) -> None:
    assert is_data({b"content-type": content_type}) is data
    assert is_data({b"Content-Type": content_type}) is data


def test_an_answer_without_a_type_is_no_data() -> None:
    assert not is_data({b"content-length": b"0"})
