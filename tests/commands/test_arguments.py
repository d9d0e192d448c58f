"""How commands read numbers, times and lists."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import timedelta

import pytest

from asgi_analytics import cli
from asgi_analytics.commands.arguments import span, split
from asgi_analytics.commands.policy import moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("30min", 1800), ("2H", 7200), (" 7 d", 604_800), ("2w", 1_209_600)],
)
def test_a_span_is_written_alike_in_all_commands(text: str, seconds: int) -> None:
    assert span(text) == timedelta(seconds=seconds)
    assert moment(text, 5e6) == 5e6 - seconds


@pytest.mark.parametrize("text", ["", "0d", "-1d", "1", "d", "1.5h", "1y", "1h30m", "1234567d", "٣d", "5201w"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a time"):
        span(text)


def test_lists_are_given_several_times_or_with_commas() -> None:
    assert split(["10/minute, 5/hour", "1/day", ","]) == ["10/minute", "5/hour", "1/day"]


@pytest.mark.parametrize(
    "given", [("{0}", "{1}"), ("{0},{1}",), ("{0}", "--{option}", "{1}")], ids=["words", "commas", "repeated"]
)
def test_no_quota_or_proxy_that_doctor_is_given_is_left_out(
    given: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {"limits": ("20/second", "600/minute"), "trusted-proxies": ("10.0.0.0/8", "192.0.2.0/24")}
    told = [
        argument
        for option, values in lists.items()
        for argument in (f"--{option}", *(text.format(*values, option=option) for text in given))
    ]
    cli.main(["doctor", "--dsn", "postgresql://127.0.0.1:1/none", *told])
    report = capsys.readouterr().out
    assert "quota: 20/second, 600/minute per visitor; 30000/minute per client network" in report
    assert "trusted proxies: 10.0.0.0/8, 192.0.2.0/24" in report
