from __future__ import annotations

import pytest

from asgi_analytics.identify.credentials import login_number, refused_attempt
from asgi_analytics.inputs import BY_LENGTH

HTML = {b"content-type": b"text/html; charset=utf-8"}
TOKEN = {b"authorization": b"Basic eA=="}
FORM = {b"content-length": b"20", b"sec-fetch-dest": b"document"}
SCRIPT = {b"content-length": b"20", b"sec-fetch-dest": b"empty"}


@pytest.mark.parametrize(
    ("method", "headers", "status", "is_try"),
    [("POST", {}, 401, True), ("POST", {}, 400, True), ("POST", {}, 423, True), ("POST", {}, 422, False),
     ("POST", {}, 409, False), ("POST", {}, 404, False), ("GET", {}, 401, False), ("GET", TOKEN, 401, True),
     ("GET", TOKEN, 404, False)],
)  # fmt: skip
def test_credentials_that_were_refused_are_tries(
    method: str, headers: dict[bytes, bytes], status: int, is_try: bool
) -> None:
    assert (refused_attempt(method, headers, status, "/enter") is not None) is is_try


@pytest.mark.parametrize(
    ("headers", "status", "answer", "is_try"),
    [
        ({}, 422, {}, True),
        ({}, 404, {}, True),
        ({}, 409, {}, False),
        ({}, 200, HTML, True),  # Django's login view shows the form again
        (FORM, 200, HTML, True),
        (SCRIPT, 200, HTML, False),
        ({b"hx-request": b"true"}, 200, HTML, False),
        ({}, 200, {b"content-type": b"application/json"}, False),
        ({}, 302, {b"location": b"/accounts/login/?next=/"}, True),
        ({}, 303, {b"location": b"https://shop.example/accounts/login/"}, True),
        ({}, 302, {b"location": b"/"}, False),
        ({}, 302, {b"location": b"https://shop.example"}, False),
        ({}, 302, {}, False),
        ({}, 503, HTML, False),
    ],
)
def test_a_login_that_shows_its_form_again_has_refused(
    headers: dict[bytes, bytes], status: int, answer: dict[bytes, bytes], is_try: bool
) -> None:
    assert (refused_attempt("POST", headers, status, "/accounts/login/", answer) is not None) is is_try
    assert refused_attempt("POST", headers, status, "/contact", answer) is None


@pytest.mark.parametrize(("path", "is_try"), [("/xmlrpc.php", True), ("/blog/xmlrpc.php", True), ("/feed.php", False)])
def test_what_wordpress_is_told_a_password_through_is_a_login(path: str, is_try: bool) -> None:
    """Even where it is switched off, and nothing is there: who goes on guesses."""
    assert (refused_attempt("POST", {}, 404, path) is not None) is is_try


@pytest.mark.parametrize(
    ("location", "is_try"),
    [
        (b"/login?error=1", True), (b"https://shop.example/signin?next=%2F&failed=true", True),
        (b"/account/login?msg=invalid_credentials", True), (b"/login?err", True), (b"/login", False),
        (b"/login?next=/errors", False), (b"/account?error=1", False), (b"/?terror=1", False), (b"/login/2fa", False),
    ],
)  # fmt: skip
def test_a_login_that_leads_to_a_form_elsewhere_has_refused_where_the_address_says_so(
    location: bytes, is_try: bool
) -> None:
    answer = {b"location": location}
    assert (refused_attempt("POST", {}, 302, "/api/auth/login", answer) is not None) is is_try
    assert refused_attempt("POST", {}, 302, "/contact", answer) is None


@pytest.mark.parametrize(
    ("path", "status", "is_try"),
    [
        ("/checkout", 402, True), ("/api/payments", 402, True), ("/api/payments", 422, True), ("/pay", 404, True),
        ("/api/cart/coupon", 422, True), ("/api/cart/coupon", 404, True), ("/api/cart/coupon", 402, False),
        ("/payroll", 402, False), ("/api/chat", 402, False), ("/api/notes", 422, False), ("/api/notes", 404, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("headers", [{}, SCRIPT | {b"sec-fetch-dest": b"empty"}], ids=["form", "script"])
def test_a_card_that_is_declined_and_a_code_that_is_unknown_are_tries(
    headers: dict[bytes, bytes], path: str, status: int, is_try: bool
) -> None:
    assert (refused_attempt("POST", headers, status, path) is not None) is is_try
    importing, filling_in = headers | {b"x-api-key": b"k"}, {b"precognition": b"true"}
    assert refused_attempt("POST", importing, status, path) is None
    assert refused_attempt("POST", headers | filling_in, status, path, filling_in) is None
    assert (refused_attempt("POST", headers | filling_in, status, path) is not None) is is_try, "any app may be told so"
    assert refused_attempt("GET", headers, status, path) is None


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"http://shop.example", b"content-type": b"application/json"},
        {b"x-hub-signature-256": b"sha256=0"},
        {b"x-shopify-hmac-sha256": b"0"},
        {b"stripe-signature": b"t=0"},
        {b"content-type": b"image/jpeg"},
        {b"content-type": b"application/x-protobuf"},
    ],
    ids=["a script over plain http", "github", "shopify", "stripe", "an app's picture", "telemetry"],
)
def test_what_a_script_or_another_server_sends_is_one_try_but_where_secrets_are_sent(
    headers: dict[bytes, bytes],
) -> None:
    def tried(path: str) -> set[int | None]:
        lengths = (b"20", b"300")
        return {refused_attempt("POST", {**headers, b"content-length": length}, 400, path) for length in lengths}

    assert len(tried("/api/v1/events")) == 1
    assert [len(tried(path)) for path in ("/login", "/account/confirm", "/checkout")] == [2, 2, 2]
    assert tried("/coupons/redeem") == {0}, "another one each time"
    assert refused_attempt("POST", {b"origin": b"x", b"content-length": b"20"}, 400, "/vote") != refused_attempt(
        "POST", {b"origin": b"x", b"content-length": b"30"}, 400, "/vote"
    )


@pytest.mark.parametrize(("length", "tries"), [(100, 3), (99_000, 3), (100_000, 1)])
def test_forms_with_large_files_of_an_app_whose_uploads_break_are_one_try(length: int, tries: int) -> None:
    """Frameworks answer 400, or 401 once a cookie has run out: to nobody."""
    form = {b"content-type": b"multipart/form-data; boundary=x"}
    sent = [form | {b"content-length": b"%d" % (length + number)} for number in range(3)]
    for status in (400, 401):
        assert len({refused_attempt("POST", headers, status, "/photos") for headers in sent}) == tries
        assert len({refused_attempt("POST", headers, status, "/login") for headers in sent}) == 3


@pytest.mark.parametrize(
    ("path", "is_login"),
    [
        ("/login", True), ("/wp-login.php", True), ("/users/sign_in", True), ("/api/v1/auth/log-in", True),
        ("/session", True), ("/api/auth", True), ("/oauth/token", True), ("/account/password", True),
        ("/logins-explained", False), ("/signing", False), ("/sessions/17/notes", False), ("/authors", False),
        ("/es/acceso", True), ("/es/accesorios/fundas", False),
        ("/contact", False), ("/", False),
    ],
)  # fmt: skip
def test_routes_where_people_say_who_they_are_are_known(path: str, is_login: bool) -> None:
    assert (refused_attempt("POST", {}, 422, path) is not None) is is_login


def test_a_scripts_call_of_the_same_length_is_the_same_try_and_a_form_is_not() -> None:
    call = {b"content-length": b"20"}
    assert refused_attempt("POST", call, 401, "/login") == refused_attempt("POST", call, 401, "/login") != 0
    assert refused_attempt("POST", {b"content-length": b"21"}, 401, "/login") != refused_attempt(
        "POST", call, 401, "/login"
    )
    assert refused_attempt("POST", FORM, 401, "/login") == 0


@pytest.mark.parametrize("path", ["/api/drafts/17", "/collect"])
def test_what_a_page_saves_and_reports_by_itself_is_one_try_whatever_its_length(path: str) -> None:
    longer = {**SCRIPT, b"content-length": b"21"}
    poll = refused_attempt("PATCH", SCRIPT, 403, path)
    assert poll is not None
    assert poll & BY_LENGTH
    assert refused_attempt("PATCH", longer, 403, path) == poll
    assert refused_attempt("POST", {b"content-length": b"21"}, 403, path) != refused_attempt(
        "POST", {b"content-length": b"20"}, 403, path
    )
    for guessed in ("/login", "/account/verify", "/cart/pay"):
        assert refused_attempt("POST", longer, 403, guessed) != refused_attempt("POST", SCRIPT, 403, guessed)


@pytest.mark.parametrize(
    ("path", "is_typed"),
    [
        *(
            ("/coupons", True),
            ("/verify-pin", True),
            ("/promo-code", True),
            ("/promocode", True),
            ("/gift_code/check", True),
            ("/otp", True),
            ("/mfa/verify/", True),
            ("/account/2fa", True),
            ("/email-confirm", True),
        ),
        *(("/mfa/status", False), ("/api/token/verify", False), ("/payments/verify", False)),
        *(("/oauth/token", False), ("/api/auth/refresh", False), ("/barcode", False), ("/postcode", False)),
        *(("/opinions", False), ("/promotions/7/shown", False), ("/pin/17/like", False)),
    ],
)
def test_what_is_typed_in_is_another_guess_each_time_and_what_is_waited_for_is_not(path: str, is_typed: bool) -> None:
    call = {b"content-length": b"20", b"content-type": b"application/json"}
    assert (refused_attempt("POST", call, 403, path) == 0) is is_typed
    assert refused_attempt("PATCH", call, 403, path) != 0, "is saved as it is typed"


def test_a_card_that_is_declined_is_another_guess_each_time_and_an_address_that_is_wrong_is_not() -> None:
    call = {b"content-length": b"20", b"sec-fetch-dest": b"empty"}
    assert (
        refused_attempt("POST", call, 402, "/checkout/pay") == 0 != refused_attempt("POST", call, 422, "/checkout/pay")
    )


def test_the_same_token_again_is_the_same_try_and_never_one_that_is_told_by_its_length() -> None:
    numbers = [refused_attempt("GET", {b"authorization": b"Basic %d" % n}, 401, "/login") for n in (1, 1, 2)]
    assert numbers[0] == numbers[1] != numbers[2]
    for number in numbers:
        assert number is not None
        assert number > 1 << 33 > (refused_attempt("POST", SCRIPT, 401, "/login") or 0)
        assert not number & BY_LENGTH


@pytest.mark.parametrize("path", ["/\ud800/login", "/login\0"])
def test_a_path_that_is_no_text_is_read_too(path: str) -> None:
    assert refused_attempt("POST", {}, 302, path, {b"location": b"/elsewhere"}) is None


def test_a_token_beside_the_one_that_is_guessed_hides_no_guess() -> None:
    tries = {
        refused_attempt("GET", {b"authorization": b"Bearer x", b"x-api-key": b"%d" % number}, 401, "/api/items")
        for number in range(9)
    }
    assert len(tries) == 9


@pytest.mark.parametrize("claim", [{}, {b"x-requested-with": b"XMLHttpRequest"}, {b"sec-fetch-dest": b"empty"}])
def test_a_librarys_word_for_how_it_shows_the_form_hides_no_refusal(claim: dict[bytes, bytes]) -> None:
    html = {b"content-type": b"text/html"}
    assert refused_attempt("POST", claim, 200, "/login", html, by_tool=True) is not None
    assert (refused_attempt("POST", claim, 200, "/login", html) is None) is bool(claim)


@pytest.mark.parametrize(
    ("cookies", "others", "is_known"),
    [
        (b"_ga=GA1.1.1234567890; sessionid=0123456789abcdef", b"sessionid=0123456789abcdef; theme=dark", True),
        (b"sid=s%3A0123456789abcdef; csrftoken=aaaaaaaaaaaaaaaa", b"sid=s%3A0123456789abcdef; csrftoken=b", True),
        (b"session=eyJpZCI6MX0=.aS1xYQ." + b"x" * 27, b"session=eyJpZCI6MX0=.aS1xZB." + b"y" * 27, True),
        (b"token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjF9.AA", b"token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjJ9.BB", False),
        (b"sessionid=0123456789abcdef", b"sessionid=fedcba9876543210", False),
    ],
)  # fmt: skip
def test_somebody_is_known_by_the_cookie_of_a_session(cookies: bytes, others: bytes, is_known: bool) -> None:
    one, other = (login_number({b"cookie": found}, b"f") for found in (cookies, others))
    assert min(one, other) > 0
    assert (one == other) is is_known


def test_other_cookies_tell_nobody_apart() -> None:
    cookies = b"theme=dark; XSRF-TOKEN=0123456789abcdef; csrf_token=0123456789abcdef; sid=1; _ga=GA1.1.1234567890"
    assert (login_number({b"cookie": cookies}, b"f"), login_number({}, b"f")) == (0, 0)
    assert login_number({b"authorization": b"Bearer x"}, b"f") not in (0, login_number(TOKEN, b"f"))
    assert login_number(TOKEN, b"f") != login_number(TOKEN, b"g"), "of one visitor"


SIGNED = [
    b"AWS4-HMAC-SHA256 Credential=%s/20261201/eu/s3/aws4_request, SignedHeaders=host, Signature=%032x",
    b"AWS %s:%032x=",
    b"SharedKey %s:%032x",
    b'Hawk id="%s", ts="1", nonce="j4h3g2", mac="%032x"',
    b'Signature keyId="%s",algorithm="hmac-sha256",signature="%032x"',
]


@pytest.mark.parametrize("form", SIGNED)
def test_who_signs_each_request_brings_one_key(form: bytes) -> None:
    """A client whose rights were taken asks for one object after the other."""
    tries = [
        refused_attempt("HEAD", {b"authorization": form % (key, number)}, 403, f"/bucket/{number}")
        for key, number in ((b"KEY", 1), (b"KEY", 2), (b"OTHER", 2))
    ]
    assert tries[0] == tries[1] != tries[2]


def test_a_nonce_that_ran_out_refuses_no_password() -> None:
    headers = {b"authorization": b'Digest username="u", nonce="a", response="b"'}
    stale, wrong = b'Digest realm="r", nonce="c", stale=TRUE', b'Digest realm="r", nonce="c"'
    assert refused_attempt("GET", headers, 401, "/", {b"www-authenticate": stale}) is None
    assert refused_attempt("GET", headers, 401, "/", {b"www-authenticate": wrong}) is not None
