"""The formats of access logs: common and combined, the same behind a host name, and JSON lines."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence

from ..errors import ReplayError
from .entry import Entry, Format
from .json_lines import JsonLines, without_port
from .timestamps import Timestamps

SAMPLE_LINES = 200  # looked at to tell a format

_QUOTED = r'"([^"\\\n]*+(?:\\.[^"\\\n]*+)*+)"'
# A line made to be slow costs what its length costs: repeats are possessive, or where one ends is beyond doubt.
# What repeats possessively has nothing to go back over: Python before 3.11.5 goes wrong there (CPython issue 106052).
_LINE = (
    r"(?:(\S++) \S++ [^\[\n]*+(?:\[(?!\d{1,4}[/-])[^\[\n]*+)*\[(?=\d{1,4}[/-])([^\]\n]{15,40}+)\] "
    r'"(?:([A-Z]{1,32}+) ([^\s"\\]++(?:\\.[^\s"\\]*+)*+)(?: (?:HTTP/)?[\d.]{1,3}+)?|([^"\\\n]*+(?:\\.[^"\\\n]*+)*+))" '
    rf"(\d{{3}}|-) (?:\d{{1,15}}+|-)(?: {_QUOTED} {_QUOTED})?([^\n]*+)|([^\n]*+))$"
)
_HOST_FIRST = r"(?:(?!\d{1,3}\.\d{1,3}\.)[\w.*-]{1,253}+(?::\d{1,5}+)? )"
COMBINED = re.compile("^()" + _LINE, re.MULTILINE | re.ASCII)
VHOST = re.compile(rf"^({_HOST_FIRST}|(?!{_HOST_FIRST}))" + _LINE, re.MULTILINE | re.ASCII)

_ESCAPE = re.compile(r"((?:\\x[0-9A-Fa-f][0-9A-Fa-f])++)|\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_ADDRESS_SECOND = re.compile(r"\S++ (?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*) ", re.ASCII)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "b": "\b", "f": "\f"}
# What a visitor sends stands first, whatever it is; the last is an address, which no quoted time, status or number is.
_FORWARDED = re.compile(
    r'"((?:[^"]*,)? ?(?=\d{1,3}\.\d{1,3}\.\d|\[?[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.\[\]]{2,64})"', re.ASCII
)


# What a collector of logs puts in front of each line: the name of a container or pod; a time, a host and a program, as
# syslog has them (RFC 3164 or 5424), the stream, as Kubernetes has it; or what Hypercorn itself puts there. No line
# of an access log begins so.
_COLLECTED = re.compile(
    r"(?:[\w.-]{1,128} {1,128}\| ?)?"
    r"(?:\[pod/[\w./-]{1,512}\] )?"
    r"(?:(?:<\d{1,3}>)?[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})? (?:ORIGIN)?"
    r"|\[ISO [+-]\d{4}\] \[\d{1,10}\] \[[A-Z]{1,8}\] "
    r"|(?:<\d{1,3}>)?ISO (?:(?:stdout|stderr) [FP] |ORIGIN)?"
    r"|<\d{1,3}>1 ISO \S{1,255} \S{1,48} \S{1,128} \S{1,32} (?:-|\[[^\]\n]{0,4096}\]) \ufeff?)?".replace(
        "ORIGIN", r"(?:[\w.:-]{0,254}[\w.-] )?[\w./-]{1,128}(?:\[[\w.]{1,32}\])?: "
    ).replace("ISO", r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"),
    re.ASCII,
)
_WRAPPED = '{"log":"'
_GRANIAN = re.compile(
    r'\[([\d-]{10} [\d:]{8}) ([+-]\d{4})\] (\S{1,64}) - ("[^"\n]{1,65536}" \d{3}) [\d.]{1,32}', re.ASCII
)


class Collected:
    """Another format, behind what a collector of logs has put in front of its lines."""

    def __init__(self, within: Format) -> None:
        self.name = within.name
        self._within = within

    def read(self, text: str) -> tuple[list[Entry], list[str]]:
        """Return entries and junk lines, both without what stands in front."""
        return self._within.read("\n".join([uncollected(line) for line in text.split("\n")]))


def uncollected(line: str) -> str:
    """Return a line without what a collector of logs has put in front of it, or, as Docker does, around it.

    A line of Granian's, which begins with the time, becomes one of the common format.
    """
    if line.startswith(_WRAPPED):
        line = _unwrapped(line)
    front = _COLLECTED.match(line)
    line = line[front.end() :] if front else line
    granian = _GRANIAN.fullmatch(line)
    return granian.expand(r"\3 - - [\1\2] \4 -") if granian else line


def _unwrapped(line: str) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        within = json.loads(line)["log"]
        if isinstance(within, str):
            return within.partition("\n")[0]
    return line


class Combined:
    """Common and combined log format, Apache's and nginx's, with whatever fields behind.

    Of those fields a quoted list that ends with an address is taken for X-Forwarded-For; the others are left.
    """

    def __init__(self, name: str = "combined", pattern: re.Pattern[str] = COMBINED) -> None:
        self.name = name
        self._find = pattern.findall
        self._timestamps = Timestamps()

    def read(self, text: str) -> tuple[list[Entry], list[str]]:
        """Return entries and junk lines."""
        entries: list[Entry] = []
        junk: list[str] = []
        moment, new = self._timestamps.common, tuple.__new__
        last, seconds, escapes = "", None, "\\" in text
        for host, address, at, method, target, odd, status, referer, agent, rest, other in self._find(text):
            if not address:
                if other:
                    junk.append(other)
                continue
            if at != last:
                last, seconds = at, moment(at)
            if seconds is None:
                junk.append(f"{address} … [{at}] …")
                continue
            if escapes and ("\\" in target or "\\" in agent or "\\" in referer):
                target, referer, agent = unescape(target), unescape(referer), unescape(agent)
            if odd:
                method, target = "", odd
            entries.append(
                new(
                    Entry,
                    (
                        seconds,
                        without_port(address) if ":" in address else address,
                        method,
                        target,
                        int(status) if status != "-" else 0,
                        "" if referer == "-" else referer,
                        "" if agent == "-" else agent,
                        host and host.strip().partition(":")[0].lower(),
                        _forwarded(rest) if rest else "",
                        "",
                    ),
                )
            )
        return entries, junk


def unescape(text: str) -> str:
    r"""Return a quoted field as it was sent: `\"`, `\xhh` (bytes of UTF-8), `\uhhhh`, `\n` and their like."""
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_escaped, text)
    if "\\x" not in text:
        return plain
    try:
        # Surrogates stand for bytes that are no UTF-8; together with their neighbours they may be some.
        return plain.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # by \u there is a surrogate that is no byte
        return plain


def _escaped(match: re.Match[str]) -> str:
    run, code, sign = match.groups()
    if run:
        return bytes.fromhex(run.replace("\\x", "")).decode("ascii", "surrogateescape")
    return chr(int(code, 16)) if code else _CONTROLS.get(sign, sign)


def _forwarded(rest: str) -> str:
    match = _FORWARDED.search(rest) if '"' in rest else None
    return match[1] if match else ""


FORMATS: Mapping[str, Callable[[], Format]] = {
    "combined": Combined,
    "common": lambda: Combined("common"),
    "vhost": lambda: Combined("vhost", VHOST),
    "json": JsonLines,
}


def make(name: str) -> Format:
    """Return a reader of a format. Raises ReplayError for a name that is none."""
    if name not in FORMATS:
        raise ReplayError(f"Unknown format {name!r}; allowed: {', '.join(FORMATS)}.")
    return FORMATS[name]()


def detect(text: str, forced: str | None = None) -> Format:
    """Return a reader of the format that most of the first lines have, or of the one that is `forced`.

    Where a collector of logs has put something in front of most of those that are read, it is left out, of all.
    """
    lines = [line for line in text.split("\n", SAMPLE_LINES)[:SAMPLE_LINES] if line.strip()]
    plain = [uncollected(line) for line in lines]
    reader = make(forced) if forced else make(_likeliest(plain))
    changed = [line != rest for line, rest in zip(lines, plain, strict=True) if reader.read(rest)[0]]
    return Collected(reader) if 2 * sum(changed) > len(changed) else reader


def _likeliest(lines: Sequence[str]) -> str:
    """Return the format of these lines: JSON lines, else one of the combined kind.

    Where the second word is an address, the first is the host that was asked: else it is the user by RFC 1413, a dash.
    """
    sample = "\n".join(lines)
    if len(JsonLines().read(sample)[0]) > len(Combined().read(sample)[0]):
        return "json"
    behind_host = sum(1 for line in lines if _ADDRESS_SECOND.match(line))
    return "vhost" if 2 * behind_host > len(lines) else "combined"
