"""What is known of who is judged: running facts, each kept in O(1) per request. Data only, as in model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import NamedTuple

from .untracked import untrack


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


class Program(IntEnum):
    """What a visitor's user agent says of the program behind it."""

    NONE = 0  # a browser's name
    CRAWLER = 1  # its own name
    TOOL = 2  # that of a library, or of nothing known


LEVEL_LABELS = ("normal", "warning", "severe", "blocked")
LEVEL_MULTIPLIERS = (1.0, 0.5, 0.25, 0.0)


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
    is_led: bool = False  # follows a link of another site


_NO_CLAIMS = Claims()


@dataclass(slots=True)
class Caller:
    """Who asks for data: one of several logins behind one visitor, or all others there."""

    item_at: float = -inf
    burst_at: float = -inf
    in_burst: int = 0  # items fetched in the present burst and not counted
    met_at: float = -inf
    is_new: bool = False  # a login that has yet to come back
    seen_at: float = -inf


@dataclass(slots=True)
class Traces:
    """Running facts that most visitors have none of: made with the first error or API answer."""

    probes: int = 0  # weights of the distinct sensitive paths asked for in vain
    probes_bitmap: int = 0
    odd: int = 0  # requests of a method or a path that no browser sends
    tries: int = 0  # credentials that were not accepted
    blind_tries: int = 0  # of those, by somebody who never loaded a page, or a library
    ten_minutes: Window = field(default_factory=Window)  # of tries
    last_tries: tuple[int, ...] = ()  # numbers of what was tried
    tried_at: float = -inf
    rapid_tries: int = 0  # in a row, that may be polls
    polled: Window = field(default_factory=Window)  # of tries taken for polls by their length
    length: int = 0  # of what was refused last
    growth: int = 0  # steps by which what is refused gets longer, few of them back
    typed: Window = field(default_factory=Window)  # of tries taken for what is being typed in
    excused: int = 0  # tries of somebody who also gets it right
    calls: int = 0  # answers with data, such as JSON
    items: int = 0  # of those, of paths not asked before
    items_bitmap: int = 0
    five_minutes: Window = field(default_factory=Window)  # of items
    in_bursts: Window = field(default_factory=Window)  # of items fetched in bursts and not counted
    caller: Caller = field(default_factory=Caller)
    callers: dict[int, Caller] | None = None  # by a number of the login, once there are several
    first_login: int = 0
    last_login: int = 0  # of `callers`
    joined: list[float] = field(default_factory=list)  # when those came back who have less than five minutes ago
    settled: int = 0  # and how many have before
    prefetched: Window = field(default_factory=Window)  # likewise, that were prefetched, or asked for with credentials
    turned: Window = field(default_factory=Window)  # likewise, that were pages of lists
    excused_errors: Window = field(default_factory=Window)  # of what a page, or somebody with credentials, asked for
    excused_since: float = -inf  # when the first of those came that `excused_lately` counts
    excused_lately: int = 0
    injected: Window = field(default_factory=Window)  # of queries that scanners try, and that somebody may have typed
    redirected_to: int = 0  # where the answer to a form led to: a number of path and query
    redirected_at: float = -inf
    redirected: Window = field(default_factory=Window)  # of pages that were not counted for that
    agents: int = 0  # of a pool: distinct user agents
    agents_bitmap: int = 0
    seen_at: float = 0.0  # of a pool: monotonic seconds
    networks: int = 0  # of a pool: distinct client networks
    networks_bitmap: int = 0

    def __post_init__(self) -> None:
        """Visitors are many."""
        untrack(self, self.ten_minutes, self.polled, self.typed, self.five_minutes, self.in_bursts, self.caller)
        untrack(self.joined, self.prefetched, self.turned, self.excused_errors, self.injected, self.redirected)


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
    sent: int = 0  # of `used`, what the last exchange sent
    wait: float = 0.0  # seconds until a unit is free, by the last exchange
    asked_at: float = -inf  # or opened
    wanted: bool = False  # it is new, or a request was refused for want of units
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
    crowd: int = 0  # reloads in a rush that may be of many people at once
    crowd_at: float = -inf  # of the last one
    crowded: int = 0  # of those, not counted in the hour that ends at `crowded_until`
    crowded_until: float = -inf  # monotonic seconds
    paced_loads: int = 0  # what counts for the pace: page loads; reloads and forms faster than a person's
    forms: int = 0  # of those, forms that no page sent
    pages_bitmap: int = 0
    distinct_pages: int = 0  # bits set in the bitmap
    variants: int = 0  # page loads that a query told from others of their path
    ascending: int = 0  # steps to a page whose path sorts after the page before, but for loops over few pages
    steps: int = 0
    gaps: int = 0
    gap_mean: float = 0.0  # seconds between page loads, recent ones weigh most
    gap_variance: float = 0.0
    minute: Window = field(default_factory=Window)
    five_minutes: Window = field(default_factory=Window)
    entries: int = 0  # page loads that came from outside, reloads too
    at_once: int = 0  # of those, within a second of the page before, as tabs that a starting browser reopens
    led_on: int = 0  # page loads of a gallery
    judged_loads: int = 0  # page loads when one was last judged in full
    led_here: int = 0  # page loads judged in full that followed a link of another site, less those that did not
    inner_steps: int = 0  # page loads that came from a page of this site
    returns: int = 0  # loads of one of the last four pages that came from outside
    entry_page: str = ""  # the sort key of the page that was last loaded from outside, once there were several
    people: int = 1  # who look alike and browse at once, as far as entries, inner steps and what they load again tell
    errors: int = 0  # distinct paths answered 4xx
    errors_bitmap: int = 0
    strayed_at: float = -inf  # the last error that may be a dead link
    strayed: int = 0  # such errors that were excused
    led_to: int = 0  # a number of where the last redirect led to
    files: int = 0  # whether they come from here: 0 not looked at yet, or site.HERE, ELSEWHERE
    raised: int = 0  # one bit per signal raised in this session
    quiet_until: int = -1  # steps: up to there, no page load can raise a signal or the level
    traces: Traces | None = None

    def __post_init__(self) -> None:
        """Visitors are many."""
        untrack(self, self.minute, self.five_minutes)


@dataclass(slots=True)
class Throttle:
    """A visitor's level and the evidence that was already spent on it."""

    level: ThrottleLevel = ThrottleLevel.NORMAL
    changed_at: float = -inf  # monotonic seconds of the last change; minus infinity: never
    reasons: tuple[str, ...] = ()  # sentences: what raised the level last
    was_blocked: bool = False  # since it was last Normal
    spent_score: int = 0
    spent_page_loads: int = 0
    spent_paced_loads: int = 0
    spent_requests: int = 0
    spent_errors: int = 0
    spent_probes: int = 0
    spent_tries: int = 0
    spent_items: int = 0

    def __post_init__(self) -> None:
        """Visitors are many."""
        untrack(self)


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
    program: Program = Program.NONE
    claims: Claims = _NO_CLAIMS
    pool: Actor | None = None  # of its name and language, once its headers contradict that
    loaded: bool = False  # a page, in an earlier session
    starts: int = 0  # sessions begun
    started_at: float = 0.0  # of the last one
    start_gap_mean: float = 0.0  # seconds between sessions' beginnings
    start_gap_variance: float = 0.0
    key: bytes = b""  # 16 bytes, keyed hash: what other workers call it
    next_key: bytes = b""  # what they call it from today on, while its loans have yet to be told under that name
    loans: list[Loan] | None = None  # one per quota once it is shared with other workers; see decide.lease

    def __post_init__(self) -> None:
        """Visitors and client networks are many."""
        untrack(self, self.windows, *self.windows, self.hour)


@dataclass(frozen=True, slots=True)
class Finding:
    """One raised signal with its measured value."""

    signal: str
    points: int
    value: float
    threshold: float
    text: str
    below: bool = False  # raised below the threshold, not above it
