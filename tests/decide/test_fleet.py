"""What the workers of a fleet together admit of one quota, in steps of five milliseconds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from asgi_analytics.decide.lease import Leases
from asgi_analytics.decide.lending import unasked
from asgi_analytics.facts import Actor, Window
from asgi_analytics.protocols import Ask, Exchanged
from asgi_analytics.testing import FakeClock, MemoryQuotas

STEP = 0.005
WINDOWS = 2


@dataclass
class Worker:
    """One process: each step it sends, is answered or takes the answer in, as the thread that exchanges does."""

    name: bytes
    quota: tuple[float, int]
    actor: Actor = field(default_factory=lambda: Actor([Window()], key=b"k" * 16))
    woken: bool = False
    due_at: float = 0.0
    asks: list[Ask] | None = None
    answer: Exchanged | None = None

    def __post_init__(self) -> None:
        self.leases = Leases([self.quota], wake=self.wake, find=lambda key: (self.actor, False))

    def wake(self) -> None:
        self.woken = True

    def step(self, quotas: MemoryQuotas, now: float) -> None:
        if self.answer is not None:
            self.leases.take_in(self.answer, now - 2 * STEP, now)
            self.answer, self.asks = None, None
            self.due_at = now + self.leases.interval()
        elif self.asks is not None:
            self.answer = quotas.exchange(self.name, self.leases.revision, self.asks)
        elif self.woken or now >= self.due_at:
            self.woken, self.asks = False, self.leases.asks(now)

    def admits(self, now: float) -> bool:
        left = self.leases.left(self.actor, [self.quota], now)
        if left[0] <= 0:
            self.leases.miss(self.actor, left)
            return False
        self.leases.take(self.actor, [self.quota], now)
        return True


def admitted(workers: int, limit: int, size: float, load: Callable[[float], float], seed: int) -> Counter[int]:
    """Units by window of the server's clock; `load`: multiple of the limit at a part of all windows."""
    rng, clock = random.Random(seed), FakeClock(monotonic=1000.0)
    clock.advance(size * rng.random())  # a worker's windows begin at other moments than the server's
    quotas = MemoryQuotas(clock)
    fleet = [Worker(bytes([number]) * 16, (size, limit)) for number in range(workers)]
    while any(worker.leases.workers < workers for worker in fleet):
        _step(fleet, quotas, clock)
    clock.jump_wall(-(clock.time_ns() / 1e9) % size)
    begins, counted, due = clock.time_ns() / 1e9, Counter[int](), 0.0
    for at in _steps(WINDOWS * size):
        clock.jump_wall(begins + at - clock.time_ns() / 1e9)
        due += load(at / size / WINDOWS) * limit / size * STEP
        while due >= 1.0:
            due -= 1.0
            counted[int(at / size)] += rng.choice(fleet).admits(clock.monotonic())
        _step(fleet, quotas, clock)
    return counted


def _steps(seconds: float) -> Iterator[float]:
    return (STEP * number for number in range(round(seconds / STEP)))


def _step(fleet: list[Worker], quotas: MemoryQuotas, clock: FakeClock) -> None:
    for worker in fleet:
        worker.step(quotas, clock.monotonic())
    clock.advance(STEP)


LOADS: dict[str, Callable[[float], float]] = {
    "steady, half as much again": lambda part: 1.5,
    "ten times as much": lambda part: 10.0,
    "a trickle, then a burst": lambda part: 0.15 if part < 0.3 else 5.0,
    "a trickle, then a burst in the next window": lambda part: 0.1 if part < 0.6 else 10.0,
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(("workers", "limit", "size"), [(2, 300, 10.0), (8, 300, 10.0), (8, 20, 1.0)])
def test_all_together_keep_to_the_bound_whenever_their_own_windows_begin(
    workers: int, limit: int, size: float, load: str
) -> None:
    bound = limit + max(0, (workers - 1) * unasked(limit, workers) - limit // 2)
    for seed in range(10):
        counted = admitted(workers, limit, size, LOADS[load], seed)
        assert max(counted.values()) <= bound, (seed, counted)
        assert counted[1] >= limit // 2, (seed, counted)
