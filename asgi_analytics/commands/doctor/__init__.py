"""The command `doctor`: what would be used here and, where that is wrong, what to do."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ...clock import SystemClock
from ...columns import escape
from ...database import destination_of, resolve_dsn
from ...errors import AnalyticsError
from ...record.listing import JournalState, strays
from ...settings import Settings
from ...threads import within
from .. import Command, Run
from ..arguments import path, split
from ..dsn import add_dsn, database
from .check import FILE_PATIENCE, Check, patiently
from .journals import journal_checks
from .options import address_checks, crawler_checks, geo_checks, settings_checks, shared_checks
from .postgres import database_checks


def add_doctor(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `doctor` and return what runs it."""
    add_dsn(parser)
    parser.add_argument("--client", metavar="ADDRESS", help="the peer of an example request")
    parser.add_argument(
        "--header", action="append", default=[], type=_header, metavar="'NAME: VALUE'", help="one that it sends"
    )
    parser.add_argument(
        "--trusted-proxies", nargs="+", action="extend", metavar="NETWORK", help="as the app's option has it"
    )
    parser.add_argument("--limits", nargs="+", action="extend", metavar="QUOTA", help="as the app's option has it")
    parser.add_argument("--geoip-city", type=path, metavar="FILE", help="a MaxMind-format City or Country file")
    parser.add_argument("--geoip-asn", type=path, metavar="FILE", help="a MaxMind-format ASN file")
    parser.add_argument("--crawler-dir", type=path, metavar="DIR", help="where the app has its address ranges")
    parser.add_argument("--journal-dir", type=path, metavar="DIR", help="where the app keeps its journal")
    parser.add_argument("--journal-limit", type=int, metavar="BYTES", help="most bytes of a worker's journal (1 GiB)")
    parser.add_argument("--durability", help='"memory", "journal" or "fsync"')
    return _doctor


COMMANDS = (Command("doctor", "show what would be used, and what is wrong", add_doctor),)


def _doctor(options: argparse.Namespace) -> int:
    names = ("geoip_city", "geoip_asn", "crawler_dir", "journal_dir", "journal_limit", "durability")
    given = {name: getattr(options, name) for name in names}
    given |= {name: split(listed) for name in ("limits", "trusted_proxies") if (listed := getattr(options, name))}
    settings = Settings.build(**{name: value for name, value in given.items() if value is not None})
    wrong = 0
    for check in _checks(options, settings):
        wrong += check.advice is not None
        advice = f" → {check.advice}" if check.advice else ""
        print(f"{check.mark:<6}{check.subject}: {escape(check.text + advice)}", flush=True)
    return 1 if wrong else 0


def _checks(options: argparse.Namespace, settings: Settings) -> Iterator[Check]:
    yield from settings_checks(settings)
    yield from shared_checks()
    yield from patiently("place", address_checks(settings, options.client, options.header))
    yield from patiently("geo files", geo_checks(settings))
    yield from patiently("crawlers", crawler_checks(settings, SystemClock.time_ns() / 1e9))
    folder, destination = settings.journal_dir, None
    with contextlib.suppress(AnalyticsError):  # reported below
        destination = destination_of(resolve_dsn(options.dsn))
    checks = patiently("journal", journal_checks(folder, destination, settings.journal_limit))
    if settings.durability == "memory":  # which writes nothing there
        checks = (replace(one, advice=None, note=one.note or one.advice is not None) for one in checks)
    yield from checks
    stray: list[JournalState] = []
    if destination is not None:
        with contextlib.suppress(OSError):  # reported above
            stray = within(FILE_PATIENCE, partial(strays, folder, destination))
    try:
        with database(options.dsn) as dsn:
            yield from database_checks(dsn, SystemClock.time_ns() / 1e9, stray=stray)
    except AnalyticsError as error:
        yield Check("database", str(error), "give a DSN by --dsn or ASGI_ANALYTICS_DSN")


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not 'Name: value'")
    return name.strip().lower().encode("utf-8", "surrogateescape"), value.strip().encode("utf-8", "surrogateescape")
