"""Whether an answer refused credentials: a status that says so, or the form shown again."""

from __future__ import annotations

import re
from functools import lru_cache
from zlib import crc32

from ..inputs import BY_LENGTH, BY_PAGE, LOW_32_BITS
from ..protocols import Headers

_SENT = ("POST", "PUT", "PATCH")
_REFUSALS = (400, 401, 403, 423)
_REFUSALS_OF_A_LOGIN = (404, 422)  # no such user; a form with errors, as frameworks with Turbo answer
_REFUSALS_OF_A_SECRET = (402, 404, 422)  # a card that is declined; no such code
# Routes where people say who they are. A site chooses what it calls them; an attacker cannot.
_LOGIN = re.compile(
    r"log[-_]?[io]n(?![a-z])|sign[-_]?[io]n(?![a-z])|passw|authenticat|/sessions?/?$|/auth/?$|/token/?$|2fa|mfa|\botp"
    r"|anmeld|einlog|connexion|acceso(?!ri)|inloggen|iniciar|entrar|/xmlrpc\.php$",
    re.IGNORECASE,
)
# And those that take something else that can be guessed.
_SECRET = re.compile(
    r"auth(?!ors?\b)|token|verif|confirm|\bpin\b|codes?\b|coupon|voucher|promo|gift|redeem", re.IGNORECASE
)
# Of these, what nobody guesses: an app that goes on after its session has ended asks for a new token, or reports it.
_RENEWED = re.compile(r"refresh|renew|keep-?alive|heartbeat|log[-_]?out|sign[-_]?out|revoke|/_log/?\Z", re.IGNORECASE)
# Of these, what somebody types in.
_TYPED = re.compile(
    r"\bpin/?\Z|(?:\b|_|promo)codes?\b|coupon|voucher|promos?\b|gift[-_]?cards?\b|redeem|\bt?otp\b"
    r"|\b(?:2fa|mfa|two[-_]?factor)(?:[-_/](?:verify|confirm|check|validate|challenge))?/?\Z"
    r"|\b(?:sms|phone|email)[-_/](?:verify|confirm)/?\Z",
    re.IGNORECASE,
)
# Guessed where they are sent, edited where they are saved: the cards of a board, the members of a team.
_GUESSED = re.compile(r"card|pay|checkout|member", re.IGNORECASE)
# Where other servers report, with a signature: all of it is refused once the key has changed.
_HOOK = re.compile(r"web-?hooks?\b|/hooks?\b|/ipn\b|/inbox\b", re.IGNORECASE)
# What an address says that a login leads back to.
_SAYS_ERROR = re.compile(r"(?:^|[&=])\w*(?:err(?:or|\b)|fail|invalid|denied|incorrect|wrong)", re.IGNORECASE)
_PAY = re.compile(r"\bpay\b|payments?\b|checkout", re.IGNORECASE)
_CHARGED = re.compile(_PAY.pattern + r"|donat|orders?\b|purchase|subscri|charges?\b|billing", re.IGNORECASE)
_CARD = re.compile(r"(?:\bpay|payments?|charges?)/?\Z", re.IGNORECASE)  # is sent there, and no page polls it
_FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")
_SHORTEST_PAGE = 256  # bytes: what takes a report in answers "OK", which some frameworks call HTML
# What files and measurements are sent as. No app takes credentials like that, nor a form of 100 KB.
_FILE = re.compile(
    rb"(?:image|audio|video)/|text/csv|application/(?:octet-stream|pdf|zip|gzip|(?:x-)?protobuf|(?:x-)?msgpack|cbor"
    rb"|x-ndjson|vnd\.apache\.|avro)",
    re.IGNORECASE,
)
_LONGEST_FORM = 5  # digits of its Content-Length
_SIGNATURE = re.compile(rb"signature|hmac")  # in the name of a header: of what another server reports
# The name of a cookie by which an app may know who has logged in; not of that against forgery, beside it.
_SESSION = re.compile(rb"sess|sid|auth|(?<![cx]srf)(?<![cx]srf[-_])token|jwt|login|ident|user", re.IGNORECASE)
_SIGNED_AT = re.compile(rb"\.[\w-]{5,7}\.[\w-]{27,}\Z")  # by itsdangerous, as in Starlette's sessions: anew each time
# Who has signed the request itself, as for S3 and the like: nobody guesses such a signature.
_SIGNED_BY = re.compile(
    rb"(?:AWS4|GOOG4)-[\w-]+ +Credential=[^/,\s]+|(?:AWS|GOOG1|SharedKey(?:Lite)?) +[^:,\s]+:"
    rb"|(?:Hawk|Signature) [^,]{0,256}?(?:id|keyId)=\"[^\"]+\""
)
_LONGEST_COOKIES, _MOST_COOKIES, _SHORTEST_SESSION = 4096, 64, 12  # bytes; lines of one header; bytes
_PAGE_CALL = BY_LENGTH | BY_PAGE
_APP_CALL = BY_LENGTH  # whatever its length
_TOKENS = (b"authorization", b"x-api-key", b"api-key", b"x-auth-token", b"private-token")


def token_of(headers: Headers) -> bytes | None:
    """Return the token that a request brings in a header, all of them where it has several; None where it has none."""
    return b"\n".join([headers[name] for name in _TOKENS if name in headers]) or None


def _key_of(token: bytes) -> bytes:
    """Return a token without the signature of the one request that it came with."""
    signed = _SIGNED_BY.match(token)
    return token if signed is None else signed[0]


def has_credentials(headers: Headers) -> bool:
    """Tell whether a request brings a token, or a signature, as servers of the Fediverse do."""
    return token_of(headers) is not None or b"signature" in headers


def login_number(headers: Headers, fingerprint: bytes) -> int:
    """Return a number of what an app may know somebody by: a token, or the longest cookie of a session; 0: nothing.

    Equal ones have the same number for one visitor and as long as this process runs.
    """
    token = token_of(headers)
    if token is not None:
        found = _key_of(token)
    else:
        cookies = headers.get(b"cookie")
        found = _session(cookies[:_LONGEST_COOKIES]) if cookies else b""
    return hash((fingerprint, found)) & LOW_32_BITS or 1 if found else 0


@lru_cache(512)
def _session(cookies: bytes) -> bytes:
    """Return the longest cookie that may be of a session, without the time at which it was signed; else nothing."""
    found = b""
    for cookie in cookies.split(b";", _MOST_COOKIES):
        name, _, value = cookie.partition(b"=")
        if len(value) >= max(len(found), _SHORTEST_SESSION) and _SESSION.search(name, 0, 64):
            found = value
    return _SIGNED_AT.sub(b"", found)


def is_form_of_no_page(headers: Headers, path: str, status: object, names: Headers, shows_pages: bool) -> bool:
    """Tell whether a program sent a form that was answered by a page, or that the app failed at.

    Browsers load the page of a form, and say that it comes from there. Left out is what servers report: with a token,
    with a signature, or to a route for that. `names`: the response headers by name; `shows_pages`: as header_faults.
    """
    if not headers.get(b"content-type", b"").startswith(_FORMS):
        return False
    if _is_of_page(headers, shows_pages):
        return False
    if status != 500 and not _is_shown(status, names):
        return False
    return not _is_signed(headers) and not has_credentials(headers) and _HOOK.search(path, 0, 256) is None


def _is_of_page(headers: Headers, shows_pages: bool) -> bool:
    """Tell whether a page may have sent a form.

    The page of a script may have been loaded from another worker, or before a restart: it sends a form with each key.
    """
    destination = headers.get(b"sec-fetch-dest")
    if destination is None and b"origin" not in headers:
        return shows_pages and b"referer" in headers
    return shows_pages or destination != b"document"


def _is_shown(status: object, names: Headers) -> bool:
    """Tell whether an answer is a page that people read, of an error too."""
    if not isinstance(status, int) or not (200 <= status < 300 or 400 <= status < 500):
        return False
    length = names.get(b"content-length", b"")
    return names.get(b"content-type", b"").startswith(b"text/html") and not (
        length.isdigit() and int(length) < _SHORTEST_PAGE
    )


def _is_signed(headers: Headers) -> bool:
    return any(_SIGNATURE.search(name) for name in headers)


def refused_attempt(
    method: str,
    headers: Headers,
    status: object,
    path: str,
    names: Headers | None = None,
    by_tool: bool = False,
) -> int | None:
    """Return a number of the credentials that were refused with this status; None where none were tried.

    What may be a poll rather than a try has the same number each time: what a script sends again with the same token or
    length, as of somebody who was logged out; and, whatever its length, at a route that takes no secret, what a page's
    script saves or reports, what an app sends and is not understood, or goes on to send once its session is gone, and
    what other servers report.
    `names`: the response headers by name. `by_tool`: sent by an HTTP library, whose headers say nothing of how the
    answer is shown.
    """
    is_login = method in _SENT and _LOGIN.search(path, 0, 256) is not None
    token = token_of(headers)
    # Where secrets are guessed, a token says nothing: anybody may send any.
    if token is not None and not is_login and (method not in _SENT or _SECRET.search(path, 0, 256) is None):
        refuses = status == 403 or (status == 401 and not _is_stale(names or {}))
        return crc32(_key_of(token)) << 1 | 1 << 33 if refuses else None
    if method not in _SENT:
        return None
    refuses = status in _REFUSALS or (is_login and _refuses(headers, status, path, names or {}, by_tool))
    if not refuses and (token is not None or not _refuses_a_secret(status, path, names or {})):
        return None
    length, destination = headers.get(b"content-length"), headers.get(b"sec-fetch-dest")
    if destination == b"document" or (method == "POST" and _is_code_or_card(status, path)):
        return 0
    if not is_login and _sends_by_itself(method, headers, status, path):
        return _PAGE_CALL
    if length is None:
        return 0
    if (
        not is_login
        and status == 401
        and destination is None
        and _is_no_form(headers)
        and not _is_guessed(method, path)
    ):
        return _APP_CALL
    return crc32(length) << 1 & ~BY_PAGE | BY_LENGTH


def _is_stale(names: Headers) -> bool:
    """Tell whether only the nonce of Digest had run out (RFC 7616, section 3.3): the password was right."""
    asked = names.get(b"www-authenticate", b"")
    return asked.startswith(b"Digest ") and b"stale=true" in asked.lower()


def typed_length(headers: Headers, status: object) -> int:
    """Return the length of what was refused, if the app may check it with each key that is pressed; else 0.

    0 for a form that was sent, a declined card and a wrong password; also for what a program sends and is not
    understood, which nobody types.
    """
    destination = headers.get(b"sec-fetch-dest")
    if destination == b"document" or status not in (400, 404, 422):
        return 0
    if status == 400 and destination is None and b"origin" not in headers:
        return 0
    length = headers.get(b"content-length", b"")
    return int(length) if len(length) < 10 and length.isdigit() else 0


def _refuses_a_secret(status: object, path: str, names: Headers) -> bool:
    """Tell whether what can be guessed, such as a code or a card, was not taken.

    A form being filled in only asks: an app that knows such requests says so in its answer.
    """
    if status not in _REFUSALS_OF_A_SECRET or b"precognition" in names:
        return False
    if status == 402:
        return _CHARGED.search(path, 0, 256) is not None
    return _PAY.search(path, 0, 256) is not None or _SECRET.search(path, 0, 256) is not None


def _is_code_or_card(status: object, path: str) -> bool:
    """Tell whether what was not taken is a code that somebody types in, or a card.

    Nobody waits for these by asking again, as devices do for a token.
    """
    if _TYPED.search(path, 0, 256) is not None:
        return True
    if status == 402:
        return _CHARGED.search(path, 0, 256) is not None
    return status == 400 and _CARD.search(path, 0, 256) is not None


def _sends_by_itself(method: str, headers: Headers, status: object, path: str) -> bool:
    """Tell whether a page's script, an app or another server sends to a route that takes nothing that is guessed.

    Of an app, what was not understood: what it saves or asks after the API has changed, or once its session is gone.
    """
    destination = headers.get(b"sec-fetch-dest")
    if destination is None:
        if _HOOK.search(path, 0, 256) is not None:
            return True
        # Over plain http browsers do not say it; no form sends JSON, nor what a beacon is sent as.
        by_script = _is_no_form(headers) if b"origin" in headers else status == 400 and _is_json(headers)
        if not by_script and not _is_file(headers) and not _is_signed(headers):
            return False
    elif destination not in (b"empty", b"report"):
        return False
    return not _is_guessed(method, path)


def _is_guessed(method: str, path: str) -> bool:
    """Tell whether a route takes something that can be guessed."""
    if _SECRET.search(path, 0, 256) is not None and _RENEWED.search(path, 0, 256) is None:
        return True
    return method == "POST" and _GUESSED.search(path, 0, 256) is not None


def _is_no_form(headers: Headers) -> bool:
    return b"content-type" in headers and not headers[b"content-type"].startswith(_FORMS)


def _is_json(headers: Headers) -> bool:
    return headers.get(b"content-type", b"").startswith(b"application/json")


def _is_file(headers: Headers) -> bool:
    """Tell whether a file was sent: an app sends many anew whose upload breaks, and to nobody they are refused."""
    length = headers.get(b"content-length", b"")
    return _FILE.match(headers.get(b"content-type", b"")) is not None or len(length.lstrip(b"0")) > _LONGEST_FORM


def _refuses(headers: Headers, status: object, path: str, names: Headers, by_tool: bool) -> bool:
    """Tell whether a login was refused in another way: one that succeeds redirects elsewhere (post/redirect/get)."""
    if status in _REFUSALS_OF_A_LOGIN:
        return True
    if status == 200:
        is_form = headers.get(b"sec-fetch-dest", b"document") == b"document"
        by_script = b"x-requested-with" in headers or b"hx-request" in headers
        return (by_tool or (is_form and not by_script)) and names.get(b"content-type", b"").startswith(b"text/html")
    if status not in (302, 303):
        return False
    target, _, query = names.get(b"location", b"")[:1024].partition(b"#")[0].partition(b"?")
    if _path_of(target) == path.encode("utf-8", "surrogatepass"):
        return True
    found = _SAYS_ERROR.search(query.decode("latin-1"))
    return found is not None and _LOGIN.search(_path_of(target).decode("latin-1")) is not None


def _path_of(target: bytes) -> bytes:
    """Return the path of a Location without its query; one with escapes is left as it is."""
    _, scheme, rest = target.partition(b"://")
    return b"/" + rest.partition(b"/")[2] if scheme else target
