"""The commands `what-if` and `reclassify`: recorded hits, judged by another policy."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from .. import columns
from ..clock import SystemClock
from ..errors import ReplayError
from ..replay import difference, printing, rewriting
from ..replay.history import DAY, History
from ..replay.progress import Progress
from ..settings import Settings
from ..settings.canonical import RULES, canonical, version
from ..settings.canonical import options as stored_options
from ..store.recorded import FETCHED, Recorded, RecordedHit, rewriter
from . import Command, Run, policy
from .dsn import add_dsn, database

EARLIEST, LATEST = 0.0, 253_370_764_800.0  # seconds since 1970 that datetime can tell


def add_what_if(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `what-if` and return what runs it."""
    _add_history(parser, "7d")
    policy.add_top(parser)
    parser.add_argument("--export", choices=["json"], help="everything, in place of the report")
    return _what_if


def add_reclassify(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `reclassify` and return what runs it."""
    _add_history(parser, "30d")
    parser.add_argument("--yes", action="store_true", help="write; without it nothing is")
    return _reclassify


NOTES = """
Over one worker's run, the unchanged policy reproduces the live verdicts exactly. Not exact are: several workers, which
are judged as one; restarts, and visitors that a worker forgot for lack of room; visitors with GPC or DNT, who keep
their verdicts and teach nothing; those who have yet to return the cookie; signals of your own, which are not measured;
pages whose paths hold something that is not stored, such as a token; hits judged by the rules of another version, or
recorded before migration 0007, which the report says; what an app would have answered to a refused request, which is
guessed from its path; refusals past the rate, of which only counts are stored: no other policy lets them in; visitors
who come back after midnight, and what lies more than a day before the period: both begin anew.
"""
COMMANDS = (
    Command("what-if", "tell what another policy would have done to recorded hits", add_what_if, NOTES),
    Command("reclassify", "write the verdicts of another policy into recorded hits", add_reclassify),
)


def _what_if(options: argparse.Namespace) -> int:
    """Judge recorded hits by another policy and print the difference; writes nothing."""
    with database(options.dsn) as dsn:
        recorded, since, _ = _recorded(dsn, options)
        base = _in_force(recorded)
        settings = policy.settings(options, stored_options(base))
        found = difference.Difference(bot_score=int(base.get("bot_score", 50)))
        for verdict in History(settings).judge(_with_progress(recorded)):
            if verdict.hit.seconds >= since:
                found.take(verdict)
        if not found.hits:
            raise _without_hits(recorded, options.site)
    if options.export:
        sys.stdout.write(difference.as_json(found, {"version": version(settings), **canonical(settings)}))
        return 0
    print("\n".join(_policy(settings, base, options)))
    print("\n".join(difference.report(found, options.top)))
    return 0


def _reclassify(options: argparse.Namespace) -> int:
    """Judge recorded hits by a policy and, with --yes, write scores, levels and classes under its version.

    Each batch is committed by itself. A run that was stopped is taken up by the same command: it judges from the
    beginning, for verdicts rest on what came before, and writes only the rows that are not of its version yet.
    """
    with database(options.dsn) as dsn:
        recorded, since, until = _recorded(dsn, options)
        in_force, base = recorded.policy() or ("", {})
        settings = policy.settings(options, stored_options(base))
        name, counts = version(settings), rewriting.Rewriting()
        verdicts = History(settings).judge(_with_progress(recorded))
        rows = counts.judged((one for one in verdicts if one.hit.seconds >= since), name)
        if options.yes:
            with rewriter(dsn, name) as writer:
                writer.remember(canonical(settings))
                if name != in_force:
                    writer.note(until, options.site)
                counts.write(rows, writer)
                for looked_at, written in writer.sessions(since, until, options.site):
                    counts.sessions += written
                    counts.sessions_left += looked_at - written
        else:
            deque(rows, maxlen=0)
        if not counts.hits + counts.kept:
            raise _without_hits(recorded, options.site)
    print("\n".join(_policy(settings, base, options)))
    print("\n".join(rewriting.report(counts, options.yes)))
    return 0


def _add_history(parser: argparse.ArgumentParser, since: str) -> None:
    add_dsn(parser)
    parser.add_argument("--site", default="default", help='whose hits ("default")')
    policy.add_period(parser, since)
    policy.add_policy(parser)


def _recorded(dsn: str, options: argparse.Namespace) -> tuple[Recorded, float, float]:
    """Return the hits from a day before the period on, which warm the state up, and the period itself."""
    now = SystemClock.time_ns() / 1e9
    since, until = policy.moment(options.since, now), policy.moment(options.until, now)
    since, until = EARLIEST if since is None else since, now if until is None else until
    if not EARLIEST <= since < until < LATEST:
        raise ReplayError(
            "--since has to be before --until, or now where --until is left out, both of the years 1970 to 9998."
        )
    return Recorded(dsn, max(EARLIEST, since - DAY), until, options.site), since, until


def _in_force(recorded: Recorded) -> Mapping[str, Any]:
    """Return the policy that was last in force, as it is stored; empty where none is recorded."""
    found = recorded.policy()
    return {} if found is None else found[1]


def _without_hits(recorded: Recorded, site: str) -> ReplayError:
    sites = ", ".join(recorded.sites())
    there = f" Sites with visitors: {sites}." if sites else ""
    return ReplayError(f"No hits of site {site!r} are stored in that period.{there}")


def _policy(settings: Settings, base: Mapping[str, Any], options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines that tell what hits are judged by."""
    changed = "changed as asked" if policy.are_changes(options) else "unchanged"
    known = "the policy last in force" if base else "no policy is recorded: the defaults"
    yield f"Policy      {columns.escape(printing.policy_line(settings))} ({known}, {changed})"
    if base and (rules := base.get("rules")) != RULES:
        then = columns.escape(str(rules))
        yield f"            by the rules {RULES} of this version; then it was {then}, which may tell otherwise"
    if own := [str(one[0]) for one in base.get("signals", ())]:
        yield f"            without the site's own signals, which are not measured: {columns.escape(', '.join(own))}"


def _with_progress(recorded: Recorded) -> Iterator[RecordedHit]:
    """Yield the hits; on a terminal a bar tells how many of them are through."""
    if not sys.stderr.isatty():
        yield from recorded.hits()
        return
    with contextlib.closing(Progress(sys.stderr, recorded.count(), unit=1)) as progress:
        for number, hit in enumerate(recorded.hits()):
            if number % FETCHED == 0 and number:
                progress.add(FETCHED)
            yield hit
