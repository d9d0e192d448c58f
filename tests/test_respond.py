from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

import http_sf
import pytest
from asgiref.testing import ApplicationCommunicator
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.facts import ThrottleLevel
from asgi_analytics.model import Decision
from asgi_analytics.respond import Header, Refusal, Responder, messages, with_fields
from asgi_analytics.settings import Settings

QUOTAS = ("100/second", "1500/minute")
ID = UUID("01926f3a-8d10-7abc-8def-0123456789ab")
ALLOWED = Decision(quotas=(99, 1, 1400, 32))
REFUSED = Decision(
    refused=True,
    level=ThrottleLevel.WARNING,
    quotas=(0, 1, 400, 32),
    retry_after=1,
    violated=("second",),
    reasons=("101 requests in the current second, 100 allowed",),
    id=ID.bytes,
)
BLOCKED = Decision(
    refused=True,
    level=ThrottleLevel.BLOCKED,
    quotas=(0, 1, 0, 32),
    retry_after=600,
    violated=("throttle",),
    reasons=("score 75: regular timing",),
    id=ID.bytes,
)


def responder(**options: Any) -> Responder:
    return Responder(Settings.build(**{"limits": QUOTAS, **options}))


def parsed(headers: Iterable[Header], name: bytes) -> list[tuple[Any, dict[str, Any]]]:
    (value,) = [value for key, value in headers if key == name]
    members: Any = http_sf.parse(value, tltype="list")
    return list(members)


def answered(scope: dict[str, Any], decision: Decision, **options: Any) -> tuple[list[dict[str, Any]], Refusal]:
    """The messages of a refusal as a server gets them, and what was returned."""
    returned: list[Refusal] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        returned.append(responder(**options).answer(scope, decision))
        for message in messages(scope, returned[0]):
            await send(message)

    async def drive() -> list[dict[str, Any]]:
        server = ApplicationCommunicator(app, scope)
        await server.wait()
        return [server.output_queue.get_nowait() for _ in range(server.output_queue.qsize())]

    return asyncio.run(drive()), returned[0]


def problem(decision: Decision, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(responder(**options).refusal(decision).body)
    return body


def test_policies_are_a_list_of_strings_with_quota_and_window() -> None:
    assert parsed(responder().fields(ALLOWED), b"ratelimit-policy") == [
        ("second", {"q": 100, "w": 1}),
        ("minute", {"q": 1500, "w": 60}),
    ]


def test_limits_name_their_policy_with_units_left_and_seconds() -> None:
    assert parsed(responder().fields(ALLOWED), b"ratelimit") == [
        ("second", {"r": 99, "t": 1}),
        ("minute", {"r": 1400, "t": 32}),
    ]


@pytest.mark.parametrize(
    ("level", "label", "multiplier"),
    [
        (ThrottleLevel.NORMAL, b"normal", b"1.0"),
        (ThrottleLevel.WARNING, b"warning", b"0.5"),
        (ThrottleLevel.SEVERE, b"severe", b"0.25"),
        (ThrottleLevel.BLOCKED, b"blocked", b"0.0"),
    ],
)
def test_level_and_multiplier_are_told(level: ThrottleLevel, label: bytes, multiplier: bytes) -> None:
    fields = dict(responder().fields(Decision(level=level, quotas=(1, 1, 1, 1))))
    assert (fields[b"x-throttle-level"], fields[b"x-rate-multiplier"]) == (label, multiplier)


NUMBERS = st.integers(0, 999_999_999_999_999)
DECISIONS = st.builds(
    Decision,
    refused=st.booleans(),
    level=st.sampled_from(ThrottleLevel),
    quotas=st.tuples(*[NUMBERS] * 6),
    retry_after=NUMBERS,
    violated=st.lists(st.sampled_from(["second", "15-minutes", "day", "throttle", "network-second"])).map(tuple),
    reasons=st.lists(st.text()).map(tuple),
    id=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
)


@given(DECISIONS, st.booleans())
def test_every_decision_gives_valid_fields_and_a_valid_problem(decision: Decision, legacy: bool) -> None:
    ours = responder(limits=("20/second", "100/15 minutes", "5000/day"), legacy_headers=legacy)
    fields = ours.fields(decision)
    limits, policies = parsed(fields, b"ratelimit"), parsed(fields, b"ratelimit-policy")
    assert [name for name, _ in limits] == [name for name, _ in policies] == ["second", "15-minutes", "day"]
    assert [tuple(one.values()) for _, one in limits] == list(zip(decision.remaining, decision.reset, strict=True))
    refusal = ours.refusal(decision)
    told = dict(refusal.headers)
    assert json.loads(refusal.body)["reasons"] == list(decision.reasons)
    assert int(told[b"content-length"]) == len(refusal.body)
    waits = [one["t"] for name, one in limits if name in decision.violated]
    assert int(told[b"retry-after"]) >= max([1, decision.retry_after, *waits])


@given(DECISIONS)
def test_names_are_lower_case_and_no_value_can_break_a_line(decision: Decision) -> None:
    headers = responder(limits=("1/second", "2/minute", "3/day"), legacy_headers=True).refusal(decision).headers
    assert all(name == name.lower() and value.isascii() and value.decode().isprintable() for name, value in headers)


def test_one_quota_is_enough_and_none_gives_the_level_alone() -> None:
    (one,) = parsed(responder(limits="5/hour").fields(Decision(quotas=(4, 3000))), b"ratelimit")
    assert one == ("hour", {"r": 4, "t": 3000})
    assert [name for name, _ in responder(limits=None).fields(Decision())] == [
        b"x-throttle-level",
        b"x-rate-multiplier",
    ]


def test_a_decision_that_counted_nothing_tells_the_policy_only() -> None:
    names = [name for name, _ in responder(legacy_headers=True).fields(Decision())]
    assert names == [b"ratelimit-policy", b"x-throttle-level", b"x-rate-multiplier"]


def test_retry_after_is_never_among_the_fields_of_the_apps_own_answer() -> None:
    assert b"retry-after" not in dict(responder().fields(REFUSED))  # observe mode: the app answers 200


def test_legacy_fields_tell_the_quota_nearest_to_its_end() -> None:
    fields = dict(responder(legacy_headers=True).fields(Decision(quotas=(50, 1, 700, 32))))
    assert fields[b"x-ratelimit-limit"] == b"1500"
    assert fields[b"x-ratelimit-remaining"] == b"700"
    assert fields[b"x-ratelimit-reset"] == b"32"
    assert not any(name.startswith(b"x-ratelimit") for name, _ in responder().fields(ALLOWED))


@pytest.mark.parametrize(
    ("violated", "retry_after", "expected"),
    [
        (("second",), 1, 1),
        (("second",), 0, 1),
        (("second", "minute"), 1, 32),
        (("minute",), 5, 32),
        (("minute",), 90, 90),
        (("network-minute",), 17, 17),
        (("throttle",), 600, 600),
        ((), 0, 1),
    ],
)
def test_retry_after_is_never_earlier_than_the_violated_quotas_reset(
    violated: tuple[str, ...], retry_after: int, expected: int
) -> None:
    decision = Decision(refused=True, quotas=(0, 1, 0, 32), violated=violated, retry_after=retry_after, id=ID.bytes)
    refusal = responder().refusal(decision)
    assert dict(refusal.headers)[b"retry-after"] == str(expected).encode()
    assert json.loads(refusal.body)["retry-after"] == expected


def test_a_spent_quota_is_a_quota_exceeded_problem() -> None:
    assert problem(REFUSED) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "No requests are left in: second. Try again in 1 second.",
        "violated-policies": ["second"],
        "decision": str(ID),
        "reasons": ["101 requests in the current second, 100 allowed"],
        "retry-after": 1,
    }


def test_a_blocked_visitor_gets_an_abnormal_usage_problem() -> None:
    told = problem(BLOCKED)
    assert told["type"] == "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
    assert told["title"] == "Abnormal Usage Detected"
    assert told["detail"].endswith("Try again in 600 seconds.")
    assert told["violated-policies"] == ["throttle"]


def test_a_ban_is_a_problem_of_its_own_and_no_quota() -> None:
    banned = Decision(refused=True, level=ThrottleLevel.BLOCKED, retry_after=60, violated=("ban",), reasons=("x",))
    told = problem(banned)
    assert (told["type"], told["title"]) == ("about:blank", "Too Many Requests")
    assert told["detail"] == (
        "This visitor or network is banned: requests are refused until the ban ends. Try again in 60 seconds."
    )


def test_reasons_may_hold_any_text() -> None:
    told = problem(Decision(refused=True, quotas=(0, 1, 0, 1), reasons=('\ud800\x00\n\u2028"<é',), id=None))
    assert told["reasons"] == ['\ud800\x00\n\u2028"<é']
    assert told["decision"] is None


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "FOO"])
def test_a_request_is_answered_429_without_being_read(method: str) -> None:
    messages, returned = answered({"type": "http", "method": method}, REFUSED)
    start, body = messages
    headers = dict(start["headers"])
    assert (start["type"], start["status"], body["type"]) == ("http.response.start", 429, "http.response.body")
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert not body.get("more_body", False)
    assert (returned.status, returned.body) == (429, body["body"])


def test_the_answer_to_head_has_the_same_headers_and_no_body() -> None:
    (start, body), returned = answered({"type": "http", "method": "HEAD"}, REFUSED)
    (expected, whole), _ = answered({"type": "http", "method": "GET"}, REFUSED)
    assert start == expected
    assert (body["body"], returned.body) == (b"", whole["body"])


def test_a_websocket_gets_the_denial_response_where_the_server_has_it() -> None:
    scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    (start, body), returned = answered(scope, BLOCKED)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert body["type"] == "websocket.http.response.body"
    assert dict(start["headers"])[b"retry-after"] == b"600"
    assert json.loads(body["body"])["decision"] == str(ID)
    assert returned.status == 429


@pytest.mark.parametrize("more", [{}, {"extensions": None}, {"extensions": {}}, {"extensions": {"other": {}}}])
def test_a_websocket_is_closed_before_the_accept_where_it_has_not(more: dict[str, Any]) -> None:
    messages, returned = answered({"type": "websocket", **more}, BLOCKED)
    assert messages == [{"type": "websocket.close", "code": 1008}]
    assert (returned.status, returned.body, returned.headers) == (403, b"", [])


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType])
def test_the_refinement_hook_may_change_the_body(kind: Any) -> None:
    def refine(problem: dict[str, Any]) -> Mapping[str, Any]:
        problem["contact"] = "ops@example.org"
        del problem["reasons"]
        return kind(problem)  # type: ignore[no-any-return]

    refusal = responder(refine_refusal=refine).refusal(REFUSED)
    told = json.loads(refusal.body)
    assert told["contact"] == "ops@example.org"
    assert "reasons" not in told
    assert dict(refusal.headers)[b"content-length"] == str(len(refusal.body)).encode()
    assert refusal.error is None


def nested() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"": deep}
    return deep


@pytest.mark.parametrize(
    ("refined", "error"),
    [
        (lambda problem: 1 / 0, ZeroDivisionError),
        (lambda problem: None, TypeError),
        (lambda problem: [], TypeError),
        (lambda problem: "{}", TypeError),
        (lambda problem: {"x": object()}, TypeError),
        (lambda problem: {"x": b"bytes"}, TypeError),
        (lambda problem: {("a",): 1}, TypeError),
        (lambda problem: {"x": float("nan")}, ValueError),
        (lambda problem: {"x": nested()}, RecursionError),
        (lambda one, two: {}, TypeError),
        (lambda problem: problem["nothing"], KeyError),
        (lambda problem: problem.clear(), TypeError),
        (lambda problem: problem["reasons"].append(object()) or problem, TypeError),
    ],
)
def test_a_failing_hook_leaves_the_body_as_it_was_and_is_reported(refined: Any, error: type[Exception]) -> None:
    refusal = responder(refine_refusal=refined).refusal(REFUSED)
    assert refusal.body == responder().refusal(REFUSED).body
    assert refusal.headers == responder().refusal(REFUSED).headers
    assert type(refusal.error) is error


FIELDS = list(responder(legacy_headers=True).fields(ALLOWED))
THEIRS = [(b"content-type", b"text/html"), (b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")]


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda headers: (header for header in headers)])
def test_fields_follow_the_apps_headers_of_any_iterable(kind: Any) -> None:
    message = {"type": "http.response.start", "status": 200, "headers": kind(THEIRS), "trailers": True, "x": 1}
    sent = with_fields(message, FIELDS)
    assert sent == {"type": "http.response.start", "status": 200, "headers": THEIRS + FIELDS, "trailers": True, "x": 1}


@pytest.mark.parametrize("message", [{"status": 204}, {"status": 204, "headers": None}, {"status": 204, "headers": []}])
def test_an_app_may_send_no_headers(message: dict[str, Any]) -> None:
    assert with_fields(message, FIELDS) == {"status": 204, "headers": FIELDS}


def test_the_apps_message_and_headers_are_left_as_they_were() -> None:
    headers = list(THEIRS)
    message = {"type": "http.response.start", "status": 200, "headers": headers}
    sent = with_fields(message, FIELDS)
    assert message == {"type": "http.response.start", "status": 200, "headers": THEIRS}
    assert message["headers"] is headers
    assert sent["headers"] is not FIELDS


@pytest.mark.parametrize(
    ("own", "missing"),
    [
        (b"ratelimit", {b"ratelimit", b"ratelimit-policy"}),
        (b"RateLimit-Policy", {b"ratelimit", b"ratelimit-policy"}),
        (b"x-ratelimit-limit", {b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"}),
        (b"X-Throttle-Level", {b"x-throttle-level"}),
        (b"x-rate-multiplier", {b"x-rate-multiplier"}),
        (b"retry-after", set()),
    ],
)
def test_what_the_app_says_itself_is_not_said_again(own: bytes, missing: set[bytes]) -> None:
    fields = [*FIELDS, (b"set-cookie", b"aa_v=1")]
    sent = with_fields({"status": 200, "headers": [*THEIRS, (own, b"app's")]}, fields)
    assert sent["headers"] == [*THEIRS, (own, b"app's"), *(field for field in fields if field[0] not in missing)]


@pytest.mark.parametrize("header", [(), None, 42, (None, b""), ([], b""), (bytearray(b"a"), b"")])
def test_headers_that_are_none_pass_on_to_the_server(header: Any) -> None:
    sent = with_fields({"status": 200, "headers": [header]}, FIELDS)
    assert sent["headers"] == [header, *FIELDS]
