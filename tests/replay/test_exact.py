"""What-if of the live policy over a live run differs in nothing, whatever came: signals, pools, claims, refusals."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from asgi_analytics import AnalyticsMiddleware, cli
from asgi_analytics.batch import DECISION, HIT
from asgi_analytics.inputs import BORROWED, IS_HOSTED
from asgi_analytics.model import Ruling
from asgi_analytics.record.encoding import DECISION_COLUMNS, HIT_COLUMNS
from asgi_analytics.replay.history import History, Verdict
from asgi_analytics.settings import Settings
from asgi_analytics.store.recorded import RecordedHit
from tests import drive
from tests.acceptance.faults.process import WHOLE
from tests.replay.live import PERIOD
from tests.replay.mix import LIMITS, SENT, Mix, places
from tests.replay.test_what_if import remember

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
NUMBERS = {1: "?", 2: "!h", 4: "!i"}


def fields(row: bytes, columns: tuple[str, ...]) -> dict[str, bytes | None]:
    """The values of a row in COPY binary format."""
    found: dict[str, bytes | None] = {}
    place = 2
    for name in columns:
        (length,) = struct.unpack_from("!i", row, place)
        place += 4
        found[name] = None if length < 0 else row[place : place + length]
        place += max(0, length)
    assert place == len(row)
    return found


def number(value: bytes | None, form: str = "") -> Any:
    return None if value is None else struct.unpack(form or NUMBERS.get(len(value), "!q"), value)[0]


def recorded(hit: dict[str, bytes | None], refusals: dict[bytes, bool]) -> RecordedHit:
    """A row as the query reads it from the table."""
    texts = ("method", "path", "route", "outcome", "bot_class", "crawler", "browser", "policy")
    plain = ("status", "first_byte_us", "page_view", "score", "level", "inputs", "numbers", "path_inputs")
    values: dict[str, Any] = {name: None if (raw := hit[name]) is None else raw.decode() for name in texts}
    values |= {name: number(hit[name]) for name in plain}
    values |= {name: UUID(bytes=hit[name]) for name in ("id", "fingerprint", "network", "session_id")}
    values |= {name: bool(number(hit[name])) for name in ("from_inside", "outdated", "exempt")}
    time = EPOCH + timedelta(microseconds=number(hit["time"]))
    refused = refusals.get(hit["decision_id"] or b"", values["outcome"] == "refused")
    claim = None if (raw := hit["verified"]) is None else raw.decode()
    clock = number(hit["clock"], "!d")
    return RecordedHit(
        time=time, seconds=time.timestamp(), clock=clock, refused=refused, banned=False, claim=claim, **values
    )


def hits_of(app: AnalyticsMiddleware) -> list[RecordedHit]:
    batch = app._engine.recorder.memory.read(1, 0, 1 << 20)
    assert batch is not None
    decisions = [fields(one.row, DECISION_COLUMNS) for one in batch.frames if one.kind == DECISION]
    refusals = {one["id"] or b"": number(one["refused"]) for one in decisions}
    found = [recorded(fields(one.row, HIT_COLUMNS), refusals) for one in batch.frames if one.kind == HIT]
    return sorted(found, key=lambda hit: (hit.time, hit.id))


def differing(hits: list[RecordedHit], **options: Any) -> Iterator[tuple[Any, ...]]:
    verdicts: list[Verdict] = list(History(Settings.build(limits=LIMITS, **options)).judge(iter(hits)))
    assert len(verdicts) == len(hits)
    for one in verdicts:
        hit = one.hit
        if (one.refused, one.level, one.score) != (hit.refused, hit.level, hit.score):
            yield hit.path, hit.method, hit.refused, one.refused, hit.level, one.level, hit.score, one.score


def recording(mix: Mix, known: dict[str, Any], site: Any = None, **options: Any) -> AnalyticsMiddleware:
    """A worker whose hits stay where `hits_of` reads them: its threads do not run. `site`: the mix's own if None."""
    app = AnalyticsMiddleware(
        site or mix.site, dsn=drive.NOWHERE, clock=mix.clock, durability="memory", **known, **options
    )
    app._engine.started = True
    return app


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return places(tmp_path_factory.mktemp("places"))


# Another seed is no simpler one: nothing to shrink.
@hypothesis(
    max_examples=15 if WHOLE else 4, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@example(seed=2460, mode="enforce", steps=400, queries=False)
@example(seed=2460, mode="observe", steps=400, queries=True)
@given(st.integers(0, 1 << 32), st.sampled_from(["enforce", "observe"]), st.sampled_from([100, 400]), st.booleans())
def test_no_mix_of_visitors_is_judged_otherwise_again(
    known: dict[str, Any], seed: int, mode: Literal["enforce", "observe"], steps: int, queries: bool
) -> None:
    mix = Mix(random.Random(seed), queries=queries)
    app = AnalyticsMiddleware(mix.site, dsn=drive.NOWHERE, clock=mix.clock, mode=mode, durability="memory", **known)
    assert app._engine.verifier is not None
    app._engine.verifier.refresh(0.0)
    app._engine.locator.refresh(0.0)
    app._engine.started = True  # nothing is written: the rows stay in memory
    asyncio.run(mix.visit(app, steps))
    assert app.stats()["failures"] == {}
    hits = hits_of(app)
    assert len(hits) > steps / 2
    assert list(differing(hits)) == []


async def walk_deep(mix: Mix, app: AnalyticsMiddleware) -> None:
    for number in range(60, 1700):
        await mix.ask(app, "198.51.100.9", "/api/list", {**SENT, "sec-fetch-dest": "empty"}, query=f"page={number}")
        mix.clock.advance(0.4)


def test_a_walk_through_deep_pages_of_data_is_judged_as_it_was(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known)
    asyncio.run(walk_deep(mix, app))
    hits = hits_of(app)
    assert {hit.level for hit in hits} == {0, 1, 2, 3}
    assert list(differing(hits)) == []


@pytest.mark.parametrize("padding", [300, 2000])
def test_a_walk_over_long_paths_is_judged_as_it_was(known: dict[str, Any], padding: int) -> None:
    """Those of more than 1,024 characters are not stored whole."""
    mix = Mix(random.Random(1))
    app = recording(mix, known)

    async def walk() -> None:
        for number in range(160):
            await mix.ask(app, "198.51.100.9", f"/page/{'./' * (padding // 2)}{number}", {"user-agent": "curl/8.16.0"})
            await mix.ask(app, "198.51.100.8", f"/gone/{'./' * (padding // 2)}{number}", SENT)
            mix.clock.advance(1.5)

    asyncio.run(walk())
    hits = hits_of(app)
    assert {hit.level for hit in hits} == {0, 1, 2, 3}
    assert list(differing(hits)) == []


def test_a_crawler_without_a_name_is_judged_as_it_was(known: dict[str, Any]) -> None:
    """As a crawler, which may load more different pages than a tool."""
    mix = Mix(random.Random(1))
    app = recording(mix, known)

    async def walk() -> None:
        for number in range(80):
            await mix.ask(app, "198.51.100.9", f"/page/{number}", {"user-agent": "bot"})
            mix.clock.advance(5)

    asyncio.run(walk())
    hits = hits_of(app)
    assert {(hit.bot_class, hit.crawler) for hit in hits} == {("crawler", None)}
    assert list(differing(hits)) == []


@pytest.mark.parametrize("path", ["/gone/reset", "/gone/reset;x=1", f"/gone/{'a1' * 30}/reset", "/gone;x/.env"])
def test_guesses_in_queries_are_judged_as_they_were(known: dict[str, Any], path: str) -> None:
    """Also where the path is not stored as it was asked for, and what only scanners ask for."""
    mix = Mix(random.Random(1))
    app = recording(mix, known)

    async def guess() -> None:
        for number in range(160):
            await mix.ask(app, "198.51.100.9", path, {"user-agent": "curl/8.16.0"}, query=f"token={number}")
            await mix.ask(app, "198.51.100.8", f"{path}.{number % 40}", SENT, query=f"token={number}")
            mix.clock.advance(1.5)

    asyncio.run(guess())
    hits = hits_of(app)
    assert {hit.level for hit in hits} >= {1, 2, 3}
    assert list(differing(hits)) == []


@pytest.mark.parametrize(("signal", "leaves"), [({}, True), ({"sec-gpc": "1"}, False)])
def test_what_a_row_keeps_of_a_query_is_a_number_of_who_may_be_told_apart(signal: dict[str, str], leaves: bool) -> None:
    mix = Mix(random.Random(1))
    app = AnalyticsMiddleware(mix.site, dsn=drive.NOWHERE, clock=mix.clock, durability="memory")
    app._engine.started = True
    headers = {**SENT, "sec-fetch-site": "none", **signal}
    asyncio.run(mix.ask(app, "198.51.100.9", "/page/item", headers, query="id=51&q=secret"))
    batch = app._engine.recorder.memory.read(1, 0, 1 << 20)
    assert batch is not None
    (row,) = (fields(one.row, HIT_COLUMNS) for one in batch.frames)
    assert (row["path"], row["query"], row["path_inputs"] is not None) == (b"/page/item", None, leaves)
    assert b"secret" not in b"".join(value or b"" for value in row.values())


HOSTED = "SELECT count(*) FROM analytics.hits WHERE inputs & %s <> 0 AND score >= 10"
RAISED = """SELECT DISTINCT signal ->> 'signal' AS code FROM analytics.decisions
    CROSS JOIN LATERAL jsonb_array_elements(detail -> 'signals') AS signal"""
EXPECTED = {
    *("inconsistent_headers", "agent_rotation", "residential_proxy_rotation", "probing", "credential_stuffing"),
    *("distinct_items_per_minute", "false_crawler_claim", "odd_method_or_path"),
}


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_what_if_of_the_live_policy_differs_in_nothing(
    dsn: str, known: dict[str, Any], capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    mix = Mix(random.Random(11), queries=True)
    with drive.wrapped(mix.site, dsn, clock=mix.clock, mode=mode, **known) as app:
        drive.start(app)
        asyncio.run(mix.tour(app, 12))
        asyncio.run(mix.visit(app, 500))
    remember(dsn, limits=LIMITS)
    assert cli.main(["what-if", "--dsn", dsn, *PERIOD, "--export", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with psycopg.connect(dsn) as connection:
        raised = {row[0] for row in connection.execute(RAISED)}
        levels = {row[0] for row in connection.execute("SELECT DISTINCT level FROM analytics.hits")}
        hosted = connection.execute(HOSTED, (IS_HOSTED,)).fetchone()
    assert (found["refused"]["newly"], found["refused"]["freed"], found["levels"], found["scores"]) == (0, 0, 0, 0)
    assert found["refused"]["then"] > 100
    assert raised >= EXPECTED
    assert levels == {0, 1, 2, 3}
    assert hosted is not None
    assert hosted[0] > 0
    assert found["kept"] == 0


def test_a_pardon_that_finds_a_quota_used_up_past_the_rate_of_rows_is_taken_as_it_was(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known)

    async def poll(paths: Iterable[str]) -> None:
        for path in paths:
            await mix.ask(app, "198.51.100.9", path, {"user-agent": "curl/8.16.0"})
            mix.clock.advance(0.06)

    asyncio.run(poll(["/api/poll"] * 69 + [f"/page/{number}" for number in range(31)] + ["/api/poll"] * 110))
    now = mix.clock.monotonic()
    network: dict[str, Any] = {"size": 4, "prefix": 32, "network": bytes((198, 51, 100, 9))}
    app._engine.rulings.learn_rulings([Ruling(bytes(16), 1, "pardon", "", "", now, now + 600.0, **network)], now)
    asyncio.run(poll(["/api/poll"] * 10))
    mix.clock.advance(60.0)
    asyncio.run(poll(["/api/poll"] * 80))
    assert mix.statuses[-90:] == [429] * 10 + [200] * 80
    assert list(differing(hits_of(app))) == []


def test_who_returned_a_cookie_is_judged_as_then_by_what_came_with_it(known: dict[str, Any]) -> None:
    """What it did before counted for all who look alike, and not for it."""
    mix = Mix(random.Random(1))
    app = recording(mix, known, **drive.COOKIE)

    async def browse() -> None:
        jars: list[str] = [""] * 3
        for turn in range(150):
            for person, jar in enumerate(jars):
                headers = {**SENT, **({"cookie": jar} if jar else {})}
                scope = drive.http_scope(f"/page/{turn}", headers=headers, scheme="https")
                reply = await drive.ask(app, scope)
                jars[person] = reply.cookies[0].partition(";")[0] if reply.cookies else jar
                mix.clock.advance((0.1, 2.0, 5.0)[person] / 3.0)

    asyncio.run(browse())
    hits = hits_of(app)
    assert len({hit.fingerprint for hit in hits}) == 3
    assert sum(bool((hit.inputs or 0) & BORROWED) for hit in hits) == 3
    assert {hit.level for hit in hits} >= {0, 1, 2}
    assert list(differing(hits)) == []


def test_who_has_yet_to_return_a_cookie_is_judged_with_others_who_look_alike(known: dict[str, Any]) -> None:
    mix = Mix(random.Random(1))
    app = recording(mix, known, **drive.COOKIE)

    async def probe() -> None:
        for path in ("/wp-login.php", "/xmlrpc.php", "/.env", "/.git/config"):
            await mix.ask(app, "198.51.100.9", path, SENT)
            mix.clock.advance(1.0)

    asyncio.run(probe())
    hits = hits_of(app)
    assert len({hit.fingerprint for hit in hits}) == 4
    assert hits[-1].level > 0
    assert list(differing(hits)) == []


def test_errors_that_are_excused_are_excused_again(known: dict[str, Any]) -> None:
    """Pictures whose names are hidden, what credentials were sent with, and what a page asked for."""
    mix = Mix(random.Random(1))
    app = recording(mix, known)

    async def walk() -> None:
        phone, called = {"user-agent": "okhttp/5.1.0"}, {**SENT, "sec-fetch-dest": "empty"}
        for number in range(400):
            name = sha256(str(number).encode()).hexdigest()
            await mix.ask(app, "198.51.100.9", f"/gone/{name}.png", phone)
            await mix.ask(app, "198.51.100.8", f"/gone/{name}", {**phone, "authorization": "Basic eDp5"})
            await mix.ask(app, "198.51.100.7", f"/gone/{name}", called)
            mix.clock.advance(0.5)

    asyncio.run(walk())
    hits = hits_of(app)
    assert {hit.level for hit in hits if hit.browser == "okhttp"} == {0}
    assert list(differing(hits)) == []
