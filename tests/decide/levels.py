"""Throttle levels, and visits that reach them."""

from __future__ import annotations

from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.model import Decision

from .visits import Visit

NORMAL, WARNING, SEVERE, BLOCKED = ThrottleLevel


def crawl(visit: Visit, pages: int, first: int = 0) -> list[Decision]:
    """Load pages one a second, in numerical order, without a Referer."""
    return [visit.load(f"/page/{first + n}", after=1.0) for n in range(pages)]


def blocked() -> Visit:
    visit = Visit()
    crawl(visit, 150)
    assert visit.level == BLOCKED
    return visit
