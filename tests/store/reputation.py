"""The naive model of reputation that the store's SQL is held against (`analytics.decayed`, migration 0003).

A score from 0 to 100 that incidents lower and calm brings back to 50. It is evaluated when it is read: kept are the
score as of its last incident and the time of that. What an incident is and costs: `protocols.ReputationRules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pow  # noqa: A004 - of floats, as in SQL

from asgi_analytics.reputation import LOW_REASON, LOW_REPUTATION

NEUTRAL = 50.0
HALF_LIFE = 86_400.0  # seconds: after a calm week less than 1 % of a fall is left
LONGEST = 5_184_000.0  # seconds after which no more decay is computed: nothing is left by then
CALM = 604_800.0  # seconds without an incident after which a flag falls


def decayed(score: float, since: float | None, now: float) -> float:
    """Return the score at `now` that was `score` at `since`, both in wall seconds; since None: it does not age.

    Half of the distance to 50 goes within HALF_LIFE, from either side. A clock that went back changes nothing.
    """
    elapsed = 0.0 if since is None else min(max(now - since, 0.0), LONGEST)
    return NEUTRAL + (score - NEUTRAL) * pow(2.0, -elapsed / HALF_LIFE)


def lowered(score: float, since: float | None, points: float, now: float) -> tuple[float, float]:
    """Return score and time after an incident at `now`: what is left by then less the points, never below 0."""
    at = now if since is None else max(now, since)
    return max(0.0, decayed(score, since, at) - points), at


def flag_reasons(incidents: Mapping[str, float], score: float, since: float | None, now: float) -> tuple[str, ...]:
    """Return why an actor is flagged at `now`; empty: it is not. `incidents` maps a kind to the time of its newest."""
    reasons = tuple(sorted(kind for kind, at in incidents.items() if now - at < CALM))
    return (*reasons, LOW_REASON) if decayed(score, since, now) < LOW_REPUTATION else reasons
