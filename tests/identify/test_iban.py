"""Account numbers in texts: all that are one, and nothing that is another's id."""

from __future__ import annotations

import random
import re
import string
import time

import pytest

from asgi_analytics.identify.iban import hide_accounts
from asgi_analytics.identify.redaction import hide_secrets
from asgi_analytics.identify.request import clean_path

# Of SWIFT's registry, one of each form that has letters.
EXAMPLES = re.findall(
    r"\w+",
    """
    AD1200012030200359100100 AZ21NABZ00000000137010001944 BG80BNBG96611020345678 BH67BMAG00001299123456
    BR1800360305000010009795493C1 BY13NBRB3600900000002Z00AB00 CH9300762011623852957 CY17002001280000001200527600
    DE89370400440532013000 DO28BAGR00000001212453611324 FR1420041010050500013M02606 GB29NWBK60161331926819
    GE29NB0000000101904917 GI75NWBK000000007099453 GR1601101250000000012300695 GT82TRAJ01020000001210029690
    IQ98NBIQ850123456789012 IT60X0542811101000000123456 JO94CBJO0010000000000131000302
    KW81CBKU0000000000001234560101 KZ86125KZT5004100100 LB62099900000001001901229114
    LC55HEMM000100010012001200023015 LV80BANK0000435195001 MD24AG000225100013104168 MK07250120000058984
    MT84MALT011000012345MTLCAST001S MU17BOMM0101101030300200000MUR NL91ABNA0417164300 NO9386011117947
    PK36SCBL0000001123456702 PS92PALS000000000400123456702 QA58DOHB00001234567890ABCDEFG
    RU0204452560040702810412345678901 SA0380000000608010167519 SC18SSCB11010000000000001497USD
    TR330006100519786457841326 UA213223130000026007233566001 VG96VPVG0000012345678901
    """,
)


def grouped(account: str, between: str) -> str:
    return between.join(account[start : start + 4] for start in range(0, len(account), 4))


@pytest.mark.parametrize("account", EXAMPLES)
def test_an_account_is_hidden_however_it_is_written(account: str) -> None:
    written = [account, account.lower(), *(grouped(account, between) for between in " +-")]
    assert [hide_accounts(f"/pay/{one}/now") for one in written] == ["/pay/…/now"] * 5
    assert hide_accounts(f"to_{account}-{account}.pdf") == "to_…-….pdf"


@pytest.mark.parametrize("account", EXAMPLES)
def test_a_wrong_digit_a_character_more_or_less_or_another_country_makes_it_none(account: str) -> None:
    place = next(place for place in range(4, len(account)) if account[place].isdigit())
    mistyped = f"{account[:place]}{(int(account[place]) + 1) % 10}{account[place + 1 :]}"
    others = [mistyped, f"{account}1", account[:-1], f"ZZ{account[2:]}", f"x{account}"]
    assert [hide_accounts(one) for one in others] == others


def test_a_path_with_an_account_is_stored_without_it() -> None:
    assert clean_path("/sepa/DE89370400440532013000/check") == "/sepa/…/check"
    assert clean_path("/sepa/DE89%203704%200044%200532%200130%2000") == "/sepa/…"
    assert hide_secrets("iban DE89 3704 0044 0532 0130 00") == "iban …"


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [(string.hexdigits[:16], 24), (string.ascii_letters + string.digits, 20), ("0123456789ABCDEFGHJKMNPQRSTVWXYZ", 26)],
    ids=["ObjectId", "Firestore", "ULID"],
)
def test_ids_by_the_hundred_thousand_are_left_alone(alphabet: str, length: int) -> None:
    dice = random.Random(7)
    ids = ["".join(dice.choices(alphabet, k=length)) for _ in range(100_000)]
    assert [one for one in ids if hide_accounts(one) != one] == []


def test_titles_are_left_alone() -> None:
    titles = [f"/md{number:02}-blue-pink-gray-dark-nice" for number in range(100)]
    titles += [f"/de{number:02}-2026-1109-best-of-2025-towns" for number in range(100)]
    assert [hide_accounts(one) for one in titles] == titles


def test_what_is_made_to_be_slow_is_not() -> None:
    pieces = ("DE89-", "de89 3704 0044 ", "MT84MALT0110-", "LC55 HEMM ", "DE8937040044053201300")
    texts = [piece * 1000 for piece in pieces]
    began = time.perf_counter()
    for text in texts:
        hide_accounts(text)
    assert time.perf_counter() - began < 1.0
