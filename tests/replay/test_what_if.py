"""What-if over a recorded run: nothing differs under the same policy, and what differs under another is told."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from asgi_analytics import cli
from asgi_analytics.policy import canonical, version
from asgi_analytics.settings import Settings
from asgi_analytics.store.recorded import remember_policy
from tests.replay.live import LIMITS, PERIOD, record


def what_if(dsn: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD, "--export", "json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def remember(dsn: str, **options: Any) -> str:
    settings = Settings.build(**options)
    with psycopg.connect(dsn) as connection:
        remember_policy(connection, version(settings), canonical(settings), in_force=True)
    return version(settings)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_if_of_the_live_policy_differs_in_nothing(
    dsn: str, capsys: pytest.CaptureFixture[str], seed: int, mode: str
) -> None:
    live = record(dsn, seed, mode=mode)
    assert (429 in live.statuses) is (mode == "enforce")
    remember(dsn, limits=LIMITS)
    found = what_if(dsn, capsys)
    assert found["hits"] == len(live.statuses)
    assert found["refused"]["then"] > 20
    differing = (found["refused"]["newly"], found["refused"]["freed"], found["levels"], found["scores"])
    assert differing == (0, 0, 0, 0)
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD]) == 0
    assert "Nothing differs" in capsys.readouterr().out
