"""How the package under test was built: as it is, or compiled (README.md, "Compiled"): some tests are skipped then."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_analytics.exchange import http

COMPILED = not http.__file__.endswith(".py")
# For tests that put something else in the place of a function or an attribute.
DIRECT = "compiled code calls its own functions directly"
interpreted_only = pytest.mark.skipif(COMPILED, reason=DIRECT)


class Without:
    """A part of the engine one step of which fails; compiled code takes no other part for its own: there all fail."""

    def __init__(self, part: object, step: str) -> None:
        self._part = part
        self._step = step

    def __getattr__(self, name: str) -> Any:
        if name == self._step:
            raise LookupError("our own bug")
        return getattr(self._part, name)
