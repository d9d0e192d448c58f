"""Visitors who probe, guess and forge."""

from __future__ import annotations

from asgi_analytics.decide.failures import Failure
from asgi_analytics.decide.site import Site
from asgi_analytics.facts import Claims
from asgi_analytics.model import Decision

from .visits import Visit, known_site

FORGED = Claims(("no Sec-Fetch-Site, which Chrome 158 sends",), True, False, agent=1, network=2)
TRUE = Claims((), True, True, agent=1, network=2)


def experienced() -> Site:
    """A site that many loaded pages of, with Fetch Metadata."""
    site = known_site()
    site.witnesses = 100
    return site


def send(
    visit: Visit, path: str, status: int = 200, claims: Claims = TRUE, after: float = 1.0,
    method: str = "GET", attempt: int | None = None, inner: bool = False,
) -> Decision:  # fmt: skip
    """Have one answer judged, as the exchange does."""
    visit.now += after
    decision = Decision(visit.visitor.throttle.level, visit.visitor.score, (0, 1, 0, 1))
    actor, now = visit.visitor, visit.now
    if status == 200:
        visit.judge.page(actor, path, inner, decision, now, claims, visit.network)
    else:
        failure = Failure(status, method, path, inner, attempt)
        visit.judge.failure(actor, failure, decision, now, claims, visit.network)
    return decision


def send_form(visit: Visit, path: str, attempt: int) -> None:
    """Have a form judged that was answered 200, shown again."""
    visit.now += 1.0
    decision = Decision(visit.visitor.throttle.level, visit.visitor.score, (0, 1, 0, 1))
    failure = Failure(200, "POST", path, True, attempt)
    visit.judge.failure(visit.visitor, failure, decision, visit.now, TRUE, visit.network)


def attack(site: Site, visitors: int, status: int = 401, right: int = 1) -> list[Visit]:
    """Visitors who never load a page try two passwords each; meanwhile some of those who do log in."""
    found = [Visit(site=site) for _ in range(visitors)]
    for visit in found:
        for _ in range(2):
            send(visit, "/login", status, method="POST", attempt=0, after=2.0)
        if right:
            right -= 1
            person = Visit(site=site)
            send(person, "/login")
            person.judge.data_or_post(person.visitor, False, "/login", Decision(), person.now)
    return found
