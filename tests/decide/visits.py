"""A visitor on a site with a clock of its own: what the tests of this folder drive."""

from __future__ import annotations

from typing import Any, NamedTuple

from asgi_analytics.decide.actor import begin_session, new_actor, new_network
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.failures import Failure
from asgi_analytics.decide.policy import Policy
from asgi_analytics.decide.site import Site
from asgi_analytics.decide.verdict import Judge
from asgi_analytics.facts import Actor
from asgi_analytics.model import Decision
from asgi_analytics.settings import Settings

START = 100_000.0


def policy_of(**options: Any) -> Policy:
    """Return the policy of two quotas each for visitor and network, and of these options."""
    quotas = {"limits": ("100/second", "1500/minute"), "network_limits": ("1000/second", "30000/minute")}
    return Policy.of(Settings.build(**{**quotas, **options}))


def known_site(pages: int = 1000) -> Site:
    """Return a site of that many pages which others have loaded often."""
    return Site(set(range(pages)), loads=1_000_000)


class Answer(NamedTuple):
    """What the app answers; `inner`: a page of this site linked it."""

    status: int
    page: bool
    path: str
    inner: bool


class Visit:
    """One visitor's requests, each admitted and, if so, answered and judged."""

    def __init__(self, policy: Policy | None = None, site: Site | None = None, now: float = START) -> None:
        self.policy = policy or policy_of()
        self.site = site or known_site()
        self.visitor: Actor = new_actor(len(self.policy.quotas))
        self.network: Actor = new_network(len(self.policy.network_quotas))
        self.now = now
        begin_session(self.visitor, now)

    @property
    def judge(self) -> Judge:
        return Judge(self.site, self.policy)

    @property
    def codes(self) -> set[str]:
        return {finding.signal for finding in self.visitor.signals}

    @property
    def level(self) -> int:
        return self.visitor.throttle.level

    def load(self, path: str, after: float = 0.0, referer: str | None = None) -> Decision:
        """Load a page `after` seconds; `referer` is "inner", "outer" or None."""
        return self.request(Answer(200, True, path, referer == "inner"), after)

    def fail(self, path: str, status: int = 404, after: float = 0.0) -> Decision:
        return self.request(Answer(status, False, path, False), after)

    def call(self, path: str = "/api", after: float = 0.0) -> Decision:
        return self.request(Answer(200, False, path, True), after)

    def request(self, answer: Answer, after: float = 0.0) -> Decision:
        self.now += after
        decision = admit(self.visitor, self.network, self.policy, self.now)
        if not decision.refused:
            self.judged(answer, decision)
        return decision

    def judged(self, answer: Answer, decision: Decision, now: float | None = None) -> None:
        """Have the answer to an admitted request judged."""
        status, page, path, inner = answer
        at = self.now if now is None else now
        if page:
            self.judge.page(self.visitor, path, inner, decision, at)
        else:
            failure = Failure(status, "GET", path, inner)
            self.judge.failure(self.visitor, failure, decision, at)
