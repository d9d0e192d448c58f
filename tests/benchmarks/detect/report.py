"""Tables of what happened: for a terminal, or Markdown for README.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from ..measure import print_bar, print_table
from .tally import Line, Record, Totals, signals_of
from .traffic import Kind, Label

ORDER = (Label.HUMAN, Label.GOOD, Label.EITHER, Label.BAD)
Print = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]


def print_markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n")
    for cells in (heads, ["---", *("---:" for _ in heads[1:])], *rows):
        print(f"| {' | '.join(cells)} |")


def report(records: Sequence[Record], names: Sequence[str], markdown: bool, signals: bool) -> None:
    """Print all tables and the bars."""
    show: Print = print_markdown if markdown else print_table
    kinds = sorted(dict.fromkeys(record.kind for record in records), key=lambda kind: ORDER.index(kind.label))
    by_kind = {kind: [record for record in records if record.kind == kind] for kind in kinds}
    totals = [Totals.of(records, column) for column in range(len(names))]
    show("All actors", ["", *names], _totals(totals))
    show(f"By kind: {names[0]}", _HEADS, [_line(kind, Line.of(found, 0)) for kind, found in by_kind.items()])
    heads = ["", *(f"{name}: flagged, refused, refused at" for name in names[1:])]
    show("By kind: the others", heads, [_others(kind, found, len(names)) for kind, found in by_kind.items()])
    if signals:
        rows = [[kind.name, _signals(found)] for kind, found in by_kind.items()]
        show(f"Signals of flagged actors: {names[0]}", ["", "signal and actors"], rows)
    if not markdown:
        _bars(totals[0])


_HEADS = ["", "label", "actors", "requests", "flagged", "refused", "slowed at", "refused at", "refused then"]


def _totals(totals: Sequence[Totals]) -> list[list[str]]:
    rows: list[tuple[str, Callable[[Totals], str]]] = [
        ("precision", lambda one: _share(one.precision)),
        ("recall", lambda one: _share(one.recall)),
        ("humans flagged", lambda one: _share(one.humans_flagged)),
        ("humans refused", lambda one: str(one.humans_refused)),
        ("good programs flagged", lambda one: _share(one.good_flagged)),
        ("good programs refused", lambda one: str(one.good_refused)),
        ("declared crawlers classed right", lambda one: _share(one.classed_right)),
        ("fast bad ones refused before their 200th request", lambda one: _share(one.fast_in_time)),
        ("of what they send afterwards, refused", lambda one: _share(one.fast_afterwards)),
    ]
    return [[name, *(cell(one) for one in totals)] for name, cell in rows]


def _line(kind: Kind, line: Line) -> list[str]:
    return [
        kind.name,
        kind.label.value,
        f"{line.actors:,}",
        f"{line.requests:,}",
        _share(line.flagged),
        _share(line.refused),
        _place(line.slowed_at),
        _place(line.refused_at),
        _share(line.afterwards),
    ]


def _others(kind: Kind, records: Sequence[Record], columns: int) -> list[str]:
    lines = [Line.of(records, column) for column in range(1, columns)]
    return [kind.name, *(f"{_share(one.flagged)}, {_share(one.refused)}, {_place(one.refused_at)}" for one in lines)]


def _signals(records: Sequence[Record]) -> str:
    return ", ".join(f"{code} {count}" for code, count in signals_of(records, 0).most_common()) or "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}".replace("%", " %")


def _place(place: float) -> str:
    return "never" if place == inf else f"{place:.0f}"


def _bars(ours: Totals) -> None:
    print()
    print_bar("humans refused", ours.humans_refused, "0", ours.humans_refused == 0, "d")
    print_bar("humans flagged", ours.humans_flagged, "≤ 0.005", ours.humans_flagged <= 0.005, ".4f")
    print_bar("declared crawlers classed right", ours.classed_right, "≥ 0.99", ours.classed_right >= 0.99, ".3f")
    print_bar("fast ones refused before their 200th request", ours.fast_in_time, "1", ours.fast_in_time == 1, ".3f")
    afterwards = ours.fast_afterwards or 0.0
    print_bar("of what they send afterwards, refused", afterwards, "≥ 0.99", afterwards >= 0.99, ".3f")
