from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from asgi_analytics.identify.operators import CLAIMS, OPERATORS, SOURCES, claim_of, is_below, signer_of
from asgi_analytics.replay.pipeline import agents

READER = agents()
PURPOSES = {"training", "search", "user", "ads", "agent", None}


@pytest.mark.parametrize(
    ("name", "operator", "purpose"),
    [
        ("Googlebot", "Google", "search"),
        ("AdsBot-Google", "Google", "ads"),
        ("Google-Agent", "Google", "agent"),
        ("Gemini-Deep-Research", "Google", "user"),
        ("bingbot", "Microsoft", "search"),
        ("Applebot", "Apple", "search"),
        ("YandexBot", "Yandex", "search"),
        ("Baiduspider", "Baidu", "search"),
        ("DuckDuckBot", "DuckDuckGo", "search"),
        ("GPTBot", "OpenAI", "training"),
        ("OAI-SearchBot", "OpenAI", "search"),
        ("ChatGPT-User", "OpenAI", "user"),
        ("OAI-AdsBot", "OpenAI", "ads"),
        ("ClaudeBot", "Anthropic", "training"),
        ("Claude-SearchBot", "Anthropic", "search"),
        ("Claude-User", "Anthropic", "user"),
        ("PerplexityBot", "Perplexity", "search"),
        ("Perplexity-User", "Perplexity", "user"),
        ("MistralAI-User", "Mistral AI", "user"),
        ("CCBot", "Common Crawl", "training"),
        ("Bytespider", "ByteDance", "training"),
        ("meta-externalagent", "Meta", "training"),
        ("Amazonbot", "Amazon", "training"),
    ],
)
def test_known_crawlers_have_operator_and_purpose(name: str, operator: str, purpose: str) -> None:
    agent = READER.read(f"Mozilla/5.0 (compatible; {name}/1.0; +https://crawler.example/bot)")
    assert (agent.crawler, agent.operator, agent.purpose) == (name, operator, purpose)
    assert agent.bot_class is not None


@pytest.mark.parametrize("name", ["Amazonbot", "Diffbot", "ImagesiftBot", "PanguBot", "Timpibot", "YouBot"])
def test_who_gathers_for_ai_is_an_ai_crawler_whatever_the_open_list_says(name: str) -> None:
    assert READER.read(f"Mozilla/5.0 (compatible; {name}/1.0; +https://crawler.example/bot)").bot_class == "ai-crawler"


def test_every_name_in_the_table_is_read_as_a_crawler_of_that_operator() -> None:
    read = {claim: READER.read(f"Mozilla/5.0 (compatible; {claim.crawler}/1.0)") for claim in CLAIMS.values()}
    wrong = [claim.crawler for claim, agent in read.items() if agent.operator != claim.operator.name]
    assert wrong == []


def test_browsers_and_unknown_crawlers_have_no_operator() -> None:
    for text in ("Mozilla/5.0 (Windows NT 10.0; rv:132.0) Gecko/20100101 Firefox/132.0", "FooBot/1 (+http://a.b)", ""):
        assert READER.read(text).operator is None
        assert claim_of(READER.read(text).crawler) is None


def test_the_table_is_of_one_piece() -> None:
    assert len({operator.name for operator in OPERATORS}) == len(OPERATORS)
    groups = [group for operator in OPERATORS for group in operator.groups]
    names = [name.casefold() for group in groups for name in group.crawlers]
    assert len(names) == len(set(names))
    assert {group.purpose for group in groups} <= PURPOSES
    assert {group.ranges for group in groups} - {None} == set(SOURCES)
    assert all(urlsplit(url).scheme == "https" for url in SOURCES.values())
    hosts = [host for operator in OPERATORS for host in (*operator.domains, *operator.shared, *operator.signers)]
    assert all(host == host.lower().strip(".") for host in hosts)


@pytest.mark.parametrize(
    ("host", "domain", "below"),
    [
        ("googlebot.com", "googlebot.com", True),
        ("crawl-66-249-66-1.googlebot.com", "googlebot.com", True),
        ("notgooglebot.com", "googlebot.com", False),
        ("googlebot.com.evil.example", "googlebot.com", False),
    ],
)
def test_a_name_is_in_a_domain_by_whole_labels(host: str, domain: str, below: bool) -> None:
    assert is_below(host, domain) is below


def test_signers_are_known_by_their_host() -> None:
    assert (found := signer_of("chatgpt.com")) is not None
    assert found.name == "OpenAI"
    assert signer_of("chatgpt.com.evil.example") is None
