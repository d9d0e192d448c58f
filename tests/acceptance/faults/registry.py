"""Every case of the fault matrix, from cases.txt: what must hold, and the tests that show it, or why none does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A fault, what must hold, and the tests that show it ("tests/file.py::test_name"); `reason`: what they do not."""

    id: str
    promise: str
    what: str
    tests: tuple[str, ...] = ()
    reason: str = ""


def read(text: str) -> tuple[Case, ...]:
    """Return the cases that a text tells; see the head of cases.txt."""
    cases: list[Case] = []
    for line in text.splitlines():
        told = line.strip()
        if not told or told.startswith("#"):
            continue
        if not line.startswith(" "):
            name, promise, what = told.split(" ", 2)
            cases.append(Case(name, promise.replace(",", " "), what))
        elif told.startswith("because "):
            cases[-1] = replace(cases[-1], reason=told.removeprefix("because "))
        else:
            cases[-1] = replace(cases[-1], tests=(*cases[-1].tests, f"tests/{told}"))
    return tuple(cases)


CASES = read(Path(__file__).with_name("cases.txt").read_text("utf-8"))
