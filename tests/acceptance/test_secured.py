"""Postgres over TLS: a certificate that is renewed, and one that nobody renewed in time."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.rig import Load, assert_exactly_once, serving
from tests.acceptance.secured import Authority, SecuredWire
from tests.drive import called
from tests.waiting import wait_until


def test_a_renewed_certificate_loses_and_doubles_nothing(dsn: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with SecuredWire(dsn, authority) as wire, serving(wire.dsn, tmp_path / "j", batch_age=0.05) as server:
        with Load(server.port) as load:
            for _ in range(3):
                load.more(60)
                wire.renew(authority.context())
                wait_until(lambda: wire.handshakes > 0, what="the writer to come back")
            load.more(60)
        assert_exactly_once(dsn, load.answered)


def test_with_an_expired_certificate_hits_wait_and_the_doctor_says_why(dsn: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with SecuredWire(dsn, authority) as wire, serving(wire.dsn, tmp_path / "j", batch_age=0.05) as server:
        with Load(server.port) as load:
            load.more(60)
            wire.renew(authority.context(days=-1))
            load.more(60)
            told = called("doctor", "--dsn", wire.dsn)
            assert told.returncode == 1
            assert "certificate verify failed" in told.stdout + told.stderr
            assert wire.handshakes == 0
            wire.renew(authority.context())
            load.more(60)
        assert_exactly_once(dsn, load.answered)
