"""What all tests share: a real Postgres, a migrated template database, a copy of it for each test that asks."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from asgi_analytics.embedded import EmbeddedPostgres
from asgi_analytics.store.postgres import PostgresStore
from tests.acceptance.faults.table import pytest_terminal_summary as pytest_terminal_summary
from tests.servers import HOUSE

# Read before any test: `environment` hides it.
TEST_DSN = os.environ.get("ASGI_ANALYTICS_TEST_DSN")
# The servers and commands that tests start would each compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
SHARED_MEMORY = "/dev/shm"
_numbers = itertools.count(1)
# The whole run of the fault suite looks further than the normal one. On a loaded machine any example may take long.
hypothesis.settings.register_profile("normal", max_examples=50, deadline=None)
hypothesis.settings.register_profile("whole", max_examples=500, deadline=None)
hypothesis.settings.load_profile("whole" if os.environ.get("ASGI_ANALYTICS_FAULTS") == "all" else "normal")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What is collected stays: collections of garbage would look at six thousand tests again and again."""
    gc.disable()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and session.config.args == session.config.getini("testpaths"):  # all of them
        _import_tests(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    found = yield
    gc.freeze()
    gc.set_threshold(10_000, 20)  # most of what tests make goes with its last user
    gc.enable()
    return found


def _import_tests(worker: int, workers: int) -> None:
    """Import the modules of tests, each worker from another one on: else all compile the same ones at the same time."""
    paths = sorted(HOUSE.glob("tests/**/test_*.py"))
    first = len(paths) * worker // workers
    for path in paths[first:] + paths[:first]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # told when it is collected
            import_module(".".join(path.relative_to(HOUSE).with_suffix("").parts))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the developer's database or journal. A folder is made by who needs one: most tests do not."""
    for name in os.environ:
        if name.startswith("ASGI_ANALYTICS_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    journals = tmp_path_factory.getbasetemp() / f"journals-{next(_numbers)}"
    monkeypatch.setenv("ASGI_ANALYTICS_JOURNAL_DIR", str(journals))


def _memory() -> str | None:
    """A folder in memory with room for all clusters: on disk, files that come and go take a quarter of the time."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(SHARED_MEMORY)
        # A copy of the server's programs can be in the folder.
        runs = not disk.f_flag & os.ST_NOEXEC and os.access(SHARED_MEMORY, os.W_OK)
        if runs and disk.f_bavail * disk.f_frsize > 4 << 30:
            return SHARED_MEMORY
    return None


@contextmanager
def data_folder() -> Iterator[Path]:
    """A folder for a cluster; not in tmp_path, which under root is closed to the user that Postgres runs as."""
    folder = Path(tempfile.mkdtemp(prefix="asgi-analytics tést ", dir=_memory()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of a server with the right to create databases: one of our own for each test process."""
    if TEST_DSN:
        yield TEST_DSN
        return
    # Nothing that a session can see depends on these; what must survive a crash uses own_postgres.
    settings = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
    with _copied(request.getfixturevalue("fresh_cluster")) as folder, EmbeddedPostgres(folder, settings) as server:
        yield server.dsn


@pytest.fixture(scope="session")
def administrator(postgres: str) -> Iterator[psycopg.Connection]:
    """Who makes databases and drops them: a connection takes about as long as either."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(postgres: str, administrator: psycopg.Connection) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    from asgi_analytics.store.migrate import migrate

    with _database(administrator, "template0") as name:
        migrate(_address(postgres, name))
        yield name


@pytest.fixture(scope="session")
def used_template(postgres: str, administrator: psycopg.Connection, template: str) -> Iterator[str]:
    """The name of one as the first worker leaves it: the partitions of these days take longer to make than to copy."""
    from asgi_analytics.store.command_session import migrate_all

    with _database(administrator, template) as name:
        migrate_all(_address(postgres, name))
        yield name


@pytest.fixture
def dsn(postgres: str, administrator: psycopg.Connection, used_template: str) -> Iterator[str]:
    """A migrated database with the partitions of these days."""
    with _database(administrator, used_template) as name:
        yield _address(postgres, name)


@pytest.fixture
def new_dsn(postgres: str, administrator: psycopg.Connection, template: str) -> Iterator[str]:
    """A freshly migrated database: no worker has made partitions yet."""
    with _database(administrator, template) as name:
        yield _address(postgres, name)


@pytest.fixture(scope="session")
def unchanged_dsn(postgres: str, administrator: psycopg.Connection, template: str) -> Iterator[str]:
    """A migrated database for tests that leave it as it is: making one takes longer than most of them."""
    with _database(administrator, template) as name:
        yield _address(postgres, name)


@pytest.fixture
def store(dsn: str) -> Iterator[PostgresStore]:
    """A connected store on a fresh migrated database."""
    store = PostgresStore(lambda: dsn)
    store.connect()
    yield store
    store.close()


@pytest.fixture
def empty_dsn(postgres: str, administrator: psycopg.Connection) -> Iterator[str]:
    """A fresh database without our schema."""
    with _database(administrator, "template0") as name:
        yield _address(postgres, name)


@pytest.fixture(scope="session")
def fresh_cluster() -> Iterator[Path]:
    """The folder of a cluster that was made and stopped: copying it takes a fraction of initdb's time."""
    with data_folder() as folder:
        with EmbeddedPostgres(folder) as server, psycopg.connect(server.dsn, autocommit=True) as connection:
            _hash_once(connection)
        yield folder


def _hash_once(connection: psycopg.Connection) -> None:
    """Have who logs in hash the password once, not four thousand times: half of what a connection takes a client."""
    if connection.info.server_version >= 160_000:
        connection.execute("SET scram_iterations = 1")
        connection.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(connection.info.password))


@contextmanager
def _copied(cluster: Path) -> Iterator[Path]:
    with data_folder() as folder:
        subprocess.run(["cp", "-a", f"{cluster}/.", folder], check=True)
        yield folder


@pytest.fixture
def cluster_folder(fresh_cluster: Path) -> Iterator[Path]:
    """A data folder of the test's own, with a cluster that no server runs on yet."""
    with _copied(fresh_cluster) as folder:
        yield folder


@pytest.fixture
def own_postgres(cluster_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A durable server that the test may kill() and start() again: same data, same DSN."""
    with EmbeddedPostgres(cluster_folder) as server:
        yield server


@contextmanager
def _database(administrator: psycopg.Connection, template: str) -> Iterator[str]:
    name = f"asgi_analytics_test_{os.getpid()}_{next(_numbers)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
    administrator.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield name
    finally:
        administrator.execute(drop.format(sql.Identifier(name)))


def _address(server: str, database: str) -> str:
    if "://" in server:
        return urlsplit(server)._replace(path=f"/{database}").geturl()
    return make_conninfo(server, dbname=database)
