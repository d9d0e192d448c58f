"""The commands `replay`, `what-if` and `reclassify`."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from pathlib import Path

from ..clock import SystemClock
from ..errors import ReplayError
from . import options as given
from . import printing
from .formats import FORMATS
from .progress import Progress, total_size
from .run import Period, Replay
from .source import Reading, entries

Database = Callable[[str | None], AbstractContextManager[str]]  # --dsn → the DSN to use


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Set up `replay`."""
    parser.set_defaults(run=replay)
    parser.add_argument("files", nargs="+", metavar="FILE", help='access logs, gzipped or not; "-" is standard input')
    parser.add_argument("--format", choices=[*FORMATS], help="else each file's first lines tell")
    parser.add_argument("--host", action="append", default=[], help="the site's own host name, to tell inner links")
    parser.add_argument("--trusted-proxies", action="append", metavar="NETWORK", help="whose X-Forwarded-For counts")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="actors and routes that are shown (10)")
    parser.add_argument("--export", choices=["csv", "json"], help="csv: a row per actor; json: everything")
    parser.add_argument("-o", "--output", metavar="FILE", help="where --export goes; else in place of the report")
    given.add_period(parser)
    given.add_policy(parser)


def replay(options: argparse.Namespace) -> int:
    """Replay logs and print what came of it; 1 when no line could be read."""
    if options.output and not options.export:
        raise ReplayError("--output is where --export csv or json goes; without --export there is nothing to write.")
    more = {"trusted_proxies": options.trusted_proxies} if options.trusted_proxies else {}
    settings = given.settings(options, **more)
    reading = Reading()
    progress = Progress(sys.stderr, total_size(options.files), lambda: reading.lines)
    done = Replay(settings, _period(options), options.host)
    with _without_collector():
        done.run(entries(options.files, options.format, reading, progress.add))
    progress.close()
    _show(done, reading, options)
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
    print("\n".join(printing.report(done, reading, max(1, options.top))))


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, "utf-8", "backslashreplace")
    except OSError as error:
        raise ReplayError(f"{path} cannot be written: {error.strerror or error}.") from None


def _period(options: argparse.Namespace) -> Period:
    now = SystemClock.time_ns() / 1e9
    since, until = given.moment(options.since, now), given.moment(options.until, now)
    return Period(-inf if since is None else since, inf if until is None else until)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing here makes cycles in number, and looking for them among millions of values costs a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
