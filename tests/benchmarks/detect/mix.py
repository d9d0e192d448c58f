"""Who comes on one day: kinds and numbers, drawn anew for each seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from . import attackers, others, people, places, programs, queries
from .site import Site
from .traffic import Actor, Kind

DAY = 86_400.0  # seconds
Lone = Callable[[Kind, Site, float, random.Random], Actor]
# How many come on an average day; each day's number is drawn around it.
USUAL: tuple[tuple[Lone, Kind, float], ...] = (
    (people.lone, people.READER, 900),
    (people.lone, people.TABS, 60),
    (people.lone, people.RESEARCHER, 60),
    (people.lone, people.POLLING, 25),
    (people.lone, people.SPA_USER, 40),
    (people.lone, people.KIOSK, 5),
    (people.lone, people.SCREEN_READER, 30),
    (programs.lone, programs.FEED_READER, 14),
    (programs.lone, programs.MONITOR, 5),
    (programs.lone, programs.API_CLIENT, 8),
    (programs.lone, programs.APP, 50),
    (programs.lone, programs.PREVIEW, 40),
    (programs.lone, programs.POLITE, 26),
    (programs.lone, programs.FETCHER, 25),
    (programs.lone, programs.RUDE, 6),
    (programs.lone, programs.AGENT, 15),
    (attackers.lone, attackers.FAST, 10),
    (attackers.lone, attackers.SLOW, 8),
    (attackers.lone, attackers.ROTATING, 6),
    (attackers.lone, attackers.AGENTS, 6),
    (attackers.lone, attackers.HEADLESS, 8),
    (attackers.lone, attackers.FORGER, 5),
    (attackers.lone, attackers.PATIENT, 10),
    (attackers.lone, attackers.API, 6),
    (attackers.lone, attackers.CLAIM, 5),
    (attackers.lone, attackers.SCANNER, 10),
    (attackers.lone, attackers.PROBE, 40),
    (attackers.lone, attackers.STUFFING, 6),
    (attackers.lone, attackers.STUFFING_WIDE, 4),
)
# Likewise, with queries: drawn last, so that the others are who they are without them.
QUERIED: tuple[tuple[Lone, Kind, float], ...] = (
    (queries.lone, queries.SHOPPER, 150),
    (queries.lone, queries.FORUM, 50),
    (queries.lone, queries.SCROLLER, 60),
    (queries.lone, queries.WATCHER, 20),
    (queries.lone, queries.PAGER, 6),
    (queries.lone, queries.SCROLLING_APP, 25),
    (queries.lone, queries.WALKER, 14),
    (queries.lone, queries.CLICKER, 6),
    (queries.lone, queries.API_WALKER, 8),
)
# Likewise, of kinds that came later.
FURTHER: tuple[tuple[Lone, Kind, float], ...] = (
    (others.lone, others.CLERK, 40),
    (others.lone, others.IN_APP, 120),
    (others.lone, others.AHEAD, 80),
    (others.lone, others.GUESSER, 5),
    (others.lone, others.WATCHER, 6),
    (others.lone, others.LINKED, 6),
    (others.lone, others.LEFT_OPEN, 20),
    (others.lone, others.MAIL, 5),
    (others.lone, others.INVITER, 6),
    (others.lone, others.TYPIST, 20),
    (others.lone, others.SKIMMER, 25),
    (others.lone, others.REPORTER, 5),
    (others.lone, others.INJECTOR, 6),
)
CARRIER_PHONES, VPN_PEOPLE, CROWDED_PHONES = 120, 25, 150


def draw(seed: str, scale: float = 1.0, seconds: float = DAY) -> tuple[Site, list[Actor]]:
    """Return a site and the actors of a day; `scale` multiplies their numbers, each kind comes at least once."""
    dice, site = random.Random(f"{seed}/mix"), Site.build(seed, seconds)
    found = _drawn(USUAL, site, scale, seconds, dice)
    found += people.office(site, seconds, dice, 200 if scale >= 0.5 else 40)
    found += people.school_class(site, seconds, dice)
    found += people.carriers(site, seconds, dice, max(8, round(CARRIER_PHONES * scale)))
    exit_address = places.hosting(dice)
    found += people.vpn(site, seconds, dice, exit_address, max(4, round(VPN_PEOPLE * scale)))
    found.append(attackers.lone(attackers.FAST, site, seconds, dice, exit_address))
    found += _drawn(QUERIED, site, scale, seconds, random.Random(f"{seed}/mix of queries"))
    found += _drawn(FURTHER, site, scale, seconds, random.Random(f"{seed}/mix of others"))
    crowd = random.Random(f"{seed}/crowd")
    found += people.crowd(site, seconds, crowd, max(20, round(CROWDED_PHONES * scale)))
    for number, actor in enumerate(found):
        actor.seed = f"{seed}/{number}"
    return site, found


def _drawn(
    usual: tuple[tuple[Lone, Kind, float], ...], site: Site, scale: float, seconds: float, dice: random.Random
) -> list[Actor]:
    return [
        lone(kind, site, seconds, dice)
        for lone, kind, count in usual
        for _ in range(max(1, round(count * scale * dice.lognormvariate(0.0, 0.25))))
    ]
