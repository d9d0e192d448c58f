"""Middlewares of one app with equal settings count as one: they share an engine."""

from __future__ import annotations

import os
import threading

from .engine import Engine, all_engines


def joined(engine: Engine, app: object) -> Engine:
    """Return the engine that middlewares of an app share: this one, if there is none of equal settings yet."""
    with _joining:
        for other in all_engines():
            # Python may reuse the id of an earlier app; its middlewares are gone by then.
            if other.app_id == id(app) and len(other.owners) and other.is_like(engine):
                return other
        engine.app_id = id(app)
    return engine


_joining = threading.Lock()


def _after_fork() -> None:
    global _joining  # a thread of the parent may have held it, which is not here to release it
    _joining = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
