from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify import redaction
from asgi_analytics.identify.channels import BY_KEY, CLICK_IDS, Source
from asgi_analytics.identify.referral import channel, clean_query, read_origin, read_referral, registrable_domain
from asgi_analytics.model import Referral

HOST = "shop.example.com"


def came(query: str = "", referer: str | None = None, host: str | None = HOST) -> tuple[str | None, str | None]:
    referral = read_referral(query.encode(), referer, host)
    return referral.channel, referral.source


@pytest.mark.parametrize(
    ("referer", "found"),
    [
        ("https://www.google.com/", ("Organic Search", "Google")),
        ("https://www.google.co.uk/search?q=x", ("Organic Search", "Google")),
        ("https://google.de", ("Organic Search", "Google")),
        ("https://www.bing.com/", ("Organic Search", "Bing")),
        ("https://duckduckgo.com/", ("Organic Search", "DuckDuckGo")),
        ("https://search.yahoo.co.jp/search", ("Organic Search", "Yahoo!")),
        ("https://search.brave.com/", ("Organic Search", "Brave Search")),
        ("https://suche.web.de/", ("Organic Search", "WEB.DE")),
        ("https://navigator.web.de/", ("Email", "WEB.DE")),
        ("https://t.co/abc", ("Organic Social", "X")),
        ("https://l.facebook.com/", ("Organic Social", "Facebook")),
        ("https://lm.facebook.com/l.php?u=x", ("Organic Social", "Facebook")),
        ("https://old.reddit.com/r/python", ("Organic Social", "Reddit")),
        ("https://news.ycombinator.com/item?id=1", ("Organic Social", "Hacker News")),
        ("https://www.youtube.com/watch", ("Organic Video", "YouTube")),
        ("https://www.amazon.co.jp/", ("Organic Shopping", "Amazon")),
        ("https://chatgpt.com/", ("AI Assistants", "ChatGPT")),
        ("https://gemini.google.com/app", ("AI Assistants", "Gemini")),
        ("https://edgeservices.bing.com/edgesvc", ("AI Assistants", "Copilot")),
        ("https://www.perplexity.ai/", ("AI Assistants", "Perplexity")),
        ("https://duck.ai/", ("AI Assistants", "Duck.ai")),
        ("https://meta.ai/", ("AI Assistants", "Meta AI")),
        ("https://mail.google.com/mail/u/0", ("Email", "Gmail")),
        ("https://outlook.live.com/", ("Email", "Outlook")),
        ("https://docs.google.com/document/d/1", ("Referral", "Google Docs")),
        ("https://accounts.google.com/signin", ("Referral", "Google accounts")),
        ("https://search.google.com/search-console/about", ("Referral", "Google Search Console")),
        ("android-app://com.google.android.gm/", ("Email", "Gmail")),
        (
            "android-app://com.google.android.googlequicksearchbox/https/www.google.com",
            ("Organic Search", "Google app"),
        ),
        ("android-app://org.telegram.messenger/", ("Organic Social", "Telegram")),
        ("android-app://com.microsoft.copilot/", ("AI Assistants", "Copilot")),
        ("android-app://org.unknown.app/", ("Referral", "org.unknown.app")),
        ("https://blog.unknown.org/post", ("Referral", "unknown.org")),
        ("https://www.unknown.co.uk:8443/post", ("Referral", "unknown.co.uk")),
        ("https://someone.github.io/", ("Referral", "someone.github.io")),
        ("https://me:password@WWW.Unknown.ORG./", ("Referral", "unknown.org")),
        ("https://google.evil.com/", ("Referral", "evil.com")),
        ("https://notgoogle.com/", ("Referral", "notgoogle.com")),
        ("http://intranet/wiki", ("Referral", "intranet")),
        ("http://203.0.113.9:8080/x", ("Referral", None)),
        ("http://[2001:db8::1]:8080/x", ("Referral", None)),
    ],
)
def test_referrers_become_sources_and_channels(referer: str, found: tuple[str, str | None]) -> None:
    assert came("", referer) == found


@pytest.mark.parametrize(
    "referer",
    ["", "null", "about:client", "-", "javascript://x", "https://", "https:///path", "https://exa mple.com/", "://x",
     "https://example.org/a\r\nb", "https://\x00.com/", "file:///etc/passwd", "https://semalt.com/", "https://..../",
     "https://www.buttons-for-website.com/", "https://ex\ud800.com/", "https://" + "a" * 400 + ".com/"],
)  # fmt: skip
def test_junk_and_spam_referrers_are_no_source(referer: str) -> None:
    assert read_referral(b"", referer, HOST) == Referral(channel="Direct")


@pytest.mark.parametrize(
    ("referer", "host"),
    [
        ("https://shop.example.com/a", "shop.example.com"),
        ("https://shop.example.com/a", "SHOP.Example.com:443"),
        ("https://www.example.com/", "example.com"),
        ("https://blog.example.com/", "shop.example.com"),
        ("http://localhost:3000/", "localhost:8000"),
        ("http://127.0.0.1:8000/x", "127.0.0.1:8000"),
        ("http://[::1]:8000/x", "[::1]:8000"),
    ],
)
def test_a_hit_from_the_same_site_has_no_referral(referer: str, host: str) -> None:
    assert read_referral(b"page=2", referer, host) == Referral()


def test_sites_under_a_shared_domain_are_not_the_same_site() -> None:
    assert came("", "https://one.github.io/", "two.github.io") == ("Referral", "one.github.io")
    assert came("", "https://one.co.uk/", "two.co.uk") == ("Referral", "one.co.uk")


@pytest.mark.parametrize("referer", [None, "https://example.com/list"])
def test_what_the_browser_says_came_from_inside_did_whatever_referer_and_host_say(referer: str | None) -> None:
    assert read_referral("page=2&ref=nav", referer, "backend:8000", from_inside=True) == Referral()
    assert read_referral(b"", referer, "backend:8000", from_inside=True) == Referral()
    assert read_referral("utm_source=banner", referer, "backend:8000", from_inside=True).source == "banner"


def test_neither_campaign_nor_referrer_is_direct() -> None:
    assert read_referral(b"", None, HOST) == Referral(channel="Direct")
    assert read_referral(b"page=2&q=shoes", None, None) == Referral(channel="Direct")


def test_campaign_parameters_are_decoded_and_kept_as_sent() -> None:
    query = b"utm_source=News%20Letter&utm_medium=E-Mail&UTM_Campaign=Fr%C3%BChling+2026&utm_term=a%26b&utm_content=%ff"
    assert read_referral(query, None, HOST) == Referral(
        channel="Email",
        source="news letter",
        utm_source="News Letter",
        utm_medium="E-Mail",
        utm_campaign="Frühling 2026",
        utm_term="a&b",
        utm_content="�",
    )


def test_long_values_are_cut_and_control_characters_go() -> None:
    referral = read_referral("utm_campaign=" + "%F0%9F%98%80" * 300 + "&utm_term=a%00b%0d%0ac\x07", None, HOST)
    assert referral.utm_campaign == "😀" * 200
    assert referral.utm_term == "abc"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("jane.doe%2540example.com", "…"),
        ("%2541KIAIOSFODNN7EXAMPLE", "…"),
        ("reset%2Ftoken%3Dabc", "reset/token=…"),
        ("to%250Ajane.doe%2540example.com", "to…"),
        ("100%2525+off", "100%25 off"),
    ],
)
def test_secrets_in_campaigns_are_not_stored_however_often_they_are_escaped(sent: str, stored: str) -> None:
    referral = read_referral(f"utm_source={sent}&utm_campaign={sent}", None, HOST)
    assert (referral.utm_source, referral.utm_campaign) == (stored, stored)
    assert referral.source == (None if "…" in stored else stored)


@pytest.mark.parametrize("secret", ["0123456789abcdef0123456789abcdef", "jane.doe@example.com", "4111 1111 1111 1111"])
def test_a_secret_that_the_end_of_a_campaign_would_cut_in_two_is_not_stored(secret: str) -> None:
    for before in range(160, 210):
        referral = read_referral(f"utm_source={'word+' * 50}"[: before + 11] + f"+{secret}+x", None, HOST)
        assert secret[:6] not in f"{referral.utm_source} {referral.source}"
    for before in range(4050, 4096):
        query = f"{'a=word&' * 45}b={'word+' * 900}"[:before] + f"&utm_campaign={secret}"
        assert secret[:6] not in (read_referral(query, None, HOST).utm_campaign or "")


def test_the_first_of_a_parameter_wins_and_empty_ones_do_not_count() -> None:
    referral = read_referral("utm_source=&utm_source=one&utm_source=two&utm_medium=", None, HOST)
    assert (referral.utm_source, referral.utm_medium) == ("one", None)


def test_only_the_first_fifty_parameters_are_looked_at() -> None:
    assert came("a=1&" * 49 + "utm_source=bing") == ("Organic Search", "Bing")
    assert came("a=1&" * 50 + "utm_source=bing") == ("Direct", None)


@pytest.mark.parametrize(
    ("query", "source"),
    [
        ("utm_source=a&source=b&ref=c", "a"),
        ("source=b&ref=c", "b"),
        ("ref=c&referrer=e", "c"),
        ("referrer=e&referer=d", "d"),
        ("referrer=e", "e"),
        ("ref=https://www.producthunt.com/posts/x", "Product Hunt"),
        ("utm_source=fb", "Facebook"),
        ("utm_source=ChatGPT.com", "ChatGPT"),
        ("utm_source=(direct)", "Bing"),
        ("x=1", "Bing"),
    ],
)
def test_the_source_is_looked_for_in_order(query: str, source: str) -> None:
    assert came(query, "https://www.bing.com/")[1] == source


@pytest.mark.parametrize(
    "sent",
    [
        "alice@example.org",
        "http://10.1.2.3/reset?token=abc",
        "https://user:pass@bücher.example/a",
        "203.0.113.7",
        "[2001:db8::1]",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "0123456789abcdef0123456789abcdef",
    ],
)
def test_addresses_and_tokens_are_no_source(sent: str) -> None:
    assert read_referral(f"ref={quote(sent)}", None, "example.com") == Referral(channel="Referral")


def test_of_campaign_parameters_titles_are_kept_and_secrets_are_not() -> None:
    query = (
        "utm_source=12345&utm_campaign=spring_sale_2026_newsletter_header_button_blue&utm_content=alice%40example.org"
    )
    found = read_referral(query, None, None)
    assert (found.source, found.utm_source, found.utm_content) == ("12345", "12345", "…")
    assert found.utm_campaign == "spring_sale_2026_newsletter_header_button_blue"


def test_a_ref_word_of_a_links_own_site_is_no_campaign_but_utm_is() -> None:
    assert came("ref=sidebar", f"https://{HOST}/") == (None, None)
    assert came("utm_source=newsletter&ref=x", f"https://{HOST}/") == ("Email", "newsletter")


@pytest.mark.parametrize("name", list(CLICK_IDS))
def test_of_click_ids_only_the_name_is_kept(name: str) -> None:
    referral = read_referral(f"{name}=SECRET123", None, HOST)
    assert referral.click_id == name
    assert "SECRET123" not in repr(referral)


@pytest.mark.parametrize(
    ("query", "referer", "found"),
    [
        ("gclid=x", "https://www.google.com/", ("Paid Search", "Google")),
        ("gclid=x", None, ("Paid Search", "Google")),
        ("gclid=x&utm_source=bing", None, ("Organic Search", "Bing")),
        ("msclkid=x", "https://www.bing.com/", ("Paid Search", "Bing")),
        ("fbclid=x", "https://l.facebook.com/", ("Organic Social", "Facebook")),
        ("dclid=x", None, ("Display", None)),
        ("utm_source=google&utm_medium=cpc&utm_campaign=x-cross-network", None, ("Cross-network", "Google")),
        ("utm_source=amazon&utm_medium=cpc", None, ("Paid Shopping", "Amazon")),
        ("utm_source=google&utm_medium=cpc&utm_campaign=summer+shopping", None, ("Paid Shopping", "Google")),
        ("utm_source=google&utm_medium=cpc&utm_campaign=workshop", None, ("Paid Search", "Google")),
        ("utm_source=google&utm_medium=CPM", None, ("Paid Search", "Google")),
        ("utm_source=facebook&utm_medium=paid_social", None, ("Paid Social", "Facebook")),
        ("utm_source=youtube&utm_medium=trueview-cpv", None, ("Paid Video", "YouTube")),
        ("utm_source=youtube&utm_medium=cpc", None, ("Paid Video", "YouTube")),
        ("utm_source=site&utm_medium=banner", None, ("Display", "site")),
        ("utm_source=site&utm_medium=ppc", None, ("Paid Other", "site")),
        ("utm_campaign=shop", None, ("Organic Shopping", None)),
        ("utm_source=site&utm_medium=social-media", None, ("Organic Social", "site")),
        ("utm_source=site&utm_medium=video-embed", None, ("Organic Video", "site")),
        ("utm_source=perplexity", None, ("AI Assistants", "Perplexity")),
        ("utm_source=meta", None, ("Organic Social", "Meta")),
        ("utm_source=site&utm_medium=organic", None, ("Organic Search", "site")),
        ("utm_source=newsletter", None, ("Email", "newsletter")),
        ("utm_source=x1&utm_medium=e_mail", None, ("Email", "x1")),
        ("utm_source=partner&utm_medium=affiliate", None, ("Affiliates", "partner")),
        ("utm_source=spotify&utm_medium=audio", None, ("Audio", "spotify")),
        ("utm_source=sms", None, ("SMS", "sms")),
        ("utm_source=app&utm_medium=webpush", None, ("Mobile Push Notifications", "app")),
        ("utm_source=firebase", None, ("Mobile Push Notifications", "firebase")),
        ("utm_source=somewhere", None, ("Referral", "somewhere")),
        ("utm_campaign=x", "http://203.0.113.9/", ("Referral", None)),
        ("utm_campaign=x", None, ("Direct", None)),
    ],
)
def test_the_first_channel_that_fits_wins(query: str, referer: str | None, found: tuple[str, str | None]) -> None:
    assert came(query, referer) == found


def test_paid_wins_over_the_kind_of_the_source() -> None:
    for kind in ("ai", "email", ""):
        assert channel(Source("Any", kind), "cpc") == "Paid Other"


def test_every_key_of_the_tables_finds_its_own_source() -> None:
    for key, source in BY_KEY.items():
        if "." in key:
            found = read_origin("android-app" if key.count(".") > 1 and key.startswith("com.") else "https", key)
            assert found is not None
            assert found.source == source, key


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("a.example.co.uk", "example.co.uk"),
        ("example.de", "example.de"),
        ("www.example.de", "example.de"),
        ("a.b.github.io", "b.github.io"),
        ("github.io", "github.io"),
        ("shop-abc-uc.a.run.app", "shop-abc-uc.a.run.app"),
        ("www.club.id.au", "club.id.au"),
        ("navigator.web.de", "web.de"),
        ("localhost", "localhost"),
    ],
)
def test_registrable_domains(name: str, domain: str) -> None:
    assert registrable_domain(name) == domain


@pytest.mark.parametrize(
    ("query", "cleaned"),
    [
        ("page=2&sort=asc", "page=2&sort=asc"),
        ("utm_source=x&page=2&gclid=y&utm_any=z", "page=2"),
        ("token=abc&page=2", "token=REDACTED&page=2"),
        ("%74oken=abc", "%74oken=REDACTED"),
        ("user[password]=abc", "user[password]=REDACTED"),
        ("q=me%40example.org&x=me@example.org", "q=REDACTED&x=REDACTED"),
        ("x=eyJhbGciOiJIUzI1NiJ9.e30.abc", "x=REDACTED"),
        ("x=" + "a1" * 20, "x=REDACTED"),
        ("x=0123456789abcdef0123456789abcdef", "x=REDACTED"),
        ("next=%2Freset%3Ftoken%3Dabc&x=/a?b=1", "next=REDACTED&x=/a?b=1"),
        ("next=https://example.com/cb%23access_token=abc", "next=REDACTED"),
        ("a=1;password=2", "a=REDACTED"),
        ("q=me%2540example.org", "q=REDACTED"),
        ("me@example.org", "REDACTED"),
        (
            "AKIAIOSFODNN7EXAMPLE&0123456789abcdef0123456789abcdef&4111%201111%201111%201111=",
            "REDACTED&REDACTED&REDACTED=",
        ),
        ("q=card+4111+1111+1111+1111&q=call+%2B491701234567&q=c+and+c%2B%2B", "q=REDACTED&q=REDACTED&q=c+and+c%2B%2B"),
        ("author=bob&country_code=DE&keyword=a&monkey=1", "author=bob&country_code=DE&keyword=a&monkey=1"),
        ("a=1\x00\n&b", "a=1&b"),
        ("x" * 81 + "=abc", "REDACTED=REDACTED"),
        ("", ""),
    ],
)
def test_queries_are_cleaned(query: str, cleaned: str) -> None:
    assert clean_query(query) == clean_query(query.encode()) == cleaned


@pytest.mark.parametrize(
    "name",
    ["token", "password", "api_key", "apikey", "secret", "authorization", "auth", "access_token", "code", "session",
     "email", "key", "sig", "signature", "jwt", "X-Amz-Credential", "api-key", "sessionid", "passwd", "reset_code",
     "client_secret", "refresh_token", "id_token", "state", "SAMLResponse", "oauth_verifier", "user_email"],
)  # fmt: skip
def test_values_of_secret_looking_names_are_redacted(name: str) -> None:
    assert clean_query(f"{name}=hunter2") == f"{name}=REDACTED"
    assert "hunter2" not in clean_query(f"{name.upper()}=hunter2")


def test_stored_queries_are_short() -> None:
    assert len(clean_query("&".join(f"name{number}={'x y' * 30}" for number in range(1000)))) == 1024


@pytest.mark.parametrize("before", range(880, 1030, 10))
@pytest.mark.parametrize("secret", ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x" + "y" * 200, "jane.doe%2540example.com"])
def test_a_secret_that_the_end_of_what_is_stored_would_cut_in_two_is_not_stored(before: int, secret: str) -> None:
    for head in ("", f"a={'b.' * 200}&"):
        filled = f"{head}x=" + "word " * 300
        cleaned = clean_query(f"{filled[:before]} {secret} and more&y=1")
        assert secret[:8] not in cleaned


PARTS = st.sampled_from(
    ["utm_source", "utm_medium", "ref", "gclid", "token", "=", "&", "%", "%00", "%ff", "+", "\ud800"]
)
QUERIES = st.binary(max_size=300) | st.text(max_size=300) | st.lists(PARTS | st.text(max_size=5)).map("".join)
REFERERS = (
    st.none() | st.text() | st.lists(st.sampled_from(["https", "://", "a", ".", "@", ":", "[", "/", "\n"])).map("".join)
)


@given(QUERIES, REFERERS, st.none() | st.text(max_size=40))
def test_anything_can_be_read_and_is_bounded(query: bytes | str, referer: str | None, host: str | None) -> None:
    referral = read_referral(query, referer, host)
    for text in (referral.source, referral.utm_source, referral.utm_medium, referral.utm_campaign, referral.utm_term):
        assert text is None or (0 < len(text) <= 200 and text.isprintable())
    cleaned = clean_query(query)
    assert len(cleaned) <= 1024
    assert cleaned.isprintable()


@given(st.lists(st.sampled_from(["%", "%4", "%41", "%C3", "%c3%A9", "%F0%9F", "%00", "%zz", "é", "\ud800", "a", "+"])))
def test_escapes_are_read_as_the_standard_library_reads_them(parts: list[str]) -> None:
    assert redaction.unescaped("".join(parts)) == unquote("".join(parts))
