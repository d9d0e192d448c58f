"""The registry names every case once, and only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.faults.__main__ import main
from tests.acceptance.faults.registry import CASES, Case
from tests.acceptance.faults.table import lines

HOUSE = Path(__file__).parents[3]


def test_each_case_stands_once_and_in_order() -> None:
    numbers = [int(case.id[1:]) for case in CASES]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_a_named_test_or_a_stated_reason(case: Case) -> None:
    assert case.tests or case.reason
    for test in case.tests:
        file, _, name = test.partition("[")[0].partition("::")
        assert re.search(rf"^(async )?def {name}\(", (HOUSE / file).read_text(), re.MULTILINE), test


def test_every_fault_test_is_of_a_case() -> None:
    named = {test.partition("[")[0] for case in CASES for test in case.tests}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file.name == Path(__file__).name:
            continue
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE):
            assert f"tests/acceptance/faults/{file.name}::{name}" in named, name


def test_the_table_has_a_line_for_each_case_and_says_what_did_not_run() -> None:
    told = list(lines({}))
    assert len(told) == len(CASES) + 1
    assert "not run" in told[1]


@pytest.mark.parametrize(
    ("given", "said"), [(("F09", "F999"), "no case F999; allowed: F01, "), (("--rounds", "0"), "number from 1 to")]
)
def test_what_is_no_case_runs_nothing(given: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert said in capsys.readouterr().err
