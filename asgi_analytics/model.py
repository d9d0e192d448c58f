"""The values that cross stages. Data only: what they mean is decided in the stages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from .facts import Actor, Claims, Finding, Throttle, ThrottleLevel
from .untracked import untrack

MAX_SCORE = 32_767  # that a row has
PARDON_GRACE = 5.0  # seconds after a pardon in which a worker may not know of it yet
TOOL_CLASSES = frozenset(("http-library", "browser-automation", "scanner"))  # bot classes that are nobody's crawler


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is registered; every part is None when unknown."""

    country: str | None = None  # ISO 3166-1 alpha-2
    region: str | None = None  # ISO 3166-2 code without the country, or the vendor's name
    city: str | None = None
    asn: int | None = None
    organisation: str | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """What the User-Agent header says; every text is None when it does not say."""

    browser: str | None = None
    version: str | None = None
    os: str | None = None
    os_version: str | None = None
    device: str = "other"  # desktop, mobile, tablet, bot, other
    bot_class: str | None = None  # a declared crawler's class, e.g. "search-engine"; None for all others
    crawler: str | None = None  # the name it gives itself, e.g. "Googlebot"
    outdated: bool = False  # Chrome < 90 or Firefox < 88 (documented floor)
    operator: str | None = None  # who runs the crawler it claims to be, e.g. "OpenAI"
    purpose: str | None = None  # what that crawler reads for: "training", "search", "user", "ads", "agent"


@dataclass(frozen=True, slots=True)
class Referral:
    """How a hit came from outside: all None for a hit that came from the same site."""

    channel: str | None = None
    source: str | None = None
    utm_source: str | None = None
    utm_medium: str | None = None
    utm_campaign: str | None = None
    utm_term: str | None = None
    utm_content: str | None = None
    click_id: str | None = None  # the name of the click id parameter, e.g. "gclid"; never its value


@dataclass(frozen=True, slots=True)
class Identity:
    """What the first stage found; the same object for all hits of a returning visitor."""

    fingerprint: bytes  # 16 bytes, keyed hash, rotates with the salt
    network: bytes  # 16 bytes, keyed hash of the IPv4 /32 or IPv6 /64
    place: Place
    agent: Agent
    language: str | None = None
    address: str | None = None  # only what the privacy settings let us keep
    tracked: bool = True  # False: the visitor's privacy signal asks for counting only
    provisional: bool = False  # made with this process's emergency salt while the shared one was out of reach


@dataclass(slots=True)
class Session:
    """A visitor's hits with gaps up to the session time-out. Times in seconds of Clock.monotonic()."""

    id: bytes  # 16 bytes
    started_at: float
    last_seen_at: float
    ordinal: int = 1

    def __post_init__(self) -> None:
        """Visitors are many."""
        untrack(self)


class Decision:
    """What the second stage found for one request. Most requests need the first three: the rest has defaults."""

    level: ThrottleLevel
    score: int
    quotas: tuple[int, ...]  # of each of the visitor's quotas: units left, seconds until its window moves on
    refused: bool = False
    retry_after: int = 0  # seconds; 0 when not refused
    violated: tuple[str, ...] = ()  # names of the quotas or "throttle"
    reasons: tuple[str, ...] = ()  # sentences
    previous_level: ThrottleLevel | None = None  # set when this request changed the level
    id: bytes | None = None  # 16 bytes, given to refusals and level changes
    exempt: bool = False  # an allowance or a verified search crawler: quotas hold, behaviour is not judged
    holds_until: float = 0.0  # of a refusal: monotonic seconds, before which no request of this visitor passes
    inputs: dict[str, Any] | None = None  # of a refusal or level change, see decide.explain
    findings: tuple[Finding, ...] = ()  # the signals that raised the level

    def __init__(
        self,
        level: ThrottleLevel = ThrottleLevel.NORMAL,
        score: int = 0,
        quotas: tuple[int, ...] = (),
        **more: Any,  # the other fields
    ) -> None:
        self.level = level
        self.score = score
        self.quotas = quotas
        for name, value in more.items():
            if not hasattr(self, name):
                raise TypeError(f"Decision has no {name}")
            setattr(self, name, value)

    @property
    def remaining(self) -> tuple[int, ...]:
        """The units left, one per quota of the visitor."""
        return self.quotas[::2]

    @property
    def reset(self) -> tuple[int, ...]:
        """The seconds until the quota's window moves on, one per quota of the visitor."""
        return self.quotas[1::2]


class ClaimStatus(StrEnum):
    """What is known of what a crawler claims to be."""

    UNCLAIMED = "unclaimed"  # it claims no operator: a browser, a library
    UNVERIFIABLE = "unverifiable"  # nothing is published, or nothing is at hand, to check the claim against
    PENDING = "pending"  # the check runs in the background
    VERIFIED = "verified"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a crawler is who it claims to be, and by what that is known."""

    status: ClaimStatus
    method: str | None = None  # "signature", "ranges" or "dns": what decided
    operator: str | None = None  # who it claims to be, or whose key it signs with, e.g. "Google"
    signer: str | None = None  # the host whose key signed; who that is, is known only where `operator` says so
    text: str = ""  # a sentence


@dataclass(frozen=True, slots=True)
class Merged:
    """What all workers together know of a visitor, as the store has it after a batch."""

    fingerprint: bytes
    session: bytes  # the id that the store settled on for the visitor's newest session
    remote: int  # units that other workers charged since this worker's last batch with this visitor
    level: int
    level_changed_us: int  # wall time in microseconds; 0: never, or what this worker knows


@dataclass(frozen=True, slots=True)
class Ruling:
    """A ban, pardon or allowance by an operator, or a ban by the option `bans`. Times in monotonic seconds."""

    id: bytes  # 16 bytes
    revision: int  # grows with each change of any ruling
    kind: str  # "ban", "pardon" or "allow"
    reason: str
    made_by: str
    made_at: float
    until: float  # infinity: no end
    fingerprint: bytes | None = None  # else a network:
    size: int = 0  # bytes of its family's client network: 4 for IPv4, 8 for IPv6
    prefix: int = 0  # bits
    network: bytes = b""  # `size` bytes in clear, or their digest: see `key`
    key: bytes = b""  # of the digest; empty: in clear
    lifted: bool = False


class Variant(NamedTuple):
    """A page that its query tells from others of its path."""

    number: int  # 32 bits
    key: str  # what it sorts by; in a replay, where that is not known, any text that is unique to the page
    kind: int  # ITEM, TURN or CURSOR of variants.py
    onward: bool = False  # sorts after the page that this visitor loaded before, and is new to it


@dataclass(slots=True)
class CachedRefusal:
    """A refusal that is sent again unchanged for a moment, to a visitor that goes on asking."""

    decision: Decision
    answer: Any  # respond.Refusal
    count_frame: bytes  # of the first one, of which this is one more
    until: float  # monotonic seconds
    minute: int  # of the wall clock: in the next one, refusals are rows again
    ruling: Ruling | None  # the ban; None: refused by quota or level


MAX_RETURNED = 5  # people that are told by cookies that came back, of those who look alike


@dataclass(slots=True, eq=False)
class Visitor:
    """A visitor as this worker knows it: identity, running session, and its actors, which are judged."""

    identity: Identity
    session: Session
    actor: Actor
    network: Actor  # the outer bound
    row_tail: bytes | None = None  # the encoded columns of session and identity, made by the recorder
    verification: Verification | None = None  # of the claim of its newest request; None: it claims nothing
    merged: Merged | None = None  # what other workers saw, applied at the next request
    level_told_us: int = 0  # Merged.level_changed_us up to which this worker was told all
    cached_refusal: CachedRefusal | None = None
    cookie: bytes | None = None  # the Set-Cookie value of a visitor that has yet to return it
    cookie_sent: bool = False  # an answer has carried it
    borrows: bool = False  # its actor is that of the visitor who got the cookie, until the cookie comes back
    borrowed_loads: int = 0  # page loads that were counted there
    unsent: tuple[bytes, Visitor] | None = None  # id and visitor of the next cookie, until an answer has carried it
    unreturned: int = 0  # cookies given to this fingerprint that did not come back yet
    known: bool = False  # is in this worker's memory
    seen: bool = False  # since it was last considered for eviction

    def __post_init__(self) -> None:
        """Visitors are many."""
        untrack(self, self.identity)

    def come_back(self, actor: Actor) -> None:
        """Judge it by an actor of its own from now on, and take what it did before off the one that it borrowed.

        Its level stays; what was spent is of what it did without the cookie. The pace stays there, too, as that of a
        few people: a program may take a new cookie for each page.
        """
        loads, state, sessions, facts = self.borrowed_loads, self.actor.throttle, self.actor.hour, self.actor.behaviour
        if loads < facts.page_loads:
            facts.page_loads -= loads
        if facts.people < MAX_RETURNED:
            facts.people += 1
        sessions.count = max(0, sessions.count - 1)
        actor.throttle = Throttle(state.level, state.changed_at, state.reasons, state.was_blocked)
        actor.loaded = loads > 0
        self.actor, self.borrows, self.borrowed_loads = actor, False, 0


class Hit:
    """One request with its answer: what a row is made of. What most hits do not have stays on the class."""

    outcome = "complete"  # complete, aborted, refused, error
    page_view = False
    status: Any = None  # what the app sent
    duration_us = 0
    first_byte_us: int | None = None
    bytes_sent = 0
    started_at = 0.0  # Clock.monotonic(): the time that decisions used
    from_inside: bool | None = None  # pages: asked for by a page of this site; errors: by any page; else None
    route: str | None = None
    query: str | None = None
    referral: Referral | None = None
    close_code: Any = None  # what the app or the visitor sent
    detail: dict[str, Any] | None = None  # of the decision, see decide.explain
    count_frame: bytes | None = None  # of a refusal that is only counted, see record.refusals; else None
    is_repeated = False  # its decision is stored already, with another hit
    inputs = 0  # what verdicts read beside the columns above: bits of inputs.py
    claims: Claims | None = None  # as read; None: not read, or the visitor asked not to be told apart
    attempt: int | None = None  # see identify.credentials.refused_attempt
    login = 0  # of several behind one visitor, see identify.credentials.login_number
    variant: Variant | None = None  # what the query made of the page, the data, or the guess that failed
    address: str | None = None  # where it came from, if that is kept: an IPv6 /64 may be a whole building
    verification: Verification | None = None  # of a crawler's claim, as this request proves it; None: it claims nothing

    def __init__(self, visitor: Visitor, decision: Decision, time_ns: int, method: str, path: str) -> None:
        self.visitor = visitor
        # The visitor may have begun another session, under another day's fingerprint, when this request ends.
        self.session, self.identity = visitor.session, visitor.identity
        self.verification = visitor.verification
        self.decision = decision
        self.time_ns = time_ns  # wall time of the start, nanoseconds since 1970
        self.method = method
        self.path = path


class Analytics:
    """What we found about the current request: `scope["state"]["analytics"]`. A live view, not a copy."""

    __slots__ = ("_decision", "_session", "_verification", "_visitor")

    def __init__(
        self,
        visitor: Visitor,
        decision: Decision,
        session: Session | None = None,
        verification: Verification | None = None,
    ) -> None:
        self._visitor = visitor
        self._decision = decision
        self._session = session or visitor.session
        self._verification = verification

    @property
    def visitor(self) -> str | None:
        """The fingerprint as 32 hex digits; None when the visitor asked not to be told apart (Sec-GPC, DNT)."""
        identity = self._visitor.identity
        return identity.fingerprint.hex() if identity.tracked else None

    @property
    def session(self) -> str | None:
        """The session's id as 32 hex digits; None as for `visitor`."""
        return self._session.id.hex() if self._visitor.identity.tracked else None

    @property
    def place(self) -> Place:
        """Country, region, city, autonomous system."""
        return self._visitor.identity.place

    @property
    def agent(self) -> Agent:
        """Browser, operating system, device, declared crawler."""
        return self._visitor.identity.agent

    @property
    def language(self) -> str | None:
        """The preferred language tag, lower case."""
        return self._visitor.identity.language

    @property
    def verification(self) -> Verification | None:
        """Whether a crawler is who it claims to be; None when nothing is claimed."""
        return self._verification

    @property
    def score(self) -> int:
        """Sum of the raised signals' points; from `bot_score` (50) on a behavioural bot."""
        return self._visitor.actor.score

    @property
    def signals(self) -> tuple[Finding, ...]:
        """The raised signals with their measured values."""
        return self._visitor.actor.signals

    @property
    def level(self) -> ThrottleLevel:
        """The throttle level in force."""
        return self._visitor.actor.throttle.level

    @property
    def decision(self) -> Decision:
        """What was decided on this request; in observe mode `refused` tells what would have happened."""
        return self._decision
