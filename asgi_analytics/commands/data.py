"""The command `data update`: address ranges that crawlers are verified by."""

from __future__ import annotations

import argparse
from math import floor

from ..clock import SystemClock
from ..columns import counted, duration, escape
from ..identify.operators import SOURCES
from ..jobs.data import Held, default_crawler_dir, from_folder, from_web, read_sources, update
from . import Command, Run
from .arguments import path


def add_data(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `data` and return what runs it."""
    parser.add_argument("action", choices=("update",), help="get what the operators publish; old files stay on errors")
    parser.add_argument("--dir", type=path, help="where to keep them; else ASGI_ANALYTICS_CRAWLER_DIR")
    parser.add_argument("--from", type=path, dest="source", metavar="FOLDER", help="take the files from there instead")
    parser.add_argument("--sources", type=path, metavar="FILE", help="JSON of name and URL, instead of the known ones")
    return _update


NOTES = """
Run it daily, as the user that the app runs as. The old file is kept if the new one is missing or damaged; running apps
load new files within half a minute; doctor names what is missing or old.
"""
COMMANDS = (Command("data", "get the address ranges that crawlers are verified by", add_data, NOTES),)


def _update(options: argparse.Namespace) -> int:
    folder = options.dir or default_crawler_dir()
    sources = read_sources(options.sources) if options.sources else SOURCES
    now = SystemClock.time_ns() / 1e9
    get = from_folder(options.source) if options.source else from_web(sources, now)
    wrong = 0
    for file in update(folder, sources, get):  # where nobody answers, each takes ten seconds
        wrong += file.error is not None
        print(_line(file.name, file.held, file.error, now), flush=True)
    print(f"{len(sources) - wrong} of {len(sources)} files are up to date in {folder}")
    return 1 if wrong else 0


def _line(name: str, held: Held | None, error: str | None, now: float) -> str:
    """Say of one file what the folder has, how old it is, and what went wrong."""
    has = "none"
    if held:
        has = f"{counted(held.ranges.prefixes, 'prefix', 'prefixes')}, {duration(now - held.fetched_at, floor)} old"
    went_wrong = f"; {'kept' if held else 'not there'}: {escape(error)}" if error else ""
    return f"{name:<32}{has}{went_wrong}"
