"""A small web server on this machine for the tests of downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Answers by path: bytes for 200, an int for a status, a str for a redirect, None to say nothing at all."""

    def __init__(self, pages: dict[str, bytes | int | str | None]) -> None:
        self.pages = pages
        self.closing = threading.Event()
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        page = self.pages.get(handler.path, 404)
        if page is None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.closing.wait(20)
            return
        status = page if isinstance(page, int) else 302 if isinstance(page, str) else 200
        handler.send_response(status)
        if isinstance(page, str):
            handler.send_header("Location", page)
        handler.end_headers()
        if isinstance(page, bytes):
            handler.wfile.write(page)


@contextmanager
def serve(pages: dict[str, bytes | int | str | None]) -> Iterator[Site]:
    """Run a site on a free port of 127.0.0.1."""
    site = Site(pages)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
