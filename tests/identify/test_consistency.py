from __future__ import annotations

import random

import pytest

from asgi_analytics.identify.consistency import Engine, engine_of, header_faults, is_hosting, read_claims
from asgi_analytics.identify.useragent import AgentReader
from asgi_analytics.model import Place
from tests.benchmarks.detect import browsers

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/158.0.0.0 Safari/537.36"
)
IN_APP = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
WEB_VIEW = (
    "Mozilla/5.0 (Linux; Android 14; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/158.0.0.0 Mobile "
    "Safari/537.36"
)
TELEVISION = (
    "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.3945.79 Safari/537.36"
)
SEAMONKEY = "Mozilla/5.0 (X11; Linux x86_64; rv:91.0) Gecko/20100101 Firefox/91.0 SeaMonkey/2.53.18"


@pytest.mark.parametrize(
    ("text", "engine"),
    [(CHROME, Engine("Chrome", 158)), (IN_APP, None), (WEB_VIEW, None), ("curl/8.16.0", None), ("", None),
     (TELEVISION, None), (SEAMONKEY, None),
     (browsers.safari("Macintosh; Intel Mac OS X 10_15_7", 26, 1), Engine("Safari", 26))],
)  # fmt: skip
def test_engines_are_told_where_their_habits_are_known(text: str, engine: Engine | None) -> None:
    assert engine_of(text) == engine


@pytest.mark.parametrize("seed", range(300))
def test_browsers_as_they_are_have_no_faults(seed: int) -> None:
    browser = browsers.draw(random.Random(seed))
    engine = engine_of(browser.agent)
    assert engine is not None
    for sent in (browser.page(typed=True), browser.file("/a.css", "/"), browser.call("/")):
        assert header_faults("GET", "https", dict(sent), engine) == ()


def test_what_a_library_sends_under_a_browsers_name_is_told() -> None:
    headers = {b"user-agent": CHROME.encode(), b"accept": b"*/*"}
    faults = ("no Sec-Fetch-Site, which Chrome 158 sends", "no Accept-Language, which Chrome sends")
    assert header_faults("GET", "https", headers, Engine("Chrome", 158)) == faults
    assert header_faults("GET", "http", headers, Engine("Chrome", 158)) == faults[1:]
    assert header_faults("GET", "https", headers, Engine("Chrome", 79)) == faults[1:]


@pytest.mark.parametrize(
    ("further", "is_fault"),
    [
        ({b"accept": b"*/*"}, True),
        ({}, True),
        ({b"accept": b"text/html,application/xhtml+xml,*/*;q=0.8"}, False),
        ({b"accept": b"image/webp,*/*"}, False),
        ({b"accept": b"*/*", b"referer": b"https://a.example/"}, False),
        ({b"accept": b"*/*", b"origin": b"null"}, False),
        ({b"accept": b"*/*", b"sec-fetch-site": b"none"}, False),
    ],
)
def test_what_an_older_browser_never_asks_is_told(further: dict[bytes, bytes], is_fault: bool) -> None:
    old, sent = Engine("Safari", 15), {b"accept-language": b"en", **further}
    faults = ("asked for neither as a page nor from one, by Accept and Referer",) if is_fault else ()
    assert header_faults("GET", "https", sent, old) == faults
    assert not header_faults("GET", "http", sent, old)  # a site that Fetch Metadata does not reach
    assert not header_faults("POST", "https", sent, old)
    assert not header_faults("GET", "https", sent, old, shows_pages=True)  # a page may forbid the Referer
    assert header_faults("GET", "https", sent, Engine("Safari", 17)) != faults or not is_fault


@pytest.mark.parametrize(
    ("method", "headers", "is_report"),
    [
        ("POST", {b"content-type": b"application/reports+json"}, True),
        ("OPTIONS", {}, True),
        ("POST", {b"content-type": b"application/json"}, False),
        ("GET", {b"content-type": b"application/reports+json"}, False),
    ],
)
def test_reports_are_of_no_page(method: str, headers: dict[bytes, bytes], is_report: bool) -> None:
    sent = {**headers, b"accept-language": b"de"}
    assert (header_faults(method, "https", sent, Engine("Chrome", 158)) == ()) is is_report


def test_hints_of_another_release_or_engine_are_told() -> None:
    headers = {
        b"sec-ch-ua": b'"Chromium";v="120", "Google Chrome";v="120"', b"sec-fetch-site": b"none",
        b"accept-language": b"en",
    }  # fmt: skip
    assert header_faults("GET", "https", headers, Engine("Chrome", 120)) == ()
    assert header_faults("GET", "https", headers, Engine("Chrome", 158)) == (
        "Sec-CH-UA of Chromium 120 from Chrome 158",
    )
    assert header_faults("GET", "https", headers, Engine("Firefox", 120)) == ("Sec-CH-UA, which Firefox does not send",)


def test_a_crawler_that_works_with_a_browsers_engine_is_not_held_to_that_browsers_habits() -> None:
    crawler = CHROME.replace("Chrome/", "compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/")

    def faults(text: str) -> tuple[str, ...]:
        headers = {b"user-agent": text.encode(), b"accept": b"*/*"}
        scope = {"method": "GET", "scheme": "https"}
        claims = read_claims(scope, headers, AgentReader().read(text), Place(), b"\xc6\x33\x64\x07", False)
        assert claims.is_browser is (claims.faults != ())
        return claims.faults

    assert engine_of(crawler) is not None
    assert (len(faults(CHROME)), faults(crawler)) == (2, ())


@pytest.mark.parametrize(
    ("place", "found"),
    [(Place(asn=24940), True), (Place(organisation="DigitalOcean, LLC"), True), (Place(), False),
     (Place(organisation="Deutsche Telekom AG"), False), (Place(organisation="Comcast Cable"), False)],
)  # fmt: skip
def test_networks_of_servers_are_told(place: Place, found: bool) -> None:
    assert is_hosting(place) is found
