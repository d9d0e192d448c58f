"""Reputation: a score from 0 to 100 that incidents lower and calm brings back to 50.

It is evaluated when it is read: kept are the score as of its last incident and the time of that. The store holds the
same formula (`analytics.decayed`, migration 0003). What an incident is and costs: `protocols.ReputationRules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pow  # noqa: A004 - of floats, as in SQL

NEUTRAL = 50.0
HALF_LIFE = 86_400.0  # seconds: after a calm week less than 1 % of a fall is left
LONGEST = 5_184_000.0  # seconds after which no more decay is computed: nothing is left by then
LOW = 20.0  # below: a reason of its own for a flag
CALM = 604_800.0  # seconds without an incident after which a flag falls
DECAY = "reputation_score_below_threshold"  # follows from incidents that were counted: it costs nothing itself


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
    return (*reasons, DECAY) if decayed(score, since, now) < LOW else reasons
