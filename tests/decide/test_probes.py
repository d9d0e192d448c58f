"""Probing: sensitive paths and odd requests."""

from __future__ import annotations

import pytest

from asgi_analytics.decide import probes
from asgi_analytics.facts import ThrottleLevel

from .conduct import send
from .visits import Visit


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/.env", 3), ("/app/.env.local", 3), ("/.git/config", 3), ("/.github/x.yml", 0),
        ("/vendor/phpunit/eval-stdin.php", 2),
        ("/backup.zip", 2), ("/wp-login.php", 1), ("/xmlrpc.php", 1), ("//xmlrpc.php", 1), ("/", 0),
        ("/.well-known/x", 0), ("/environment", 0),
        ("/articles/backup-your-data", 0), ("/index.php", 0), ("/docs/git", 0), ("/downloads/site.zip.html", 0),
    ],
)  # fmt: skip
def test_sensitive_paths_are_known(path: str, kind: int) -> None:
    assert probes.probe_kind(path) == kind


@pytest.mark.parametrize(("method", "path", "odd"), [
    ("TRACE", "/", True), ("GET", "/a/../../etc/hosts", True), ("GET", "/a\0b", True),
    ("GET", "http://other.example/", True),
    ("GET", "/a..b/c", False), ("OPTIONS", "/a", False), ("DELETE", "/a", False),
])  # fmt: skip
def test_odd_requests_are_known(method: str, path: str, odd: bool) -> None:
    assert probes.is_odd(method, path) is odd


def test_one_look_at_the_door_is_a_person_and_two_are_not() -> None:
    visit = Visit()
    send(visit, "/wp-login.php", 404)
    assert visit.codes == set()
    send(visit, "/xmlrpc.php", 404)
    assert visit.codes == {"probing"}
    assert visit.visitor.signals[0].text == "sensitive paths asked for in vain, weighing 2 (limit 1)"


def test_the_same_sensitive_path_again_and_again_weighs_once() -> None:
    visit = Visit()
    for number in range(30):
        send(visit, f"{'/' * (1 + number % 3)}wp-login.php", 404)
    assert (visit.visitor.score, visit.level) == (0, 0)


def test_what_the_site_serves_or_links_is_no_probe() -> None:
    visit = Visit()
    send(visit, "/.env", 200)
    for number in range(10):  # a site that moved
        send(visit, f"/wp-content/plugins/{number}.js", 404, inner=True)
    assert visit.codes == set()


def test_a_hidden_file_is_linked_by_no_page_whatever_the_referer_says() -> None:
    visit = Visit()
    send(visit, "/.git/config", 404, inner=True)
    assert visit.codes == {"probing"}
    assert visit.visitor.signals[0].value == 2


def test_a_scanner_is_blocked_within_a_dozen_sensitive_paths() -> None:
    visit = Visit()
    for number in range(12):
        send(visit, f"/{number}/.env", 404)
    assert visit.level == ThrottleLevel.BLOCKED


def test_pages_in_place_of_hidden_files_are_those_of_an_app_that_answers_anything() -> None:
    scanner, reader = Visit(), Visit()
    levels = [send(scanner, path, 200).level for path in ("/.env", "/.env", "/.git/config", "/.aws/credentials")]
    assert levels == [0, 0, 1, 1]
    assert scanner.codes == {"probing"}
    assert scanner.visitor.signals[0].text == "sensitive paths asked for in vain, weighing 2 (limit 1)"
    for path in ("/.env", "/.env.example", "/.npmrc", "/org/repo/.git/config"):  # a wiki about such files
        send(reader, path, 200, inner=True)
    for path in ("/org/repo/blob/main/.env", "/org/repo/blob/main/.npmrc", "/.well-known/about", "/.envoy"):
        send(reader, path, 200)
    assert "probing" not in reader.codes
