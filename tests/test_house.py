"""The rules of the house: who imports whom, what only the clock may ask, what README.md must name."""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from inspect import getdoc
from pathlib import Path
from typing import Any, cast

import pytest

import asgi_analytics
from asgi_analytics import cli, demo
from asgi_analytics.settings import CHECKS, SIGNAL_POINTS, Options, Settings

HOUSE = Path(__file__).parent.parent
PACKAGE = HOUSE / "asgi_analytics"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
README = (HOUSE / "README.md").read_text()

BASE_ORDER = (
    *("errors", "low_memory", "log", "folders", "columns", "untracked", "facts", "model", "reputation"),
    *("batch", "inputs", "variants", "clock", "protocols", "schedule", "settings"),
)
BASE = set(BASE_ORDER)
STAGES = {"identify", "decide", "respond", "record", "store", "state", "embedded"}
# Each may import what stands above it; within BASE see BASE_ORDER.
LAYERS: tuple[set[str], ...] = (
    BASE,
    STAGES,
    {"threads"},
    {"shared"},
    {"database", "shutdown", "overhead", "jobs", "report", "replay"},
    {"parts"},
    {"engine"},
    {"exchange", "joining", "lifespan"},
    {"middleware"},
    {"web", "demo"},
    {"commands"},
    {"cli"},
    {"testing", "__init__", "__main__"},
)
PSYCOPG = {"shared", "store", "embedded"}
# They drive other processes, not requests: a supervisor's poll, a wait for an advisory lock, made-up traffic.
OWN_TIME = {
    *("clock", "embedded.folder", "demo", "demo.traffic", "commands.explain", "commands.tail", "store.migrate"),
    "store.partitions",
}


def name_of(path: Path) -> str:
    """The dotted name inside the package: "identify.client", "__init__"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    """The stage or top-level module that a dotted name belongs to."""
    return name.partition(".")[0]


@cache
def tree(path: Path) -> ast.Module:
    """A module as it is parsed."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """What a module imports, anywhere in it: absolute names, and ours as "asgi_analytics.x"."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    here = ["asgi_analytics", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            full = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{full}.{alias.name}" for alias in node.names)


def inner_imports(path: Path) -> set[str]:
    """The stages and top-level modules of this package that a module imports."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("asgi_analytics.")}
    return {name for name in found if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


def layer(part: str) -> int:
    places = [place for place, parts in enumerate(LAYERS) if part in parts]
    assert places, f"{part} has no place in LAYERS"
    return places[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_stands_above_it(path: Path) -> None:
    part = part_of(name_of(path))
    wrong = {other for other in inner_imports(path) - {part} if layer(other) > layer(part)}
    if part in STAGES:
        wrong |= inner_imports(path) & STAGES - {part}
    if part in BASE:
        wrong |= {other for other in inner_imports(path) - {part} if BASE_ORDER.index(other) >= BASE_ORDER.index(part)}
    assert wrong == set(), f"{name_of(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_those_who_speak_to_postgres_import_psycopg(path: Path) -> None:
    if part_of(name_of(path)) not in PSYCOPG:
        assert not any(part_of(name) == "psycopg" for name in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_clock_asks_the_time_and_draws_randomness(path: Path) -> None:
    if name_of(path) in OWN_TIME:
        return
    assert {part_of(name) for name in imports(path)} & {"time", "random", "secrets"} == set()
    text = path.read_text()
    assert re.findall(r"\bos\.urandom|\bdatetime\.now\(|\.utcnow\(|\.today\(\)|\buuid[14]\(", text) == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(name_of(path)) in ("identify", "decide")], ids=name_of
)
def test_identifying_and_deciding_wait_for_nothing(path: Path) -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert [node.lineno for node in ast.walk(tree(path)) if isinstance(node, waiting)] == []
    assert {part_of(name) for name in imports(path)} & {"asyncio", "anyio", "threading", "subprocess"} == set()


@pytest.mark.parametrize("path", [*MODULES, *sorted((HOUSE / "examples").glob("*.py"))], ids=lambda path: path.stem)
def test_every_module_says_what_it_is_and_postpones_annotations(path: Path) -> None:
    text = path.read_text()
    if text:
        assert ast.get_docstring(tree(path)), "no docstring"
        assert "from __future__ import annotations" in text


def test_public_names_are_sorted_and_there() -> None:
    assert asgi_analytics.__all__ == sorted(asgi_analytics.__all__)
    assert all(hasattr(asgi_analytics, name) for name in asgi_analytics.__all__)


def test_options_settings_and_checks_name_the_same() -> None:
    names = {one.name for one in fields(Settings)}
    assert set(Options.__annotations__) == names == set(CHECKS)
    assert re.findall(r"^(\w+): ", getdoc(Options) or "", re.MULTILINE) == list(Options.__annotations__)


# README.md


def test_every_option_is_in_the_readme() -> None:
    assert [name for name in Options.__annotations__ if f"| `{name}` |" not in README] == []


def test_every_header_is_in_the_readme() -> None:
    source = (PACKAGE / "respond.py").read_text()
    names = set(re.findall(r'b"((?:x-)?rate[a-z-]*|x-[a-z-]+|retry-after)"', source))
    assert {"ratelimit", "ratelimit-policy", "x-throttle-level", "retry-after"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in README.lower()] == []


def test_every_command_is_in_the_readme() -> None:
    actions = cli._parser()._actions
    (commands,) = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    assert {"demo", "doctor", "explain", "migrate", "stats", "tail"} <= set(commands.choices)
    assert tuple(commands.choices) == tuple(cli.COMMANDS)
    assert [name for name in commands.choices if f"asgi-analytics {name}" not in README] == []


def test_every_signal_and_environment_variable_is_in_the_readme() -> None:
    source = "".join(path.read_text() for path in MODULES)
    variables = set(re.findall(r'"(ASGI_ANALYTICS_[A-Z_]+)"', source)) - {demo.VARIABLE}  # that one is between its own
    assert {"ASGI_ANALYTICS_DSN", "ASGI_ANALYTICS_JOURNAL_DIR"} <= variables
    assert [name for name in [*SIGNAL_POINTS, *sorted(variables)] if f"`{name}`" not in README] == []


def test_all_that_stats_tells_is_in_the_readme() -> None:
    told = asgi_analytics.AnalyticsMiddleware(cast("Any", None), dsn="postgresql://127.0.0.1:1/x").stats()
    assert [name for name in (*told, *told["shared"]) if f"`{name}`" not in README] == []


def test_every_test_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*test_\w+\.py)`", README))
    assert len(named) > 20
    found = {str(path.relative_to(HOUSE / "tests")).removeprefix("acceptance/") for path in HOUSE.glob("tests/**/*.py")}
    assert sorted(name for name in named if name.removeprefix("acceptance/") not in found) == []


# Importing

PROBE = """
import json, os, sys, threading
def opened():
    paths = map("/proc/self/fd/{}".format, os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ())
    found = ((path, os.readlink(path)) for path in paths if os.path.lexists(path))
    return {path for path, file in found if "libffi" not in file}  # which opens itself where ctypes is loaded
before = opened()
watched = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.mkdir"):
        watched.append(event)
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        watched.append(f"open {arguments[0]}")
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import asgi_analytics, asgi_analytics.testing
after = opened()
loaded = sorted({"psycopg", "uvicorn", "fastapi"} & set(sys.modules))
print(json.dumps([threading.active_count(), len(after - before), watched, "uvicorn" in loaded or "fastapi" in loaded]))
"""


def probe(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_starts_no_thread_and_opens_nothing() -> None:
    assert probe(PROBE) == [1, 0, [], False]


def test_building_the_middleware_starts_no_thread_and_opens_nothing() -> None:
    build = 'asgi_analytics.AnalyticsMiddleware(None, dsn="postgresql://127.0.0.1:1/x")'
    assert probe(PROBE.replace("asgi_analytics.testing\n", f"asgi_analytics.testing\n{build}\n")) == [1, 0, [], False]


def test_a_process_that_served_nothing_ends_at_once_and_says_nothing() -> None:
    code = 'import asgi_analytics; asgi_analytics.AnalyticsMiddleware(None, dsn="postgresql://127.0.0.1:1/x")'
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
