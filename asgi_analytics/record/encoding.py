"""Rows in Postgres COPY binary format. What repeats is encoded once and kept as bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict

from ..model import Decision, Finding, Identity, Referral

NULL = b"\xff\xff\xff\xff"
EPOCH_US = 946_684_800_000_000  # 2000-01-01, where Postgres counts from

HIT_COLUMNS = (
    *("id", "time", "page_view", "duration_us", "bytes_sent", "score", "level"),
    *("status", "first_byte_us", "close_code", "level_before", "decision_id"),
    *("outcome", "method", "path", "route", "query"),
    *("channel", "source", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "click_id"),
    "session_id",
    *("fingerprint", "network", "site", "address", "country", "region", "city", "asn", "organisation"),
    *("browser", "browser_version", "os", "os_version", "device", "bot_class", "crawler", "language", "provisional"),
)
DECISION_COLUMNS = (
    *("id", "time", "refused", "enforced", "level", "score", "retry_after"),
    *("site", "hit_id", "fingerprint", "network", "level_before", "detail"),
)

_LENGTH = struct.Struct("!i")
_SMALL = struct.Struct("!ih")
_INTEGER = struct.Struct("!ii")
_BIG = struct.Struct("!iq")
_STATUS = struct.Struct("!ihiq")
_HIT_HEAD = struct.Struct("!h i16s iq i? iq iq ih ih".replace(" ", ""))
_DECISION_HEAD = struct.Struct("!h i16s iq i? i? ih ih ii".replace(" ", ""))


def text(value: str | None, most: int = 256) -> bytes:
    """Encode a text field cut to `most` characters; NUL and lone surrogates become U+FFFD. None is NULL."""
    if value is None:
        return NULL
    raw = value[:most].replace("\0", "\ufffd").encode("utf-8", "replace")
    return _LENGTH.pack(len(raw)) + raw


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


def visitor(identity: Identity, site: str) -> bytes:
    """Encode the columns from `fingerprint` on: what all hits of a visitor share."""
    place, agent, told = identity.place, identity.agent, identity.tracked
    return b"".join(
        (
            uuid(identity.fingerprint if told else None),
            uuid(identity.network if told else None),
            text(site, 100),
            text(identity.address if told else None, 64),
            text(place.country, 2),
            text(place.region if told else None, 64),
            text(place.city if told else None, 128),
            big(place.asn if told else None),
            text(place.organisation if told else None),
            text(agent.browser, 64),
            text(agent.version, 32),
            text(agent.os, 64),
            text(agent.os_version, 32),
            text(agent.device, 16),
            text(agent.bot_class, 32),
            text(agent.crawler, 64),
            text(identity.language if told else None, 35),
            boolean(identity.provisional),
        )
    )


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
NO_DECISION = NULL * 3  # close_code, level_before, decision_id
_COLUMNS = len(HIT_COLUMNS)
_DECISION_COLUMNS = len(DECISION_COLUMNS)


def hit_head(
    hit_id: bytes, time_us: int, page_view: bool, duration_us: int, bytes_sent: int, score: int, level: int
) -> bytes:
    """Encode the columns `id` to `level`; `time_us` is wall time in microseconds since 1970."""
    return _HIT_HEAD.pack(
        _COLUMNS, 16, hit_id, 8, time_us - EPOCH_US, 1, page_view, 8, duration_us, 8, bytes_sent,
        2, score if score < 32767 else 32767, 2, level,
    )  # fmt: skip


def answered(status: int | None, first_byte_us: int | None) -> bytes:
    """Encode `status` and `first_byte_us`; a status outside 100 to 599 is NULL."""
    if type(status) is int and first_byte_us is not None and 100 <= status <= 599:
        return _STATUS.pack(2, status, 8, first_byte_us)
    valid = status if isinstance(status, int) and 100 <= status <= 599 else None
    return small(valid) + big(first_byte_us)


def decided(close_code: int | None, level_before: int | None, decision_id: bytes | None) -> bytes:
    """Encode `close_code` to `decision_id`."""
    code = NULL if close_code is None else _INTEGER.pack(4, max(0, min(int(close_code), 65535)))
    return code + small(level_before) + uuid(decision_id)


def decision_row(
    decision: Decision,
    findings: Sequence[Finding],
    *,
    hit_id: bytes,
    time_us: int,
    enforced: bool,
    site: str,
    identity: Identity,
) -> bytes:
    """Encode one row of analytics.decisions; `decision.id` must be set."""
    detail = json.dumps(
        {
            "violated": list(decision.violated),
            "reasons": list(decision.reasons),
            "signals": [asdict(finding) for finding in findings],
        }
    ).encode()
    before = decision.previous_level
    return b"".join(
        (
            _DECISION_HEAD.pack(
                _DECISION_COLUMNS, 16, decision.id or hit_id, 8, time_us - EPOCH_US, 1, decision.refused, 1, enforced,
                2, int(decision.level), 2, min(decision.score, 32767), 4, min(decision.retry_after, 2**31 - 1),
            ),  # fmt: skip
            text(site, 100),
            uuid(hit_id),
            uuid(identity.fingerprint if identity.tracked else None),
            uuid(identity.network if identity.tracked else None),
            small(None if before is None else int(before)),
            _LENGTH.pack(len(detail) + 1) + b"\x01" + detail,
        )
    )
