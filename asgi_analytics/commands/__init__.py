"""The commands of operators, a module each: their options, what they do and what they print; cli.py lists them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_SHOWN = 10_000  # rows of a list
MORE = "… and more (--top)"

Run = Callable[[argparse.Namespace], int]  # options → exit status


class Command(NamedTuple):
    """A command, what its help says of it, and what adds its options to a parser and returns what runs it."""

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], Run]
    notes: str = ""  # what its help ends with


def add_command(commands: Any, command: Command) -> None:
    """Add a command to the others; its options know its parser, for errors of usage."""
    summary = command.summary
    description = f"{summary[0].upper()}{summary[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(
        command.name, help=summary, description=description, epilog=command.notes
    )
    parser.set_defaults(parser=parser, run=command.add_options(parser))
