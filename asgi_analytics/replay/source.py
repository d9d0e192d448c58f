"""Where lines come from: files, gzip and standard input, as entries in the order of their time."""

from __future__ import annotations

import contextlib
import heapq
import re
import resource
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from ..errors import ReplayError
from .entry import Batch, Entry, Format
from .formats import detect
from .jumps import sifted

CHUNK = 1 << 18  # bytes read at once: what they become stays within a core's cache
FIRST = 1 << 14  # bytes of each file that are read at first: there may be hundreds, and all are begun at once
SPARE = 64  # open files besides the logs
LONGEST_LINE = 1 << 20  # bytes; longer ones are junk
_HOLE = re.compile(rb"(?<=\n)\0+")  # where a log was truncated (copytruncate) while its server went on writing
GZIP = b"\x1f\x8b"
STRANGE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    GZIP: "gzipped twice",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"(\xb5/\xfd": "compressed by zstd",
    b"PK\x03\x04": "a ZIP archive",
}
ALLOWED = "a log is UTF-8, with or without a byte order mark, as it is or gzipped"
MAX_SAMPLES = 5  # of junk lines
SAMPLE_LENGTH = 160  # characters

Watch = Callable[[int], object]  # bytes that were read of the file, as it is on the disk


@dataclass(slots=True)
class Reading:
    """What came of the lines of one run."""

    lines: int = 0
    junk: int = 0
    samples: list[str] = field(default_factory=list)  # of junk lines
    notes: list[str] = field(default_factory=list)  # files that end early
    formats: list[str] = field(default_factory=list)  # of each file


def entries(
    paths: Sequence[str], forced: str | None, reading: Reading, watch: Watch = lambda _: None
) -> Iterator[Batch]:
    """Yield batches of the entries of all files; files whose times overlap are merged by time, "-" is standard input.

    Raises ReplayError for a file that cannot be opened.
    """
    _allow_files(len(paths) + SPARE)
    with ExitStack() as stack:
        files = [(path, _open(path, stack)) for path in paths]
        streams = [Stream(_batches(path, file, forced, reading, watch)) for path, file in files]
        yield from merge([stream for stream in streams if stream.advance()])


class Stream:
    """The batches of one file, one ahead."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.head: Batch = ()

    def advance(self) -> bool:
        """Go on to the next batch that is not empty; False where there is none."""
        self.head = next((batch for batch in self._batches if batch), ())
        return bool(self.head)

    @property
    def starts_at(self) -> float:
        """The time of the first entry at hand."""
        return self.head[0].time

    @property
    def ends_at(self) -> float:
        """The latest time among the entries at hand."""
        return max(self.head, key=itemgetter(0)).time


def merge(streams: list[Stream]) -> Iterator[Batch]:
    """Yield the batches of all streams by time. Whole batches pass where no other stream has an earlier entry."""
    while len(streams) > 1:
        streams.sort(key=lambda stream: stream.starts_at)
        first, second = streams[0], streams[1]
        if first.ends_at > second.starts_at:
            yield from _interleaved(streams)
            return
        yield first.head
        if not first.advance():
            del streams[0]
    for stream in streams:
        yield stream.head
        while stream.advance():
            yield stream.head


def _interleaved(streams: Iterable[Stream]) -> Iterator[Batch]:
    waiting: list[Entry] = []
    for entry in heapq.merge(*(_flat(stream) for stream in streams), key=itemgetter(0)):
        waiting.append(entry)
        if len(waiting) >= 4096:
            yield waiting
            waiting = []
    yield waiting


def _flat(stream: Stream) -> Iterator[Entry]:
    yield from stream.head
    while stream.advance():
        yield from stream.head


def _allow_files(wanted: int) -> None:
    """Raise our own limit of open files where it is lower, as far as the system lets us; macOS begins with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open(path: str, stack: ExitStack) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(path).open("rb"))
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error.strerror or error}.") from None


def _batches(path: str, file: BinaryIO, forced: str | None, reading: Reading, watch: Watch) -> Iterator[Batch]:
    for found, junk in sifted(_read(path, file, forced, reading, watch)):
        reading.lines += len(found)
        _set_aside(reading, junk)
        yield found


def _read(path: str, file: BinaryIO, forced: str | None, reading: Reading, watch: Watch) -> Iterator[Batch]:
    reader: Format | None = None
    name, is_sure = "standard input" if path == "-" else path, False
    for text in _texts(_content(name, file, reading, watch), reading):
        if reader is None or not is_sure:  # what a pipe holds at first may be a banner
            reader = detect(text, forced)
        found, junk = reader.read(text)
        is_sure = is_sure or bool(found)
        if found and reader.name not in reading.formats:
            reading.formats.append(reader.name)
        _set_aside(reading, junk)
        yield found


def _texts(chunks: Iterable[bytes], reading: Reading) -> Iterator[str]:
    """Yield texts of whole lines. Bytes that are no UTF-8 become lone surrogates, CRLF becomes LF, a BOM goes."""
    rest, skips = b"", False
    for chunk in chunks:
        if b"\0" in chunk:
            chunk = _HOLE.sub(b"", chunk if rest or skips else chunk.lstrip(b"\0"))
        whole, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest += b"" if skips else chunk
        else:
            if skips:
                whole, skips = whole.partition(b"\n")[2], False
            yield _text(rest + whole)
            rest = tail
        if len(rest) > LONGEST_LINE:
            _set_aside(reading, [rest[:SAMPLE_LENGTH].decode("utf-8", "replace")])
            rest, skips = b"", True
    if rest:
        yield _text(rest)


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8-sig", "surrogateescape")
    return (text.replace("\r\n", "\n").removesuffix("\r")) if "\r" in text else text


def _set_aside(reading: Reading, junk: Sequence[str]) -> None:
    reading.lines += len(junk)
    reading.junk += len(junk)
    wanted = MAX_SAMPLES - len(reading.samples)
    reading.samples += [line[:SAMPLE_LENGTH] for line in junk[: max(0, wanted)]]


def _content(name: str, file: BinaryIO, reading: Reading, watch: Watch) -> Iterator[bytes]:
    chunks = _raw(name, file, watch)
    first = next(chunks, b"")
    if not first.startswith(GZIP):
        yield from _readable(name, chain((first,), chunks))
        return
    try:
        yield from _readable(name, _unzipped(first, chunks))
    except (zlib.error, EOFError) as error:
        reading.notes.append(f"{name} ends early: {str(error) or 'the compressed data is cut off'}")


def _readable(name: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield all, unless the first bytes are those of something else: all lines of it would be junk."""
    first = next(chunks, b"")
    found = next((what for mark, what in STRANGE.items() if first.startswith(mark)), _wide(first.lstrip(b"\0")[:1024]))
    if found:
        raise ReplayError(f"{name} seems to be {found}: {ALLOWED}.")
    yield first
    yield from chunks


def _wide(sample: bytes) -> str:
    """Return the encoding of a text without byte order mark that has a NUL behind each letter of ASCII, or three."""
    pairs, fours = sample[1:16:2], sample[2:16:4]
    return "" if len(sample) < 16 or any(pairs) else "UTF-16" if any(fours) else "UTF-32"


def _raw(name: str, file: BinaryIO, watch: Watch) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)  # of a pipe, what is there
    for size in chain((FIRST,), repeat(CHUNK)):
        try:
            chunk = read(size)
        except OSError as error:
            raise ReplayError(f"{name} cannot be read: {error.strerror or error}.") from None
        if not chunk:
            return
        watch(len(chunk))
        yield chunk


def _unzipped(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what gzip members hold, in pieces of at most CHUNK bytes; zeros may pad the end (RFC 1952, section 2.2)."""
    data, inflate, most = first, zlib.decompressobj(wbits=31), FIRST
    while True:
        piece = inflate.decompress(data, most)
        if piece:
            yield piece
            most = CHUNK
        data = inflate.unconsumed_tail or inflate.unused_data.lstrip(b"\0")
        if inflate.eof and (data or (data := next(chunks, b"").lstrip(b"\0"))):
            inflate = zlib.decompressobj(wbits=31)
        elif inflate.eof:
            return
        elif not data and not (data := next(chunks, b"")):
            if tail := inflate.flush():
                yield tail
            raise EOFError
