"""Rows in Postgres COPY binary format. What repeats is encoded once and cached as bytes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from ..model import MAX_SCORE, Agent, Decision, Hit, Identity, Place, Referral

NULL: Final = b"\xff\xff\xff\xff"
EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01, where Postgres counts from

HIT_COLUMNS = (
    *("id", "time", "duration_us", "bytes_sent", "first_byte_us", "clock", "inputs", "numbers"),
    *("page_view", "score", "level", "status", "from_inside", "exempt"),  # from here on, many hits have the same
    *("close_code", "level_before", "decision_id"),
    *("outcome", "method", "path", "path_inputs", "route", "query"),
    *("channel", "source", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "click_id"),
    "session_id",
    *("fingerprint", "network", "site", "address", "country", "region", "city", "asn", "organisation"),
    *("browser", "browser_version", "os", "os_version", "device", "bot_class", "crawler", "language", "provisional"),
    *("outdated", "operator", "purpose", "verified", "policy"),
)
DECISION_COLUMNS = (
    *("id", "time", "refused", "enforced", "level", "score", "retry_after"),
    *("site", "hit_id", "fingerprint", "network", "level_before", "detail"),
)

# The years 4713 BC to 294276, which is what a timestamptz holds.
_FIRST_US: Final = -211_813_488_000_000_000
_LAST_US: Final = 9_223_371_331_199_999_999
_LENGTH = struct.Struct("!i")
_SMALL = struct.Struct("!ih")
_INTEGER = struct.Struct("!ii")
_BIG = struct.Struct("!iq")
_HIT_HEAD: Final = struct.Struct("!h iQQ iq iq iq iq id ih".replace(" ", ""))
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_DECISION_HEAD = struct.Struct("!h i16s iq i? i? ih ih ii".replace(" ", ""))


def text(value: str | None, most: int = 256) -> bytes:
    """Encode a text field cut to `most` characters; NUL and lone surrogates become U+FFFD. None is NULL."""
    if value is None:
        return NULL
    cut = value[:most].replace("\0", "\ufffd")
    try:
        raw = cut.encode()
    except UnicodeEncodeError:
        raw = _storable(cut).encode()
    return _LENGTH.pack(len(raw)) + raw


def _storable(value: str) -> str:
    """Return a text that Postgres accepts: NUL and lone surrogates become U+FFFD."""
    return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def uuid(value: bytes | None) -> bytes:
    """Encode a uuid field from its 16 bytes."""
    return NULL if value is None else _LENGTH.pack(16) + value


def small(value: int | None) -> bytes:
    """Encode a smallint field, clamped to its range: binary COPY stores overflow silently."""
    return NULL if value is None else _SMALL.pack(2, max(-32768, min(value, 32767)))


def big(value: int | None) -> bytes:
    """Encode a bigint field, clamped to its range."""
    return NULL if value is None else _BIG.pack(8, max(-(1 << 63), min(value, (1 << 63) - 1)))


def boolean(value: bool) -> bytes:
    """Encode a boolean field."""
    return b"\0\0\0\x01\x01" if value else b"\0\0\0\x01\x00"


def visitor(identity: Identity, site: str, verified: str | None = None, policy: str | None = None) -> bytes:
    """Encode the columns from `fingerprint` on: what all hits of a visitor share.

    `verified`: the status of a crawler's claim; `policy`: the version of the policy that judges.
    """
    tracked = identity.tracked
    agent, operator = _agent(identity.agent)
    return b"".join(
        (
            uuid(identity.fingerprint if tracked else None),
            uuid(identity.network if tracked else None),
            text(site, 100),
            text(identity.address if tracked else None, 64),
            _place(identity.place if tracked else Place(identity.place.country)),
            agent,
            text(identity.language if tracked else None, 35),
            boolean(identity.provisional),
            operator,
            text(verified, 16),
            text(policy, 16),
        )
    )


@lru_cache(4096)
def _place(place: Place) -> bytes:
    """Encode the columns `country` to `organisation`."""
    region, city = text(place.region, 64), text(place.city, 128)
    return text(place.country, 2) + region + city + big(place.asn) + text(place.organisation)


@lru_cache(4096)
def _agent(agent: Agent) -> tuple[bytes, bytes]:
    """Encode the columns `browser` to `crawler`, and `outdated` to `purpose`."""
    browser = (text(agent.browser, 64), text(agent.version, 32), text(agent.os, 64), text(agent.os_version, 32))
    program = (text(agent.device, 16), text(agent.bot_class, 32), text(agent.crawler, 64))
    return b"".join(browser + program), boolean(agent.outdated) + text(agent.operator, 64) + text(agent.purpose, 32)


def referral(value: Referral) -> bytes:
    """Encode the columns `channel` to `click_id`."""
    return b"".join(
        (
            text(value.channel, 32),
            text(value.source),
            text(value.utm_source),
            text(value.utm_medium),
            text(value.utm_campaign),
            text(value.utm_term),
            text(value.utm_content),
            text(value.click_id, 32),
        )
    )


NO_REFERRAL = referral(Referral())
_COLUMNS: Final = len(HIT_COLUMNS)
_DECISION_COLUMNS = len(DECISION_COLUMNS)


def hit_head(hit: Hit, high: int, low: int) -> bytes:
    """Encode the columns `id` to `inputs`; `high` and `low` are the halves of the id, a uuid."""
    time_us = hit.time_ns // 1000
    try:
        if 0 <= time_us < _LAST_US:
            return _HIT_HEAD.pack(
                _COLUMNS, 16, high, low, 8, time_us - EPOCH_US, 8, hit.duration_us, 8, hit.bytes_sent,
                8, hit.first_byte_us, 8, hit.started_at, 2, hit.inputs,
            )  # fmt: skip
    except struct.error:  # out of range or no number: rare, so checked one by one only then
        pass
    start = struct.pack("!hiQQ", _COLUMNS, 16, high, low) + big(_timestamp(time_us))
    start += big(hit.duration_us) + big(hit.bytes_sent) + big(hit.first_byte_us)
    return start + struct.pack("!idih", 8, hit.started_at, 2, hit.inputs)


def judged(hit: Hit, decision: Decision) -> bytes:
    """Encode the columns `page_view` to `exempt`. A status outside 100 to 599 is NULL."""
    status = hit.status
    return b"".join(
        (
            boolean(hit.page_view),
            small(decision.score),
            small(decision.level),
            small(status if isinstance(status, int) and 100 <= status <= 599 else None),
            NULL if hit.from_inside is None else boolean(hit.from_inside),
            boolean(True) if decision.exempt else NULL,
        )
    )


def _timestamp(time_us: int) -> int:
    return max(_FIRST_US, min(time_us - EPOCH_US, _LAST_US))


def decided(close_code: object, level_before: int | None, decision_id: bytes | None) -> bytes:
    """Encode `close_code` to `decision_id`."""
    code = _INTEGER.pack(4, max(0, min(close_code, 65535))) if isinstance(close_code, int) else NULL
    return code + small(level_before) + uuid(decision_id)


def decision_row(
    decision: Decision,
    detail: Mapping[str, Any] | None,
    *,
    hit_id: bytes,
    time_us: int,
    enforced: bool,
    site: str,
    identity: Identity,
) -> bytes:
    """Encode one row of analytics.decisions; `decision.id` must be set. `detail` is JSON values (decide.explain)."""
    told = detail or {"violated": list(decision.violated), "reasons": list(decision.reasons), "signals": []}
    stored = _json(told).encode()
    before = decision.previous_level
    score, wait = max(0, min(decision.score, MAX_SCORE)), max(0, min(decision.retry_after, 2**31 - 1))
    head = _DECISION_HEAD.pack(
        _DECISION_COLUMNS, 16, decision.id or hit_id, 8, _timestamp(time_us), 1, decision.refused, 1, enforced,
        2, int(decision.level), 2, score, 4, wait,
    )  # fmt: skip
    return b"".join(
        (
            head,
            text(site, 100),
            uuid(hit_id),
            uuid(identity.fingerprint if identity.tracked else None),
            uuid(identity.network if identity.tracked else None),
            small(None if before is None else int(before)),
            _LENGTH.pack(len(stored) + 1) + b"\x01" + stored,
        )
    )


def _json(value: Mapping[str, Any]) -> str:
    """Return JSON that jsonb accepts."""
    try:
        text = _encode(value)
    except (TypeError, ValueError):  # a mapping that is no dict; NaN
        return _encode(_storable_json(value))
    # Half of a refusal's time would go into texts that nothing is wrong with.
    return _encode(_storable_json(value)) if "\\u0000" in text or "\\ud" in text else text


def _storable_json(value: Any) -> Any:
    """Return a JSON value that jsonb accepts: texts as by `_storable`, None for NaN and infinities."""
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_storable(str(name)): _storable_json(part) for name, part in value.items()}
    return [_storable_json(part) for part in value] if isinstance(value, (list, tuple)) else value
