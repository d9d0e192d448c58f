"""The commands `replay`, `what-if` and `reclassify`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Any

from .. import columns
from ..arguments import path, split, whole
from ..clock import SystemClock
from ..errors import ReplayError
from ..folders import write_atomically
from ..settings import Settings
from ..settings.canonical import RULES, canonical, version
from ..settings.canonical import options as stored_options
from ..store.recorded import FETCHED, Recorded, RecordedHit, rewriter
from . import difference, printing, rewriting
from . import options as given
from .formats import FORMATS
from .history import DAY, History
from .page import referer_host
from .progress import Progress, total_size
from .run import Period, Replay
from .source import Reading, entries

EARLIEST, LATEST = 0.0, 253_370_764_800.0  # seconds since 1970 that datetime can tell
MAX_ROWS = 1_000_000  # actors and routes in a report
Database = Callable[[str | None], AbstractContextManager[str]]  # --dsn → the DSN to use


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Set up `replay`."""
    parser.set_defaults(run=replay)
    parser.add_argument("files", nargs="+", metavar="FILE", help='access logs, gzipped or not; "-" is standard input')
    parser.add_argument("--format", choices=[*FORMATS], help="else each file's first lines tell")
    parser.add_argument("--host", action="append", default=[], help="the site's own host name, to tell inner links")
    parser.add_argument("--trusted-proxies", action="append", metavar="NETWORK", help="whose X-Forwarded-For counts")
    _add_top(parser)
    parser.add_argument("--export", choices=["csv", "json"], help="csv: a row per actor; json: everything")
    parser.add_argument(
        "-o", "--output", type=path, metavar="FILE", help="where --export goes; else in place of the report"
    )
    given.add_period(parser)
    given.add_policy(parser)


def replay(options: argparse.Namespace) -> int:
    """Replay logs and print what came of it; 1 when no line could be read."""
    if options.output and not options.export:
        raise ReplayError("--output is where --export csv or json goes; without --export there is nothing to write.")
    if options.output and any(_is_same(options.output, log) for log in options.files):
        raise ReplayError(f"--output {options.output} is one of the logs that are read, and would be lost.")
    if options.output and (problem := _problem_of(options.output)):
        raise ReplayError(f"{options.output} cannot be written: {problem}.")
    if twice := next((log for log in options.files if _is_repeated(log, options.files)), None):
        raise ReplayError(f"{twice} is named twice: each of its lines would count twice.")
    more: dict[str, Any] = {"trusted_proxies": split(options.trusted_proxies)} if options.trusted_proxies else {}
    settings = given.settings(options, **more)
    reading = Reading()
    done = Replay(settings, _period(options), map(_host, split(options.host)))
    with contextlib.closing(Progress(sys.stderr, total_size(options.files))) as progress:
        done.run(entries(options.files, options.format, reading, progress.add))
    for note in printing.notes(done, reading):
        print(f"asgi-analytics: {columns.escape(note)}", file=sys.stderr)
    _show(done, reading, options)
    if not reading.lines:
        raise ReplayError(f"No line of {', '.join(options.files)} is there.")
    if reading.lines == reading.junk:
        raise ReplayError(f"No line of {', '.join(options.files)} is of a known format ({', '.join(FORMATS)}).")
    return 0


def add_what_if(parser: argparse.ArgumentParser, database: Database) -> None:
    """Set up `what-if`."""
    parser.set_defaults(run=lambda options: what_if(options, database))
    _add_history(parser, "7d")
    _add_top(parser)
    parser.add_argument("--export", choices=["json"], help="everything, in place of the report")


def what_if(options: argparse.Namespace, database: Database) -> int:
    """Judge recorded hits by another policy and print the difference; writes nothing."""
    with database(options.dsn) as dsn:
        recorded, since, _ = _recorded(dsn, options)
        base = _in_force(recorded)
        settings = given.settings(options, stored_options(base))
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


def add_reclassify(parser: argparse.ArgumentParser, database: Database) -> None:
    """Set up `reclassify`."""
    parser.set_defaults(run=lambda options: reclassify(options, database))
    _add_history(parser, "30d")
    parser.add_argument("--yes", action="store_true", help="write; without it nothing is")


def reclassify(options: argparse.Namespace, database: Database) -> int:
    """Judge recorded hits by a policy and, with --yes, write scores, levels and classes under its version.

    Each batch is committed by itself. A run that was stopped is taken up by the same command: it judges from the
    beginning, for verdicts rest on what came before, and writes only the rows that are not of its version yet.
    """
    with database(options.dsn) as dsn:
        recorded, since, until = _recorded(dsn, options)
        base = _in_force(recorded)
        settings = given.settings(options, stored_options(base))
        name, counts = version(settings), rewriting.Rewriting()
        verdicts = History(settings).judge(_with_progress(recorded))
        rows = counts.judged((one for one in verdicts if one.hit.seconds >= since), name)
        if options.yes:
            with rewriter(dsn, name) as writer:
                writer.remember(canonical(settings))
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


def _add_top(parser: argparse.ArgumentParser) -> None:
    shown = "actors and routes that are shown (10)"
    parser.add_argument("--top", type=whole(1, MAX_ROWS), default=10, metavar="N", help=shown)


def _add_history(parser: argparse.ArgumentParser, since: str) -> None:
    parser.add_argument("--dsn", help="else ASGI_ANALYTICS_DSN, else DATABASE_URL, else the embedded Postgres")
    parser.add_argument("--site", default="default", help='whose hits ("default")')
    given.add_period(parser, since)
    given.add_policy(parser)


def _recorded(dsn: str, options: argparse.Namespace) -> tuple[Recorded, float, float]:
    """Return the hits from a day before the period on, which warm the state up, and the period itself."""
    now = SystemClock.time_ns() / 1e9
    since, until = given.moment(options.since, now), given.moment(options.until, now)
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
    changed = "changed as asked" if given.are_changes(options) else "unchanged"
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


def _show(done: Replay, reading: Reading, options: argparse.Namespace) -> None:
    if options.export:
        text = printing.as_csv(done) if options.export == "csv" else printing.as_json(done, reading)
        if not options.output:
            sys.stdout.write(text)
            return
        _write(options.output, text)
    print("\n".join(printing.report(done, reading, options.top)))


def _host(text: str) -> str:
    """Return the host alone: compared with more, such as a port, no Referer would be a page of the site."""
    host = referer_host(text if "://" in text else f"https://{text}")
    if not host:
        raise ReplayError(f"--host {text!r} is no host name.")
    return host


def _is_same(one: str | Path, other: str) -> bool:
    with contextlib.suppress(OSError):  # not there, or standard input
        return Path(one).is_file() and os.path.samefile(one, other)
    return False


def _is_repeated(log: str, logs: Sequence[str]) -> bool:
    return logs.count(log) > 1 or sum(_is_same(log, other) for other in logs) > 1


def _problem_of(output: Path) -> str:
    """Return why a file cannot be written, as far as that shows before a log is read, which may take an hour."""
    place = _place(output)
    if place.is_dir():
        return os.strerror(errno.EISDIR)
    if not place.parent.is_dir():
        return os.strerror(errno.ENOTDIR if place.parent.exists() else errno.ENOENT)
    may = any(os.access(one, os.W_OK) for one in (place, place.parent))
    return "" if may else os.strerror(errno.EACCES)


def _write(output: Path, text: str) -> None:
    data, place = text.encode("utf-8", "backslashreplace"), _place(output)
    try:
        try:
            if place.exists() and not place.is_file():
                place.write_bytes(data)  # a device or a pipe, which takes what comes
            else:
                write_atomically(place, data, _mode(place))
        except PermissionError:  # the file may be ours where the folder is not
            place.write_bytes(data)
    except OSError as error:
        raise ReplayError(f"{output} cannot be written: {error.strerror or error}.") from None


def _place(output: Path) -> Path:
    """Return the file itself, whatever links lead to it; a pipe of the shell (/dev/fd/63) has no other name."""
    return output if output.exists() and not output.is_file() else Path(os.path.realpath(output))


def _mode(place: Path) -> int:
    """Return the permissions that a file has, or that a new one gets."""
    with contextlib.suppress(FileNotFoundError):
        return place.stat().st_mode & 0o777
    masked = os.umask(0o077)
    os.umask(masked)
    return 0o666 & ~masked


def _period(options: argparse.Namespace) -> Period:
    now = SystemClock.time_ns() / 1e9
    since, until = given.moment(options.since, now), given.moment(options.until, now)
    period = Period(-inf if since is None else since, inf if until is None else until)
    if period.since >= period.until:
        raise ReplayError("--since has to be before --until.")
    return period
