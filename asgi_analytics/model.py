"""The values that cross stages. Data only: what they mean is decided in the stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import Any, NamedTuple


class ThrottleLevel(IntEnum):
    """How far a visitor is slowed down; each level multiplies every quota."""

    NORMAL = 0
    WARNING = 1
    SEVERE = 2
    BLOCKED = 3

    @property
    def label(self) -> str:
        """The lower-case word that headers and tables use."""
        return LEVEL_LABELS[self]

    @property
    def multiplier(self) -> float:
        """1.0, 0.5, 0.25 or 0.0."""
        return LEVEL_MULTIPLIERS[self]


LEVEL_LABELS = ("normal", "warning", "severe", "blocked")
LEVEL_MULTIPLIERS = (1.0, 0.5, 0.25, 0.0)
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


@dataclass(slots=True)
class Window:
    """A sliding window counter: units of this window of the clock and of the one before."""

    ends_at: float = 0.0  # monotonic seconds: where the window of the clock that `count` belongs to ends
    count: int = 0
    previous: int = 0


class Claims(NamedTuple):
    """What a request says of who sent it, beyond its user agent: read when a visitor is judged in full."""

    faults: tuple[str, ...] = ()  # what the browser it claims to be would not have sent like this
    is_browser: bool = False  # claims to be one that is known to send Fetch Metadata
    tells_origin: bool = False  # sends Sec-Fetch-Site
    is_hosted: bool = False  # comes from a network of servers
    false_claim: bool = False  # says that it is an operator's crawler, and is not
    agent: int = 0  # a number of the user agent and the language
    network: int = 0  # a number of the client network


_NO_CLAIMS = Claims()


@dataclass(slots=True)
class Traces:
    """Running facts that most visitors have none of: made with the first error or API answer."""

    probes: int = 0  # weights of the distinct sensitive paths asked for in vain
    probes_bitmap: int = 0
    odd: int = 0  # requests of a method or a path that no browser sends
    tries: int = 0  # credentials that were not accepted
    blind_tries: int = 0  # of those, by somebody who never loaded a page
    ten_minutes: Window = field(default_factory=Window)  # of tries
    last_tries: tuple[int, ...] = ()  # numbers of what was tried
    tried_at: float = -inf
    rapid_tries: int = 0  # in a row, that may be polls
    excused: int = 0  # tries of somebody who also gets it right
    calls: int = 0  # answers with data, such as JSON
    items: int = 0  # of those, of paths not asked before
    items_bitmap: int = 0
    five_minutes: Window = field(default_factory=Window)  # of items
    in_bursts: Window = field(default_factory=Window)  # of those that were fetched at once and not counted
    ahead: Window = field(default_factory=Window)  # likewise, that were fetched before they were needed
    item_at: float = -inf
    burst_at: float = -inf
    agents: int = 0  # of a pool: distinct user agents
    agents_bitmap: int = 0
    seen_at: float = 0.0  # of a pool: monotonic seconds
    networks: int = 0  # of a pool: distinct client networks
    networks_bitmap: int = 0


@dataclass(slots=True)
class Loan:
    """What this worker may admit of one quota that all workers share: `used` may rise to `allowed`.

    Requests write `used`, the thread that exchanges loans writes nearly all else, so that neither waits for the other.
    """

    counter: bytes  # names actor and window, alike at all workers
    size: float  # seconds of the window
    limit: int  # at the actor's level
    used: int  # units admitted here since the loan was opened
    allowed: int
    left: int  # to all workers together, when `reported` was used
    used_at: float  # the opening, or the last exchange with something to report; monotonic seconds
    reported: int = 0  # of `used`, what the others know
    told: int = 0  # of `used`, what the last exchange told
    wait: float = 0.0  # seconds until a unit is free, as told at the last exchange
    asked_at: float = -inf
    wanted: bool = False  # a request was refused for want of units
    dry: bool = False  # the last exchange brought nothing: asking at once would not either


@dataclass(slots=True)
class Behaviour:
    """Running facts of one session, each kept in O(1) per request."""

    requests: int = 0  # answered by the app
    accepted: int = 0  # of those, sent by POST and not refused
    page_loads: int = 0  # pages answered; a reload of the page before is not one
    last_page: str = ""  # the sort key of its path
    before_last: tuple[str | None, str | None, str | None] = (None, None, None)  # of the three pages before it
    last_page_at: float = 0.0
    last_answer_at: float = 0.0  # of any page, a reload too
    hurried: int = 0  # page loads, and reloads that follow faster than a person reloads
    pages_bitmap: int = 0
    distinct_pages: int = 0  # bits set in the bitmap
    ascending: int = 0  # steps to a page whose path sorts after the page before, but for loops over few pages
    steps: int = 0
    gaps: int = 0
    gap_mean: float = 0.0  # seconds between page loads, recent ones weigh most
    gap_variance: float = 0.0
    minute: Window = field(default_factory=Window)
    five_minutes: Window = field(default_factory=Window)
    entries: int = 0  # page loads that came from outside, reloads too
    inner_steps: int = 0  # page loads that came from a page of this site
    returns: int = 0  # loads of one of the last four pages that came from outside
    people: int = 1  # who look alike and browse at once, as far as entries, inner steps and what they load again tell
    errors: int = 0  # distinct paths answered 4xx
    errors_bitmap: int = 0
    raised: int = 0  # one bit per signal raised in this session
    quiet_until: int = -1  # steps: up to there, no page load can raise a signal or the level
    traces: Traces | None = None


@dataclass(slots=True)
class Throttle:
    """A visitor's level and the evidence that was already spent on it."""

    level: ThrottleLevel = ThrottleLevel.NORMAL
    changed_at: float = -inf  # monotonic seconds of the last change; minus infinity: never
    reasons: tuple[str, ...] = ()  # sentences: what raised the level last
    was_blocked: bool = False  # since it was last Normal
    spent_score: int = 0
    spent_page_loads: int = 0
    spent_hurried: int = 0
    spent_requests: int = 0
    spent_errors: int = 0
    spent_probes: int = 0
    spent_tries: int = 0
    spent_items: int = 0


@dataclass(slots=True)
class Actor:
    """Who is judged: a visitor, or a client network as the outer bound."""

    windows: list[Window]  # one per quota
    throttle: Throttle = field(default_factory=Throttle)
    behaviour: Behaviour = field(default_factory=Behaviour)
    hour: Window = field(default_factory=Window)  # sessions begun
    score: int = 0
    signals: tuple[Finding, ...] = ()
    outdated: bool = False  # Agent.outdated of this visitor
    program: int = 0  # 0: claims to be a browser; else decide.conduct.CRAWLER or TOOL
    claims: Claims = _NO_CLAIMS
    loaded: bool = False  # a page, in an earlier session
    starts: int = 0  # sessions begun
    started_at: float = 0.0  # of the last one
    start_gap_mean: float = 0.0  # seconds between sessions' beginnings
    start_gap_variance: float = 0.0
    key: bytes = b""  # 16 bytes, keyed hash: what other workers call it
    loans: list[Loan] | None = None  # one per quota once it is shared with other workers; see decide.lease


@dataclass(frozen=True, slots=True)
class Finding:
    """One raised signal with its measured value."""

    signal: str
    points: int
    value: float
    threshold: float
    text: str


@dataclass(init=False)
class Decision:
    """What the second stage found for one request. Most requests need the first three: the rest stays on the class."""

    level: ThrottleLevel = ThrottleLevel.NORMAL
    score: int = 0
    quotas: tuple[int, ...] = ()  # of each of the visitor's quotas: units left, seconds until its window moves on
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
        if more:
            unknown = more.keys() - self.__dataclass_fields__.keys()
            if unknown:
                raise TypeError(f"Decision has no {', '.join(sorted(unknown))}")
            self.__dict__.update(more)

    @property
    def remaining(self) -> tuple[int, ...]:
        """The units left, one per quota of the visitor."""
        return self.quotas[::2]

    @property
    def reset(self) -> tuple[int, ...]:
        """The seconds until the quota's window moves on, one per quota of the visitor."""
        return self.quotas[1::2]


@dataclass(slots=True)
class Standing:
    """A refusal that is given again, as it was said, to a visitor that hammers on: for a moment of monotonic time."""

    decision: Decision
    answer: Any  # respond.Refusal
    counted: bytes  # the row of record.refusals that the first one was
    until: float  # monotonic seconds
    minute: int  # of the wall clock: the next one has rows of refusals again
    ruling: Any  # protocols.Ruling of a ban; None: refused by quota or level


@dataclass(slots=True, eq=False)
class Visitor:
    """A visitor as this worker knows it: identity, running session, and who is judged for it."""

    identity: Identity
    session: Session
    actor: Actor
    network: Actor  # the outer bound
    segment: bytes | None = None  # the encoded columns of session and identity, made by the recorder
    verification: Any = None  # protocols.Verification of a crawler's claim; None: it claims nothing
    learnt: object | None = None  # what other workers saw (protocols.Merged), taken in at the next request
    standing: Standing | None = None  # of one whose refusals are counted
    cookie: bytes | None = None  # the Set-Cookie value of a visitor that has yet to return it
    cookie_sent: bool = False  # an answer took it along
    unsent: tuple[bytes, Visitor] | None = None  # who gets the next cookie that an answer can take along, and its name
    unreturned: int = 0  # cookies given to this fingerprint that did not come back yet
    known: bool = False  # is in this worker's memory
    seen: bool = False  # since it was last in turn to be forgotten


class Hit:
    """One request with its answer: what a row is made of. What most hits do not have stays on the class."""

    outcome = "complete"  # complete, aborted, refused, error
    page_view = False
    status: Any = None  # what the app sent
    duration_us = 0
    first_byte_us: int | None = None
    bytes_sent = 0
    clock = 0.0  # Clock.monotonic() of the start: what decisions went by
    from_inside: bool | None = None  # asked for by a page of this site; told for pages and errors only
    route: str | None = None
    query: str | None = None
    referral: Referral | None = None
    close_code: int | None = None
    detail: dict[str, Any] | None = None  # of the decision, see decide.explain
    counted: bytes | None = None  # of a refusal past the rate: the row of record.refusals that it is instead of a hit
    inputs = 0  # what verdicts read beside the columns above: DATA and FORGIVEN of inputs.py
    claims: Claims | None = None  # as they were read; None: they were not, or the visitor asked not to be told apart
    attempt: int | None = None  # see identify.consistency.tried

    def __init__(self, visitor: Visitor, decision: Decision, time_ns: int, method: str, path: str) -> None:
        self.visitor = visitor
        self.decision = decision
        self.time_ns = time_ns  # wall time of the start, nanoseconds since 1970
        self.method = method
        self.path = path


class Analytics:
    """What we found about the current request: `scope["state"]["analytics"]`. A live view, not a copy."""

    __slots__ = ("_decision", "_visitor")

    def __init__(self, visitor: Visitor, decision: Decision) -> None:
        self._visitor = visitor
        self._decision = decision

    @property
    def visitor(self) -> str | None:
        """The fingerprint as 32 hex digits; None when the visitor asked not to be told apart (Sec-GPC, DNT)."""
        identity = self._visitor.identity
        return identity.fingerprint.hex() if identity.tracked else None

    @property
    def session(self) -> str | None:
        """The session's id as 32 hex digits; None as for `visitor`."""
        return self._visitor.session.id.hex() if self._visitor.identity.tracked else None

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
    def verification(self) -> Any:
        """What is known of a crawler's claim to be an operator's (status, method, operator, text); None: no claim."""
        return self._visitor.verification

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
