"""What an app looks at with each key that is pressed, through the whole middleware; and guesses that only grow."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from tests.benchmarks.detect.columns import Ours, Verdict
from tests.benchmarks.detect.site import JSON, Reply

from .test_calls import CALLED, PAGE, PHONE, TYPED, ours, send, touched

__all__ = ["ours"]  # a fixture
CARD = (24, 19, 5, 3, 22)  # characters of a form's fields


def filled_in(dice: random.Random, fields: Iterable[int], keys: int = 1) -> Iterator[int]:
    """Lengths of what is sent while a form is filled in, now and then with a step back; `keys` at once."""
    length = 60
    for field in fields:
        length, end = length + 12, length + 12 + field
        while length < end:
            step = -1 if length > end - field + 3 and dice.random() < 0.15 else dice.randint(1, keys)
            length = min(length + step, end)
            yield length


def sent(ours: Ours, path: str, lengths: Iterable[int], status: int, headers: tuple[tuple[bytes, bytes], ...],
         start: float = 10.0) -> list[Verdict]:  # fmt: skip
    dice, found, at = random.Random(3), send(ours, ["/cart"], 0.0, TYPED, PAGE, start=start), start
    for length in lengths:
        at += dice.lognormvariate(-1.6, 0.5)
        measured = (*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % length))
        found += send(ours, [path], 0.0, measured, Reply(status, JSON), "POST", start=at)
    return found


@pytest.mark.parametrize(
    ("path", "status", "fields", "keys"),
    [
        ("/checkout/payment", 422, CARD, 1),
        ("/checkout/payment", 422, (*CARD, *CARD), 6),
        ("/api/pay/intent", 400, CARD, 1),
        ("/api/cart/coupon", 404, (10, 9, 11), 1),
        ("/api/password/check", 422, (34, 34), 1),
        ("/api/members/invite", 400, (40,), 1),
    ],
    ids=["card", "pauses", "intent", "coupons", "password", "member"],
)
def test_what_is_typed_in_is_no_guess_at_each_key(
    ours: Ours, path: str, status: int, fields: tuple[int, ...], keys: int
) -> None:
    lengths = list(filled_in(random.Random(5), fields, keys))
    assert len(lengths) > 20
    assert touched(sent(ours, path, lengths, status, CALLED)) == []
    by_program = sent(ours, path, lengths, status, PHONE, start=9_000.0)
    assert (touched(by_program) == []) is (status != 400)


@pytest.mark.parametrize(
    ("path", "status", "spread"),
    [
        ("/checkout/payment", 402, 40),
        ("/checkout/payment", 422, 40),
        ("/api/cart/coupon", 404, 2),
        ("/login", 401, 20),
        ("/login", 422, 20),
    ],
)
def test_guesses_get_shorter_as_often_as_longer(ours: Ours, path: str, status: int, spread: int) -> None:
    dice = random.Random(5)
    found = sent(ours, path, [60 + dice.randrange(spread) for _ in range(120)], status, CALLED)
    assert found[-1].refused


def test_passwords_that_are_wrong_and_cards_that_are_declined_are_not_typed_in(ours: Ours) -> None:
    assert sent(ours, "/login", range(60, 150), 401, CALLED)[-1].refused
    assert sent(ours, "/login", range(60, 150), 403, CALLED, start=4_000.0)[-1].refused
    assert sent(ours, "/checkout/pay", range(60, 150), 402, CALLED, start=9_000.0)[-1].refused


def test_guesses_that_grow_without_an_end_are_guesses(ours: Ours) -> None:
    found = sent(ours, "/api/cart/coupon", range(60, 600), 404, CALLED)
    assert (touched(found[:200]), found[-1].refused) == ([], True)
