"""Loads the named SQL queries of `sql/*.sql`: a line `-- name: fold_sessions` starts each."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

# Called here since it imports modules: forked while a thread does so, a child would wait for import locks for ever.
# The result is not kept: in a zip archive it is an open file, whose offset forked processes would share.
files("asgi_analytics.store")
_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def load(file: str) -> dict[str, LiteralString]:
    """Return the queries of `sql/<file>.sql` by name; parameters are written `%(name)s`."""
    text = files("asgi_analytics.store").joinpath("sql", f"{file}.sql").read_text("utf-8")
    _, *parts = _NAME.split(text)
    # Shipped with the package, never built from input: that is what LiteralString stands for.
    return {name: cast("LiteralString", body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}
