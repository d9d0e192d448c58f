from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asgi_analytics.errors import DataFileError
from asgi_analytics.jobs import fetch
from asgi_analytics.jobs.fetch import download, fetch_directory, max_age, public_address

from .web import serve


def test_a_document_is_downloaded() -> None:
    with serve({"/a": b"content"}) as site:
        assert download(f"{site.url}/a", 7, 5.0) == b"content"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/long", "more than 100 bytes"),
        ("/missing", "status 404"),
        ("/broken", "status 503"),
        ("/loop", "status 302"),
        ("/away", "not an https address"),
        ("/file", "status 302"),
    ],
)
def test_what_cannot_be_had_is_an_error_that_says_why(path: str, reason: str) -> None:
    pages: dict[str, Any] = {"/long": b"x" * 101, "/broken": 503, "/loop": "/loop"}
    pages |= {"/away": "http://192.0.2.1/", "/file": "file:///etc/passwd"}
    with serve(pages) as site, pytest.raises(DataFileError, match=reason):
        download(site.url + path, 100, 5.0)


def test_a_server_that_does_not_answer_is_left_in_time() -> None:
    started = time.monotonic()
    with serve({"/slow": None}) as site, pytest.raises(DataFileError):
        download(f"{site.url}/slow", 100, 0.2)
    assert time.monotonic() - started < 10


class Plain:
    """Stands for the TLS layer: the way of the answer is the same without it."""

    def wrap_socket(self, plain: socket.socket, server_hostname: str) -> socket.socket:
        return plain


def without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fetch._Pinned.__init__

    def plain(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        self._tls = Plain()

    monkeypatch.setattr(fetch._Pinned, "__init__", plain)


@contextmanager
def dripping(head: bytes, drop: bytes) -> Iterator[int]:
    """A server that never ends: the port of one that says `head`, and then `drop` by `drop`, ten a second."""
    done = threading.Event()

    def serve_one() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as wire:
            wire.sendall(head)
            while not done.wait(0.1):
                wire.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve_one)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(("head", "drop"), [(OK, b"X-One: more\r\n"), (OK + b"\r\n", b" "), (OK, b"x")])
def test_a_server_whose_answer_does_not_end_is_left_in_time(head: bytes, drop: bytes) -> None:
    started = time.monotonic()
    with dripping(head, drop) as port, pytest.raises(DataFileError, match="not all there"):
        download(f"http://127.0.0.1:{port}/", 100_000, 0.5)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("has_tls", "head", "drop"),
    [(True, b"\x16\x03\x03\x3f\xff\x02", b"\0"), (False, OK, b"x"), (False, OK + b"Connection: close\r\n\r\n", b" ")],
    ids=["handshake", "header", "body"],
)
def test_a_directory_that_does_not_end_is_left_in_time(
    monkeypatch: pytest.MonkeyPatch, has_tls: bool, head: bytes, drop: bytes
) -> None:
    started, real = time.monotonic(), socket.create_connection
    if not has_tls:
        without_tls(monkeypatch)
    monkeypatch.setattr(fetch, "public_address", lambda host: "127.0.0.1")
    with dripping(head, drop) as port:
        monkeypatch.setattr(socket, "create_connection", lambda address, timeout: real(("127.0.0.1", port), timeout))
        with pytest.raises(DataFileError):
            fetch_directory("https://signer.example/", 0.5)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "x",
        "",
        "https://[",
        "http://127.0.0.1.evil.example/",
    ],
)
def test_only_https_is_asked(url: str) -> None:
    with pytest.raises(DataFileError):
        download(url, 100, 1.0)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://8.8.8.8/",
        "http://example.com/",
        "https://example.com:22/",
        "x:",
        "https://localhost/",
    ],
)
def test_strangers_cannot_make_us_ask_what_is_local_or_no_web_host(url: str) -> None:
    with pytest.raises(DataFileError):
        fetch_directory(url)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "fd00::1"),
        *("::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1", "2001:0:a00:1::1"),
        *("198.18.0.1", "192.0.0.192", "240.0.0.1", "224.0.0.1", "255.255.255.255", "2001:db8::1"),
    ],
)
def test_a_host_with_a_local_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    answer = [(0, 0, 0, "", ("93.184.216.34", 443)), (0, 0, 0, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(DataFileError, match="local address"):
        public_address("evil.example")


def test_the_address_that_was_looked_at_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(address: object, timeout: float) -> socket.socket:
        asked.append(address)
        raise OSError("no route")

    monkeypatch.setattr(fetch, "public_address", lambda host: "93.184.216.34")
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DataFileError, match="no route"):
        fetch_directory("https://signer.example/.well-known/http-message-signatures-directory")
    assert asked == [("93.184.216.34", 443)]


def test_a_directory_without_tls_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({"/": b"{}"}) as site:
        port = int(site.url.rpartition(":")[2])
        real = socket.create_connection
        monkeypatch.setattr(fetch, "public_address", lambda host: "127.0.0.1")
        monkeypatch.setattr(socket, "create_connection", lambda address, timeout: real(("127.0.0.1", port), timeout))
        with pytest.raises(DataFileError):
            fetch_directory("https://signer.example/", 2.0)


@pytest.mark.parametrize(
    ("page", "good"), [(b'{"keys": []}', True), (b"x" * 70_000, False), (302, False), (404, False)]
)
def test_a_directory_is_one_answer_of_status_200(monkeypatch: pytest.MonkeyPatch, page: Any, good: bool) -> None:
    with serve({"/keys": page}) as site:
        port = int(site.url.rpartition(":")[2])
        real = socket.create_connection
        monkeypatch.setattr(fetch, "public_address", lambda host: "127.0.0.1")
        monkeypatch.setattr(socket, "create_connection", lambda address, timeout: real(("127.0.0.1", port), timeout))
        without_tls(monkeypatch)
        if good:
            assert fetch_directory("https://signer.example/keys").data == page
        else:
            with pytest.raises(DataFileError):
                fetch_directory("https://signer.example/keys")


def test_certificates_are_checked() -> None:
    connection = fetch._Pinned("signer.example", "192.0.2.1", 1.0)
    assert connection._tls.verify_mode == ssl.CERT_REQUIRED
    assert connection._tls.check_hostname


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("public", None),
        ("max-age=86400", 86400),
        ("public, Max-Age=60", 60),
        ("no-store, max-age=9", 0),
        ("max-age=x", None),
    ],
)
def test_max_age_is_read(header: str | None, seconds: float | None) -> None:
    assert max_age(header) == seconds


def test_a_connection_that_comes_as_time_is_up_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Who answers the first packet at that very moment, and then drips, would hold the one thread that asks for hours.
    real = socket.create_connection
    monkeypatch.setattr(fetch, "public_address", lambda host: "127.0.0.1")

    def late(address: object, timeout: float) -> socket.socket:
        threading.Event().wait(timeout + 0.2)
        return real(("127.0.0.1", port), timeout)

    def ask() -> None:
        with pytest.raises(DataFileError):
            fetch_directory("https://signer.example/", 0.3)

    without_tls(monkeypatch)
    with dripping(OK, b"x") as port:
        monkeypatch.setattr(socket, "create_connection", late)
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(3)
        was_left = not thread.is_alive()
    thread.join()
    assert was_left


def test_a_name_that_nobody_resolves_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over, started = threading.Event(), time.monotonic()

    def hang(*_: object, **__: object) -> list[object]:
        over.wait(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(DataFileError):
        fetch_directory("https://signer.example/", 0.3)
    over.set()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_a_host_of_the_internet_is_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 443))])
    assert public_address("signer.example") == address


def test_a_host_that_is_asked_again_is_asked_at_another_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["2001:4860:4860::8888", "93.184.216.34"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (one, 443)) for one in addresses])
    assert {public_address("signer.example") for _ in range(99)} == set(addresses)
