"""The command line `asgi-analytics`: a demo, and what an operator asks of a database and a journal folder."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from .arguments import path, split, whole
from .clock import SystemClock
from .columns import escape, one_line
from .commands import Command, actors, adopt, console, doctor, journals, purge, quarantine, tail
from .commands.check import FILE_PATIENCE, Check, patiently
from .commands.explanation import explanation, explanation_json
from .database import destination_of, resolve_dsn
from .embedded import EmbeddedPostgres, default_data_dir
from .errors import AnalyticsError, CommandError, StoreUnavailable
from .identify.operators import SOURCES
from .jobs import data
from .record import listing
from .replay import command as replay
from .settings import Settings, default_journal_dir
from .store.commands import migrate_all
from .store.reading import connect
from .threads import within

PATIENCE = 2.0  # seconds that `explain` waits for a decision on its way to the database
MAX_WRITERS = 10  # in `stats`, besides those of this machine
TRAFFIC_SECONDS = 180  # of the demo, where no others are asked for
_DEMO_LIMITS = ("20/second", "600/minute")
_QUOTAS = f"quotas per visitor, such as {' '.join(_DEMO_LIMITS)}"
BROKEN_PIPE = 141  # what shells give to SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for an error (one line on stderr), 2 for wrong usage.

    Raises KeyboardInterrupt.
    """
    try:
        _open_closed()
        _buffer_output()
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            options, unknown = _parser().parse_known_args(argv)
            if unknown:
                options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        finally:
            sys.stdout.flush()  # help ends the process from there
        run: Callable[[argparse.Namespace], int] = options.run
        status = run(options)
        sys.stdout.flush()
        return status
    except AnalyticsError as error:
        print("asgi-analytics:", escape(one_line(error)), file=sys.stderr)
        return 1
    except BrokenPipeError:
        give_up_output()  # whoever read has left
        return BROKEN_PIPE
    except OSError as error:  # such as a full disk behind standard output
        print("asgi-analytics:", error.strerror or error, file=sys.stderr)
        give_up_output()
        return 1


def _open_closed() -> None:
    """Services may start us with standard streams closed: a file or socket of ours must not get their numbers."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - until the process ends
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above


def _buffer_output() -> None:
    """With PYTHONUNBUFFERED, as containers have it, Python drops without an error what is not written at once."""
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        sys.stdout = open(sys.stdout.fileno(), "w", encoding=sys.stdout.encoding, closefd=False)  # noqa: SIM115 - as above


def give_up_output() -> None:
    """Send the rest of stdout to /dev/null: it cannot be written, and must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(prog="asgi-analytics", description="Analytics and bot defence for ASGI apps.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return _add(commands, name, text)

    _add_demo(add("demo", "run a small wrapped site, with its own Postgres where no variable names one"))
    _add_command(add("migrate", "bring the database's schema up to date"), _migrate)
    _add_doctor(add("doctor", "show what would be used, and what is wrong"))
    hits = _add_command(add("tail", "show hits as they come"), _tail)
    hits.add_argument("-n", "--lines", type=whole(0, tail.MAX_FOLLOWED), default=20, help="hits to begin with (20)")
    hits.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    hits.add_argument("--site", help="only hits of this site")
    hits.add_argument("--json", action="store_true", help="a JSON object per line")
    explain = _add_command(add("explain", "tell why a request was refused or slowed down"), _explain)
    explain.add_argument("decision", metavar="DECISION_ID", help="from the refusal's body or `tail --json`")
    explain.add_argument("--json", action="store_true", help="all that is stored, as one JSON object")
    stats = _add_command(add("stats", "what was written, set aside, and is still to come"), _stats)
    stats.add_argument("--journal-dir", type=path, help="where the apps keep their journals")
    stats.add_argument("--json", action="store_true", help="the same as one JSON object")
    _add_data(add("data", "the address ranges that crawlers are verified by"))
    for command in (*actors.COMMANDS, *quarantine.COMMANDS, *purge.COMMANDS, *adopt.COMMANDS):
        _add_connected(add(command.name, command.summary), command)
    replay.add_replay(add("replay", "judge an access log, as if we had been there"))
    replay.add_what_if(add("what-if", "tell what another policy would have done to recorded hits"), _database)
    replay.add_reclassify(add("reclassify", "write the verdicts of another policy into recorded hits"), _database)
    return parser


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command, with `text` in its own help, too, and its parser for usage errors."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(parser=parser)
    return parser


def _add_command(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser.add_argument("--dsn", help="else ASGI_ANALYTICS_DSN, else DATABASE_URL, else the embedded Postgres")
    parser.set_defaults(run=run)
    return parser


def _add_connected(parser: argparse.ArgumentParser, command: Command) -> None:
    run = command.add_options(parser)

    def connected(options: argparse.Namespace) -> int:
        with _database(options.dsn) as dsn:
            for line in run(options, dsn):  # one by one: also those before an error
                print(line)
        return 0

    _add_command(parser, connected)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_demo)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=whole(1, 65_535), default=8000, help="port to listen on (8000)")
    parser.add_argument("--data", type=path, help="folder of the embedded Postgres and the journal")
    parser.add_argument("--workers", type=whole(1, 64), default=1, help="server processes (1)")
    parser.add_argument(
        "--limits", nargs="+", action="extend", metavar="QUOTA", help=f"{_QUOTAS}, which are the default"
    )
    parser.add_argument("--cooldown", type=float, default=15.0, help="seconds until a level cools down (15)")
    parser.add_argument("--traffic", action="store_true", help="send lifelike visitors, crawlers and scrapers")
    parser.add_argument("--traffic-seconds", type=whole(1, 86_400), help="how long (180)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same traffic (1)")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_command(parser, _doctor)
    parser.add_argument("--client", metavar="ADDRESS", help="the peer of an example request")
    parser.add_argument(
        "--header", action="append", default=[], type=_header, metavar="'NAME: VALUE'", help="one that it sends"
    )
    parser.add_argument(
        "--trusted-proxies", nargs="+", action="extend", metavar="NETWORK", help="as the app's option has it"
    )
    parser.add_argument("--limits", nargs="+", action="extend", metavar="QUOTA", help=_QUOTAS)
    parser.add_argument("--geoip-city", type=path, metavar="FILE", help="a MaxMind-format City or Country file")
    parser.add_argument("--geoip-asn", type=path, metavar="FILE", help="a MaxMind-format ASN file")
    parser.add_argument("--crawler-dir", type=path, metavar="DIR", help="where the app has its address ranges")
    parser.add_argument("--journal-dir", type=path, metavar="DIR", help="where the app keeps its journal")
    parser.add_argument("--journal-limit", type=int, metavar="BYTES", help="most bytes of a worker's journal (1 GiB)")
    parser.add_argument("--durability", help='"memory", "journal" or "fsync"')


def _add_data(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    update = _add(actions, "update", "get the ranges that the operators publish; old files stay on errors")
    update.set_defaults(run=_data_update)
    update.add_argument("--dir", type=path, help="where to keep them; else ASGI_ANALYTICS_CRAWLER_DIR")
    update.add_argument("--from", type=path, dest="source", metavar="FOLDER", help="take the files from there instead")
    update.add_argument("--sources", type=path, metavar="FILE", help="JSON of name and URL, instead of the known ones")


def _demo(options: argparse.Namespace) -> int:
    from . import demo  # no other command needs uvicorn and the sample site

    if not options.traffic and (options.traffic_seconds or options.seed is not None):
        raise CommandError("--traffic-seconds and --seed are of --traffic, which is not given.")
    wanted = demo.Demo(
        host=options.host,
        port=options.port,
        workers=options.workers,
        data=options.data,
        limits=tuple(split(options.limits or _DEMO_LIMITS)),
        cooldown=options.cooldown,
        traffic_seconds=options.traffic_seconds or TRAFFIC_SECONDS if options.traffic else None,
        seed=1 if options.seed is None else options.seed,
    )
    return demo.run(wanted)


def _migrate(options: argparse.Namespace) -> int:
    with _database(options.dsn) as dsn:
        done = migrate_all(dsn)
    if done.newer:
        later = f"of a later version ({', '.join(done.newer)}): upgrade asgi-analytics here, what it writes may not fit"
        print("\n".join([*done.applied, f"the schema is {later}"]))
    else:
        print("\n".join(done.applied) or "up to date")
    return 0


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
    yield from doctor.settings_checks(settings)
    yield from doctor.shared_checks()
    yield from patiently("place", doctor.address_checks(settings, options.client, options.header))
    yield from patiently("geo files", doctor.geo_checks(settings))
    yield from patiently("crawlers", doctor.crawler_checks(settings, SystemClock.time_ns() / 1e9))
    folder, destination = settings.journal_dir, None
    with contextlib.suppress(AnalyticsError):  # reported below
        destination = destination_of(resolve_dsn(options.dsn))
    checks = patiently("journal", journals.journal_checks(folder, destination, settings.journal_limit))
    if settings.durability == "memory":  # which writes nothing there
        checks = (replace(one, advice=None, note=one.note or one.advice is not None) for one in checks)
    yield from checks
    stray: list[listing.JournalState] = []
    if destination is not None:
        with contextlib.suppress(OSError):  # reported above
            stray = within(FILE_PATIENCE, partial(listing.strays, folder, destination))
    try:
        with _database(options.dsn) as dsn:
            yield from doctor.database_checks(dsn, SystemClock.time_ns() / 1e9, stray=stray)
    except AnalyticsError as error:
        yield Check("database", str(error), "give a DSN by --dsn or ASGI_ANALYTICS_DSN")


def _tail(options: argparse.Namespace) -> int:
    line = console.hit_json if options.json else console.hit_line
    with _database(options.dsn) as dsn:
        asked = (dsn, options.lines, options.site)
        polls = tail.followed(*asked, _report) if options.follow else iter([tail.newest(*asked)])
        for number, hits in enumerate(polls):
            if number == 0 and sys.stdout.isatty() and not options.json:
                print(console.hit_heading())
            if number == 0 and options.lines and not hits:  # a slip in the site's name would be waited for
                whose = f" of site {options.site!r}" if options.site else ""
                _report(f"no hit{whose} is stored yet")
            for hit in hits:
                print(line(hit))
            sys.stdout.flush()
            if options.follow and _has_no_reader():  # else only the next hit would tell, and there may be none
                raise BrokenPipeError
    return 0


def _has_no_reader() -> bool:
    watched = select.poll()
    watched.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))


def _report(text: str) -> None:
    print("asgi-analytics:", escape(one_line(text)), file=sys.stderr)


def _explain(options: argparse.Namespace) -> int:
    try:
        wanted = UUID(options.decision.strip())
    except ValueError:
        raise CommandError(f"{options.decision!r} is no decision id: 32 hex digits, with or without dashes.") from None
    deadline = SystemClock.monotonic() + PATIENCE
    with _database(options.dsn) as dsn, connect(dsn) as reader:
        while (decision := reader.decision(wanted)) is None:
            if SystemClock.monotonic() > deadline:
                raise CommandError(
                    f"No decision {wanted} is stored: is it of this database, and is its writer connected?"
                )
            time.sleep(0.1)
    print(explanation_json(decision) if options.json else "\n".join(explanation(decision)))
    return 0


def _stats(options: argparse.Namespace) -> int:
    folder = options.journal_dir or default_journal_dir()
    destination = destination_of(resolve_dsn(options.dsn))
    try:
        found = listing.journals(folder)
    except OSError as error:
        raise CommandError(f"The journal folder cannot be read: {error}") from None
    journals_here = [UUID(journal.name) for journal in found]
    try:
        with _database(options.dsn) as dsn, connect(dsn) as reader:
            destination = replace(destination, server=reader.identity())
            totals, hour, positions = reader.totals(), reader.last_hour(), reader.positions(journals_here, MAX_WRITERS)
    except StoreUnavailable:  # what waits here is known all the same
        if found and not options.json:
            print("\n".join(console.journals_here(found, folder, destination)))
        raise
    if options.json:
        print(console.statistics_json(totals, hour, positions, found, folder))
    else:
        print("\n".join(console.statistics(totals, hour, positions, found, folder, destination)))
    return 0


def _data_update(options: argparse.Namespace) -> int:
    folder = options.dir or data.default_crawler_dir()
    sources = data.read_sources(options.sources) if options.sources else SOURCES
    now = SystemClock.time_ns() / 1e9
    get = data.from_folder(options.source) if options.source else data.from_web(sources, now)
    wrong = 0
    for update in data.update(folder, sources, get):  # where nobody answers, each takes ten seconds
        wrong += update.error is not None
        print(console.data_line(update.name, update.held, update.error, now), flush=True)
    print(f"{len(sources) - wrong} of {len(sources)} files are up to date in {folder}")
    return 1 if wrong else 0


@contextlib.contextmanager
def _database(dsn: str | None) -> Iterator[str]:
    """Yield the DSN asked for, else that of an embedded Postgres, started for the block if none runs."""
    found = resolve_dsn(dsn)
    if found:
        yield found
        return
    with EmbeddedPostgres() as server:
        if server.owner:
            print(f"asgi-analytics: no DSN given: started the Postgres in {default_data_dir()}", file=sys.stderr)
        yield server.dsn


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not 'Name: value'")
    return name.strip().lower().encode("utf-8", "surrogateescape"), value.strip().encode("utf-8", "surrogateescape")
