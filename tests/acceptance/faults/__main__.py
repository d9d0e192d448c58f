"""Runs every test that the registry names and prints the table: `python -m tests.acceptance.faults --rounds 20`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from asgi_analytics.commands.arguments import whole

from .registry import CASES

MAX_ROUNDS = 20  # of faults that take seconds each


def main(argv: Sequence[str] | None = None) -> int:
    """Return pytest's exit status."""
    positive = whole(1, 999_999_999)
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these, such as F09 F26")
    parser.add_argument("--rounds", type=positive, default=20, help="kills in a row; other faults: 20 at most (20)")
    parser.add_argument("--parity", type=positive, default=1_000_000, help="requests of the parity test (1,000,000)")
    parser.add_argument("--workers", type=positive, default=2, help="test processes (2)")
    options = parser.parse_args(argv)
    known = {case.id for case in CASES}
    if unknown := [name for name in options.cases if name not in known]:  # of no test pytest makes all of them
        parser.error(f"no case {', '.join(unknown)}; allowed: {', '.join(case.id for case in CASES)}")
    wanted = [case for case in CASES if not options.cases or case.id in options.cases]
    tests = sorted({test for case in wanted for test in case.tests})
    figures = {
        "ASGI_ANALYTICS_FAULTS": "all",
        "ASGI_ANALYTICS_ROUNDS": str(min(MAX_ROUNDS, options.rounds)),
        "ASGI_ANALYTICS_KILLS": str(options.rounds),
        "ASGI_ANALYTICS_PARITY": str(options.parity),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(options.workers), "-o", "timeout=900", *tests]
    return subprocess.run(command, env={**os.environ, **figures}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
