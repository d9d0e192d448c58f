"""One contract per seam; both implementations keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.batch import DAMAGED, DECISION, HIT, REFUSED, Batch, Frame, Frames
from asgi_analytics.clock import SystemClock, random_bytes
from asgi_analytics.errors import ResolverError, StoreError, StoreUnavailable
from asgi_analytics.facts import Actor, ThrottleLevel
from asgi_analytics.identify.countries import CountryTable
from asgi_analytics.identify.geoip import GeoLocator
from asgi_analytics.jobs.verification import SocketResolver
from asgi_analytics.model import Agent, Decision, Hit, Identity, Merged, Place, Session, Visitor
from asgi_analytics.protocols import Clock, Locator, Resolver, Salt, SharedState, Store
from asgi_analytics.record.recorder import Counters, Recorder
from asgi_analytics.settings import Settings
from asgi_analytics.state import State
from asgi_analytics.store.postgres import PostgresStore
from asgi_analytics.testing import START_NS, FakeClock, FixedLocator, FixedResolver, MemoryState, MemoryStore

from .drive import rows

JOURNAL = random_bytes(16)
PERIODS = ["2100-01-01", "2100-01-02"]


@pytest.fixture(params=["memory", "postgres"])
def stored(request: pytest.FixtureRequest) -> Iterator[tuple[Store, Callable[[], int]]]:
    """A connected store, and how many hits are in it."""
    if request.param == "memory":
        memory = MemoryStore()
        memory.connect()
        yield memory, lambda: len(memory.rows(HIT))
        return
    dsn: str = request.getfixturevalue("dsn")
    postgres = PostgresStore(lambda: dsn)
    postgres.connect()
    yield postgres, lambda: count(dsn)
    postgres.close()


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    """Three hits as the recorder writes them."""
    recorder = Recorder(Settings.build(journal_dir=tmp_path, durability="memory"), Counters())
    visitor = Visitor(Identity(b"f" * 16, b"n" * 16, Place(), Agent()), Session(b"s" * 16, 0, 0), Actor([]), Actor([]))
    for number in range(3):
        recorder.hit(Hit(visitor, Decision(), START_NS, "GET", f"/{number}"))
    read = recorder.memory.read(1, 0, 10)
    assert read is not None
    return read


def count(dsn: str) -> int:
    (row,) = rows(dsn, "SELECT count(*) AS hits FROM analytics.hits")
    return int(row["hits"])


def test_store_takes_a_batch_exactly_once(stored: tuple[Store, Callable[[], int]], batch: Batch) -> None:
    store, hits = stored
    assert store.position(batch.journal) == (0, 0)
    for _ in range(3):
        store.write(batch)
    assert (hits(), store.position(batch.journal)) == (3, (batch.segment, batch.end))


def test_store_takes_the_halves_in_order(stored: tuple[Store, Callable[[], int]], batch: Batch) -> None:
    store, hits = stored
    store.position(batch.journal)
    for half in batch.halves():
        store.write(half)
    store.write(batch)
    assert hits() == 3


def test_store_sets_a_batch_aside_once_and_moves_on(stored: tuple[Store, Callable[[], int]], batch: Batch) -> None:
    store, hits = stored
    store.position(batch.journal)
    for _ in range(2):
        store.quarantine(batch, "no", "22021")
    store.write(batch)
    assert (hits(), store.position(batch.journal)) == (0, (batch.segment, batch.end))


def test_store_refuses_a_journal_that_it_does_not_know(stored: tuple[Store, Callable[[], int]], batch: Batch) -> None:
    store, hits = stored
    with pytest.raises(StoreUnavailable):
        store.write(batch)
    assert hits() == 0


def test_store_gives_everybody_the_salt_that_was_offered_first(stored: tuple[Store, Callable[[], int]]) -> None:
    store, _ = stored
    offered = Salt(PERIODS[0], b"k" * 32)
    first = store.exchange_salts([offered], PERIODS)
    second = store.exchange_salts([Salt(PERIODS[0], b"x" * 32)], PERIODS)
    assert offered in first
    assert sorted(salt.period for salt in first) == PERIODS
    assert {(salt.period, salt.key) for salt in first} == {(salt.period, salt.key) for salt in second}


def test_store_that_is_closed_is_unavailable_until_it_is_connected_again(
    stored: tuple[Store, Callable[[], int]],
) -> None:
    store, _ = stored
    store.close()
    store.interrupt()
    with pytest.raises(StoreUnavailable):
        store.position(JOURNAL)
    store.connect()
    store.make_partitions()
    assert store.position(JOURNAL) == (0, 0)


def test_memory_store_fails_as_it_is_told() -> None:
    store = MemoryStore()
    store.connect()
    store.error = StoreError("disk full")
    with pytest.raises(StoreError, match="disk full"):
        store.position(JOURNAL)
    store.error = None
    assert store.position(JOURNAL) == (0, 0)


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_clock_tells_whole_nanoseconds_and_never_goes_back(clock: Clock) -> None:
    times = [clock.monotonic() for _ in range(3)]
    assert times == sorted(times)
    assert isinstance(times[0], float)
    assert isinstance(clock.time_ns(), int)
    assert clock.time_ns() > 1_700_000_000_000_000_000


def test_fake_clock_advances_both_clocks_and_jumps_one() -> None:
    clock = FakeClock(time_ns=10_000_000_000, monotonic=5.0)
    clock.advance(1.5)
    assert (clock.time_ns(), clock.monotonic()) == (11_500_000_000, 6.5)
    clock.jump_wall(-10)
    assert (clock.time_ns(), clock.monotonic()) == (1_500_000_000, 6.5)
    with pytest.raises(ValueError, match="time does not go back"):
        clock.advance(-1)


LOCATORS: dict[str, Callable[[], Locator]] = {
    "geo": lambda: GeoLocator(None, None, CountryTable.load()),
    "fixed": lambda: FixedLocator({"8.8.8.8": Place("US")}, elsewhere=Place()),
}


@pytest.mark.parametrize("name", LOCATORS)
def test_locator_knows_a_place_or_says_nothing(name: str) -> None:
    locator = LOCATORS[name]()
    assert locator.locate("8.8.8.8").country == "US"
    for address in ("", "127.0.0.1", "not an address", "\0", "é" * 9999, "10.0.0.1"):
        assert locator.locate(address) == Place()


def test_fixed_locator_puts_the_others_in_one_place() -> None:
    assert FixedLocator(elsewhere=Place("SE")).locate("203.0.113.7") == Place("SE")


def shared_states() -> list[SharedState]:
    state = State(
        max_visitors=1, max_networks=1, max_flagged=1, new_network=lambda: Actor([]), learn_salts=lambda salts: None
    )
    return [state, MemoryState()]


@pytest.mark.parametrize("state", shared_states(), ids=["state", "memory"])
def test_shared_state_takes_salts_and_totals_of_visitors_it_never_saw(state: SharedState) -> None:
    state.learn_salts([Salt(PERIODS[0], b"k" * 32)])
    state.merge([Merged(b"f" * 16, b"s" * 16, 3, ThrottleLevel.WARNING, 1)])


@pytest.mark.parametrize(
    "resolver",
    [SocketResolver(), FixedResolver({"127.0.0.1": ["localhost"]})],
    ids=["socket", "fixed"],
)
def test_resolvers_know_this_machine_forward_and_reverse(resolver: Resolver) -> None:
    names = resolver.names("127.0.0.1")
    assert names
    assert "127.0.0.1" in resolver.addresses("localhost")


@pytest.mark.parametrize("resolver", [SocketResolver(), FixedResolver({})], ids=["socket", "fixed"])
@pytest.mark.parametrize("question", ["no address", "", "x" * 300, "a..b", "\x00"])
def test_resolvers_answer_nonsense_with_nothing_or_their_own_error(resolver: Resolver, question: str) -> None:
    for ask in (resolver.names, resolver.addresses):
        with suppress(ResolverError):
            assert len(ask(question)) < 100


FRAMES = st.lists(st.tuples(st.sampled_from([HIT, DECISION, REFUSED, DAMAGED]), st.binary(max_size=5)), max_size=30)


@given(kinds=FRAMES, at=st.integers(-40, 40), cut=st.slices(30), offset=st.integers(0, 400))
def test_frames_are_the_list_that_they_were_made_of(
    kinds: list[tuple[bytes, bytes]], at: int, cut: slice, offset: int
) -> None:
    listed = [Frame(kind, row, 10 * number, 10 * number + 10) for number, (kind, row) in enumerate(kinds)]
    frames = Frames(listed)
    assert list(frames) == listed
    assert list(frames[cut]) == listed[cut]
    if -len(listed) <= at < len(listed):
        assert frames[at] == listed[at]
    for kind in (HIT, DECISION, REFUSED, DAMAGED):
        assert frames.rows(kind) == [frame.row for frame in listed if frame.kind == kind]
        assert frames.count_of(kind) == len(frames.rows(kind))
    assert frames.count_to(offset) == sum(frame.end <= offset for frame in listed)


@pytest.mark.parametrize(("position", "behind"), [((0, 999), 0), ((1, 0), 0), ((1, 15), 1), ((1, 20), 2), ((2, 0), 3)])
def test_a_batch_is_cut_at_what_is_committed(position: tuple[int, int], behind: int) -> None:
    frames = Frames(Frame(HIT, b"%d" % number, 10 * number, 10 * number + 10) for number in range(3))
    moved = Batch(b"j" * 16, 1, {}, frames, 30)
    assert list(moved.upto(position)) == list(frames)[:behind]
    assert list(moved.after(position)) == list(frames)[behind:]
