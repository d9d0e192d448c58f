from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import ua_parser_rs
from crawleruseragents import CRAWLER_USER_AGENTS_DATA
from fake_useragent import FakeUserAgent
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify import useragent
from asgi_analytics.identify.useragent import BOT_CLASSES, LENGTH, AgentReader, CrawlerList, oldest
from asgi_analytics.model import Agent

READER = AgentReader()
# User agents of people, as seen in the wild by the makers of that package.
REAL_BROWSERS = sorted({entry["useragent"] for entry in FakeUserAgent().data_browsers})
SAMPLES = [(entry, text) for entry in CRAWLER_USER_AGENTS_DATA for text in entry["instances"]]

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
ANDROID = "Mozilla/5.0 (Linux; Android 15;"
MOBILE = f"{WEBKIT} Chrome/131.0.6778.39 Mobile Safari/537.36"
WINDOWS = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT}"
MAC = f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT}"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
IPAD = "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
PIXEL = f"Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/UD1A.230803.041) {WEBKIT}"

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

# Phones and apps whose model, build or name looks like an entry of the open list.
MISTAKABLE = [
    f"Mozilla/5.0 (Linux; U; Android 4.1.1; ru-kz; HTC_Butterfly Build/JRO03C) {MOBILE}",
    f"{ANDROID} ViewSonic-V350 Build/FRG83G) {MOBILE}",
    f"{ANDROID} CPH2617 Build/AP3A.240617.008) {MOBILE}",
    f"{ANDROID} Butterfly) {MOBILE}",
    f"{ANDROID} CUBOT NOTE 20 PRO Build/QP1A.190711.020) {MOBILE}",
    "Mozilla/5.0 (iPad; U; CPU iPhone OS 7_0 like Mac OS X; de-DE) WIRED/3.2.3.11.87970",
    f"{IPHONE} GSA/345.0.700000000 Mobile/15E148 Safari/604.1",
    f"{MAC} Slack/4.41.97 Chrome/130.0.6723.118 Electron/33.2.0 Safari/537.36",
]

CRAWLERS = [
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "search-engine", "Googlebot", "2.1"),
    (
        f"Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) {WEBKIT} Chrome/41.0.2272.96 Mobile Safari/537.36 "
        "(compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "search-engine",
        "Googlebot",
        "2.1",
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
        "ai-crawler",
        "GPTBot",
        "1.2",
    ),
    ("Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)", "ai-crawler", "ClaudeBot", "1.0"),
    (
        "Mozilla/5.0 (compatible; OAI-SearchBot/1.0; +https://openai.com/searchbot)",
        "ai-crawler",
        "OAI-SearchBot",
        "1.0",
    ),
    ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", "seo", "AhrefsBot", "7.0"),
    ("Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", "monitoring", "UptimeRobot", "2.0"),
    ("sqlmap/1.7 (https://sqlmap.org)", "scanner", "sqlmap", "1.7"),
    ("ffuf/2.1.0", "scanner", "ffuf", "2.1.0"),
    ("facebookexternalhit/1.1 Facebot Twitterbot/1.0", "social-preview", "facebookexternalhit", "1.1"),
    ("curl/8.5.0", "http-library", "curl", "8.5.0"),
    ("Python-urllib/3.11", "http-library", "Python-urllib", "3.11"),
    ("python-requests/2.32.3", "http-library", "python-requests", "2.32.3"),
    ("PostmanRuntime/7.36.0", "http-library", "PostmanRuntime", "7.36.0"),
    (
        f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} HeadlessChrome/120.0.6099.0 Safari/537.36",
        "browser-automation",
        "HeadlessChrome",
        "120.0.6099.0",
    ),
    (
        f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} HeadlessChrome/87.0.4280.88 YextBot/Java Safari/537.36",
        "seo",
        "YextBot",
        None,
    ),
    ("Fuzz Faster U Fool v2.1.0-dev", "scanner", "Fuzz Faster U Fool", "2.1.0"),  # what ffuf sends
    (
        "Mozilla/5.0 (Windows NT 10.0; Microsoft Windows 10.0.22631; en-US) PowerShell/7.4.2",
        "http-library",
        "PowerShell",
        "7.4.2",
    ),
    ("PycURL/7.45.3 libcurl/8.5.0", "http-library", "PycURL", "7.45.3"),
    ("kube-probe/1.30", "monitoring", "kube-probe", "1.30"),
    ("ELB-HealthChecker/2.0", "monitoring", "ELB-HealthChecker", "2.0"),
    ("Consul Health Check", "monitoring", "Consul Health Check", None),
    (
        "Amazon-Route53-Health-Check-Service (ref 1; report http://amzn.to/1vsZADi)",
        "monitoring",
        "Amazon-Route53-Health-Check-Service",
        None,
    ),
    ("NetNewsWire (RSS Reader; https://netnewswire.com/)", "feed-reader", "NetNewsWire", None),
    ("Liferea/1.15.6 (Linux; https://lzone.de/liferea/)", "feed-reader", "Liferea", "1.15.6"),
    ("Bluesky Cardyb/1.1; +mailto:support@bsky.app", "social-preview", "Bluesky Cardyb", "1.1"),
    ("FooBarBot/1.0 (+https://foo.example/bot)", "crawler", "FooBarBot", "1.0"),
    ("Mozilla/5.0 (compatible; NewThing/1.0; +http://newthing.example)", "crawler", "NewThing", "1.0"),
    ("MyOwnCrawler/2.0", "crawler", "MyOwnCrawler", "2.0"),
]


@pytest.mark.parametrize(("text", "browser", "version", "os", "device"), BROWSERS)
def test_browsers_are_named_with_version_system_and_device(
    text: str, browser: str, version: str, os: str, device: str
) -> None:
    agent = READER.read(text)
    assert (agent.browser, agent.version, agent.os, agent.device) == (browser, version, os, device)
    assert agent.bot_class is None
    assert agent.crawler is None


@pytest.mark.parametrize("text", MISTAKABLE)
def test_a_person_whose_phone_is_called_like_a_crawler_is_a_person(text: str) -> None:
    assert READER.read(text).bot_class is None


@pytest.mark.parametrize(("text", "bot_class", "name", "version"), CRAWLERS)
def test_declared_crawlers_have_class_name_and_version(
    text: str, bot_class: str, name: str, version: str | None
) -> None:
    agent = READER.read(text)
    assert (agent.bot_class, agent.crawler, agent.browser, agent.version) == (bot_class, name, name, version)
    assert agent.device == "bot"


def test_99_of_100_samples_of_the_open_list_are_recognised() -> None:
    missed = [text for _, text in SAMPLES if READER.read(text).bot_class is None]
    assert len(missed) <= len(SAMPLES) / 100, missed


def test_the_samples_classes_are_their_tags() -> None:
    agents = [(entry, READER.read(text)) for entry, text in SAMPLES]
    wrong = [entry["pattern"] for entry, agent in agents if agent.bot_class not in entry["tags"]]
    assert len(wrong) <= 0.01 * len(SAMPLES), wrong
    assert {agent.bot_class for _, agent in agents} <= {*BOT_CLASSES, "crawler", None}


def test_no_browser_of_an_open_list_is_taken_for_a_crawler() -> None:
    assert len(REAL_BROWSERS) > 500
    agents = {text: READER.read(text) for text in REAL_BROWSERS}
    assert [text for text, agent in agents.items() if agent.bot_class or agent.operator or agent.device == "bot"] == []
    assert [text for text, agent in agents.items() if agent.browser is None] == []


def test_a_known_header_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, texts = AgentReader(), REAL_BROWSERS[:300]
    agents = [reader.read(text) for text in texts]
    monkeypatch.setattr(reader, "_parse", lambda text: 1 / 0)
    assert all(reader.read(text) is agent for text, agent in zip(texts, agents, strict=True))


def test_no_spider_of_the_device_rules_is_taken_for_a_person() -> None:
    spiders = [text for _, text in SAMPLES if (found := READER._device(text)) and found.family == "Spider"]
    assert len(spiders) > 1000
    assert [text for text in spiders if READER.read(text).device != "bot"] == []


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
        (BROWSERS[-3][0], False),  # televisions are not updated by their owners
        (CRAWLERS[1][0], False),
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


def test_entries_the_engine_cannot_compile_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("seo", "GoodBot"), ("seo", "(?=look)ahead"), ("scanner", "OtherBot")]
    monkeypatch.setattr(useragent, "_crawler_rows", lambda: rows)
    with pytest.raises(ValueError, match="look-around"):
        ua_parser_rs.UserAgentExtractor([("(?=look)ahead", "", None, None, None, None)])
    crawlers = CrawlerList()
    assert crawlers.find("OtherBot/1") == ("scanner", "OtherBot")
    assert crawlers.find("GoodBot/1") == ("seo", "GoodBot")


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
    "text", ["Feedly/1.0 (+http://www.feedly.com/fetcher.html; 12 subscribers; like FeedFetcher-Google)"]
)
def test_who_is_like_another_is_not_the_other(text: str) -> None:
    assert READER.read(text).crawler == "Feedly"


@pytest.mark.parametrize(
    ("text", "browser"),
    [
        ("w3m/0.5.3+git20230121", "w3m"),
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


def test_the_list_of_crawlers_is_read_whatever_encoding_the_locale_has() -> None:
    locale = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    program = "from asgi_analytics.identify.useragent import AgentReader; AgentReader()"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **locale}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_crawlers_is_found_in_an_archive_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as archive:
        archive.writestr("crawleruseragents/__init__.py", "raise ImportError")
        archive.writestr("crawleruseragents/crawler-user-agents.json", '[{"pattern": "Zipped"}]')
    monkeypatch.delitem(sys.modules, "crawleruseragents", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages.zip")
    assert useragent._known_crawlers() == [{"pattern": "Zipped"}]
