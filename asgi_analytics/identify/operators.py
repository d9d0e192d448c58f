"""Who runs the known crawlers, what for, and what each operator publishes to verify them: maintained by hand.

Sources are the operators' own pages on their crawlers. An operator without ranges, names and signers publishes nothing
that a claim in its name could be checked against.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Address ranges that operators publish as JSON, by the name of the file that `data update` keeps them in.
SOURCES = {
    "google-common-crawlers": "https://developers.google.com/crawling/ipranges/common-crawlers.json",
    "google-special-crawlers": "https://developers.google.com/crawling/ipranges/special-crawlers.json",
    "google-user-triggered-fetchers": "https://developers.google.com/crawling/ipranges/user-triggered-fetchers-google.json",
    "google-user-triggered-agents": "https://developers.google.com/crawling/ipranges/user-triggered-agents.json",
    "bing-bingbot": "https://www.bing.com/toolbox/bingbot.json",
    "apple-applebot": "https://search.developer.apple.com/applebot.json",
    "duckduckgo-duckduckbot": "https://duckduckgo.com/duckduckbot.json",
    "duckduckgo-duckassistbot": "https://duckduckgo.com/duckassistbot.json",
    "openai-gptbot": "https://openai.com/gptbot.json",
    "openai-searchbot": "https://openai.com/searchbot.json",
    "openai-chatgpt-user": "https://openai.com/chatgpt-user.json",
    "anthropic-bots": "https://claude.com/crawling/bots.json",
    "perplexity-perplexitybot": "https://www.perplexity.ai/perplexitybot.json",
    "perplexity-user": "https://www.perplexity.ai/perplexity-user.json",
    "commoncrawl-ccbot": "https://index.commoncrawl.org/ccbot.json",
    "mistral-user": "https://mistral.ai/mistralai-user-ips.json",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Crawlers of one operator with one purpose. `ranges` holds all addresses they come from."""

    purpose: str | None  # "training", "search", "user" (asked for by a person), "ads", "agent" (browses for one)
    crawlers: tuple[str, ...]
    ranges: str | None = None  # a name in SOURCES
    anywhere: bool = False  # runs on people's own machines: no address proves or disproves it


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator. A host name fits when it is one of the domains or below it."""

    name: str
    groups: tuple[Group, ...]
    domains: tuple[str, ...] = ()  # that the addresses of its crawlers are named in, forward and reverse
    shared: tuple[str, ...] = ()  # that crawlers are named in, but customers as well: proves and disproves nothing
    signers: tuple[str, ...] = ()  # hosts of its key directories


def _group(purpose: str | None, crawlers: str, ranges: str | None = None, anywhere: bool = False) -> Group:
    return Group(purpose, tuple(crawlers.split()), ranges, anywhere)


OPERATORS = (
    Operator(
        "Google",
        (
            _group(
                "search",
                "Googlebot Googlebot-Image Googlebot-Mobile Googlebot-News Googlebot-Video Storebot-Google "
                "Google-InspectionTool Google-CloudVertexBot",
                "google-common-crawlers",
            ),
            _group(None, "GoogleOther GoogleOther-Image GoogleOther-Video", "google-common-crawlers"),
            _group("ads", "AdsBot-Google AdsBot-Google-Mobile Mediapartners-Google", "google-special-crawlers"),
            _group(None, "APIs-Google Google-Safety", "google-special-crawlers"),
            _group(
                "user",
                "FeedFetcher-Google GoogleMessages GoogleProducer Google-CWS Google-NotebookLM Google-Pinpoint "
                "Google-Read-Aloud Google-Site-Verification Gemini-Deep-Research",
                "google-user-triggered-fetchers",
            ),
            _group("agent", "Google-Agent", "google-user-triggered-agents"),
        ),
        domains=("googlebot.com", "google.com"),
        shared=("googleusercontent.com",),
        signers=("agent.bot.goog",),
    ),
    Operator(
        "OpenAI",
        (
            _group("training", "GPTBot", "openai-gptbot"),
            _group("search", "OAI-SearchBot", "openai-searchbot"),
            _group("user", "ChatGPT-User", "openai-chatgpt-user"),
            _group("ads", "OAI-AdsBot"),
            _group("agent", "ChatGPT-Agent"),
        ),
        signers=("chatgpt.com", "openai.com"),
    ),
    Operator(
        "Anthropic",
        (
            _group("training", "ClaudeBot anthropic-ai", "anthropic-bots"),
            _group("search", "Claude-SearchBot", "anthropic-bots"),
            _group("user", "Claude-User Claude-Web", "anthropic-bots"),
            _group("user", "claude-code", anywhere=True),
        ),
        signers=("anthropic.com", "claude.ai", "claude.com"),
    ),
    Operator(
        "Perplexity",
        (
            _group("search", "PerplexityBot", "perplexity-perplexitybot"),
            _group("user", "Perplexity-User", "perplexity-user"),
        ),
        signers=("perplexity.ai",),
    ),
    Operator(
        "Microsoft",
        (
            _group("search", "bingbot msnbot", "bing-bingbot"),
            _group("ads", "adidxbot"),
            _group("user", "BingPreview MicrosoftPreview"),
        ),
        domains=("search.msn.com",),
    ),
    Operator("Apple", (_group("search", "Applebot", "apple-applebot"),), domains=("applebot.apple.com",)),
    Operator(
        "DuckDuckGo",
        (
            _group("search", "DuckDuckBot", "duckduckgo-duckduckbot"),
            _group("user", "DuckAssistBot", "duckduckgo-duckassistbot"),
        ),
    ),
    Operator(
        "Yandex",
        (
            _group(
                "search",
                "yandex.com/bots YandexBot YandexAccessibilityBot YandexFavicons YandexImages YandexMedia "
                "YandexMobileBot YandexRenderResourcesBot YandexVideo YandexWebmaster",
            ),
            _group("training", "YandexAdditionalBot"),
        ),
        domains=("yandex.ru", "yandex.net", "yandex.com"),
    ),
    Operator(
        "Amazon",
        (
            _group("training", "Amazonbot"),
            _group("search", "Amzn-SearchBot"),
            _group("user", "Amzn-User"),
            _group("agent", "NovaAct", anywhere=True),
        ),
        domains=("crawl.amazonbot.amazon",),
    ),
    Operator(
        "Common Crawl",
        (_group("training", "CCBot", "commoncrawl-ccbot"),),
        domains=("crawl.commoncrawl.org",),
    ),
    Operator(
        "Mistral AI",
        (_group("user", "MistralAI-User", "mistral-user"), _group("search", "MistralAI-Index")),
        signers=("mistral.ai",),
    ),
    Operator(
        "Meta",
        (
            _group("training", "FacebookBot meta-externalagent"),
            _group("search", "meta-webindexer"),
            _group("user", "facebookexternalhit meta-externalfetcher"),
            _group("ads", "meta-externalads facebookcatalog"),
        ),
    ),
    Operator("ByteDance", (_group("training", "Bytespider"), _group("search", "TikTokSpider ToutiaoSpider"))),
    Operator("Cohere", (_group("training", "cohere-training-data-crawler"), _group("user", "cohere-ai"))),
    Operator("Allen Institute for AI", (_group("training", "AI2Bot"),)),
    Operator("DeepSeek", (_group("training", "DeepSeekBot"),)),
    Operator("Huawei", (_group("training", "PanguBot"), _group("search", "PetalBot")), domains=("petalsearch.com",)),
    Operator("xAI", (_group("training", "GrokBot"), _group("search", "xAI-SearchBot"))),
    Operator("You.com", (_group("search", "YouBot"),)),
    Operator("Phind", (_group("search", "PhindBot"),)),
    Operator("Tavily", (_group("search", "TavilyBot"),)),
    Operator("Linkup", (_group("search", "LinkupBot"),)),
    Operator("Timpi", (_group("training", "Timpibot"),)),
    Operator("Diffbot", (_group("training", "Diffbot"),)),
    Operator("Hive", (_group("training", "ImagesiftBot"),)),
    Operator("Firecrawl", (_group("user", "FirecrawlAgent"),)),
    Operator("Cognition", (_group("agent", "Devin"),)),
    Operator("Zhipu AI", (_group("training", "ChatGLM-Spider"),)),
    Operator("Baidu", (_group("search", "Baiduspider"),), domains=("baidu.com", "baidu.jp")),
    Operator("Yahoo", (_group("search", "Slurp"),), domains=("crawl.yahoo.net",)),
    Operator("Seznam", (_group("search", "SeznamBot SeznamHomepageCrawler"),), domains=("seznam.cz",)),
    Operator("Naver", (_group("search", "Yeti NaverBot"),), domains=("naver.com",)),
    Operator("Mojeek", (_group("search", "MojeekBot"),), domains=("mojeek.com",)),
    Operator("Brave", (_group("search", "Bravebot"),)),
    Operator("Kagi", (_group("search", "Kagibot"), _group("user", "kagi-fetcher"))),
    Operator("Qwant", (_group("search", "Qwantbot Qwantify"),)),
    Operator("Sogou", (_group("search", "Sogou"),)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What a crawler's name claims, and against what the claim can be checked."""

    crawler: str  # as in the table
    operator: Operator
    purpose: str | None
    ranges: str | None
    anywhere: bool

    @property
    def is_checkable(self) -> bool:
        """Tell whether the operator publishes ranges or names for this crawler's addresses."""
        return not self.anywhere and (self.ranges is not None or bool(self.operator.domains))


def _claims() -> Iterator[Claim]:
    for operator in OPERATORS:
        for group in operator.groups:
            for crawler in group.crawlers:
                yield Claim(crawler, operator, group.purpose, group.ranges, group.anywhere)


CLAIMS = {claim.crawler.casefold(): claim for claim in _claims()}
SIGNERS = {host: operator for operator in OPERATORS for host in operator.signers}


def claim_of(crawler: str | None) -> Claim | None:
    """Return what the name claims, None for a name that is not in the table."""
    return CLAIMS.get(crawler.casefold()) if crawler else None


def signer_of(host: str) -> Operator | None:
    """Return the operator that publishes its keys on this host, None for an unknown one."""
    return next((SIGNERS[domain] for domain in SIGNERS if is_below(host, domain)), None)


def is_below(host: str, domain: str) -> bool:
    """Tell whether a host name is the domain or in it. Both in lower case, without a dot at the end."""
    return host == domain or host.endswith("." + domain)
