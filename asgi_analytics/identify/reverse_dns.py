"""Forward-confirmed reverse DNS: what the names of an address say about a crawler's claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model import ClaimStatus, Verification
from .client import packed_address
from .operators import Operator, is_below

MAX_NAMES = 4  # of one address that are looked at
MAX_OTHERS = 16  # of one address that are only compared, and addresses of one name
MAX_LENGTH = 253  # characters of a name, RFC 1035 section 2.3.4


def names_to_confirm(operator: Operator, names: Sequence[str]) -> list[str]:
    """Return those of an address's names that are in the operator's domains, at most four."""
    plain = (_plain(name) for name in names[:MAX_NAMES])
    return [name for name in plain if any(is_below(name, domain) for domain in operator.domains)]


def judge_names(
    operator: Operator, address: str, names: Sequence[str], confirmed: Mapping[str, Sequence[str]], has_names: bool
) -> Verification:
    """Decide a claim from the address's names and the addresses of those from names_to_confirm().

    `has_names` tells whether this resolver ever found the name of any address: one that finds none knows nothing.
    """
    wanted, names = packed_address(address), names[:MAX_OTHERS]
    for name, addresses in confirmed.items():
        if any(packed_address(one) == wanted for one in addresses[:MAX_OTHERS]):
            return _found(ClaimStatus.VERIFIED, operator, f"the address is {name}, forward and reverse")
    if confirmed:
        return _found(ClaimStatus.FALSE, operator, f"{next(iter(confirmed))} does not have this address")
    if any(is_below(_plain(name), domain) for name in names for domain in operator.shared):
        return _found(ClaimStatus.UNVERIFIABLE, operator, "customers of the operator have such names as well")
    if names:
        return _found(ClaimStatus.FALSE, operator, f"the address is {_plain(names[0])}, none of {operator.name}'s")
    if has_names:
        return _found(ClaimStatus.FALSE, operator, f"the address has no name, those of {operator.name}'s crawlers do")
    return _found(ClaimStatus.UNVERIFIABLE, operator, "the name server knows no names of addresses")


def _found(status: ClaimStatus, operator: Operator, text: str) -> Verification:
    return Verification(status, "dns", operator.name, None, text)


def _plain(name: str) -> str:
    return "".join(sign for sign in name[:MAX_LENGTH].rstrip(".").lower() if sign.isprintable())
