"""What a visitor is told: rate-limit fields on each response, problem details on a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .facts import ThrottleLevel
from .model import Decision
from .protocols import Headers, Message
from .settings import Quota, Refine, Settings

Header = tuple[bytes, bytes]
Fields = tuple[Header, ...]

STATUS = 429
CLOSE_CODE = 1008  # policy violation, RFC 6455 section 7.4.1
CLOSED_STATUS = 403  # what servers make of a close before the accept
_DENIAL = "websocket.http.response"
_STARTS_AND_BODIES = {
    "http": ("http.response.start", "http.response.body"),
    "websocket": (f"{_DENIAL}.start", f"{_DENIAL}.body"),
}
_TYPES = "https://iana.org/assignments/http-problem-types#"
_QUOTA = (_TYPES + "quota-exceeded", "Quota Exceeded")
_ABNORMAL = (_TYPES + "abnormal-usage-detected", "Abnormal Usage Detected")
_BANNED = ("about:blank", "Too Many Requests")  # RFC 9457 section 4.2.1: such a type has the status' own title
_BAN, _THROTTLE = "ban", "throttle"  # what is violated where it is no quota
# Fields that only make sense together; an app that sends one of them itself speaks for the whole family.
_FAMILY = {
    b"ratelimit": "draft",
    b"ratelimit-policy": "draft",
    b"ratelimit-limit": "draft",  # of older versions of the draft, as Litestar's limiter sends them
    b"ratelimit-remaining": "draft",
    b"ratelimit-reset": "draft",
    b"x-ratelimit-limit": "legacy",
    b"x-ratelimit-remaining": "legacy",
    b"x-ratelimit-reset": "legacy",
    b"x-throttle-level": "level",
    b"x-rate-multiplier": "multiplier",
}
OURS = frozenset(_FAMILY)
# What most answers have, as ASGI asks for it in lower case: none of ours.
ORDINARY: Final = frozenset(
    b"accept-ranges access-control-allow-credentials access-control-allow-headers access-control-allow-methods"
    b" access-control-allow-origin access-control-expose-headers age allow cache-control connection content-disposition"
    b" content-encoding content-language content-length content-location content-range content-security-policy"
    b" content-type cross-origin-embedder-policy cross-origin-opener-policy cross-origin-resource-policy date etag"
    b" expires last-modified link location permissions-policy pragma referrer-policy server server-timing set-cookie"
    b" strict-transport-security vary via x-content-type-options x-frame-options x-process-time x-request-id"
    b" x-xss-protection".split()
)
_MAX_RENDERED = 4096  # lists of fields that are remembered, about 400 bytes each
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request's answer. `error` is what refine_refusal did wrong; the body is then the unrefined one."""

    headers: list[Header]
    body: bytes
    error: Exception | None = None
    status: int = STATUS


CLOSED = Refusal([], b"", status=CLOSED_STATUS)


class Responder:
    """Renders decisions into headers (draft-ietf-httpapi-ratelimit-headers) and refusals (RFC 9457)."""

    def __init__(self, settings: Settings) -> None:
        quotas = settings.limits
        self._quotas = quotas
        self._legacy = settings.legacy_headers
        self._refine = settings.refine_refusal
        self._policy = (b"ratelimit-policy", ", ".join(map(_policy, quotas)).encode())
        self._limits = ", ".join(f'"{quota.name}";r=%d;t=%d' for quota in quotas).encode()
        self._levels = tuple(_level(level) for level in ThrottleLevel)
        self._rendered: dict[tuple[int, tuple[int, ...]], Fields] = {}

    def fields(self, decision: Decision) -> Fields:
        """Return the headers of any response, refused or not.

        A decision without `remaining` (nothing was counted) gives no RateLimit; without quotas there is no policy.
        Retry-After is not among them: in observe mode a refused decision goes with the app's own 200.
        """
        return self._rendered.get((decision.level, decision.quotas)) or self._render(decision)

    def _render(self, decision: Decision) -> Fields:
        if len(self._rendered) >= _MAX_RENDERED:
            self._rendered.clear()
        fields: Fields = self._levels[decision.level]
        if self._quotas and decision.quotas:
            shown = (b"ratelimit", self._limits % decision.quotas)
            fields = (self._policy, shown, *fields, *(self._nearest(decision) if self._legacy else ()))
        elif self._quotas:
            fields = (self._policy, *fields)
        return self._rendered.setdefault((decision.level, decision.quotas), fields)

    def retry_after(self, decision: Decision) -> int:
        """Return the seconds to wait: at least 1, and never less than the `t` of a violated quota."""
        resets = zip(self._quotas, decision.reset, strict=False)  # no resets where nothing was counted
        return max(decision.retry_after, 1, *(reset for quota, reset in resets if quota.name in decision.violated))

    def refusal(self, decision: Decision) -> Refusal:
        """Return the 429's headers and body. What refine_refusal raises is in `error`, and costs nothing else."""
        seconds = self.retry_after(decision)
        body, error = _encode(_problem(decision, seconds)), None
        if self._refine is not None:
            try:
                body = _refined(self._refine, _problem(decision, seconds))
            except Exception as raised:  # noqa: BLE001 - a site's function; the caller counts what it raised
                error = raised
        encoded = body.encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(encoded)),
            (b"cache-control", b"no-store"),
            (b"retry-after", b"%d" % seconds),
            *self.fields(decision),
        ]
        return Refusal(headers, encoded, error)

    def answer(self, scope: Mapping[str, Any], decision: Decision) -> Refusal:
        """Return what a request, or a websocket's handshake, is refused by."""
        return CLOSED if _is_closed(scope) else self.refusal(decision)

    def _nearest(self, decision: Decision) -> list[Header]:
        """Return the older fields, which know one quota only: the one with the smallest part left. Reset in seconds."""
        parts = [left / quota.limit for left, quota in zip(decision.remaining, self._quotas, strict=True)]
        index = parts.index(min(parts))
        return [
            (b"x-ratelimit-limit", b"%d" % self._quotas[index].limit),
            (b"x-ratelimit-remaining", b"%d" % decision.remaining[index]),
            (b"x-ratelimit-reset", b"%d" % decision.reset[index]),
        ]


def messages(scope: Mapping[str, Any], refusal: Refusal) -> tuple[Message, ...]:
    """Return the messages of a refusal; new ones each time, since outer middlewares may change them.

    A websocket gets the denial response where the server has that extension, else is closed before it is accepted,
    which servers answer with 403. The answer to HEAD has no body, and all headers of that to GET.
    """
    if scope["type"] != "http" and _is_closed(scope):
        return ({"type": "websocket.close", "code": CLOSE_CODE},)
    start, body = _STARTS_AND_BODIES[scope["type"]]
    return (
        {"type": start, "status": STATUS, "headers": list(refusal.headers)},
        {"type": body, "body": b"" if scope.get("method") == "HEAD" else refusal.body},
    )


def _is_closed(scope: Mapping[str, Any]) -> bool:
    return scope["type"] == "websocket" and _DENIAL not in (scope.get("extensions") or ())


def in_lower_case(names: Headers, headers: Iterable[Header]) -> Headers:
    """Return an answer's headers by name in lower case, as ASGI asks for it: not all apps comply."""
    try:
        return names if b"".join(names).islower() else {name.lower(): value for name, value in headers}
    except TypeError:  # names that are no bytes are left to the server
        return names


def with_fields(message: Message, fields: Iterable[Header]) -> Message:
    """Return a copy of the app's start message with `fields` after its own headers, which may be any iterable.

    Where the app sends a rate-limit field itself, ours of the same family are left out; other names are added as
    they are.
    """
    headers = list(message.get("headers") or ())
    try:
        names = [header[0].lower() for header in headers]
        if not OURS.isdisjoint(names):
            spoken = {_FAMILY.get(name) for name in names} - {None}
            fields = [field for field in fields if _FAMILY.get(field[0]) not in spoken]
    except (AttributeError, IndexError, TypeError):
        pass  # invalid headers are left to the server
    headers += fields
    return {**message, "headers": headers}


def _policy(quota: Quota) -> str:
    return f'"{quota.name}";q={quota.limit};w={quota.window}'


def _level(level: ThrottleLevel) -> tuple[Header, Header]:
    return (b"x-throttle-level", level.label.encode()), (b"x-rate-multiplier", str(level.multiplier).encode())


def _problem(decision: Decision, seconds: int) -> dict[str, Any]:
    kind, title = _BANNED if _BAN in decision.violated else _ABNORMAL if _THROTTLE in decision.violated else _QUOTA
    return {
        "type": kind,
        "title": title,
        "status": STATUS,
        "detail": _detail(decision, seconds),
        "violated-policies": list(decision.violated),
        "decision": _uuid(decision.id),
        "reasons": list(decision.reasons),
        "retry-after": seconds,
    }


def _detail(decision: Decision, seconds: int) -> str:
    wait = f"Try again in {seconds} second{'s' if seconds != 1 else ''}."
    if _BAN in decision.violated:
        return f"This visitor or network is banned: requests are refused until the ban ends. {wait}"
    if _THROTTLE in decision.violated:
        return f"The pattern of requests looks automated, so no more are answered for now. {wait}"
    return f"No requests are left in: {', '.join(decision.violated)}. {wait}"


def _uuid(value: bytes | None) -> str | None:
    if value is None:
        return None
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _refined(refine: Refine, problem: dict[str, Any]) -> str:
    refined = refine(problem)
    if not isinstance(refined, Mapping):
        raise TypeError(f"refine_refusal returned {type(refined).__name__}, not a mapping")
    return _encode(dict(refined))
