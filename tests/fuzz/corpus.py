"""The seeds: lines of text files, each a bytes literal; what is binary by nature is made, see made.py."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.made import MADE

FOLDER = Path(__file__).parent / "corpus"
SAME = {"guesses": ("query",), "page_parameters": ("query", "query_text")}  # targets that take what others do


def path_of(name: str) -> Path:
    """The file of a target."""
    return FOLDER / f"{name}.txt"


def written(name: str) -> list[bytes]:
    """The seeds of a target's file, none where there is no file."""
    if not path_of(name).exists():
        return []
    lines = path_of(name).read_text("ascii").splitlines()
    return [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]


def seeds(name: str) -> list[bytes]:
    """All seeds of a target."""
    told = [seed for one in (name, *SAME.get(name, ())) for seed in written(one)]
    return [*told, *(MADE[name]() if name in MADE else ())]


def add(name: str, found: Iterable[bytes]) -> int:
    """Keep inputs that did harm: each is a test from now on. Returns how many are new."""
    known = set(written(name))
    new = [data for data in found if data not in known]
    with path_of(name).open("a", encoding="ascii") as file:
        file.writelines(f"{data!r}\n" for data in new)
    return len(new)
