"""One target in a process of its own: atheris and libFuzzer look for new ways through the code.

`python -m tests.fuzz.guided NAME SECONDS FOLDER`; writes into FOLDER what it finds. Does not return: libFuzzer exits.
"""

from __future__ import annotations

import sys
from hashlib import sha1
from pathlib import Path
from time import thread_time_ns

import atheris

with atheris.instrument_imports(
    include=["asgi_analytics", "http_sf", "maxminddb", "tests.fuzz.operators", "tests.fuzz.parsers"]
):
    from tests.fuzz.corpus import seeds
    from tests.fuzz.targets import LONGEST, TARGETS

SLOWEST = 24  # inputs kept, to be timed again without instruments


class Watch:
    """Keeps the inputs that took longest."""

    def __init__(self, name: str, folder: Path) -> None:
        self._run = TARGETS[name].run
        self._folder = folder
        self._kept: list[tuple[int, Path]] = []
        folder.mkdir(exist_ok=True)

    def __call__(self, data: bytes) -> None:
        began = thread_time_ns()
        self._run(data)
        took = thread_time_ns() - began
        if len(self._kept) < SLOWEST or took > self._kept[0][0]:
            self._keep(took, data)

    def _keep(self, took: int, data: bytes) -> None:
        path = self._folder / sha1(data, usedforsecurity=False).hexdigest()
        if path.exists():
            return
        path.write_bytes(data)
        self._kept = sorted([*self._kept, (took, path)])
        while len(self._kept) > SLOWEST:
            self._kept.pop(0)[1].unlink()


def main(name: str, seconds: str, folder: Path) -> None:
    """Fuzz until the time is over, or an input does harm."""
    for place in ("corpus", "harm"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "max_len": LONGEST,
        "len_control": 20,  # long inputs early: they are what is slow
        "timeout": 20,
        "rss_limit_mb": 2048,
        "print_final_stats": 1,
        "verbosity": 0,
        "artifact_prefix": f"{folder}/harm/",
    }
    arguments = [name, str(folder / "corpus"), *(f"-{option}={value}" for option, value in options.items())]
    atheris.Setup(arguments, Watch(name, folder / "slow"))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
