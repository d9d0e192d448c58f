"""The commands of operators, a module each, and what they print; cli.py parses and runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_SHOWN = 10_000  # rows of a list
MORE = "… and more (--top)"

Run = Callable[[argparse.Namespace, str], Iterator[str]]  # options and DSN → lines to print


class Command(NamedTuple):
    """A command, what its help says of it, and what adds its options to a parser and returns what runs it."""

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], Run]
