from __future__ import annotations

from asgi_analytics.record.pace import QUICK, Backoff, BatchSize


def test_waits_double_up_to_a_quarter_of_a_minute() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(10)]
    for wait, full in zip(waits, [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15, 15], strict=True):
        assert full / 2 <= wait <= full
    backoff.reset()
    assert backoff.next() <= 0.25


def test_transfers_grow_again_while_they_are_full_and_quick() -> None:
    size = BatchSize(1000)
    told = []
    for _ in range(5):
        size.failed()
        told.append(size.rows)
    size.moved(99, 0.1)  # there was no more
    size.moved(100, QUICK)  # twice as many would take too long
    told.append(size.rows)
    for _ in range(5):
        size.moved(size.rows, 0.1)
        told.append(size.rows)
    assert told == [500, 250, 125, 100, 100, 100, 200, 400, 800, 1000, 1000]
    few = BatchSize(40)
    few.failed()
    assert few.rows == 40, "never more than was asked for"
