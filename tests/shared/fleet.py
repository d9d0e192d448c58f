"""Several workers of one process that share quotas, in made-up time: exchanges come when they are due, at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from asgi_analytics.clock import random_bytes
from asgi_analytics.decide.actor import new_actor, new_network
from asgi_analytics.decide.admission import admit
from asgi_analytics.decide.lease import Leases
from asgi_analytics.decide.policy import Policy
from asgi_analytics.errors import SharedUnavailable
from asgi_analytics.facts import Actor
from asgi_analytics.model import Decision
from asgi_analytics.protocols import SharedQuotas
from asgi_analytics.settings import Quota, Settings
from asgi_analytics.testing import FakeClock, MemoryQuotas

INTERVAL = 0.25
SHORTEST = 0.015
NETWORK = b"n" * 16


class Worker:
    """One worker: its policy, its leases, and the actors it has met."""

    def __init__(self, policy: Policy, quotas: SharedQuotas, phase: float) -> None:
        self.name = random_bytes(16)
        self.quotas = quotas
        self.actors: dict[bytes, Actor] = {}
        self.network = new_network(len(policy.network_quotas))
        self.network.key = NETWORK
        self.whole = self.policy = policy
        self.sharing = 0  # the number of workers that `policy` is for
        self.leases = Leases(policy.limits[0], policy.network_limits, self.wake, self.find, self.everybody)
        self.due = phase
        self.last = 0.0

    def wake(self) -> None:
        self.due = min(self.due, self.last + SHORTEST)

    def find(self, key: bytes) -> tuple[Actor, bool] | None:
        if key == NETWORK:
            return self.network, True
        actor = self.actors.get(key)
        return None if actor is None else (actor, False)

    def everybody(self) -> list[tuple[Actor, bool]]:
        return [*((actor, False) for actor in self.actors.values()), (self.network, True)]

    def exchange(self, now: float) -> None:
        self.last = now
        try:
            answer = self.quotas.exchange(self.name, self.leases.revision, self.leases.asks(now))
            self.leases.take_in(answer, now, now)
        except SharedUnavailable:
            self.leases.cut_off()
        self.due = now + min(INTERVAL, self.leases.interval())
        if self.sharing != self.leases.sharing:
            self.sharing = self.leases.sharing
            self.policy = self.whole.with_leases(self.leases)

    def request(self, key: bytes, now: float) -> Decision:
        actor = self.actors.get(key)
        if actor is None:
            actor = self.actors[key] = new_actor(len(self.policy.quotas))
            actor.key = key
            self.leases.meet(actor, False, now)
        return admit(actor, self.network, self.policy, now)


class Fleet:
    """Workers that know each other, over one SharedQuotas; `latency` is how long a woken exchange takes to come."""

    def __init__(self, workers: int, *limits: str, network: Sequence[str] = (), clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.quotas = MemoryQuotas(self.clock)
        settings = Settings.build(limits=limits, network_limits=network)
        policy = Policy.of(settings)
        self.limit: Quota = settings.limits[0]
        rng = random.Random(workers)
        now = self.clock.monotonic()
        self.workers = [Worker(policy, self.quotas, now + rng.uniform(0, INTERVAL)) for _ in range(workers)]
        for _ in range(2):
            for worker in self.workers:
                worker.exchange(now)
                worker.due = now + rng.uniform(0, INTERVAL)

    def grow(self) -> None:
        """Start another worker: it begins to serve when the others have had the time for two exchanges."""
        worker = Worker(self.workers[0].whole, self.quotas, self.clock.monotonic())
        self.workers.append(worker)
        self.pass_until(self.clock.monotonic() + 2 * INTERVAL)

    def pass_until(self, moment: float) -> None:
        """Let time go by, with all exchanges that are due meanwhile."""
        while True:
            worker = min(self.workers, key=lambda one: one.due)
            if worker.due > moment:
                break
            self.clock.advance(max(0.0, worker.due - self.clock.monotonic()))
            worker.exchange(self.clock.monotonic())
        self.clock.advance(max(0.0, moment - self.clock.monotonic()))

    def send(self, worker: int, key: bytes = b"k" * 16) -> Decision:
        return self.workers[worker].request(key, self.clock.monotonic())

    def window(self) -> int:
        """The number of the window of the clock that it is."""
        return self.clock.time_ns() // 1_000_000_000 // self.limit.window

    def stream(
        self, load: float, windows: float, one: bool = False, seed: int = 0
    ) -> tuple[Counter[int], Counter[int]]:
        """Send a steady stream at a multiple of the limit; count what was offered and admitted per window."""
        rng, begins = random.Random(seed), self.clock.monotonic()
        offered, admitted = Counter[int](), Counter[int]()
        count = round(load * self.limit.limit * windows)
        for number in range(count):
            self.pass_until(begins + (number + 0.5) / count * windows * self.limit.window)
            worker = 0 if one else rng.randrange(len(self.workers))
            offered[self.window()] += 1
            admitted[self.window()] += not self.send(worker).refused
        return offered, admitted
