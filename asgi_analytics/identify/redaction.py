"""What is not stored in clear: secrets in paths, campaign parameters and queries."""

from __future__ import annotations

import re

from .iban import HEAD, hide_accounts

SECRET_NAMES = frozenset(
    ["access", "assertion", "card", "code", "cvv", "hash", "hmac", "iban", "key", "login", "mail", "nonce", "otp"]
).union(
    ["pass", "phone", "phpsessid", "pin", "pw", "samlresponse", "sid", "sig", "ssn", "state", "tel", "ticket"],
    ["user", "username"],
)
_SECRET_PARTS = re.compile(
    r"token|passw|passphrase|pwd|secret|api_?-?key|session|signature|jwt|credential|e-?mail|oauth|_auth|auth_|^auth$"
    r"|authoriz|authentic|(?:[_-]|^)(?:key|sig|pass|otp|pin)(?:[_-]|$)|bearer|private|x-amz-"
    r"|(?:access|auth|confirm\w{0,6}|invite|login|reset|security|verif\w{0,8})[_-]?code"
)
# Tried where a run begins only: a path made to be slow would be read anew from each of its characters.
# A JSON Web Token, or a run of 32 and more letters and digits mixed: ids of pages are shorter or have words (_hidden).
_SECRET = re.compile(
    r"(?<![\w-])(?:(?=[\w-]*?eyJ[\w-]{8})[\w-]++\.[\w-]+(?:\.[\w-]*)?|(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[\w-]{32,})",
    re.ASCII,
)
# Shorter ones that say what they are, by the prefixes of AWS, GitHub, GitLab, Google, OpenAI, Anthropic, OpenRouter,
# Stripe, Slack, npm, PyPI, SendGrid, Hugging Face, DigitalOcean, Shopify; and the head of a JSON Web Token. With what
# no title has behind them: "/xoxo-and-goodbye", "/npm_install_fails_with_eacces". Those of any length with a digit
# somewhere begin behind no dash, and have it among the first 32: "sk-sk-sk-" is made to be slow.
_TOKENS = (
    r"A(?:BI|CC|KI|SI)A[A-Z2-7]{16}(?![A-Za-z\d])",
    r"gh[oprsu]_[A-Za-z\d]{16,}",
    r"github_pat_[A-Za-z\d]{16,}\w*",
    r"g(?<!-.)l(?:agent|cbt|dt|ft|imt|pat|ptt|rt|soat)-(?=[\w-]{0,32}\d)[\w-]{16,}",
    r"AIza[\w-]{20,}",
    r"ya29\.[\w-]{8,}",
    r"GOCSPX-[\w-]{16,}",
    r"sk-ant-[a-z]{3,6}\d\d-[\w-]+",
    r"sk-or-v\d-[\w-]{8,}",
    r"s(?<!-.)k-(?=[\w-]{0,32}[A-Z])(?=[\w-]{0,32}\d)[\w-]{16,}",
    *(rf"{kind}k_(?:live|test)_(?=[A-Za-z]*\d)[A-Za-z\d]{{8,}}" for kind in "prs"),
    r"whsec_[A-Za-z\d]{8,}",
    r"x(?<!-.)ox[abceprs]-(?=[\w-]{0,32}\d)[\w-]{8,}",
    r"xapp-\d-[\w-]{8,}",
    r"npm_[A-Za-z\d]{20,}",
    r"pypi-AgE[\w-]{8,}",
    r"SG\.[\w-]{8,}\.[\w-]{8,}",
    r"hf_[A-Za-z]{20,}",
    r"do[opr]_v1_[a-f\d]{8,}",
    r"shp[a-z]{2}_[a-f\d]{16,}",
    r"eyJ[\w-]{12,}",
)
# Here and below, what stands in front is looked at after the first character: those are found by a fast scan.
_HEADS = dict.fromkeys(token[0] for token in _TOKENS)
_BY_HEAD = {head: "|".join(token[1:] for token in _TOKENS if token[0] == head) for head in _HEADS}
_TOKEN = re.compile(
    rf"[{''.join(_BY_HEAD)}](?<![A-Za-z\d].)(?:"
    + "|".join(f"(?<={head})(?:{rest})" for head, rest in _BY_HEAD.items())
    + ")",
    re.ASCII,
)
SHORTEST_TOKEN = 12  # characters; what is shorter has only e-mail addresses, which have an @
# A telephone number with its country's code (E.164), bare or in groups.
_PHONE = re.compile(r"\+(?<![\w.+-].)\d(?:[ .()-]{0,2}+\d){7,14}(?![\w-])", re.ASCII)
# The number of a card, bare or in groups, a name or a date in front and behind; no part of an id.
_CARD = re.compile(
    r"[2-6](?<!\d.)(?:(?:(?<=4)\d|(?<=5)[1-5]|(?<=2)[2-7]|(?<=3)5|(?<=6)(?:0(?=11)|[25]))\d\d(?:[ .-]?\d){12}"
    r"|(?<=3)[47]\d\d(?:[ .-]?\d){11})(?![A-Za-z\d])",
    re.ASCII,
)
_NO_GAPS = {ord(gap): None for gap in " .-"}
_SINGLE = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
# Neither "/@name@host", an account of the Fediverse, nor a file: "/logo@dark.png", "/lodash@4.17.21.min.js".
_EMAIL = re.compile(
    r"(?<![\w.+%@-])[\w.+%-]++@(?:[\w-]++\.)+(?!(?:avif|css|gif|html?|jpe?g|json|m?js|map|png|svg|webp)(?![\w.-]))"
    r"[a-z]{2,}+(?![\w.-])",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=//)[^/@:\s]*+:[^/@\s]*+@")  # of an address within another
_VALUE = re.compile(r"(?<![\w.-])([\w.-]{1,80})=[^/&?#=]+", re.ASCII)
_SHORTEST_SECRET = 32  # characters
_UUID = re.compile(r"[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}", re.ASCII | re.IGNORECASE)
_PIECES = re.compile(r"[-_]+")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d{1,8}", re.ASCII)
_LONGEST_ID = 27  # characters: an ObjectId has 24, a ULID 26, a KSUID 27
_LAST_RUN, _LONGEST_RUN = re.compile(r"[\w .:=@%+~-]+\Z"), 64
_ESCAPES = re.compile(r"(?:%[\da-f]{2})+", re.IGNORECASE | re.ASCII)


def is_secret_name(name: str) -> bool:
    """Tell whether a parameter's name, in lower case, promises a secret."""
    return name in SECRET_NAMES or _SECRET_PARTS.search(name) is not None


def hide_secrets(text: str) -> str:
    """Return a text with "…" for e-mail addresses, tokens, passwords in addresses, card, account and phone numbers."""
    if "@" in text:
        text = _EMAIL.sub("…", _USER.sub("…@", text) if "//" in text else text)
    if (size := len(text)) > 20:
        text = _SECRET.sub(_hidden, text)
    if size < SHORTEST_TOKEN:
        return text
    if HEAD.search(text):
        text = hide_accounts(text)
    return _PHONE.sub("…", _CARD.sub(_hidden_card, _TOKEN.sub("…", text)))


def hide_named(text: str, is_cut: bool = False) -> str:
    """As hide_secrets, also of what is escaped once more, or has a name: "/reset/token=abc".

    `is_cut`: the text went on, so that its last run may be a part of a secret, which would not be recognized.
    """
    if "%" not in text or (plain := unescaped(unescaped(text))) == (hidden := _hide_values(hide_secrets(plain))):
        hidden = _hide_values(hide_secrets(text)) if "=" in text else hide_secrets(text)
    return hidden[:-_LONGEST_RUN] + _LAST_RUN.sub("…", hidden[-_LONGEST_RUN:]) if is_cut else hidden


def _hide_values(text: str) -> str:
    return _VALUE.sub(_hidden_value, text)


def _hidden_value(found: re.Match[str]) -> str:
    # Not by SECRET_NAMES: "/shops/state=ca" is a filter.
    return f"{found[1]}=…" if _SECRET_PARTS.search(found[1].lower()) else found[0]


def _hidden_card(found: re.Match[str]) -> str:
    return "…" if _is_luhn(found[0].translate(_NO_GAPS).encode()) else found[0]


def _is_luhn(number: bytes) -> bool:
    """Tell whether the last digit is the checksum of the others (ISO/IEC 7812-1, annex B)."""
    return (sum(number[::-2].translate(_SINGLE)) + sum(number[-2::-2].translate(_DOUBLED))) % 10 == 0


def _hidden(found: re.Match[str]) -> str:
    """Return what is stored of a run that may be a token: "/2026-09-10-things-to-know" is a title, a UUID an id."""
    run = found[0]
    if "." not in run:
        if len(_UUID.sub("", run)) < _SHORTEST_SECRET:
            return run
        pieces = _PIECES.split(run)
        odd = [len(piece) for piece in pieces if not _WORD.fullmatch(piece)]
        if 2 * sum(odd) <= len(run) and max(odd, default=0) <= _LONGEST_ID:
            return run
    return "…"


def unescaped(text: str) -> str:
    """As urllib.parse.unquote, which takes 3 ms for 4,096 characters where "%" and others than ASCII take turns."""
    return _ESCAPES.sub(_decoded_run, text) if "%" in text else text


def _decoded_run(run: re.Match[str]) -> str:
    return bytes.fromhex(run[0].replace("%", "")).decode("utf-8", "replace")
