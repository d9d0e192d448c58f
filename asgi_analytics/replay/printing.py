"""What `replay` prints and exports, as pure functions from counts to lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ..columns import cell, counted, cut, escape, table
from ..facts import LEVEL_LABELS
from ..settings import Quota, Settings
from ..settings.canonical import canonical, version
from .run import Replay
from .source import Reading
from .tally import Actor, Route, Tally, busiest_routes

PAGE_RULE = "GET answered 200 or 304, by Content-Type where the log has it, else by path (no extension, none of an API)"
ACTOR_FIELDS = (
    *("actor", "class", "crawler", "level", "score", "sessions", "requests", "page_loads", "errors", "refused"),
    *("first_refused_request", "first", "last", "violated", "reasons", "user_agent", "fingerprint"),
)
_AGENT_WIDTH, _PATH_WIDTH, _NAME_WIDTH = 48, 60, 40
ENOUGH_LINES, FEW_CLIENTS = 100, 12  # from so many of so few on, words that are no address are no hosts either


def report(replay: Replay, reading: Reading, top: int) -> Iterator[str]:
    """Yield the lines of the whole report."""
    yield from _heading(replay, reading)
    if replay.tally.judged:
        yield from _tables(replay.tally, top)
    for line in reading.samples:
        yield f"Junk: {escape(line)}"
    for note in notes(replay, reading):
        yield f"Note: {escape(note)}"


def _tables(tally: Tally, top: int) -> Iterator[str]:
    yield "Classes"
    heading = ("class", "actors", "sessions", "requests", "page loads", "refused")
    sums = tally.classes()
    rows = [(escape(name), s.actors, s.sessions, s.requests, s.pages, s.refused) for name, s in sums.items()]
    yield from table([heading, *rows])
    yield "Levels"
    yield from table([("level", "actors", "requests"), *tally.levels()])
    requests, count = sum(one.refused for one in sums.values()), sum(one.refused_actors for one in sums.values())
    stopped = sum(one.stopped_actors for one in sums.values())
    refused, actors = counted(requests, "request"), counted(count, "actor")
    yield f"Refused: {refused} of {actors} would have been; {stopped - count:,} slowed down"
    yield from _actors(tally.refused()[:top], tally.bot_score)
    yield from _more(stopped, top)
    yield f"Busiest actors, {min(top, len(tally.actors))} of {len(tally.actors):,}"
    yield from _busiest(tally.busiest()[:top], tally.bot_score)
    yield f"Routes, {min(top, len(tally.routes))} of {len(tally.routes):,}"
    yield from _routes(busiest_routes(tally.routes.values())[:top])


def notes(replay: Replay, reading: Reading) -> list[str]:
    """Return what to know before trusting the rest."""
    tally = replay.tally
    found = [*reading.notes, *_strange_clients(replay)]
    if tally.is_out_of_order:
        found.append(
            f"{counted(tally.late, 'line is', 'lines are')} older than ones before them: verdicts are not to be "
            "trusted. Give the files as arguments, which merges them by time, or sort the lines."
        )
    return found


def _strange_clients(replay: Replay) -> Iterator[str]:
    """Name what was taken for clients, where it is likely to be something else that stands in front of all lines."""
    names = {actor.name for actor in replay.tally.actors.values()}
    is_strange = not any("." in name or ":" in name for name in names)
    if replay.tally.judged >= ENOUGH_LINES and len(names) <= FEW_CLIENTS and is_strange:
        yield f"no line begins with an address, but with {min(names)!r}: cut off what stands in front of it"


def as_csv(replay: Replay) -> str:
    """Return one row per actor; no cell can act as a formula."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(ACTOR_FIELDS)
    for row in _rows(replay):
        writer.writerow([cell(row[name]) for name in ACTOR_FIELDS])
    return written.getvalue()


def as_json(replay: Replay, reading: Reading) -> str:
    """Return the whole result; texts as visitors sent them, escaped as JSON escapes."""
    tally = replay.tally
    facts = {
        "policy": {"version": version(replay.pipeline.settings), **canonical(replay.pipeline.settings)},
        "period": [_iso(tally.first), _iso(tally.last if tally.judged else None)],
        "lines": {
            "read": reading.lines,
            "junk": reading.junk,
            "judged": tally.judged,
            "malformed": tally.malformed,
            "outside_period": tally.outside,
            "late": tally.late,
        },
        "formats": reading.formats,
        "notes": notes(replay, reading),
        "classes": {
            name: {"actors": s.actors, "sessions": s.sessions, "requests": s.requests, "page_loads": s.pages,
                   "refused": s.refused}
            for name, s in tally.classes().items()
        },
        "levels": {label: {"actors": actors, "requests": count} for label, actors, count in tally.levels()},
        "actors": list(_rows(replay)),
        "routes": [
            {"route": one.name, "requests": one.requests, "page_loads": one.pages, "errors": one.errors,
             "refused": one.refused}
            for one in busiest_routes(tally.routes.values())
        ],
    }  # fmt: skip
    return json.dumps(facts, indent=1) + "\n"


def policy_line(settings: Settings) -> str:
    """Return a policy in one line: its version, and where it differs from the defaults."""
    known = Settings()
    shown = [f"limits {_quotas(settings.limits)}", f"network {_quotas(settings.network_limits)}"]
    for name in ("bot_score", "cooldown", "site_pages", "session_timeout"):
        if getattr(settings, name) != getattr(known, name):
            shown.append(f"{name} {getattr(settings, name):g}")
    for table_of in ("signal_points", "signal_thresholds"):
        defaults = getattr(known, table_of)
        shown += [f"{name} {value:g} ({table_of.removeprefix('signal_')})"
                  for name, value in getattr(settings, table_of).items() if value != defaults[name]]  # fmt: skip
    return f"{version(settings)}: {', '.join(shown)}"


def _period(first: float | None, last: float) -> str:
    """Return a period in words."""
    return "none" if first is None else f"{_moment(first)} to {_moment(last)} UTC"


def _heading(replay: Replay, reading: Reading) -> Iterator[str]:
    tally = replay.tally
    others = [
        (reading.junk, "junk"),
        (tally.malformed, "no HTTP requests"),
        (tally.outside, "outside the period"),
        (tally.late, "more than a minute late"),
    ]
    left = "".join(f", {count:,} {what}" for count, what in others if count)
    yield f"Period      {_period(tally.first, tally.last)}"
    formats = ", ".join(reading.formats) or "no format"
    yield f"Lines       {reading.lines:,} read ({formats}), {tally.judged:,} judged{left}"
    yield f"Page loads  {PAGE_RULE}"
    yield f"Own host    {_own(replay)}"
    yield f"Policy      {escape(policy_line(replay.pipeline.settings))}"


def _own(replay: Replay) -> str:
    if replay.hosts:
        return escape(", ".join(sorted(replay.hosts)))
    learned = f"else {escape(replay.learned_host)}, as most Referers say" if replay.learned_host else "else unknown"
    return f"as each line says, {learned} (--host)"


def _actors(actors: Sequence[Actor], bot_score: int) -> Iterator[str]:
    if not actors:
        return
    heading = ("actor", "class", "level", "requests", "refused", "from its", "why")
    rows = [
        (
            cut(escape(one.name), _NAME_WIDTH),
            escape(one.bot_class(bot_score)),
            LEVEL_LABELS[one.level],
            one.requests,
            one.refused,
            f"{one.first_refused}." if one.first_refused else "-",
            cut(escape("; ".join(one.reasons)), 160),
        )
        for one in actors
    ]
    yield from table([heading, *rows])


def _busiest(actors: Sequence[Actor], bot_score: int) -> Iterator[str]:
    heading = ("actor", "class", "requests", "page loads", "errors", "refused", "score", "user agent")
    rows = [
        (
            cut(escape(one.name), _NAME_WIDTH),
            escape(one.agent.crawler or one.bot_class(bot_score)),
            *(one.requests, one.pages, one.errors, one.refused, one.score),
            cut(escape(one.agent_text), _AGENT_WIDTH),
        )
        for one in actors
    ]
    yield from table([heading, *rows])


def _routes(routes: Sequence[Route]) -> Iterator[str]:
    heading = ("route", "requests", "page loads", "errors", "refused")
    rows = [(cut(escape(one.name), _PATH_WIDTH), one.requests, one.pages, one.errors, one.refused) for one in routes]
    yield from table([heading, *rows])


def _more(count: int, top: int) -> Iterator[str]:
    if count > top:
        yield f"  … and {count - top:,} more (--top)"


def _rows(replay: Replay) -> Iterator[dict[str, Any]]:
    tally = replay.tally
    refused = tally.refused()
    shown = {id(actor) for actor in refused}
    rest = (actor for actor in tally.busiest() if id(actor) not in shown)
    for one in (*refused, *rest):
        values = (
            *(one.name, one.bot_class(tally.bot_score), one.agent.crawler, LEVEL_LABELS[one.level], one.score),
            *(one.sessions, one.requests, one.pages, one.errors, one.refused, one.first_refused or None),
            *(_iso(one.first), _iso(one.last), " ".join(f"{name}:{count}" for name, count in one.violated.items())),
            *("; ".join(one.reasons), one.agent_text, one.fingerprint.hex()),
        )
        yield dict(zip(ACTOR_FIELDS, values, strict=True))


def _quotas(quotas: Iterable[Quota]) -> str:
    return " ".join(f"{quota.limit}/{quota.name.removeprefix('network-')}" for quota in quotas) or "none"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
