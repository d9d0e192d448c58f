"""The policy: derived from the settings, and what it is for one worker among several."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from ..facts import ThrottleLevel
from ..settings import Quota, Settings
from . import signals, throttle
from .lease import Leases, shared_from
from .signal import Failed, guarded
from .throttle import LEVELS

Limits = tuple[tuple[float, int], ...]  # seconds and units, one pair per quota
Counted = tuple[tuple[float, int, int], ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings mean for verdicts, computed once."""

    quotas: tuple[Quota, ...]
    network_quotas: tuple[Quota, ...]
    limits: tuple[Limits, ...]  # of the visitor, one per throttle level
    network_limits: Limits
    sentences: tuple[tuple[str, ...], ...]  # why a quota refuses, one per throttle level and quota
    network_sentences: tuple[str, ...]
    cooldown: float
    escalation: throttle.EscalationLimits
    rules: tuple[signals.Rule, ...]
    program_rules: tuple[signals.Rule, ...]  # of those that hold for what says that it is a program
    first: signals.FirstLoadRules  # of `rules`
    program_first: signals.FirstLoadRules  # of `program_rules`
    site_pages: int  # 0: learned
    counted: tuple[Counted, ...]  # `limits`, each with the units from which on it is shared; see decide.lease
    network_counted: Counted
    leases: Leases = field(default_factory=Leases)

    @classmethod
    def of(cls, settings: Settings, failed: Failed | None = None) -> Policy:
        """Derive the policy from checked settings. `failed` is told what goes wrong in the site's own signals."""
        own = settings.signals if failed is None else tuple(guarded(one, failed) for one in settings.signals)
        rules = signals.rules(settings.signal_points, settings.signal_thresholds, own)
        program_rules = tuple(rule for rule in rules if not rule.signal.of_people)
        limits = tuple(_limits(settings.limits, level) for level in LEVELS)
        network_limits = _limits(settings.network_limits, ThrottleLevel.NORMAL)
        return cls(
            quotas=settings.limits,
            network_quotas=settings.network_limits,
            limits=limits,
            network_limits=network_limits,
            sentences=tuple(tuple(_sentence(quota, level) for quota in settings.limits) for level in LEVELS),
            network_sentences=tuple(_sentence(quota, ThrottleLevel.NORMAL) for quota in settings.network_limits),
            cooldown=settings.cooldown,
            escalation=_escalation_limits(settings),
            rules=rules,
            program_rules=program_rules,
            first=signals.first_load_rules(rules, settings.site_pages),
            program_first=signals.first_load_rules(program_rules, settings.site_pages),
            site_pages=settings.site_pages,
            counted=tuple(map(_counted, limits)),
            network_counted=_counted(network_limits),
        )

    def share_of(self, workers: int) -> Policy:
        """Return the policy of one worker that is cut off from the others, and keeps to its part of every limit."""
        limits, network = tuple(_part(one, workers) for one in self.limits), _part(self.network_limits, workers)
        counted = tuple(map(_counted, limits))
        return replace(self, limits=limits, network_limits=network, counted=counted, network_counted=_counted(network))

    def with_leases(self, leases: Leases) -> Policy:
        """Return the policy of one worker among as many as `leases` knows of."""
        workers = leases.sharing
        return replace(
            self,
            counted=tuple(_counted(limits, workers) for limits in self.limits),
            network_counted=_counted(self.network_limits, workers),
            leases=leases,
        )


def _escalation_limits(settings: Settings) -> throttle.EscalationLimits:
    def most(code: str, limit: float) -> float:
        return limit if settings.signal_points[code] else inf

    thresholds = settings.signal_thresholds
    return throttle.EscalationLimits(
        bot_score=settings.bot_score,
        further_loads=max(1.0, thresholds["high_request_count"]),
        probes=most("probing", throttle.PROBES),
        tries=most("credential_stuffing", thresholds["credential_stuffing"]),
        shared_tries=most("distributed_stuffing", 0.0),
        items=most("distinct_items_per_minute", 5.0 * thresholds["distinct_items_per_minute"]),
    )


def _limits(quotas: tuple[Quota, ...], level: ThrottleLevel) -> Limits:
    return tuple((float(quota.window), throttle.effective_limit(quota.limit, level)) for quota in quotas)


def _counted(limits: Limits, workers: int = 1) -> Counted:
    return tuple((size, limit, shared_from(limit, workers)) for size, limit in limits)


def _part(limits: Limits, workers: int) -> Limits:
    return tuple((size, max(min(1, limit), limit // workers)) for size, limit in limits)


def _sentence(quota: Quota, level: ThrottleLevel) -> str:
    limit = throttle.effective_limit(quota.limit, level)
    seconds = "second" if quota.window == 1 else f"{quota.window} seconds"
    lowered = f", {level.multiplier:.0%} of {quota.limit} at level {level.label}" if level else ""
    requests = "request" if limit == 1 else "requests"
    return f'quota "{quota.name}" is used up ({limit} {requests} per {seconds}{lowered})'
