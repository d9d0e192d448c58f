from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from tests.drive import called


def test_doctor_finds_nothing_wrong_with_a_migrated_database(dsn: str) -> None:
    answer = called("doctor", "--dsn", dsn)
    assert answer.returncode == 0, answer.stdout
    for text in ("PostgreSQL", "schema: up to date", "all that a writer needs", "quota: ", 'durability: "journal"'):
        assert text in answer.stdout


def test_doctor_says_that_the_schema_is_missing(empty_dsn: str) -> None:
    answer = called("doctor", "--dsn", empty_dsn)
    assert answer.returncode == 1
    assert "WRONG schema: not applied: 0001_schema.sql" in answer.stdout
    assert "run `asgi-analytics migrate`" in answer.stdout


def test_doctor_says_which_privileges_a_user_lacks(dsn: str) -> None:
    role = f"reader_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        connection.execute(f"GRANT USAGE ON SCHEMA analytics TO {role}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA analytics TO {role}")
        try:
            answer = called("doctor", "--dsn", psycopg.conninfo.make_conninfo(dsn, user=role, password="x"))
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert answer.returncode == 1
    assert "INSERT on analytics.hits" in answer.stdout


@pytest.mark.parametrize(
    ("proxies", "status", "address"),
    [((), 1, "10.0.0.5: the forwarding header is not believed"), (("10.0.0.0/8",), 0, "84.130.1.2")],
)
def test_doctor_resolves_the_client_address(dsn: str, proxies: tuple[str, ...], status: int, address: str) -> None:
    trusted = ("--trusted-proxies", *proxies) if proxies else ()
    header = ("--header", "X-Forwarded-For: 84.130.1.2", "--client", "10.0.0.5")
    answer = called("doctor", "--dsn", dsn, *header, *trusted)
    assert answer.returncode == status
    assert f"client address: {address}" in answer.stdout


def test_doctor_says_that_the_journal_folder_is_no_folder(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = called("doctor", "--dsn", dsn, "--journal-dir", str(tmp_path / "file" / "journal"))
    assert answer.returncode == 1
    assert "WRONG journal: " in answer.stdout
