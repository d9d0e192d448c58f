"""Signed requests: the keys of their signers, fetched in the background, and the nonces that were used.

A worker takes a nonce once: again from the same address, it is as no signature; from another, a false one.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from ..errors import DataFileError
from ..identify.botauth import Flaw, Signed, check_time, is_available, read_signatures, replay_key, verify
from ..identify.components import Scope, is_rewritten
from ..identify.keys import WELL_KNOWN, Key, read_directory
from ..identify.operators import SIGNERS, signer_of
from ..model import ClaimStatus, Verification
from ..protocols import Clock, Fetch
from .background import Background

MAX_DIRECTORIES = 256  # of signers that are not in our table; those that are have a map of their own
MAX_NONCES = 20_000  # about 5 MB; beyond, the oldest are forgotten and counted; strangers have their own
MAX_WAITING, MAX_FETCHES = 64, 60  # directories to fetch: that wait, and that are taken in a minute
SHORTEST, LONGEST, USUAL = 300.0, 86_400.0, 3_600.0  # seconds to keep a directory, by its max-age
RETRY = 60.0  # seconds until a directory is asked again for a key that it lacks, or after a failure

_RANK = (ClaimStatus.UNVERIFIABLE, ClaimStatus.FALSE, ClaimStatus.PENDING, ClaimStatus.VERIFIED)
_MISSING = Verification(
    ClaimStatus.UNVERIFIABLE, "signature", text="signed, but asgi-analytics[botauth] is not installed"
)


@dataclass(frozen=True, slots=True)
class Directory:
    """A signer's keys by thumbprint, as last seen; times in monotonic seconds, which no wrong clock makes last."""

    keys: dict[str, Key]
    tried_at: float
    fresh_until: float


class Signatures:
    """Verifies signed requests without waiting: a signer whose keys are not known yet is pending."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self.counters: Counter[str] = Counter()
        self.background: Background[str] = Background("keys", self._learn, clock, size=MAX_WAITING, rate=MAX_FETCHES)
        self._fetch = fetch
        self._clock = clock
        self._known: dict[str, Directory] = {}
        self._others: OrderedDict[str, Directory] = OrderedDict()
        self._nonces: OrderedDict[bytes, str] = OrderedDict()  # with the address that used each
        self._others_nonces: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, scope: Scope, now: float, address: str = "") -> Verification | None:
        """Return what the request's signatures prove, None when it has none of Web Bot Auth; `address`: who sent it."""
        if not is_available():
            return _MISSING
        found = [self._check(scope, signature, now, address) for signature in read_signatures(scope)]
        return max(found, key=lambda one: _RANK.index(one.status)) if found else None

    def is_known(self, signer: str | None) -> bool:
        """Tell whether a host is one of an operator's; below those of operators anybody can make hosts up."""
        return signer in SIGNERS or signer in self._known

    def abandon(self) -> None:
        """In a forked child: keys and nonces are kept, thread and locks are not."""
        self._lock = threading.Lock()
        self.counters = Counter()
        self.background.abandon()

    def counts(self) -> dict[str, int]:
        """Return how much is held in memory, and how many nonces had to be forgotten."""
        nonces = len(self._nonces) + len(self._others_nonces)
        return {"directories": len(self._known) + len(self._others), "nonces": nonces, **self.counters}

    def _check(self, scope: Scope, signature: Signed | Flaw, now: float, address: str) -> Verification:
        if isinstance(signature, Flaw):
            return _verdict(_status_of(signature), signature.signer, signature.text)
        signer = signature.signer
        if flaw := check_time(signature, now):
            return _verdict(_status_of(flaw), signer, flaw.text)
        key, is_pending = self._key(signer, signature.keyid, now)
        if is_pending:
            return _verdict(ClaimStatus.PENDING, signer, f"the keys of {signer} are being fetched")
        if key is None:
            return _verdict(ClaimStatus.UNVERIFIABLE, signer, f"{signer} does not publish the key of the signature")
        if not verify(signature, key):
            # A forger gains nothing by looking rewritten: unsigned requests are as unverifiable.
            if is_rewritten(scope):
                text = f"a proxy rewrites the Host or path that {signer} signed for: let it pass Host on, set root_path"
                return _verdict(ClaimStatus.UNVERIFIABLE, signer, text)
            return _verdict(ClaimStatus.FALSE, signer, f"the signature is not one of {signer} for this request")
        nonce = replay_key(signature)
        used_by = None if nonce is None else self._use(signer, nonce, address)
        if used_by is not None:
            # Who sends a request again that got no answer, or a proxy that does, proves nothing, and forges nothing.
            status = ClaimStatus.UNVERIFIABLE if used_by == address else ClaimStatus.FALSE
            return _verdict(status, signer, "the signature's nonce was used before")
        return _verdict(ClaimStatus.VERIFIED, signer, f"signed by {signer}")

    def _key(self, signer: str, keyid: str, now: float) -> tuple[Key | None, bool]:
        """Return the signer's key, and whether it is still being fetched."""
        directory = self._known.get(signer) or self._others.get(signer)
        key = directory.keys.get(keyid) if directory else None
        monotonic = self._clock.monotonic()
        if directory and key and key.not_before <= now < key.expires:
            if monotonic >= directory.fresh_until:
                self._ask(signer)
            return key, False
        if directory and monotonic < directory.tried_at + RETRY:
            return None, False
        self._ask(signer)
        return None, True

    def _ask(self, signer: str) -> None:
        # Strangers who name hosts that answer slowly do not hold up the operators we know.
        self.background.ask(signer, is_urgent=self.is_known(signer))

    def _use(self, signer: str, nonce: bytes, address: str) -> str | None:
        """Remember a nonce; return the address that used it before. Only nonces of valid signatures come here."""
        # Nobody makes us forget those of the operators we know by signing with a key of their own.
        nonces = self._others_nonces if signer_of(signer) is None else self._nonces
        with self._lock:
            if (used_by := nonces.get(nonce)) is not None:
                return used_by
            if len(nonces) >= MAX_NONCES:
                nonces.popitem(last=False)
                self.counters["nonces_forgotten"] += 1
            nonces[nonce] = address
        return None

    def _learn(self, signer: str) -> None:
        """Fetch a directory of keys; if that fails, those known before are kept."""
        before = self._known.get(signer) or self._others.get(signer)
        try:
            fetched = self._fetch(f"https://{signer}{WELL_KNOWN}")
            keys, kept = read_directory(fetched.data), fetched.max_age
        except (DataFileError, ValueError):
            self.counters["directories_failed"] += 1
            keys, kept = before.keys if before else {}, SHORTEST
        now = self._clock.monotonic()
        fresh_for = min(LONGEST, max(SHORTEST, USUAL if kept is None else kept))
        self._keep(signer, Directory(keys, now, now + fresh_for))

    def _keep(self, signer: str, directory: Directory) -> None:
        # Strangers who sign with many hosts do not flush the directories of the operators we know; nor do those who
        # make hosts up below theirs, where there is no directory.
        place = self._known if directory.keys and signer_of(signer) is not None else self._others
        with self._lock:
            self._known.pop(signer, None)
            self._others.pop(signer, None)
            place[signer] = directory
            while len(place) > MAX_DIRECTORIES:
                place.pop(next(iter(place)))


def _status_of(flaw: Flaw) -> ClaimStatus:
    return ClaimStatus.FALSE if flaw.is_wrong else ClaimStatus.UNVERIFIABLE


def _verdict(status: ClaimStatus, signer: str | None, text: str) -> Verification:
    operator = signer_of(signer) if signer else None
    return Verification(status, "signature", operator.name if operator else None, signer, text)
