"""Why a decision came out as it did: its inputs as values, what would have made it pass, the verdict computed again.

`inputs_of_admission` and `inputs_of_rise` are taken when a decision gets its id; `detail` is what is stored of it
(analytics.decisions.detail). All times are seconds before or after the decision, so that no clock is needed to replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ..columns import duration
from ..facts import LEVEL_LABELS, Actor, Finding, Window
from ..model import Decision, Ruling
from ..settings import Quota
from .policy import Policy
from .rulings import time_left
from .signals import SIGNALS
from .throttle import (
    BLOCKED,
    ERROR_RATE,
    ERROR_REQUESTS,
    LEVELS,
    conduct_evidence,
    effective_limit,
    pace_limit,
    relapse,
)
from .window import MINUTE, estimate, wait

Inputs = dict[str, Any]  # JSON values only
_BELOW = frozenset(signal.code for signal in SIGNALS if signal.below)
_UNITS = {
    "high_request_count": "page loads in this session",
    "high_page_coverage": "per cent of the site's pages",
    "sequential_navigation": "per cent of the steps in alphabetical or numerical order",
    "multiple_fingerprint_sessions": "sessions within an hour",
    "high_pages_per_minute": "page loads per minute over five minutes",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a decision came to; `violated` as in Decision."""

    refused: bool
    level: int
    score: int
    violated: tuple[str, ...]


def inputs_of_admission(visitor: Actor, network: Actor, decision: Decision, policy: Policy, now: float) -> Inputs:
    """Return what a refusal, or a level that cooled down, rests on; to be called right after `admit`."""
    state = visitor.throttle
    level = decision.level
    return {
        "level": int(level),
        "cooldown": policy.cooldown,
        "rest": round(max(0.0, state.changed_at + policy.cooldown - now), 3) if level else 0.0,
        "quotas": [
            _shared(_quota(quota, counter, effective_limit(quota.limit, level), now), decision)
            for quota, counter in zip(policy.quotas, visitor.windows, strict=True)
        ],
        "network_quotas": [
            _shared(_quota(quota, counter, quota.limit, now), decision)
            for quota, counter in zip(policy.network_quotas, network.windows, strict=True)
        ],
    }


def inputs_of_rise(visitor: Actor, policy: Policy, now: float) -> Inputs:
    """Return what a rise of the level rests on; to be called before `throttle.escalate`, which spends the evidence.

    Of a pool: without the visitor's own score, which is added as "own_score". The level of a pool that had risen before
    and that the visitor is put at besides, is added as "pool_level".
    """
    state, facts = visitor.throttle, visitor.behaviour
    return {
        "level": int(state.level),
        "bot_score": policy.escalation.bot_score,
        "spent_score": state.spent_score,
        "page_loads": facts.page_loads - state.spent_page_loads,
        "further_loads": policy.escalation.further_loads / relapse(visitor),
        "people": facts.people,
        "hurried": facts.paced_loads - state.spent_paced_loads,
        "pace": round(estimate(facts.minute, MINUTE, now), 6),
        "pace_limit": pace_limit(visitor, now),
        "forms": facts.forms,
        "requests": facts.requests - state.spent_requests,
        "errors": facts.errors - state.spent_errors,
        "error_rate": ERROR_RATE,
        "error_requests": ERROR_REQUESTS / relapse(visitor),
        "conduct": list(conduct_evidence(visitor, policy.escalation, now)),
    }


def inputs_of_ban(ruling: Ruling, now: float) -> Inputs:
    """Return what a ban's refusal rests on; `now` in monotonic seconds."""
    rest = round(time_left(ruling, now), 3)
    ban = {"id": ruling.id.hex(), "by": ruling.made_by, "reason": ruling.reason, "rest": rest}
    return {"level": int(BLOCKED), "ban": ban}


def detail(decision: Decision, findings: Sequence[Finding], inputs: Inputs | None, version: str) -> dict[str, Any]:
    """Return what is stored of a decision: JSON values, no NaN, no infinity."""
    stored: dict[str, Any] = {
        "policy": version,
        "violated": list(decision.violated),
        "reasons": list(decision.reasons),
        "signals": [_signal(finding) for finding in findings],
        "inputs": inputs or {},
    }
    stored["passes"] = list(ways_to_pass(stored, decision.refused))
    return stored


def ways_to_pass(detail: Mapping[str, Any], refused: bool) -> Iterator[str]:
    """Yield a sentence for each change that would have made the request pass, or kept the level.

    For a quota or a ban one of them is enough. For a score, they list the signals whose points would have to be fewer.
    """
    inputs = detail.get("inputs") or {}
    if refused:
        yield from _ways_past_refusal(inputs, detail.get("violated", ()))
    elif "bot_score" in inputs:
        yield from _ways_to_keep_level(inputs, detail.get("signals", ()))


def reproduce(detail: Mapping[str, Any]) -> Verdict:
    """Decide again on the stored inputs. Raises KeyError where a detail has none (stored by an earlier version)."""
    inputs: Mapping[str, Any] = detail["inputs"]
    score = sum(signal["points"] for signal in detail["signals"] if _is_raised(signal))
    level, pool_level = inputs["level"], inputs.get("pool_level", 0)
    if "ban" in inputs:
        return Verdict(inputs["ban"]["rest"] > 0.0, level, score, ("ban",))
    if "bot_score" in inputs:
        raised = min(level + bool(_exceeded(inputs, score)), int(BLOCKED))
        return Verdict(False, max(raised, pool_level), inputs.get("own_score", score), ())
    if level == BLOCKED:
        return Verdict(True, level, score, ("throttle",))
    used_up = [quota["name"] for quota in (*inputs["quotas"], *inputs["network_quotas"]) if _is_used_up(quota)]
    return Verdict(bool(used_up), max(level, pool_level), score, tuple(used_up))


def _exceeded(inputs: Mapping[str, Any], score: int) -> list[str]:
    """Return the names of the limits that are exceeded, as in throttle.new_evidence."""
    people = inputs["people"]
    exceeded = []
    further = inputs["page_loads"] / people >= inputs["further_loads"]
    if score >= inputs["bot_score"] and (score > inputs["spent_score"] or further):
        exceeded.append("score")
    if min(inputs["hurried"], inputs["pace"]) / people > inputs["pace_limit"]:
        exceeded.append("pace")
    if inputs["requests"] > inputs["error_requests"] and inputs["errors"] > inputs["error_rate"] * inputs["requests"]:
        exceeded.append("errors")
    if inputs.get("conduct"):
        exceeded.append("conduct")
    return exceeded


def _ways_past_refusal(inputs: Mapping[str, Any], violated: Sequence[str]) -> Iterator[str]:
    if "ban" in inputs:
        yield f"wait {duration(inputs['ban']['rest'])}: then the ban ends; `asgi-analytics pardon` lifts it at once"
        return
    level = LEVELS[inputs.get("level", 0)]
    if "throttle" in violated:
        yield f"wait {duration(inputs['rest'])}: then the level cools down to {LEVEL_LABELS[level - 1]}"
    for quota in (*inputs.get("quotas", ()), *inputs.get("network_quotas", ())):
        if quota["name"] in violated and quota["limit"] > 0:
            yield (
                f'under {quota["limit"]} requests in {duration(quota["window"])} (quota "{quota["name"]}"), '
                f"or wait {duration(quota['wait'])}"
            )
    if level and "throttle" not in violated:
        yield f"a level below {level.label}: it falls by one in {duration(inputs['rest'])} without new evidence"


def _ways_to_keep_level(inputs: Mapping[str, Any], signals: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    score = sum(signal["points"] for signal in signals)
    exceeded = _exceeded(inputs, score)
    if "score" in exceeded:
        limit = inputs["bot_score"]
        more = score - limit + 1
        yield f"a score below {limit}: {more} point{'s' if more > 1 else ''} fewer of"
        for signal in sorted(signals, key=lambda one: -one["points"]):
            yield f"  {_quiet(signal)} ({signal['points']} points)"
    if "pace" in exceeded:
        each = f" for each of about {inputs['people']} people" if inputs["people"] > 1 else ""
        what = "page loads and forms" if inputs.get("forms") else "page loads"
        yield f"at most {inputs['pace_limit']:g} {what} in a minute{each}"
    if "errors" in exceeded:
        most = int(inputs["error_rate"] * inputs["requests"])
        yield f"at most {most} of the {inputs['requests']} requests answered with an error"
    for sentence in inputs.get("conduct", ()):
        yield f"less of: {sentence}"


def _quiet(signal: Mapping[str, Any]) -> str:
    """Return what would not have raised a signal."""
    code, threshold = signal["signal"], signal["threshold"]
    if code == "outdated_browser":
        return "a current browser"
    if code == "regular_timing":
        return f"page loads less regular than a coefficient of variation of {threshold:g}"
    if threshold is None:
        return f"no {code}"
    if code not in _UNITS:
        return f"{code} {'not below' if signal.get('below') else 'at most'} {threshold:g}"
    return f"at most {threshold:g} {_UNITS[code]}"


def _quota(quota: Quota, counter: Window, limit: int, now: float) -> dict[str, Any]:
    size = float(quota.window)
    used = estimate(counter, size, now)  # turns the window, so that what is read below is of now
    return {
        "name": quota.name,
        "limit": limit,
        "window": quota.window,
        "count": counter.count,
        "previous": counter.previous,
        "left": counter.ends_at - now,
        "wait": round(wait(counter, size, limit, now), 3) if 0 < limit <= used else 0.0,
    }


def _shared(quota: dict[str, Any], decision: Decision) -> dict[str, Any]:
    """Add as `lent` whether a unit was left, where the counts of this worker do not tell.

    They do not for a quota that all workers share, nor after this request has taken the last unit.
    """
    used_up = quota["name"] in decision.violated
    if used_up == _is_used_up(quota) or "throttle" in decision.violated:
        return quota
    return {**quota, "lent": int(not used_up), "wait": decision.retry_after if used_up else 0.0}


def _is_used_up(quota: Mapping[str, Any]) -> bool:
    if "lent" in quota:
        return bool(quota["lent"] <= 0)
    used: float = quota["count"] + quota["previous"] * quota["left"] / float(quota["window"])
    return bool(used >= quota["limit"])


def _signal(finding: Finding) -> dict[str, Any]:
    return {
        "signal": finding.signal,
        "points": finding.points,
        "value": finding.value if isfinite(finding.value) else None,
        "threshold": finding.threshold if isfinite(finding.threshold) else None,
        "below": finding.below or finding.signal in _BELOW,
        "text": finding.text,
    }


def _is_raised(signal: Mapping[str, Any]) -> bool:
    value, threshold = signal["value"], signal["threshold"]
    if value is None or threshold is None:
        return True
    return bool(value < threshold if signal.get("below", signal["signal"] in _BELOW) else value > threshold)
