"""Where what outlives a process is kept, unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return our folder in this user's place for state; in /var/tmp for a user without a home, as containers run."""
    place = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if place.startswith("~"):  # no HOME, and a number that /etc/passwd does not have
        return Path(f"/var/tmp/asgi-analytics-{os.geteuid()}")  # noqa: S108 - its folders are private and owner-checked
    return Path(place) / "asgi-analytics"
