"""What `asgi-analytics doctor` looks at in the journals' folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ...columns import counted
from ...errors import JournalFormatError
from ...folders import foreign_part, whose
from ...record.destination import Destination, read_destination
from ...record.listing import JournalState, closed, closed_text, journals
from ...record.segment import read_header
from .check import Check

MIN_ROOM = 64 << 20  # bytes
ELSEWHERE = "no worker with this DSN delivers them; where it is this database under another name: asgi-analytics adopt"


def journal_checks(folder: Path, destination: Destination | None = None, limit: int | None = None) -> Iterator[Check]:
    """Say whether the journal folder can be used, and what is left in it, for `destination` where that is known.

    `limit`: the most bytes of a worker's journal.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        if (wrong := _use_check(nearest, folder)) is not None:
            yield wrong
            return
        yield Check("journal", f"{folder}{'' if nearest == folder else ' (made at the first start)'}")
        found = journals(folder)
        if shut := closed(folder):
            advice = "if their workers are dead, chown them to the user that the app runs as: else nobody delivers them"
            yield Check("journal", f"{closed_text(shut)}, closed to us", advice)
        yield from _folder_checks(nearest, folder)
    except PermissionError as error:
        yield Check("journal", str(error), "choose a folder of your own by journal_dir or ASGI_ANALYTICS_JOURNAL_DIR")
        return
    except OSError as error:
        yield Check("journal", str(error), "mend the disk or the mount, or choose another folder by journal_dir")
        return
    alive = [one for one in found if one.alive]
    dead = [one for one in found if not one.alive and (destination is None or one.destination.key == destination.key)]
    yield from _state_checks(alive, dead, limit)


def _use_check(nearest: Path, folder: Path) -> Check | None:
    """Say what keeps us from using the folder, or from making it in the nearest one that is there; None: nothing."""
    others = whose(folder) if nearest == folder else None
    if others and folder.stat().st_uid == 0:
        return Check("journal", f"{folder} {others}", f"choose a folder by journal_dir, such as {folder / 'journal'}")
    strange = folder if others else foreign_part(nearest)
    if strange is not None:
        owner = strange.lstat().st_uid
        advice = "run this as the user that the app runs as, or choose a folder of your own by journal_dir"
        return Check("journal", f"{strange} belongs to user {owner}", advice)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Check("journal", f"{nearest} is not writable", "make it writable, or choose another by journal_dir")
    return None


def _state_checks(alive: Sequence[JournalState], dead: Sequence[JournalState], limit: int | None) -> Iterator[Check]:
    """Say how much is in the journals of living and dead workers."""
    if alive:
        yield Check("journal", f"{len(alive)} in use, {sum(one.bytes for one in alive):,} bytes")
    if limit is not None and (full := [one for one in alive if one.bytes > limit]):
        text = f"{len(full)} in use hold more than journal_limit ({limit:,} bytes): new hits are dropped"
        advice = "mend what keeps the database from taking them; where the app has another limit: --journal-limit"
        yield Check("journal", text, advice)
    if dead:
        size = sum(one.bytes for one in dead)
        text = f"{len(dead)} left over, {size:,} bytes: the next start of an app with their database delivers them"
        yield Check("journal", text, note=True)


def _folder_checks(nearest: Path, folder: Path) -> Iterator[Check]:
    """Say what ails the disk, and what lies in the folder that nobody will deliver."""
    disk = os.statvfs(nearest)
    if (room := disk.f_bavail * disk.f_frsize) < MIN_ROOM or (disk.f_files and not disk.f_favail):
        text = f"the disk of {nearest} is full, or nearly: {room:,} bytes, {disk.f_favail:,} files are left"
        yield Check(
            "journal",
            text,
            "free space, or choose another disk by journal_dir: hits that it has no room for wait in memory",
        )
    destinations = [read_destination(path) for path in folder.iterdir()] if nearest == folder else []
    databases = {destination.key for destination in destinations if destination is not None}
    if len(databases) > 1:
        yield Check("journal", f"shared by apps of {len(databases)} databases: each delivers its own", note=True)
    aside = sorted(folder.glob("*.unreadable")) if nearest == folder else []
    if aside:
        size = sum(path.stat().st_size for path in aside)
        text = f"of another version, set aside: {counted(len(aside), 'segment')}, {size:,} bytes, {aside[0].name}"
        back = "/".join(aside[0].name.removesuffix(".unreadable").split("-", 1))
        advice = (
            f"move each back, as {back}, and `asgi-analytics adopt` it for the version that wrote it; or delete them"
        )
        yield Check("journal", text, advice)
    if old := _unknown_segments(folder):
        name = f"{old[0].parent.name}/{old[0].name}"
        text = f"of a format that this version does not know: {counted(len(old), 'segment')}, {name}"
        yield Check("journal", text, "start the version that wrote them once more: it delivers them")


def _unknown_segments(folder: Path) -> list[Path]:
    found: list[Path] = []
    for journal in sorted(folder.iterdir()) if folder.exists() else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # delivered and removed while we look
            found += [one for one in sorted(journal.glob("*.journal")) if one.is_file() and not _is_readable(one)]
    return found


def _is_readable(segment: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, JournalFormatError), segment.open("rb") as file:
        head = file.read(65_536)
        return not head or bool(read_header(head, segment))
    return not segment.exists()


def stray_checks(found: Sequence[JournalState], server: str) -> Iterator[Check]:
    """Name journals that are for a database of another name; `server`: what ours says of itself, "" when unknown."""
    for key in sorted({one.destination.key for one in found}):
        lying = [one for one in found if one.destination.key == key]
        since = datetime.fromtimestamp(min(one.written for one in lying), UTC)
        same = server != "" and all(one.destination.server == server for one in lying)
        what = "the same database: delivered by the next start" if same else ELSEWHERE
        address = lying[-1].destination.address or f"a database that is not named (key {key[:8]})"
        size = sum(one.bytes for one in lying)
        text = f"{len(lying)} left over for {address}, {size:,} bytes, since {since:%Y-%m-%d %H:%M} UTC: {what}"
        yield Check("journal", text, note=True)
