"""What was once given to a fuzzer, or found by one, is parsed without an error that is not declared, and in time."""

from __future__ import annotations

import pytest

from tests.fuzz.corpus import FOLDER, seeds
from tests.fuzz.targets import LONGEST, TARGETS, slowness, stretched


@pytest.mark.parametrize("name", TARGETS)
def test_each_seed_is_parsed_or_refused_by_a_declared_error_and_takes_little_time(name: str) -> None:
    target, factor = TARGETS[name], slowness()
    for seed in seeds(name):
        for data in (seed, seed[: len(seed) // 2], stretched(seed), stretched(seed + b"\n")):
            target.run(data)
            took = target.cost_ms(data[:LONGEST]) / factor
            if took > target.most_ms:  # or the machine became slower meanwhile
                took = min(target.cost_ms(data[:LONGEST]) / slowness() for _ in range(5))
            assert took <= target.most_ms, (data[:80], took)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_seeds_of_at_most_8_kilobytes_and_a_reason_to_be_slow(name: str) -> None:
    assert len(seeds(name)) >= 3
    assert max(map(len, seeds(name))) <= LONGEST
    assert (TARGETS[name].most_ms > 1.0) == bool(TARGETS[name].because)


def test_no_file_of_seeds_is_of_no_target() -> None:
    assert {path.stem for path in FOLDER.iterdir()} <= set(TARGETS)
