"""The command `explain`: what was decided, on what evidence, and what would have passed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

from ..clock import SystemClock
from ..columns import escape, table
from ..decide.explain import reproduce
from ..decide.signals import SIGNALS
from ..errors import CommandError
from ..facts import LEVEL_LABELS
from ..model import MAX_SCORE
from ..store.reading import DecisionRow, connect
from . import Command, Run
from .console import as_json, moment
from .dsn import add_dsn, database

PATIENCE = 2.0  # seconds to wait for a decision on its way to the database
_BELOW = {signal.code for signal in SIGNALS if signal.below}


def add_explain(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `explain` and return what runs it."""
    add_dsn(parser)
    parser.add_argument("decision", metavar="DECISION_ID", help="from the refusal's body or `tail --json`")
    parser.add_argument("--json", action="store_true", help="all that is stored, as one JSON object")
    return _explain


COMMANDS = (Command("explain", "tell why a request was refused or slowed down", add_explain),)


def _explain(options: argparse.Namespace) -> int:
    try:
        wanted = UUID(options.decision.strip())
    except ValueError:
        raise CommandError(f"{options.decision!r} is no decision id: 32 hex digits, with or without dashes.") from None
    deadline = SystemClock.monotonic() + PATIENCE
    with database(options.dsn) as dsn, connect(dsn) as reader:
        while (decision := reader.decision(wanted)) is None:
            if SystemClock.monotonic() > deadline:
                raise CommandError(
                    f"No decision {wanted} is stored: is it of this database, and is its writer connected?"
                )
            time.sleep(0.1)
    print(explanation_json(decision) if options.json else "\n".join(explanation(decision)))
    return 0


def explanation(decision: DecisionRow) -> Iterator[str]:
    """Yield the lines of `explain`: what was decided, on what evidence, and what would have passed."""
    detail = decision.detail
    yield f"Decision {decision.id}"
    yield f"  when      {moment(decision.time)}"
    yield f"  request   {_request(decision)}"
    yield f"  visitor   {_visitor(decision)}"
    yield f"  verdict   {_verdict(decision)}"
    yield f"  level     {_level_change(decision)}"
    yield f"  score     {decision.score}"
    if decision.counted:
        yield f"  counted   {decision.counted:,} more refusals of this visitor in that minute, under the last id stored"
    if detail.get("violated"):
        yield f"  violated  {', '.join(map(escape, detail['violated']))}"
    if by := (detail.get("inputs") or {}).get("ban", {}).get("by"):
        yield f"  banned by {escape(str(by))}"
    yield from _listed("Reasons", (escape(reason) for reason in detail.get("reasons", ())))
    if signals := detail.get("signals"):
        heading = ("signal", "measured", "limit", "points", "not raised when")
        rows = [
            (escape(s["signal"]), _short(s["value"]), _short(s["threshold"]), s["points"], _quiet(s)) for s in signals
        ]
        yield "Signals raised in the session"
        yield from table([heading, *rows])
    yield from _listed("What would have made it pass", _passes(decision))
    if "policy" in detail:
        again = "the stored inputs give the same verdict" if is_reproduced(decision) else "the stored inputs differ"
        yield f"Policy {escape(str(detail['policy']))}; decided again, {again}"


def explanation_json(decision: DecisionRow) -> str:
    """Return what `explain --json` prints: one object."""
    told = {
        **asdict(decision),
        "verdict": _verdict(decision),
        "passes": list(_passes(decision)),
        "reproduced": is_reproduced(decision) if "policy" in decision.detail else None,
    }
    return as_json(told)


def is_reproduced(decision: DecisionRow) -> bool:
    """Tell whether the stored inputs give the stored verdict."""
    try:
        again = reproduce(decision.detail)
    except (KeyError, TypeError, ZeroDivisionError):
        return False
    wanted = (decision.refused, decision.level, decision.score, tuple(decision.detail.get("violated", ())))
    return (again.refused, again.level, min(again.score, MAX_SCORE), again.violated) == wanted


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _request(decision: DecisionRow) -> str:
    if decision.method is None:
        return "not stored"
    asked = f"{escape(decision.method)} {escape(decision.path or '')}"
    return f"{asked} → {decision.status or 'no status'}, {decision.outcome}"


def _visitor(decision: DecisionRow) -> str:
    name = decision.fingerprint.hex[:8] if decision.fingerprint else "asked not to be told apart"
    about = [escape(part) for part in (decision.country, decision.agent, decision.os) if part]
    return f"{name} ({', '.join(about)})" if about else name


def _verdict(decision: DecisionRow) -> str:
    if not decision.refused:
        return "served; the level changed"
    return "refused with 429" if decision.enforced else "served; mode enforce would have refused it with 429"


def _level_change(decision: DecisionRow) -> str:
    level = LEVEL_LABELS[decision.level]
    return level if decision.level_before is None else f"{LEVEL_LABELS[decision.level_before]} → {level}"


def _listed(title: str, lines: Iterable[str]) -> Iterator[str]:
    shown = [f"  - {line}" for line in lines]
    if shown:
        yield title
        yield from shown


def _quiet(signal: dict[str, Any]) -> str:
    if signal["signal"] == "outdated_browser":
        return "the browser is a current one"
    if signal["threshold"] is None:
        return "-"
    below = signal.get("below", signal["signal"] in _BELOW)
    return f"{'at least' if below else 'at most'} {signal['threshold']:g}"


def _passes(decision: DecisionRow) -> Iterator[str]:
    stored = decision.detail.get("passes")
    if stored:
        yield from map(escape, stored)
        return
    if not decision.refused:
        has_risen = decision.level > (decision.level_before or 0)
        yield f"it was served{'; staying within the limits above keeps the level' if has_risen else ''}"
        return
    yield f"asking again {decision.retry_after} second{'s' if decision.retry_after != 1 else ''} later"
    for name in decision.detail.get("violated", ()):
        if name == "throttle":
            yield "no new evidence: the level falls by one after each cool-down"
        else:
            yield f'fewer requests within the window of quota "{escape(name)}"'
