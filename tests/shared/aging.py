"""Lets time pass for what a server of quotas knows: the server's clock is real, so what it remembers is made older."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asgi_analytics.protocols import SharedQuotas
from asgi_analytics.shared.postgres import PostgresQuotas
from asgi_analytics.shared.valkey import ValkeyQuotas, counter_key
from asgi_analytics.testing import MemoryQuotas
from tests.sessions import session

OLDER = """
UPDATE analytics.counters SET span = span - %(windows)s, told_at = told_at - %(seconds)s,
    lent_until = ARRAY(SELECT one - %(seconds)s FROM unnest(lent_until) WITH ORDINALITY AS all_of (one, n) ORDER BY n)
WHERE counter = %(counter)s
"""
OLDER_IN_VALKEY = """
local packed = redis.call('GET', KEYS[1])
if packed then
  local c, seconds = cmsgpack.unpack(packed), tonumber(ARGV[2])
  c.window, c.told = c.window - tonumber(ARGV[1]), c.told - seconds
  for _, loan in pairs(c.loans) do
    loan[2] = loan[2] - seconds
  end
  redis.call('SET', KEYS[1], cmsgpack.pack(c), 'KEEPTTL')
end
redis.call('ZADD', KEYS[2], 'XX', 'INCR', -tonumber(ARGV[2]), ARGV[3])
"""
SILENT = "UPDATE analytics.workers SET seen_at = seen_at - make_interval(secs => %s) WHERE worker = %s"


def _run(quotas: PostgresQuotas, query: str, parameters: Any) -> None:
    session(quotas._dsn()).execute(query.encode(), parameters)


def age(quotas: SharedQuotas, counter: bytes, windows: int, seconds: float) -> None:
    """Make a counter older: its window by so many windows, its loans and what was told by so many seconds."""
    if isinstance(quotas, MemoryQuotas):
        one = quotas._counters.get(counter)
        if one is not None:
            one.window, one.told_at = one.window - windows, one.told_at - seconds
            one.loans = {name: (units, until - seconds) for name, (units, until) in one.loans.items()}
    elif isinstance(quotas, PostgresQuotas):
        _run(quotas, OLDER, {"counter": counter, "windows": windows, "seconds": seconds})
    elif isinstance(quotas, ValkeyQuotas):
        keys = (counter_key(counter), quotas._told[1])
        quotas._client.eval(OLDER_IN_VALKEY, 2, *keys, windows, seconds, counter.hex())


def silence(quotas: SharedQuotas, worker: bytes, seconds: float) -> None:
    """Have it be so many seconds since a worker was heard of."""
    if isinstance(quotas, MemoryQuotas):
        revision, seen = quotas._workers[worker]
        quotas._workers[worker] = (revision, seen - seconds)
    elif isinstance(quotas, PostgresQuotas):
        _run(quotas, SILENT, (seconds, UUID(bytes=worker)))
    elif isinstance(quotas, ValkeyQuotas):
        seen, revision = quotas._client.hget(quotas._workers, worker.hex()).split()
        quotas._client.hset(quotas._workers, worker.hex(), f"{float(seen) - seconds} {int(revision)}")
