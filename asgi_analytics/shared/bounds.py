"""How much of an exchange of quotas goes over the wire at once, whichever server it goes to."""

from __future__ import annotations

MAX_ASKS = 500  # in one round trip; in Postgres a transaction, which locks their rows for its time
MAX_SCARCE = 5000  # counters announced as scarce in one answer; the rest come with the next exchange
