"""The command `replay`: an access log, judged by the stages that judge live requests."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

from .. import columns
from ..clock import SystemClock
from ..errors import ReplayError
from ..folders import write_atomically
from ..replay import printing
from ..replay.formats import FORMATS
from ..replay.page import referer_host
from ..replay.progress import Progress, total_size
from ..replay.run import Period, Replay
from ..replay.source import Reading, entries
from . import Command, Run, policy
from .arguments import path, split


def add_replay(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `replay` and return what runs it."""
    parser.add_argument("files", nargs="+", metavar="FILE", help='access logs, gzipped or not; "-" is standard input')
    parser.add_argument("--format", choices=[*FORMATS], help="else each file's first lines tell")
    parser.add_argument("--host", action="append", default=[], help="the site's own host name, to tell inner links")
    parser.add_argument("--trusted-proxies", action="append", metavar="NETWORK", help="whose X-Forwarded-For counts")
    policy.add_top(parser)
    parser.add_argument("--export", choices=["csv", "json"], help="csv: a row per actor; json: everything")
    parser.add_argument(
        "-o", "--output", type=path, metavar="FILE", help="where --export goes; else in place of the report"
    )
    policy.add_period(parser)
    policy.add_policy(parser)
    return _replay


NOTES = """
Reads common and combined logs, and JSON lines of nginx, Caddy, Traefik and uvicorn, also with a host in front, fields
behind, or what syslog, Docker or Kubernetes put in front of each line. Files are merged by time; piped input must be in
order (a note tells if more than one in a hundred lines is late). Junk lines are counted and sampled. A page load is a
GET answered 200 or 304, by Content-Type if the log has it, else a path without extension (or .html, .php and the like)
that is no API, feed or health check. nginx's 499 is no error. Links of the site are told by --host, the line's own
host, or the host that most Referers name. X-Forwarded-For counts only with --trusted-proxies. Refused requests are no
evidence.
"""
COMMANDS = (Command("replay", "judge an access log, as if we had been there", add_replay, NOTES),)


def _replay(options: argparse.Namespace) -> int:
    if options.output and not options.export:
        raise ReplayError("--output is where --export csv or json goes; without --export there is nothing to write.")
    if options.output and any(_is_same(options.output, log) for log in options.files):
        raise ReplayError(f"--output {options.output} is one of the logs that are read, and would be lost.")
    if options.output and (problem := _problem_of(options.output)):
        raise ReplayError(f"{options.output} cannot be written: {problem}.")
    if twice := next((log for log in options.files if _is_repeated(log, options.files)), None):
        raise ReplayError(f"{twice} is named twice: each of its lines would count twice.")
    more: dict[str, Any] = {"trusted_proxies": split(options.trusted_proxies)} if options.trusted_proxies else {}
    settings = policy.settings(options, **more)
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
    since, until = policy.moment(options.since, now), policy.moment(options.until, now)
    period = Period(-inf if since is None else since, inf if until is None else until)
    if period.since >= period.until:
        raise ReplayError("--since has to be before --until.")
    return period
