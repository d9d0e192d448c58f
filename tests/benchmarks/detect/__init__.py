"""How well bots are told from people: `python -m tests.benchmarks.detect`.

A day of labelled, lifelike traffic on a modelled site is drawn from a seed and replayed, request by request in order of
time, through the real middleware on a virtual clock; the documented seven rules counted naively and the list of crawler
user agents alone judge the same requests. Actors do not react to refusals, so that all three see the same traffic.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence

from .columns import Column, NaiveSeven, Ours, UserAgentList
from .mix import DAY, draw
from .report import report
from .tally import Record
from .traffic import merged

# Published figures are of these; points and thresholds are chosen on other seeds.
SEEDS = ("101", "102", "103")
QUICK_SCALE, QUICK_SECONDS = 0.01, 120.0


def replay(seed: str, scale: float, seconds: float) -> list[Record]:
    """Replay one day (or `seconds` of it) through all columns; return one record per actor that sent anything."""
    site, actors = draw(seed, scale, seconds)
    records = {id(actor): Record.of(actor, 3) for actor in actors}
    with tempfile.TemporaryDirectory(prefix="asgi-analytics-") as folder:
        ours = Ours(folder)
        columns: Sequence[Column] = (ours, NaiveSeven(len(site.pages)), UserAgentList())
        for actor, request in merged(actors, seconds):
            reply = site.answer(request)
            records[id(actor)].add([column.judge(request, reply) for column in columns])
        ours.close()
    return [record for record in records.values() if record.requests]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.detect", description=__doc__)
    parser.add_argument("--seeds", nargs="+", default=list(SEEDS), help="a day of traffic each")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of actors")
    parser.add_argument("--markdown", action="store_true", help="tables for README.md")
    parser.add_argument("--signals", action="store_true", help="also which signals were raised")
    parser.add_argument("--quick", action="store_true", help="two minutes of few: shows that it runs, measures nothing")
    options = parser.parse_args(arguments)
    seeds, scale, seconds = options.seeds, options.scale, DAY
    if options.quick:
        seeds, scale, seconds = seeds[:1], QUICK_SCALE, QUICK_SECONDS
    logging.getLogger("asgi_analytics").setLevel(logging.ERROR)  # it says that it reaches no Postgres, as meant here
    records: list[Record] = []
    for seed in seeds:
        began = time.process_time()
        day = replay(seed, scale, seconds)
        records += day
        requests, spent = sum(record.requests for record in day), time.process_time() - began
        if not options.markdown:
            print(f"seed {seed}: {len(day):,} actors, {requests:,} requests in {spent:.0f} s of CPU", flush=True)
    report(records, (Ours, NaiveSeven, UserAgentList), options.markdown, options.signals)
