"""What a log line is taken for: a page or not, which route, from inside or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.replay.page import delivers_data, delivers_page, own_host, read_target, referer_host


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/about",
        "/a/b/",
        "/index.html",
        "/blog/post.php?id=7",
        "/v1.2",
        "/wiki/Node.js_(book)",
        "http://x.example/a",
    ],
)
def test_a_page_has_no_extension_or_that_of_a_page(target: str) -> None:
    assert read_target(target).page_shaped


@pytest.mark.parametrize(
    "target",
    [
        "/style.css",
        "/logo.PNG",
        "/robots.txt",
        "/api/items",
        "/static/app",
        "/feed",
        "/healthz",
        "/wp-json/x",
        "/a.json",
        "*",
    ],
)
def test_files_and_what_machines_ask_for_are_no_pages(target: str) -> None:
    assert not read_target(target).page_shaped


@pytest.mark.parametrize(
    ("status", "content_type", "shaped", "page"),
    [
        (200, "", True, True),
        (304, "", True, True),
        (304, "text/css", True, True),
        (200, "", False, False),
        (206, "", True, False),
        (404, "", True, False),
        (301, "", True, False),
        (200, "text/html; charset=utf-8", False, True),
        (200, "application/json", True, False),
    ],
)
def test_a_page_was_delivered_where_the_rule_says_so(status: int, content_type: str, shaped: bool, page: bool) -> None:
    assert delivers_page(status, content_type, shaped) is page


@pytest.mark.parametrize(
    ("content_type", "path", "data"),
    [
        ("application/json", "/articles", True),
        ("application/vnd.api+json", "/articles", True),
        ("Application/PDF", "/reports/7", True),
        ("Text/Plain", "/notes/7", True),
        ("text/plain", "/lib.jar.sha1", False),
        ("application/rss+xml", "/feeds/7", False),
        ("image/png", "/api/7.png", False),
        ("", "/api/articles", True),
        ("", "/articles", False),
    ],
)
def test_data_is_told_as_a_living_app_tells_it(content_type: str, path: str, data: bool) -> None:
    assert delivers_data(200, content_type, path) is data


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/items/17", "/items/{}"),
        ("/items/17/edit?x=1", "/items/{}/edit"),
        ("/u/8f14e45f-ceea-4672-8b8a-1f0a3f6f1c11", "/u/{}"),
        ("/c/0a1b2c3d4e5f60718293", "/c/{}"),
        ("/2026/11/post-1234", "/{}/{}/post-{}"),
        ("/about", "/about"),
        ("/caf%C3%A9", "/café"),
    ],
)
def test_a_route_is_a_path_without_its_numbers(target: str, route: str) -> None:
    assert read_target(target).route == route


@given(st.text())
def test_any_target_has_a_path(target: str) -> None:
    assert read_target(target).path


@pytest.mark.parametrize(
    ("referer", "host"),
    [
        ("https://shop.example/a", "shop.example"),
        ("http://SHOP.example:8080", "shop.example"),
        ("https://user@shop.example/", "shop.example"),
        ("android-app://com.example", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_referer_is_read(referer: str, host: str) -> None:
    assert referer_host(referer) == host


def test_without_referers_no_host_is_the_sites_own() -> None:
    assert own_host([]) == ""
