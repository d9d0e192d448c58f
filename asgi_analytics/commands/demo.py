"""The command `demo`: its options."""

from __future__ import annotations

import argparse

from .. import demo
from ..errors import CommandError
from . import Command, Run
from .arguments import path, split, whole

TRAFFIC_SECONDS = 180  # where no others are asked for
LIMITS = ("20/second", "600/minute")


def add_demo(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `demo` and return what runs it."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=whole(1, 65_535), default=8000, help="port to listen on (8000)")
    parser.add_argument("--data", type=path, help="folder of the embedded Postgres and the journal")
    parser.add_argument("--workers", type=whole(1, 64), default=1, help="server processes (1)")
    limits = f"quotas per visitor, such as {' '.join(LIMITS)}, which are the default"
    parser.add_argument("--limits", nargs="+", action="extend", metavar="QUOTA", help=limits)
    parser.add_argument("--cooldown", type=float, default=15.0, help="seconds until a level cools down (15)")
    parser.add_argument("--traffic", action="store_true", help="send lifelike visitors, crawlers and scrapers")
    parser.add_argument("--traffic-seconds", type=whole(1, 86_400), help=f"how long ({TRAFFIC_SECONDS})")
    parser.add_argument("--seed", type=int, help="the same seed gives the same traffic (1)")
    return _demo


COMMANDS = (Command("demo", "run a small wrapped site, with its own Postgres where no variable names one", add_demo),)


def _demo(options: argparse.Namespace) -> int:
    if not options.traffic and (options.traffic_seconds or options.seed is not None):
        raise CommandError("--traffic-seconds and --seed are of --traffic, which is not given.")
    wanted = demo.Demo(
        host=options.host,
        port=options.port,
        workers=options.workers,
        data=options.data,
        limits=tuple(split(options.limits or LIMITS)),
        cooldown=options.cooldown,
        traffic_seconds=options.traffic_seconds or TRAFFIC_SECONDS if options.traffic else None,
        seed=1 if options.seed is None else options.seed,
    )
    return demo.run(wanted)
