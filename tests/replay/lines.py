"""Lines of access logs, as servers write them."""

from __future__ import annotations

from datetime import UTC, datetime

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


def combined(
    after: float = 0.0,
    target: str = "/",
    address: str = "198.51.100.7",
    status: int = 200,
    referer: str = "-",
    agent: str = CHROME,
    method: str = "GET",
    more: str = "",
) -> str:
    """Return a line in combined log format, `after` seconds from START."""
    moment = datetime.fromtimestamp(START + after, UTC)
    request = f"{method} {target} HTTP/1.1"
    return f'{address} - - [{moment:%d/%b/%Y:%H:%M:%S} +0000] "{request}" {status} 512 "{referer}" "{agent}"{more}'


def scraper(pages: int = 80, address: str = "203.0.113.9") -> list[str]:
    """Return the lines of a program that loads page after page, one a second."""
    return [combined(number, f"/catalogue/{number:05}", address) for number in range(pages)]
