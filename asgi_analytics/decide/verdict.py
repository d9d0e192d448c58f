"""The verdict: what the app's answer tells of a visitor, before its headers leave."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..facts import Actor, Claims
from ..model import Decision, Variant
from . import signals, throttle, window
from .actor import adopt_pool
from .admission import paired, seconds_to_cool_down
from .attempts import count_accepted_post
from .behaviour import count_form, load_page, load_variant
from .explain import inputs_of_rise
from .failures import Failure, count_failure
from .items import count_data
from .pages import note_gallery
from .policy import Policy
from .pools import join_pool, pool_of
from .redirects import count_redirected
from .site import Site
from .throttle import BLOCKED

PAGES_TO_TELL = 3  # page loads after which it is decided whether a browser fetches more than pages
Count = Callable[[Actor], object]  # counts what was answered among the facts of one actor


def pass_redirected(visitor: Actor, page: str | Variant, decision: Decision, now: float) -> bool:
    """Record a page that the app led to, without judging. Returns False where it is for Judge.page, like others."""
    if decision.refused:
        return True
    if not decision.exempt and not count_redirected(visitor.behaviour, page, now):
        return False
    visitor.behaviour.requests += 1
    return True


class Judge:
    """Judges the visitors of a site by a policy, each time that an answer begins."""

    __slots__ = ("policy", "site")

    def __init__(self, site: Site, policy: Policy) -> None:
        self.site, self.policy = site, policy

    def page(
        self,
        visitor: Actor,
        page: str | Variant,
        inner: bool,
        decision: Decision,
        now: float,
        claims: Claims | None = None,
        network: Actor | None = None,
        bare: bool = False,
    ) -> None:
        """Count a page before its headers leave, judge by it, and bring `decision` up to date with the new level.

        `page`: its path, or what its query makes of it; `inner`: a page of this site linked it; `bare`: as load_page,
        where a browser asks; `claims` and `network` may be left out where a page load is not due for a full judgement
        (Behaviour.quiet_until).
        A refused request teaches nothing, not even in observe mode, so that observing shows what enforcing would do.
        """
        if decision.refused:
            return
        facts = visitor.behaviour
        facts.requests += 1
        if decision.exempt:
            return
        if isinstance(page, str):
            counted = load_page(facts, page, inner, self.site, now, bare and not visitor.program)
        else:
            counted = load_variant(facts, page, inner, self.site, now)
        if not counted or facts.steps <= facts.quiet_until:
            return
        if claims is not None:
            visitor.claims = claims
            facts.led_here = max(0, facts.led_here + (1 if claims.is_led else -1))
            if facts.paced_loads == 1:  # the first load, and no reload of it in a rush
                self.site.witness(claims)
            elif not facts.files and facts.page_loads > PAGES_TO_TELL and claims.is_browser and not claims.faults:
                self.site.look_for_files(facts)
        in_gallery = note_gallery(facts)
        if visitor.claims.faults:
            count = partial(_load_for, page=page, inner=inner, site=self.site, now=now)
            self._with_pools(visitor, network, count, decision, now)
        else:
            self._in_full(visitor, decision, now)
        if in_gallery:
            facts.quiet_until = min(facts.quiet_until, facts.steps + 3)  # of the last four pages two are in a row

    def failure(
        self,
        visitor: Actor,
        failure: Failure,
        decision: Decision,
        now: float,
        claims: Claims | None = None,
        network: Actor | None = None,
    ) -> None:
        """As `page`, for an error, or credentials that were refused in another way."""
        if decision.refused:
            return
        visitor.behaviour.requests += 1
        if decision.exempt or not count_failure(visitor, failure, self.site, now):
            return
        if claims is not None:
            visitor.claims = claims
        asked = failure._replace(method="GET")  # its method counts for the visitor alone
        self._with_pools(visitor, network, lambda pool: count_failure(pool, asked, self.site, now), decision, now)

    def data_or_post(
        self,
        visitor: Actor,
        data: bool,
        path: str,
        decision: Decision,
        now: float,
        excused: bool = False,
        variant: Variant | None = None,
        form: bool = False,
        login: int = 0,
    ) -> None:
        """As `page`, for an answer with data (`data`), or one to a POST that was neither a page nor an error.

        `excused`: as inputs.PREFETCHED, or TRUSTED; `variant`: what its query makes of it; `form`: as in Failure;
        `login`: as in count_data.
        """
        if decision.refused:
            return
        facts = visitor.behaviour
        facts.requests += 1
        if decision.exempt:
            return
        if not data:
            count_accepted_post(visitor, path, self.site, now, login)
            if form and count_form(facts, True, now, bool(visitor.program)):
                self._in_full(visitor, decision, now)
        elif count_data(visitor, path, self.site, now, excused, variant, login):
            traces = facts.traces
            # A fifth of the limit: most who ask for data never get this far.
            few = 0.0 if visitor.throttle.level else self.policy.escalation.items / 5.0
            if traces is not None and traces.items - visitor.throttle.spent_items > few:
                self._in_full(visitor, decision, now)

    def _in_full(self, visitor: Actor, decision: Decision, now: float) -> None:
        """Evaluate signals and limits, raise the level where they say so, and note how long nothing can change."""
        site, policy, facts = self.site, self.policy, visitor.behaviour
        rules, first = policy.rules, policy.first
        if visitor.program and not visitor.claims.false_claim:
            rules, first = policy.program_rules, policy.program_first
        begins = facts.page_loads == 1 and not (facts.steps or facts.raised or facts.traces)
        signals.evaluate(visitor, first.rules if begins else rules, site, policy.site_pages, now)
        decision.score, decision.findings = visitor.score, visitor.signals
        reasons = throttle.new_evidence(visitor, policy.escalation, now)
        if reasons:
            self._escalate(visitor, visitor, rules, reasons, decision, now)
        if visitor.throttle.level != decision.level:
            _apply_level(visitor, policy, decision, now)
        facts.quiet_until = facts.steps + min(
            first.quiet if begins else signals.quiet_steps(visitor, rules, site, policy.site_pages, now),
            throttle.quiet_steps(visitor, policy.escalation.bot_score, now),
        )

    def _with_pools(self, visitor: Actor, network: Actor | None, count: Count, decision: Decision, now: float) -> None:
        """Judge the visitor in full and, where its headers contradict its user agent, the pools that it is in."""
        self._in_full(visitor, decision, now)
        if visitor.claims.faults and network is not None and self.site.knows_headers():
            visitor.pool = pool_of(self.site, visitor.claims)
            for pool in (network, visitor.pool):
                join_pool(pool, visitor.claims, now)
                pool.behaviour.requests += 1
                if pool.throttle.level:
                    throttle.cool_down(pool, self.policy.cooldown, now)
                count(pool)
                self._judge_pool(visitor, pool, decision, now)
            visitor.behaviour.quiet_until = -1

    def _judge_pool(self, visitor: Actor, pool: Actor, decision: Decision, now: float) -> None:
        """Judge what a pool did, and put the visitor at its level."""
        policy = self.policy
        signals.evaluate(pool, policy.rules, self.site, policy.site_pages, now)
        reasons = throttle.new_evidence(pool, policy.escalation, now)
        if reasons:
            self._escalate(pool, visitor, policy.rules, reasons, decision, now)
        adopt_pool(visitor, pool)
        if visitor.throttle.level != decision.level:
            if not reasons and decision.inputs is not None and visitor.throttle.level == pool.throttle.level:
                decision.inputs["pool_level"] = int(pool.throttle.level)
                known = decision.reasons
                decision.reasons += tuple(reason for reason in pool.throttle.reasons if reason not in known)
            _apply_level(visitor, policy, decision, now)

    def _escalate(
        self,
        judged: Actor,
        visitor: Actor,
        rules: tuple[signals.Rule, ...],
        reasons: tuple[str, ...],
        decision: Decision,
        now: float,
    ) -> None:
        """Raise the level of `judged`: the visitor, or a pool that it is in, which matters to it once higher."""
        before = visitor.throttle.level
        signals.refresh(judged, rules, self.site, self.policy.site_pages, now)
        inputs = inputs_of_rise(judged, self.policy, now)
        texts = dict.fromkeys((*reasons, *(finding.text for finding in judged.signals)))  # some say the same
        throttle.escalate(judged, tuple(texts), now)
        if judged.throttle.level <= before:
            return
        if decision.previous_level is None:
            decision.previous_level = before
        if judged is not visitor:
            inputs["own_score"] = visitor.score
        decision.inputs, decision.findings = inputs, judged.signals
        known = decision.reasons
        decision.reasons += tuple(reason for reason in judged.throttle.reasons if reason not in known)


def _load_for(pool: Actor, page: str | Variant, inner: bool, site: Site, now: float) -> None:
    loads = site.loads
    if isinstance(page, str):
        load_page(pool.behaviour, page, inner, site, now)
    else:
        load_variant(pool.behaviour, page, inner, site, now)
    site.loads = loads  # the visitor's own load is counted


def _apply_level(visitor: Actor, policy: Policy, decision: Decision, now: float) -> None:
    """Show the level in force in the decision of a request that was admitted at another."""
    before, decision.level = decision.level, visitor.throttle.level
    level = decision.level
    limits = list(zip(visitor.windows, policy.limits[level], strict=True))
    remaining = [window.remaining(counter, size, limit, now) for counter, (size, limit) in limits]
    # What other workers admitted is known from what was told of the level before.
    for place, left in enumerate(decision.remaining):
        lowered = policy.limits[before][place][1] - policy.limits[level][place][1]
        remaining[place] = max(0, min(remaining[place], left - lowered))
    reset = [seconds_to_cool_down(visitor, policy, now)] * len(limits) if level == BLOCKED else decision.reset
    decision.quotas = paired(remaining, reset)
