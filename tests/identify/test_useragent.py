from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify.useragent import LENGTH, AgentReader, oldest
from asgi_analytics.model import Agent

from .agents import IPAD, IPHONE, MAC, PIXEL, READER, REAL_BROWSERS, WEBKIT, WINDOWS

BROWSERS = [
    (f"{WINDOWS} Chrome/131.0.0.0 Safari/537.36", "Chrome", "131.0.0", "Windows", "desktop"),
    (f"{WINDOWS} Chrome/131.0.0.0 Safari/537.36 Edg/131.0.2903.51", "Edge", "131.0.2903", "Windows", "desktop"),
    (f"{WINDOWS} Chrome/130.0.0.0 Safari/537.36 OPR/115.0.0.0", "Opera", "115.0.0", "Windows", "desktop"),
    (f"{WINDOWS} Chrome/130.0.0.0 Safari/537.36 Vivaldi/7.0.3495.15", "Vivaldi", "7.0.3495", "Windows", "desktop"),
    (f"{WINDOWS} Chrome/130.0.0.0 Safari/537.36 Brave/1.73", "Brave", "1.73", "Windows", "desktop"),
    (f"{MAC} Chrome/131.0.0.0 Safari/537.36", "Chrome", "131.0.0", "macOS", "desktop"),
    (f"{MAC} Version/17.4.1 Safari/605.1.15 Ddg/17.4.1", "DuckDuckGo", "17.4", "macOS", "desktop"),
    (
        "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
        "Firefox",
        "132.0",
        "Linux",
        "desktop",
    ),
    (
        f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/131.0.0.0 Safari/537.36",
        "Chrome",
        "131.0.0",
        "ChromeOS",
        "desktop",
    ),
    (f"{IPHONE} Version/17.5 Mobile/15E148 Safari/604.1", "Safari", "17.5", "iOS", "mobile"),
    (f"{IPHONE} CriOS/131.0.6778.73 Mobile/15E148 Safari/604.1", "Chrome", "131.0.6778", "iOS", "mobile"),
    (f"{IPHONE} FxiOS/132.0 Mobile/15E148 Safari/605.1.15", "Firefox", "132.0", "iOS", "mobile"),
    (
        f"{IPHONE} Version/17.0 EdgiOS/131.0.2903.48 Mobile/15E148 Safari/605.1.15",
        "Edge",
        "131.0.2903",
        "iOS",
        "mobile",
    ),
    (f"{IPHONE} Version/17.5 Mobile/15E148 DuckDuckGo/7 Safari/605.1.15", "DuckDuckGo", "7", "iOS", "mobile"),
    (f"{IPHONE} Mobile/15E148 [FBAN/FBIOS;FBAV/467.0.0.38]", "Facebook", "467.0.0", "iOS", "mobile"),
    (f"{IPAD} Version/17.5 Mobile/15E148 Safari/604.1", "Safari", "17.5", "iOS", "tablet"),
    (f"{PIXEL} Chrome/131.0.6778.39 Mobile Safari/537.36", "Chrome", "131.0.6778", "Android", "mobile"),
    (f"{PIXEL} Chrome/131.0.0.0 Mobile Safari/537.36 EdgA/131.0.2903.48", "Edge", "131.0.2903", "Android", "mobile"),
    (
        f"{PIXEL} Version/4.0 Chrome/131.0.6778.39 Mobile Safari/537.36",
        "Android WebView",
        "131.0.6778",
        "Android",
        "mobile",
    ),
    (
        f"{PIXEL} SamsungBrowser/26.0 Chrome/122.0.0.0 Mobile Safari/537.36",
        "Samsung Internet",
        "26.0",
        "Android",
        "mobile",
    ),
    (
        f"Mozilla/5.0 (Linux; Android 13; SM-X906C) {WEBKIT} Chrome/131.0.0.0 Safari/537.36",
        "Chrome",
        "131.0.0",
        "Android",
        "tablet",
    ),
    (
        f"{PIXEL.removesuffix(f') {WEBKIT}')}; wv) {WEBKIT} Version/4.0 Chrome/116.0.0.0 Mobile Safari/537.36 "
        "XWEB/1160117 MMWEBSDK/20240501 MicroMessenger/8.0.50.2701(0x28003253) WeChat/arm64",
        "WeChat",
        "8.0.50",
        "Android",
        "mobile",
    ),
    (f"{IPHONE} Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI", "WeChat", "8.0.50", "iOS", "mobile"),
    (f"{IPHONE} Mobile/15E148 [LinkedInApp]/9.31.2210", "LinkedIn", "9.31.2210", "iOS", "mobile"),
    (f"{IPHONE} Version/18.5 Mobile/15E148 KAKAOTALK 25.5.0", "KakaoTalk", "25.5.0", "iOS", "mobile"),
    (
        f"Mozilla/5.0 (Linux; Android 12; Chromecast; wv) {WEBKIT} Version/4.0 Chrome/114.0.0.0 Safari/537.36",
        "Android WebView",
        "114.0.0",
        "Android",
        "other",
    ),
    ("Mozilla/5.0 (Android 14; Tablet; rv:132.0) Gecko/132.0 Firefox/132.0", "Firefox", "132.0", "Android", "tablet"),
    (
        "Opera/9.80 (Android; Opera Mini/36.2/191.249; U; en) Presto/2.12.423 Version/12.16",
        "Opera Mini",
        "36.2",
        "Android",
        "mobile",
    ),
    (
        f"Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) {WEBKIT} SamsungBrowser/3.1 Chrome/76.0.3809.146 TV Safari/537.36",
        "Samsung Internet",
        "3.1",
        "Tizen",
        "other",
    ),
    (
        f"Mozilla/5.0 (Linux; Android 12; SHIELD Android TV) {WEBKIT} Chrome/131.0.0.0 Safari/537.36",
        "Chrome",
        "131.0.0",
        "Android",
        "other",
    ),
    (
        f"Mozilla/5.0 (Windows NT 10.0; Xbox; Xbox One) {WEBKIT} Chrome/131.0.0.0 Safari/537.36 Edge/44.18363.8131",
        "Edge",
        "44.18363.8131",
        "Windows",
        "other",
    ),
]


@pytest.mark.parametrize(("text", "browser", "version", "os", "device"), BROWSERS)
def test_browsers_are_named_with_version_system_and_device(
    text: str, browser: str, version: str, os: str, device: str
) -> None:
    agent = READER.read(text)
    assert (agent.browser, agent.version, agent.os, agent.device) == (browser, version, os, device)
    assert agent.bot_class is None
    assert agent.crawler is None


def test_a_known_header_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, texts = AgentReader(), REAL_BROWSERS[:300]
    agents = [reader.read(text) for text in texts]
    monkeypatch.setattr(reader, "_parse", lambda text: 1 / 0)
    assert all(reader.read(text) is agent for text, agent in zip(texts, agents, strict=True))


@pytest.mark.parametrize(
    ("text", "outdated"),
    [
        (f"{WINDOWS} Chrome/89.0.4389.90 Safari/537.36", True),
        (f"{WINDOWS} Chrome/90.0.4430.72 Safari/537.36", False),
        (f"{WINDOWS} Chrome/88.0.0.0 Safari/537.36 Edg/88.0.705.50", True),
        (f"{WINDOWS} Chrome/91.0.4472.77 Safari/537.36 OPR/77.0.4054.60", False),
        ("Mozilla/5.0 (Windows NT 10.0; rv:87.0) Gecko/20100101 Firefox/87.0", True),
        ("Mozilla/5.0 (Windows NT 10.0; rv:88.0) Gecko/20100101 Firefox/88.0", False),
        ("Mozilla/5.0 (Windows NT 10.0; rv:115.0) Gecko/20100101 Firefox/115.0", False),
        (f"{IPHONE} CriOS/85.0.4183.92 Mobile/15E148 Safari/604.1", False),  # the system's engine, not Chrome's
        (f"{IPHONE} FxiOS/39.0 Mobile/15E148 Safari/605.1.15", False),
        ("Mozilla/5.0 (Mobile; Nokia_2720_Flip; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5.2", False),
        (f"{IPHONE} Version/12.0 Mobile/15E148 Safari/604.1", False),
        (f"{WINDOWS} Chrome/64.0.3282.140 Safari/537.36 Edge/17.17134", False),  # not Chrome's engine
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:68.0) Goanna/4.8 Firefox/68.0 PaleMoon/29.0",
            False,
        ),
        (f"{PIXEL} Version/4.0 Chrome/70.0.3538.110 Mobile Safari/537.36", False),  # a web view's app is another one
        (f"{WINDOWS} QtWebEngine/5.15.2 Chrome/83.0.4103.122 Safari/537.36", False),
        (BROWSERS[-3][0], False),  # televisions are not updated by their owners
        (f"{PIXEL} Chrome/41.0.2272.96 Mobile Safari/537.36 (compatible; Googlebot/2.1)", False),
    ],
)
def test_only_real_chrome_below_90_and_firefox_below_88_are_outdated(text: str, outdated: bool) -> None:
    assert READER.read(text).outdated is outdated


@pytest.mark.parametrize("text", [None, ""])
def test_no_header_is_an_empty_agent(text: str | None) -> None:
    assert READER.read(text) == Agent()


@given(st.text() | st.text(alphabet="Mozila/5.0 ();+http:AndroidBuild\x00\ud800é", max_size=700))
def test_anything_can_be_read_and_is_bounded(text: str) -> None:
    agent = READER.read(text)
    assert agent.device in ("desktop", "mobile", "tablet", "bot", "other")
    for value, most in (
        (agent.browser, 64),
        (agent.os, 64),
        (agent.crawler, 64),
        (agent.version, 32),
        (agent.os_version, 32),
    ):
        assert value is None or (0 < len(value) <= most and value.isprintable())


@pytest.mark.parametrize(
    "text",
    ["Mozilla/5.0 (" + "Android" * 80, "Mozilla/5.0 (Android " + "(a)" * 200, "(A" + " " * 490 + "+http", "; a" * 170],
)
def test_headers_made_to_be_slow_are_not(text: str) -> None:
    reader = AgentReader()
    reader.read(text + " ")
    spent = []
    for number in range(100):
        started = time.thread_time()
        reader._parse(f"{text}{number}"[:LENGTH])
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.001, "going back over what was read takes many times as long"


def test_only_512_characters_are_looked_at_and_kept() -> None:
    reader = AgentReader(2)
    text = "x" * LENGTH
    assert reader.read(text + "curl") is reader.read(text + "wget")


def test_the_cache_is_bounded() -> None:
    reader = AgentReader(3)
    for number in range(50):
        reader.read(f"curl/{number}")
    assert reader._cached.cache_info().currsize == 3


@pytest.mark.parametrize(
    ("today", "releases"),
    [(0.0, (90, 88)), (1_640_000_000.0, (90, 88)), (1_795_564_800.0, (95, 95)), (1_900_000_000.0, (134, 136))],
)
def test_a_browser_is_outdated_five_years_after_its_release(today: float, releases: tuple[int, int]) -> None:
    assert oldest(today) == releases


def test_a_reader_of_today_goes_by_the_age_of_releases() -> None:
    text = (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/92.0.0.0 Safari/537.36"
    )
    assert (READER.read(text).outdated, AgentReader(today=1_795_564_800.0).read(text).outdated) == (False, True)


@pytest.mark.parametrize(
    ("text", "browser"),
    [
        ("w3m/0.5.3+git20230121", "w3m"),
        ("Emacs-w3m/1.4.632 w3m/0.5.3", "w3m"),
        ("URL/Emacs Emacs/29.1 (X11; x86_64-pc-linux-gnu)", "Emacs"),
        ("Mozilla/5.0 (X11; Linux x86_64) NetSurf/3.11", "NetSurf"),
        ("Mozilla/4.0 (compatible; Dillo 3.0)", "Dillo"),
        ("edbrowse/3.8.2", "edbrowse"),
        ("Offpunk/2.5", "Offpunk"),
        ("Lynx/2.9.0 libwww-FM/2.14", "Lynx"),
        ("w3mirror/1.0", None),
        ("Emacs/29.1", None),
    ],
)
def test_small_browsers_are_peoples(text: str, browser: str | None) -> None:
    found = READER.read(text)
    assert (found.browser, found.bot_class) == (browser, None)
