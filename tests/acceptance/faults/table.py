"""The table at the end of a run: case, promise, rounds, lost, doubled, verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .registry import CASES, Case

LATENCY = ("Postgres", "p50", "p99", "of healthy", "longest lag bare / healthy / out", "exit", "memory")
HEAD = ("case", "promise", "rounds", "lost", "doubled", "verdict", "what")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the cases that this run has touched; where it ran a part of a case's tests, it says so."""
    outcomes: dict[str, list[Any]] = {}
    for outcome in ("passed", "failed", "error", "xfailed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name in {report.nodeid, report.nodeid.partition("[")[0]}:
                outcomes.setdefault(name, []).append(report)
    if not any("acceptance/faults" in name for name in outcomes):
        return
    terminalreporter.section("faults")
    for line in lines(outcomes):
        terminalreporter.write_line(line)
    reports = {id(report): report for told in outcomes.values() for report in told}.values()
    noted = [one for report in reports for one in getattr(report, "user_properties", ())]  # a file's error has none
    if measured := [value for name, value in noted if name == "latency"]:
        terminalreporter.section("latency under outage")
        for line in _columns([LATENCY, *measured]):
            terminalreporter.write_line(line)


def lines(outcomes: dict[str, list[Any]]) -> Iterator[str]:
    """The table's lines for the reports of a run, by test."""
    told = [HEAD, *(line for line in (_line(case, outcomes) for case in CASES) if line[5] != "not run" or not outcomes)]
    yield from _columns(told)


def _columns(rows: list[tuple[Any, ...]]) -> Iterator[str]:
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [str(cell).ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, str(row[-1])])


def _line(case: Case, outcomes: dict[str, list[Any]]) -> tuple[Any, ...]:
    reports = [report for test in case.tests for report in outcomes.get(test, ())]
    figures = [value for report in reports for name, value in report.user_properties if name == "fault"]
    rounds = sum(one["rounds"] for one in figures) or len(reports)
    lost, doubled = (sum(one[name] for one in figures) if figures else "-" for name in ("lost", "doubled"))
    return case.id, case.promise, rounds or "-", lost, doubled, _verdict(case, reports, outcomes), _what(case)


def _verdict(case: Case, reports: Iterable[Any], outcomes: dict[str, list[Any]]) -> str:
    if any(report.outcome == "failed" for report in reports):
        return "FAILED"
    if any(hasattr(report, "wasxfail") for report in reports):
        return "OPEN"
    ran = [test for test in case.tests if test in outcomes]
    if not ran:
        return "not run" if case.tests else "-"
    return "holds" if len(ran) == len(case.tests) else f"holds ({len(ran)} of {len(case.tests)} tests ran)"


def _what(case: Case) -> str:
    return f"{case.what}: {case.reason}" if case.reason else case.what
