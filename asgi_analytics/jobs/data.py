"""The folder of published address ranges: refreshed by `asgi-analytics data update`, read by the verifier."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import DataFileError
from ..folders import default_folder, foreign_part, write_atomically
from ..identify.operators import SOURCES
from ..identify.ranges import MAX_BYTES, Ranges, read_ranges
from .fetch import download

TIMEOUT = 10.0  # seconds of one download
FRESH = 14 * 86_400.0  # seconds for which a file is complete: an address that it lacks is not the operator's
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")

Get = Callable[[str], tuple[bytes, float]]  # a name of SOURCES → content, time it was published at or got


@dataclass(frozen=True, slots=True)
class Held:
    """A file of the folder."""

    ranges: Ranges
    fetched_at: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one file. `held` is what the folder has now, None where it has none."""

    name: str
    held: Held | None
    error: str | None = None


def default_crawler_dir() -> Path:
    """Return the folder of address ranges where no option names one."""
    return default_folder("ASGI_ANALYTICS_CRAWLER_DIR", "crawlers", of_root="/var/lib/asgi-analytics")


def update(folder: Path, names: Mapping[str, object], get: Get) -> Iterator[Update]:
    """Refresh the named files, each when it is asked for; one that cannot be had, or is damaged, stays as it is.

    Raises DataFileError for a folder that cannot be made; what is wrong with a file is in its Update.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFileError(f"The data folder cannot be made: {error}") from None
    return (_update(folder, name, get) for name in sorted(names))


def from_web(sources: Mapping[str, str], now: float) -> Get:
    """Download each file from its URL."""
    return lambda name: (download(sources[name], MAX_BYTES, TIMEOUT), now)


def from_folder(folder: Path) -> Get:
    """Take each file from another folder, with its modification time. Raises DataFileError if there is none."""
    if not folder.is_dir():
        raise DataFileError(f"{folder} is no folder, or cannot be read.")
    return partial(_read, folder)


def held(folder: Path, names: Mapping[str, object] = SOURCES) -> tuple[dict[str, Held], dict[str, str]]:
    """Return the files of the folder that can be read, and what is wrong with the others that are there."""
    found: dict[str, Held] = {}
    wrong: dict[str, str] = {}
    for name in names:
        try:
            if part := foreign_part(folder):
                raise DataFileError(f"{part} belongs to another user, who could say whom to trust")
            data, at = _read(folder, name)
            found[name] = Held(read_ranges(data), at)
        except FileNotFoundError:
            continue
        except (OSError, DataFileError) as error:
            wrong[name] = str(error)
    return found, wrong


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, times and sizes of the folder's files, to detect changes; empty if there is no folder.

    The time is that of the last change of privileges, too, which new content changes as well.
    """
    try:
        with os.scandir(folder) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".json")]
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_ctime_ns, stat.st_size) for name, stat in files))


def read_sources(path: Path) -> dict[str, str]:
    """Read a JSON object of URLs by file name, in place of SOURCES. Raises DataFileError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataFileError(f'{path}: not {{"name": "https://…"}} as JSON: {error}') from None
    if not isinstance(content, dict) or not all(_NAME.fullmatch(name) for name in content):
        raise DataFileError(f'{path}: not {{"name": "https://…"}} with names of small letters, digits and dashes')
    return {name: str(url) for name, url in content.items()}


def _update(folder: Path, name: str, get: Get) -> Update:
    try:
        data, at = get(name)
        fresh = Held(read_ranges(data), at)
        write_atomically(folder / f"{name}.json", data, 0o644, at)
    except (OSError, DataFileError) as error:
        kept, _ = held(folder, {name: None})
        # A full disk names no file.
        text = f"{error.strerror}: {error.filename or folder}" if isinstance(error, OSError) else str(error)
        return Update(name, kept.get(name), text)
    return Update(name, fresh)


def _read(folder: Path, name: str) -> tuple[bytes, float]:
    with open(folder / f"{name}.json", "rb") as file:
        return file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_mtime
