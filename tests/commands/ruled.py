"""Visitors in the tables, and the commands that rule on them."""

from __future__ import annotations

import time
from typing import Any

from asgi_analytics.batch import DECISION
from asgi_analytics.clock import uuid7
from asgi_analytics.decide.explain import detail
from asgi_analytics.facts import Finding, ThrottleLevel
from asgi_analytics.identify.client import network_of
from asgi_analytics.identify.fingerprint import Fingerprinter
from asgi_analytics.model import Decision
from asgi_analytics.record.encoding import decision_row
from asgi_analytics.store.postgres import PostgresStore
from tests.drive import called
from tests.record.rows import batch, deliver, hit, identity

ADDRESS = "203.0.113.7"
FINGERPRINT = b"visitor".ljust(16, b".")
NAME = FINGERPRINT.hex()


def write(store: PostgresStore, *rows: bytes) -> None:
    deliver(store, batch(rows))


def block(store: PostgresStore, **changes: Any) -> None:
    """A visitor at Blocked with a bot verdict, and the decision that led there."""
    now_us = int(time.time() * 1e6)  # a reputation recovers with each minute
    decision = Decision(
        level=ThrottleLevel.BLOCKED, score=75, previous_level=ThrottleLevel.SEVERE, id=uuid7(now_us * 1000)
    )
    row = decision_row(
        decision,
        detail(
            decision,
            [Finding("high_request_count", 30, 80.0, 50.0, "80 page loads in this session (limit 50)")],
            None,
            "v1",
        ),
        hit_id=b"h" * 16,
        time_us=now_us,
        enforced=True,
        site="default",
        identity=identity(),
    )
    deliver(store, batch([row], kind=DECISION))
    write(store, hit(score=75, level=3, level_before=2, decision_id=decision.id, time_us=now_us, **changes))


def told(*arguments: str) -> str:
    answer = called(*arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def behind(store: PostgresStore, address: str) -> bytes:
    """What the tables call a client network today."""
    (salt, *_) = store.exchange_salts([], ["2100-01-01"])
    return Fingerprinter("default", salt.key).fingerprint(b"network\0" + network_of(address))
