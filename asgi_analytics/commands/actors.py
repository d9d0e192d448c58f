"""The commands about actors: lists of them, and `ban`, `pardon`, `allow` by fingerprint, address or network."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from typing import Any

from ..columns import counted, escape, table
from ..errors import CommandError
from ..facts import LEVEL_LABELS
from ..reputation import LOW_REASON, LOW_REPUTATION
from ..store.rulings import ActorRow, CaseRow, NetworkRow, Registry, RulingRow, StandingRow, Target, connect
from . import MAX_SHOWN, MORE, Command, Run
from .arguments import span, whole
from .console import as_json, moment
from .dsn import with_database
from .targets import allowed, reach, read_target

LONGEST = timedelta(days=90)  # of a ban: nobody is banned for good


def add_actors(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `actors` and return what runs it."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--flagged", action="store_true", help="only those with an incident within a week")
    what.add_argument("--banned", action="store_true", help="the bans that stand")
    what.add_argument("--allowed", action="store_true", help="the allow-list, as far as commands made it")
    what.add_argument("--networks", action="store_true", help="client networks with incidents, by the day's hash")
    what.add_argument("--cases", action="store_true", help="pardoned false positives, with what was known of them")
    parser.add_argument(
        "--top", type=whole(1, MAX_SHOWN), default=20, metavar="N", help="at most so many, the worst first (20)"
    )
    parser.add_argument("--json", action="store_true", help="all that is known, as a JSON array")
    return with_database(parser, _actors)


def add_ban(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `ban` and return what runs it."""
    _add_target(parser)
    parser.add_argument("--for", dest="length", type=span, required=True, metavar="TIME", help="such as 30m, 2h or 7d")
    parser.add_argument("--reason", required=True, help="shown to the banned, and kept")
    return with_database(parser, _ban)


def add_pardon(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `pardon` and return what runs it."""
    _add_target(parser)
    parser.add_argument("--reason", default="a false positive", help="kept with the case")
    return with_database(parser, _pardon)


def add_allow(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `allow` and return what runs it."""
    _add_target(parser)
    parser.add_argument("--for", dest="length", type=span, metavar="TIME", help="such as 2h or 7d; else no end")
    parser.add_argument("--reason", default="allowed by hand", help="kept with the allowance")
    parser.add_argument("--end", action="store_true", help="take it off the list again")
    return with_database(parser, _allow)


COMMANDS = (
    Command("actors", "list visitors by reputation, bans, allowances, cases", add_actors),
    Command("ban", "refuse a visitor or network for a time", add_ban),
    Command("pardon", "lift bans, forgive incidents, reset the level, keep the case", add_pardon),
    Command("allow", "let a visitor or network pass whatever its level or bans", add_allow),
)


def _actors(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    with connect(dsn) as registry:
        rows, lines = _listing(options, registry)
    if options.json:
        yield as_json([asdict(row) for row in rows[: options.top]])
    elif rows:
        yield from table(lines[: options.top + 1], indent="")
        if len(rows) > options.top:
            yield MORE
    else:
        yield "nobody"


def _listing(options: argparse.Namespace, registry: Registry) -> tuple[Sequence[Any], list[Sequence[object]]]:
    """Return the rows asked for, one more where there are more, and the lines of their table."""
    most = options.top + 1
    if options.banned or options.allowed:
        ruled = registry.standing("ban" if options.banned else "allow", most)
        return ruled, [("target", "since", "until", "by", "reason"), *map(_ruling_line, ruled)]
    if options.networks:
        networks = registry.networks(most)
        return networks, [("network today", "reputation", "incidents", "last incident"), *map(_network_line, networks)]
    if options.cases:
        cases = registry.cases(most)
        heading = ("case", "labelled", "target", "level", "score", "decision", "signals", "reason")
        return cases, [heading, *map(_case_line, cases)]
    actors = registry.actors(most, flagged=options.flagged)
    heads = (
        "visitor",
        "reputation",
        "level",
        "incidents",
        "flagged for",
        "hits",
        "refused",
        "last seen",
        "banned until",
    )
    return actors, [heads, *map(_actor_line, actors)]


def _ban(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    if options.length > LONGEST:
        raise CommandError(f"A ban lasts {LONGEST.days} days at most.")
    if not (reason := _text(options.reason)):
        raise CommandError("A ban has a reason, which the banned are told: --reason is empty.")
    with connect(dsn) as registry:
        target = read_target(options.target, registry, "ban")
        made = registry.rule("ban", target, options.length, reason, _operator(options))
        exempt = allowed(target, registry)
    yield f"banned {target.shown} until {moment(made.until)}"
    for one in exempt:
        yield f"without effect: {one} is allowed, which wins over bans; `asgi-analytics allow {one} --end` ends that"
    yield from _changes(target)


def _pardon(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    with connect(dsn) as registry:
        target = read_target(options.target, registry, "pardon")
        found = reach(target, registry)
        done = registry.pardon(target, found, _text(options.reason), _operator(options))
    yield (
        f"pardoned {target.shown}: {counted(done.bans, 'ban')} lifted, {counted(done.incidents, 'incident')} forgiven, "
        f"{counted(done.visitors, 'visitor')} reset"
    )
    if found.parts:
        yield (
            "its visitors are reset where workers live, but not in the tables, which have digests of their networks: "
            f"these are too many to look for; pardon it in parts of /{found.parts}, where that matters"
        )
    yield from (f"still banned, with more: {_shown(one)} until {moment(one.until)}" for one in found.around)
    yield f"kept as case {done.case}: `asgi-analytics actors --cases`"


def _allow(options: argparse.Namespace, dsn: str) -> Iterator[str]:
    with connect(dsn) as registry:
        target = read_target(options.target, registry, "allow")
        if options.end:
            if options.length:
                raise CommandError("--for is how long an allowance lasts, and --end takes it off now: leave one out.")
            if not registry.lift(target, "allow"):
                raise CommandError(f"{target.shown} is not on the allow-list that commands made.")
            yield f"no longer allowed: {target.shown}"
            return
        made = registry.rule("allow", target, options.length, _text(options.reason), _operator(options))
    yield f"allowed {target.shown}" + (f" until {moment(made.until)}" if made.until else "")
    yield from _changes(target)


def _changes(target: Target) -> Iterator[str]:
    if target.fingerprint:
        yield "Without a cookie, fingerprints change at midnight UTC; workers that saw the visitor carry this over."


def _actor_line(row: ActorRow) -> Sequence[object]:
    reasons = [*row.kinds, LOW_REASON] if row.reputation < LOW_REPUTATION else list(row.kinds)
    return (
        row.fingerprint.hex,
        round(row.reputation),
        LEVEL_LABELS[row.level],
        row.incidents,
        ", ".join(reasons) or "-",
        row.hits,
        row.refusals,
        moment(row.last_seen_at),
        moment(row.banned_until),
    )


def _ruling_line(row: RulingRow) -> Sequence[object]:
    until = moment(row.until) if row.until else "no end"
    return _shown(row), moment(row.made_at), until, escape(row.made_by), escape(row.reason)


def _network_line(row: NetworkRow) -> Sequence[object]:
    return row.network.hex, round(row.reputation), row.incidents, moment(row.last_incident_at)


def _case_line(row: CaseRow) -> Sequence[object]:
    signals = [escape(str(signal["signal"])) for signal in (row.detail or {}).get("signals", ())]
    return (
        row.id.hex[:8],
        moment(row.labelled_at),
        row.target,
        "-" if row.level is None else LEVEL_LABELS[row.level],
        "-" if row.score is None else row.score,
        row.decision_id.hex if row.decision_id else "-",
        ", ".join(islice(signals, 8)) or "-",
        escape(row.reason),
    )


def _shown(row: RulingRow | StandingRow) -> str:
    if isinstance(row, RulingRow) and row.fingerprint is not None:
        return row.fingerprint.hex
    if row.hashed or row.network is None:
        return f"a network of {row.prefix} bits, not stored in clear ({row.id.hex[:8]})"
    network = int.from_bytes(row.network, "big") << (0 if row.size == 4 else 64)
    address = ipaddress.IPv4Address(network) if row.size == 4 else ipaddress.IPv6Address(network)
    return f"{address}/{row.prefix}"


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="TARGET", help="a fingerprint, an address, a network (CIDR), or an id that `actors` shows"
    )
    parser.add_argument("--by", help="who decides this (your user name)")


def _operator(options: argparse.Namespace) -> str:
    if by := _text(options.by or ""):
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "an operator"


def _text(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())[:500]
