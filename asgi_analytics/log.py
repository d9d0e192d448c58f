"""Our lines in the log: if the site's filter or handler raises, the line is lost, and nothing else."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .low_memory import A_LINE, ensure_memory

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter


class CarefulLogger(Adapter):
    """Raises nothing: a site's filter that needs a request would end a background thread for good."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line, as from where it was asked for."""
        with suppress(Exception):
            ensure_memory(A_LINE)
            super().log(level, msg, *args, stacklevel=2, **kwargs)


LOG_INTERVAL = 20.0  # seconds between two lines of one kind
log = CarefulLogger(logging.getLogger("asgi_analytics"), {})
