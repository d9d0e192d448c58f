"""Client addresses: homes, mobile carriers, offices, hosting."""

from __future__ import annotations

import random

HOMES = ("24.60", "73.40", "84.130", "86.130", "90.20", "91.10", "79.20", "83.40", "126.30", "189.30", "49.37", "1.130")
HOMES_6 = ("2003:e7", "2a02:8108", "2601:646", "2a01:cb", "240b:10", "2804:14c")
CARRIERS = ("37.80", "80.187", "100.128", "172.56", "106.195", "191.58", "92.184")
CARRIERS_6 = ("2607:fb90", "2a01:598", "2409:4070")
HOSTING = ("5.9", "51.38", "95.216", "138.68", "167.99", "159.203", "3.80", "18.185", "34.90", "45.140", "185.220")


# Whose names the addresses of crawlers have, where operators publish names; all others have their provider's.
NAMED = {
    "66.249.": "googlebot.com",
    "40.77.167.": "search.msn.com",
    "5.255.253.": "yandex.com",
    "116.179.32.": "baidu.com",
    "17.241.75.": "applebot.apple.com",
    "18.97.9.": "crawl.commoncrawl.org",
    "54.164.120.": "crawl.amazonbot.amazon",
}


def name_of(address: str) -> str:
    """Return the name that an address has in the domain name system."""
    domain = next((domain for prefix, domain in NAMED.items() if address.startswith(prefix)), "provider.example")
    return f"host-{address.replace('.', '-').replace(':', '-')}.{domain}"


def four(dice: random.Random, prefixes: tuple[str, ...]) -> str:
    """Return an IPv4 address in one of the /16s."""
    return f"{dice.choice(prefixes)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"


def six(dice: random.Random, prefixes: tuple[str, ...]) -> str:
    """Return an IPv6 address in a /64 of its own."""
    return inside(dice, f"{dice.choice(prefixes)}:{dice.getrandbits(16):x}:{dice.getrandbits(16):x}")


def inside(dice: random.Random, network: str) -> str:
    """Return an address with random interface bits; `network` as its first four groups, or three."""
    groups = network.split(":")
    groups += [f"{dice.getrandbits(16):x}" for _ in range(4 - len(groups))]
    return ":".join((*groups, *(f"{dice.getrandbits(16):x}" for _ in range(4))))


def home(dice: random.Random) -> str:
    """Return a household's address."""
    return six(dice, HOMES_6) if dice.random() < 0.35 else four(dice, HOMES)


def mobile(dice: random.Random) -> str:
    """Return a phone's address: IPv6 of its own, or one of a carrier's gateways."""
    return six(dice, CARRIERS_6) if dice.random() < 0.45 else four(dice, CARRIERS)


def hosting(dice: random.Random) -> str:
    """Return a server's address."""
    return four(dice, HOSTING)
