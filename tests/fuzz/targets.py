"""The table of what is fuzzed: each parser, the errors that it declares, and what 8 KB may cost it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import thread_time_ns

from asgi_analytics.errors import CommandError, ConfigurationError, DataFileError, JournalFormatError, ReplayError
from asgi_analytics.identify.geoip_tree import READ_ERRORS
from tests.fuzz import operators, parsers

LONGEST = 8192  # bytes of an input
CALM_MS = 0.5  # of the work in `slowness`
Errors = tuple[type[BaseException], ...]


@dataclass(frozen=True)
class Target:
    """A parser, the errors that its docstring names, and the CPU that an input of 8 KB may take, in ms.

    `because`: why that is more than 1 ms.
    """

    name: str
    parse: Callable[[bytes], object]
    declared: Errors = ()
    most_ms: float = 1.0
    because: str = ""

    def run(self, data: bytes) -> None:
        """Parse an input; only what is not declared is raised."""
        try:
            self.parse(data)
        except self.declared:
            pass

    def cost_ms(self, data: bytes, rounds: int = 9) -> float:
        """Return the CPU of this thread that an input takes: the best of several rounds, for the machine is shared."""
        return min(self._once(data) for _ in range(rounds)) / 1e6

    def _once(self, data: bytes) -> int:
        began = thread_time_ns()
        self.run(data)
        return thread_time_ns() - began


def slowness() -> float:
    """Return how many times longer than on a calm machine a known piece of work takes now, at least 1."""
    took = min(_reference() for _ in range(9)) / 1e6
    return max(1.0, took / CALM_MS)


def _reference() -> int:
    began = thread_time_ns()
    sum(len(str(number)) for number in range(5_000))
    return thread_time_ns() - began


def stretched(data: bytes) -> bytes:
    """Repeat an input up to 8 KB: what is slower than its length shows then."""
    return (data * (LONGEST // max(1, len(data)) + 1))[:LONGEST]


def _table(rows: Iterable[Target]) -> Mapping[str, Target]:
    return {row.name: row for row in rows}


TARGETS = _table(
    (
        Target("allowances", operators.allowances, (ConfigurationError,), 50, "an operator's list, read once at start"),
        Target("answer_headers", parsers.answer_headers, (DataFileError,)),
        Target("cookies", parsers.cookies),
        Target(
            "decision_detail", parsers.decision_detail, (RecursionError,), 10, "it has dozens of values, 8 KB thousands"
        ),
        Target("dsn", operators.dsn, (ConfigurationError,)),
        Target("forwarded", parsers.forwarded),
        Target("forwarded_for", parsers.forwarded_for),
        Target(
            "geo_file", parsers.geo_file, READ_ERRORS, 200, "the library stops at 65,536 values of a made-up record"
        ),
        Target("guesses", parsers.guesses),
        Target("headers", parsers.headers),
        Target("injection", parsers.injection),
        Target("json_line", parsers.json_line),
        Target("key_directory", parsers.key_directory, (ValueError,)),
        Target("language", parsers.language),
        Target("log_file", parsers.log_file, (ReplayError,), 100, "a line costs 10 µs, and its 8 KB have thousands"),
        Target("log_line", parsers.log_line),
        Target("moments", operators.moments, (ReplayError,)),
        Target("option", operators.option),
        Target("page_parameters", parsers.page_parameters),
        Target("path", parsers.path),
        Target("peer", parsers.peer),
        Target("query", parsers.query),
        Target("query_text", parsers.query_text),
        Target("points", operators.points, (ReplayError,)),
        Target("quota", operators.quota, (ValueError,)),
        Target("ranges", parsers.ranges, (DataFileError,)),
        Target("referrals", parsers.referrals),
        Target("reverse_names", parsers.reverse_names),
        Target("row_texts", parsers.row_texts),
        Target("ruling", operators.ruling, (CommandError,)),
        Target("segment_frames", parsers.segment_frames),
        Target("segment_header", parsers.segment_header, (JournalFormatError,)),
        Target("segment_mended", parsers.segment_mended, (), 10, "a frame of 9 bytes costs what one of 300 does"),
        Target("shared_url", operators.shared_url),
        Target("sources", parsers.sources, (DataFileError,)),
        Target("target", parsers.target, (), 5, "an escape costs 1 µs, and 8 KB have thousands; read from logs only"),
        Target("timestamp", parsers.timestamp),
        Target("user_agent", parsers.user_agent),
        Target("web_bot_auth", parsers.web_bot_auth),
    )
)
