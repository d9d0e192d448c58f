"""The command line `asgi-analytics`: parses what it is given, runs one command, and gives its exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from .columns import escape, one_line
from .commands import add_command
from .errors import AnalyticsError

# What the first argument names, and its module: a process loads the one that it runs.
COMMANDS = {
    "demo": "demo",
    "migrate": "migrate",
    "doctor": "doctor",
    "tail": "tail",
    "explain": "explain",
    "stats": "stats",
    "data": "data",
    "actors": "actors",
    "ban": "actors",
    "pardon": "actors",
    "allow": "actors",
    "quarantine": "quarantine",
    "purge": "purge",
    "adopt": "adopt",
    "replay": "replay",
    "what-if": "what_if",
    "reclassify": "what_if",
}
BROKEN_PIPE = 141  # what shells give to SIGPIPE


def load(argv: Sequence[str]) -> list[ModuleType]:
    """Load the module of the command that is given, else those of all, which help lists."""
    named = COMMANDS.get(argv[0]) if argv else None
    modules = [named] if named else dict.fromkeys(COMMANDS.values())
    return [import_module(f".commands.{module}", __package__) for module in modules]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for an error (one line on stderr), 2 for wrong usage.

    Raises KeyboardInterrupt.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        _open_closed()
        _buffer_output()
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            options, unknown = _parser(argv).parse_known_args(argv)
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


def _parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(prog="asgi-analytics", description="Analytics and bot defence for ASGI apps.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in load(argv):
        for command in module.COMMANDS:
            add_command(commands, command)
    return parser
