"""Quotas shared through Valkey or Redis (6.2 and later): one round trip per exchange, however many counters."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from hashlib import blake2b, sha1
from typing import Any
from urllib.parse import urlsplit

import valkey
from valkey.exceptions import NoScriptError, ValkeyError

from ..clock import random_bytes
from ..columns import one_line
from ..decide.lease import name_of
from ..decide.lending import LIFE, believed, size_of
from ..errors import ConfigurationError, SharedUnavailable
from ..protocols import Ask, Exchanged, Grant
from .bounds import MAX_SCARCE
from .scripts import ANNOUNCE, BEAT, LEND, RAISED

PATIENCE = 5.0  # seconds that doctor waits
_LAX = re.compile(r"[?&]ssl_(?:check_hostname=|cert_reqs=none)")  # an operator has said what is checked
Call = tuple[str, list[str], list[object]]  # script, keys, arguments


def client_options(timeout: float) -> dict[str, Any]:
    """Return the options of every client of ours; `timeout` in seconds."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "client_name": "asgi-analytics",
        "protocol": 2,
    }


def in_scheme(url: str) -> str:
    """Return the URL in a scheme that the client knows; over TLS, a certificate must be the host's.

    By itself the client takes that of any host, and tells it the password.
    """
    for ours, known in (("redis://", "valkey://"), ("rediss://", "valkeys://")):
        if url.startswith(ours):
            url = known + url.removeprefix(ours)
    if url.startswith("valkeys://") and not _LAX.search(url):
        url += ("&" if "?" in url else "?") + "ssl_check_hostname=true"
    return url


def where(url: str) -> str:
    """Return the address in a URL. Raises ConfigurationError, which does not repeat it, where there is none."""
    try:
        if not url.startswith("unix://") and (database := urlsplit(url).path.strip("/")):
            int(database)  # the client would take a name that is no number for database 0
        client: Any = valkey.Valkey.from_url(in_scheme(url), **client_options(1.0))
        connection = client.connection_pool.make_connection()
        return getattr(connection, "path", "") or f"{connection.host}:{connection.port}"
    except (AttributeError, TypeError, ValueError, ValkeyError):  # an invalid port or parameter, a socket without path
        raise ConfigurationError(
            "Option shared (or ASGI_ANALYTICS_SHARED) is no URL of Valkey or Redis; "
            'allowed: "redis://user:password@host:6379/0", also rediss:// or unix://.'
        ) from None


def ask_once(url: str) -> None:
    """Exchange quotas of nobody's, as workers do: a replica answers a ping, too. Raises SharedUnavailable."""
    quotas, worker = ValkeyQuotas(url, random_bytes(8).hex(), PATIENCE), random_bytes(16)
    with contextlib.closing(quotas):
        quotas.exchange(worker, 0, [Ask(name_of(random_bytes(16), 1.0), 1.0, 1, 1, 0, 0, 0)])
        quotas.leave(worker)


@cache
def sha(script: str) -> str:
    """Return the SHA-1 by which the server names a script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


def counter_key(counter: bytes) -> str:
    """Return the key of a counter: all of one actor are in one slot of a cluster."""
    return f"asgi-analytics:{{{counter[:16].hex()}}}:{size_of(counter)}"


class ValkeyQuotas:
    """SharedQuotas over one server. Not thread-safe: one thread owns it."""

    def __init__(self, url: str, site: str, timeout: float) -> None:
        self._client: Any = valkey.Valkey.from_url(in_scheme(url), **client_options(timeout))
        # Hashed, for a site's name may hold what a key should not.
        tag = f"asgi-analytics:{{site {blake2b(site.encode(), digest_size=8).hexdigest()}}}"
        self._workers, self._revision = f"{tag}:workers", f"{tag}:revision"
        self._told = [f"{tag}:scarce", f"{tag}:believed"]
        self._answered = 0  # exchanges

    def exchange(self, worker: bytes, revision: int, asks: Sequence[Ask]) -> Exchanged:
        """Take in what a worker used, and lend. Raises SharedUnavailable."""
        with self._wrapped():
            beat: Call = (
                BEAT,
                [self._workers, *self._told, self._revision],
                [worker.hex(), revision, LIFE, MAX_SCARCE],
            )
            ((alive, scarce),) = self._run([beat])
            answers = self._lend(worker, asks, alive)
            stages = {ask.counter: told[3] for ask, told in zip(asks, answers, strict=True) if told[3]}
            if stages:
                scarce = self._announce(revision, stages)
        self._answered += 1
        told = {bytes.fromhex(name.decode()): int(score) for name, score in zip(scarce[::2], scarce[1::2], strict=True)}
        newest = max((score // 4 for score in told.values()), default=revision)
        grants = [
            Grant(ask.counter, units, left, float(wait))
            for ask, (units, left, wait, _) in zip(asks, answers, strict=True)
        ]
        return Exchanged(len(alive) // 2, newest, {name: score % 4 for name, score in told.items()}, grants)

    def leave(self, worker: bytes) -> None:
        """Forget a worker. Raises SharedUnavailable."""
        with self._wrapped():
            self._client.hdel(self._workers, worker.hex())

    def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(ValkeyError, OSError):
            self._client.close()

    def interrupt(self) -> None:
        """Nothing to do: the client waits no longer than its time-out."""

    def abandon(self) -> None:
        """Nothing to do: the client itself detects a fork."""

    def _lend(self, worker: bytes, asks: Sequence[Ask], alive: Sequence[bytes]) -> list[Any]:
        calls: list[Call] = [
            (
                LEND,
                [counter_key(ask.counter)],
                [worker.hex(), *astuple(ask)[1:], LIFE, self._answered, *alive],
            )
            for ask in asks
        ]
        return self._run(calls)

    def _announce(self, revision: int, stages: Mapping[bytes, int]) -> list[Any]:
        parts = [part for one, stage in stages.items() for part in (one.hex(), stage, believed(size_of(one)))]
        call: Call = (ANNOUNCE, [self._revision, *self._told], [revision, MAX_SCARCE, *parts])
        ((revisions, scarce),) = self._run([call])
        self._run([(RAISED, [counter_key(name)], [given]) for name, given in zip(stages, revisions, strict=True)])
        found: list[Any] = scarce
        return found

    def _run(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip; one more if the server has not loaded them."""
        answers = self._send(calls)
        lost = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if lost:
            for script in {calls[place][0] for place in lost}:
                self._client.script_load(script)
            for place, answer in zip(lost, self._send([calls[place] for place in lost]), strict=True):
                answers[place] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _send(self, calls: Sequence[Call]) -> list[Any]:
        if not calls:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for script, keys, arguments in calls:
                pipe.evalsha(sha(script), len(keys), *keys, *arguments)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers

    @contextlib.contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except (ValkeyError, OSError) as error:
            self.close()  # it may lead to what was the primary, and is a replica now
            raise SharedUnavailable(one_line(error)) from error
