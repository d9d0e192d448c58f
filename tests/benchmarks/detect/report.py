"""Tables of what happened: for a terminal, or Markdown for README.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from ..measure import print_bar, print_table
from .columns import Column
from .tally import Line, Record, Totals, signals_of
from .traffic import Kind, Label

ORDER = (Label.HUMAN, Label.GOOD, Label.EITHER, Label.BAD)
Print = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]
Lines = Mapping[Kind, Sequence[Line]]  # one line per column
MOST = 0.9  # of what is sent after the first refusal: nearly all
HEADS = ["", "label", "actors", "requests", "flagged", "refused", "slowed at", "refused at", "refused then"]


def print_markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n")
    for cells in (heads, ["---", *("---:" for _ in heads[1:])], *rows):
        print(f"| {' | '.join(cells)} |")


def report(records: Sequence[Record], columns: Sequence[type[Column]], markdown: bool, signals: bool) -> None:
    """Print all tables and the bars. `columns`: ours is the first."""
    show: Print = print_markdown if markdown else print_table
    names = [column.name for column in columns]
    totals = [Totals.of(records, place, column.classes) for place, column in enumerate(columns)]
    kinds = sorted(dict.fromkeys(record.kind for record in records), key=lambda kind: ORDER.index(kind.label))
    by_kind = {kind: [record for record in records if record.kind == kind] for kind in kinds}
    lines = {kind: [Line.of(found, place) for place in range(len(names))] for kind, found in by_kind.items()}
    show("All actors", ["", *names], _totals(totals))
    if markdown:
        _one_table(lines, names)
    else:
        for place, name in enumerate(names):
            show(f"By kind: {name}", HEADS, [_line(kind, found[place]) for kind, found in lines.items()])
    behind = [row for kind, found in lines.items() for row in _behind(kind, found, names)]
    show("Where another does better", ["", "who", "by", f"than {names[0]}"], behind)
    if signals:
        rows = [[kind.name, _signals(found)] for kind, found in by_kind.items()]
        show(f"Signals of flagged actors: {names[0]}", ["", "signal and actors"], rows)
    if not markdown:
        _bars(totals[0])


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
    return [kind.name, kind.label.value, f"{line.actors:,}", f"{line.requests:,}", *_figures(line)]


def _figures(line: Line) -> list[str]:
    shares = [_share(line.flagged), _share(line.refused)]
    return [*shares, _place(line.slowed_at), _place(line.refused_at), _share(line.afterwards)]


def _one_table(lines: Lines, names: Sequence[str]) -> None:
    """Print the kinds that are all right in a row each, and a table of the others."""
    ours = {kind: found[0] for kind, found in lines.items()}
    spared = [kind for kind, line in ours.items() if kind.label is not Label.BAD and not line.flagged]
    caught = [kind for kind, line in ours.items() if kind.label is Label.BAD and _is_caught(line)]
    actors, requests = (sum(getattr(ours[kind], name) for kind in spared) for name in ("actors", "requests"))
    print(f"\n| by {names[0]} | kinds |\n|---|---|")
    _print_kinds(
        f"never flagged nor refused: {actors:,} actors with {requests:,} requests", [kind.name for kind in spared]
    )
    _print_kinds(
        "each one refused, and nearly all that it sends from the request given (median) on",
        [f"{kind.name} ({_place(ours[kind].refused_at)})" for kind in caught],
    )
    told = "flagged / refused / slowed at / refused at / refused then, or `-` for nothing of it"
    rows = [
        [kind.name, kind.label.value, f"{found[0].actors:,}", f"{found[0].requests:,}", *map(_cell, found)]
        for kind, found in lines.items()
        if kind not in spared and kind not in caught
    ]
    print_markdown(
        f"All others; each cell: {told}; the last three are requests (median of the actors) and a share.",
        ["", "label", "actors", "requests", *names],
        rows,
    )


def _is_caught(line: Line) -> bool:
    return line.refused == 1.0 and (line.afterwards or 0.0) >= MOST


def _print_kinds(what: str, kinds: Sequence[str]) -> None:
    print(f"| {what} | {'; '.join(kinds)} |")


def _cell(line: Line) -> str:
    return " / ".join(_figures(line)) if line.flagged else "-"


def _behind(kind: Kind, lines: Sequence[Line], names: Sequence[str]) -> list[list[str]]:
    """Return a row for each column that flags or refuses fewer people and good programs, or more bad ones or sooner."""
    rows = []
    ours, sign = lines[0], -1.0 if kind.label is Label.BAD else 1.0
    for name, other in zip(names[1:], lines[1:], strict=True):
        if kind.label is Label.EITHER:
            continue
        if sign * other.flagged < sign * ours.flagged:
            rows.append([kind.name, name, f"flagged {_share(other.flagged)}", _share(ours.flagged)])
        if sign * other.refused < sign * ours.refused:
            rows.append([kind.name, name, f"refused {_share(other.refused)}", _share(ours.refused)])
        elif kind.label is Label.BAD and other.refused_at < ours.refused_at:
            rows.append([kind.name, name, f"refused at {_place(other.refused_at)}", _place(ours.refused_at)])
    return rows


def _signals(records: Sequence[Record]) -> str:
    return ", ".join(f"{code} {count}" for code, count in signals_of(records, 0).most_common()) or "-"


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:.2%}" if 0.0 < value < 0.001 else f"{value:.1%}"
    return shown.replace("%", " %")


def _place(place: float) -> str:
    return "never" if place == inf else f"{place:.0f}"


def _bars(ours: Totals) -> None:
    print()
    print_bar("humans refused", ours.humans_refused, "0", ours.humans_refused == 0, "d")
    print_bar("humans flagged", ours.humans_flagged, "≤ 0.005", ours.humans_flagged <= 0.005, ".4f")
    named = ours.classed_right or 0.0
    print_bar("declared crawlers classed right", named, "≥ 0.99", named >= 0.99, ".3f")
    print_bar("fast ones refused before their 200th request", ours.fast_in_time, "1", ours.fast_in_time == 1, ".3f")
    afterwards = ours.fast_afterwards or 0.0
    print_bar("of what they send afterwards, refused", afterwards, "≥ 0.99", afterwards >= 0.99, ".3f")
