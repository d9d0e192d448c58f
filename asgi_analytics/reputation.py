"""What lowers a visitor's reputation, and what follows from a low one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

LOW_REPUTATION = 20.0  # below: a reason of its own for a flag
LOW_REASON = "reputation_score_below_threshold"  # follows from incidents that were counted: it costs nothing itself
# What an incident takes from a reputation; a signal that is an incident by itself has its own name here.
INCIDENT_POINTS: Mapping[str, int] = MappingProxyType(
    {
        "blocked": 15,  # the level rose to Blocked
        "behavioural_score": 10,  # a session's score reached bot_score
        "probing": 15,
        "false_crawler_claim": 15,
        "request_count_exceeded_100": 10,  # page loads within a clock hour
        "sustained_velocity_10rpm_1hr": 15,  # in every minute of an hour
        "session_count_exceeded_10": 20,  # begun within a clock hour
    }
)


@dataclass(frozen=True, slots=True)
class ReputationRules:
    """What an incident is and costs. Limits are exceeded from the next whole number on."""

    points: Mapping[str, int] = field(default_factory=lambda: dict(INCIDENT_POINTS))
    network_share: float = 0.2  # of the points, for the client network: it is many people
    page_views_per_hour: int = 100
    page_views_per_minute: int = 10
    busy_minutes: int = 60
    sessions_per_hour: int = 10
    # The option `bans`: so many incidents within a day that no ban before rests on, and a reputation below `low`.
    ban_incidents: int = 3
    low: float = LOW_REPUTATION
    ban_seconds: float = 86_400.0
