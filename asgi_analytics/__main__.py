"""Runs the command line, `asgi-analytics` or `python -m asgi_analytics`: a signal may end it at any time."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from .errors import Terminated

ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # what shells give to them


def main() -> int:
    """Run one command and return its exit status; a signal closes what is open, a second one does not wait for that."""
    heeded = [number for number in ENDS if signal.getsignal(number) is not signal.SIG_IGN]
    _heed(heeded, _leave)
    import logging

    from . import cli

    cli.load(sys.argv[1:])  # up to half a second, in which nothing is open yet
    sys.unraisablehook = _tell
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # where closing fails, the command's own error is the news
    _heed(heeded, _interrupt)
    try:
        return cli.main()
    except KeyboardInterrupt as interrupt:
        cli.give_up_output()  # who reads may have left, or read no more
        return ENDS[signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT]
    finally:
        _heed(heeded, _leave)


def _heed(numbers: list[signal.Signals], how: signal._HANDLER) -> None:
    for number in numbers:
        signal.signal(number, how)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(ENDS[signal.Signals(number)])


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _heed([signal.Signals(number)], _leave)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _tell(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):  # came while an object was finalised, which keeps it
        _leave(signal.SIGTERM if unraisable.exc_type is Terminated else signal.SIGINT, None)
    sys.__unraisablehook__(unraisable)


if __name__ == "__main__":  # workers of the demo import this module under another name
    raise SystemExit(main())
