from __future__ import annotations

from collections.abc import Sequence

import pytest

from asgi_analytics.identify.operators import OPERATORS
from asgi_analytics.identify.reverse_dns import judge_names, names_to_confirm
from asgi_analytics.model import ClaimStatus

(GOOGLE,) = [operator for operator in OPERATORS if operator.name == "Google"]
ADDRESS = "66.249.66.1"
CRAWL = "crawl-66-249-66-1.googlebot.com"


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        ([CRAWL], [CRAWL]),
        ([CRAWL.upper() + "."], [CRAWL]),
        (["geo-crawl-1.geo.googlebot.com"], ["geo-crawl-1.geo.googlebot.com"]),
        (["rate-limited-proxy-1.google.com"], ["rate-limited-proxy-1.google.com"]),
        (["1.66.249.66.bc.googleusercontent.com"], []),
        (["googlebot.com.evil.example", "evilgooglebot.com"], []),
        ([f"{number}.googlebot.com" for number in range(50)], [f"{number}.googlebot.com" for number in range(4)]),
        ([], []),
    ],
)
def test_only_names_in_the_operators_domains_are_worth_asking(names: list[str], asked: list[str]) -> None:
    assert names_to_confirm(GOOGLE, names) == asked


@pytest.mark.parametrize(
    ("names", "confirmed", "has_names", "status"),
    [
        ([CRAWL], {CRAWL: [ADDRESS]}, True, ClaimStatus.VERIFIED),
        ([CRAWL], {CRAWL: ["66.249.66.2", "::ffff:66.249.66.1"]}, True, ClaimStatus.VERIFIED),
        (["a.evil.example", CRAWL], {CRAWL: [ADDRESS]}, True, ClaimStatus.VERIFIED),
        ([CRAWL], {CRAWL: ["66.249.66.2"]}, True, ClaimStatus.FALSE),
        ([CRAWL], {CRAWL: []}, True, ClaimStatus.FALSE),
        (["a.evil.example"], {}, True, ClaimStatus.FALSE),
        (["1.66.249.66.bc.googleusercontent.com"], {}, True, ClaimStatus.UNVERIFIABLE),
        ([], {}, True, ClaimStatus.FALSE),
        ([], {}, False, ClaimStatus.UNVERIFIABLE),
    ],
)
def test_only_a_name_confirmed_forward_verifies(
    names: list[str], confirmed: dict[str, Sequence[str]], has_names: bool, status: ClaimStatus
) -> None:
    found = judge_names(GOOGLE, ADDRESS, names, confirmed, has_names)
    assert (found.status, found.method, found.operator) == (status, "dns", "Google")
    assert found.text


def test_a_name_cannot_write_into_our_lines() -> None:
    found = judge_names(GOOGLE, ADDRESS, ["evil\x1b[2J\n" + "x" * 9999], {}, True)
    assert found.text.isprintable()
    assert len(found.text) < 400
