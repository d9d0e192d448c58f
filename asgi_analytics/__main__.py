"""Runs the command line: `python -m asgi_analytics`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":  # workers of the demo import this module under another name
    raise SystemExit(main())
