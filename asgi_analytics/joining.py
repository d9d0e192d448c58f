"""Middlewares of equal settings that one app holds are one: they share an engine."""

from __future__ import annotations

import os
import threading

from .engine import ENGINES, Engine


def joined(engine: Engine, app: object) -> Engine:
    """Return the engine that the middlewares of an app share: this one, where there is none of equal settings yet."""
    with _joining:
        for other in list(ENGINES):
            # An id may be that of an app before; its middlewares are gone by then.
            if other.app_id == id(app) and len(other.owners) and other.is_like(engine):
                return other
        engine.app_id = id(app)
    return engine


_joining = threading.Lock()


def _after_fork() -> None:
    global _joining  # another thread of the parent may hold it for ever
    _joining = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
