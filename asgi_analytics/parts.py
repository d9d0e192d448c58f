"""The parts of an engine, each as the settings ask for it. Building them starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from .clock import SystemClock
from .decide.actor import new_actor, new_network, program_of
from .decide.probes import kind_of
from .facts import Actor
from .identify.countries import CountryTable
from .identify.fingerprint import Fingerprinter
from .identify.geoip import GeoLocator
from .identify.request import clean_path
from .identify.useragent import AgentReader
from .identify.visitor import Identifier
from .jobs.data import default_crawler_dir
from .jobs.verification import Verifier
from .protocols import Clock
from .record.destination import Destination
from .record.recorder import Counters, Recorder
from .settings import Settings
from .settings.canonical import canonical, version
from .state import State
from .store.postgres import PostgresStore
from .threads import BoundedCall

# Seconds to wait for the journal's folder, geo files and ranges of crawlers; what is there later is used from then on.
FILE_PATIENCE = 2.0
# Takes time to build, and is the same for all apps of a process.
_countries = cache(CountryTable.load)


@cache
def _agents() -> AgentReader:
    return AgentReader(today=SystemClock().time_ns() / 1e9)


def new_locator(settings: Settings) -> GeoLocator:
    """Return what finds the place of an address, by the files of the settings where there are any."""
    return GeoLocator(settings.geoip_city, settings.geoip_asn, _countries(), BoundedCall(FILE_PATIENCE))


def new_verifier(settings: Settings, clock: Clock) -> Verifier | None:
    """Return what checks the claims of crawlers; None where that is switched off."""
    if not settings.verify_crawlers:
        return None
    return Verifier(clock, settings.crawler_dir or default_crawler_dir(), read=BoundedCall(FILE_PATIENCE))


def new_state(settings: Settings, fingerprinter: Fingerprinter, meet: Callable[[Actor, bool], None]) -> State:
    """Return what a worker holds of visitors and networks; `meet` is told of new ones, and whether one is a network."""
    networks = len(settings.network_limits)
    return State(
        max_visitors=settings.max_visitors,
        max_networks=settings.max_networks,
        max_flagged=settings.max_flagged,
        new_network=lambda: new_network(networks),
        learn_salts=fingerprinter.learn,
        meet=meet,
    )


def new_identifier(
    settings: Settings,
    state: State,
    fingerprinter: Fingerprinter,
    locator: GeoLocator,
    renamed: Callable[[bytes, bytes], None],
) -> Identifier:
    """Return what finds the visitor of a request; `renamed` is told of a fingerprint and the one in its place."""
    quotas = len(settings.limits)
    return Identifier(
        settings,
        state,
        fingerprinter,
        _agents().read,
        locator,
        lambda agent: new_actor(quotas, agent.outdated, program_of(agent)),
        renamed,
    )


def new_recorder(settings: Settings, counters: Counters, destination: Destination) -> Recorder:
    """Return what puts hits into a journal that is for this database."""
    return Recorder(settings, counters, clean_path, kind_of, destination)


def new_store(settings: Settings, find_database: Callable[[], str]) -> PostgresStore:
    """Return what moves batches into Postgres, whose address is found when it connects."""
    return PostgresStore(
        find_database,
        bot_score=settings.bot_score,
        cooldown=settings.cooldown,
        session_timeout=settings.session_timeout,
        migrate=settings.migrate,
        site=settings.site,
        bans=settings.bans,
        policy=(version(settings), canonical(settings)),
        retention_days=settings.retention_days,
    )
