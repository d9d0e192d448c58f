from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from asgi_analytics.errors import DataFileError
from asgi_analytics.identify.operators import SOURCES
from asgi_analytics.jobs import data
from asgi_analytics.jobs.data import default_crawler_dir, from_folder, from_web, held, read_sources, stamp, update

from .web import serve

NOW = 1_800_000_000.0
ONE = b'{"prefixes": [{"ipv4Prefix": "66.249.64.0/27"}]}'
TWO = b'{"prefixes": [{"ipv4Prefix": "66.249.64.0/27"}, {"ipv6Prefix": "2001:4860:4801:10::/64"}]}'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_come_from_the_web_and_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "crawlers"
    with serve({"/one.json": ONE, "/two.json": TWO}) as site:
        sources = {"a-one": f"{site.url}/one.json", "b-two": f"{site.url}/two.json"}
        updates = list(update(folder, sources, from_web(sources, NOW)))
    assert [(one.name, one.error, one.held and one.held.ranges.prefixes) for one in updates] == [
        ("a-one", None, 1),
        ("b-two", None, 2),
    ]
    found, wrong = held(folder, sources)
    assert {name: file.fetched_at for name, file in found.items()} == {"a-one": NOW, "b-two": NOW}
    assert wrong == {}
    assert names(folder) == ["a-one.json", "b-two.json"]


@pytest.mark.parametrize("answer", [b"<html>", b'{"prefixes": [{"ipv4Prefix": "0.0.0.0/0"}]}', 404, b"x" * 3_000_000])
def test_what_is_wrong_with_one_file_is_said_and_the_old_one_stays(tmp_path: Path, answer: bytes | int) -> None:
    (tmp_path / "a.json").write_bytes(ONE)
    os.utime(tmp_path / "a.json", (NOW - 86_400, NOW - 86_400))
    with serve({"/a": answer, "/b": TWO}) as site:
        sources = {"a": f"{site.url}/a", "b": f"{site.url}/b"}
        first, second = update(tmp_path, sources, from_web(sources, NOW))
    assert first.error
    assert first.held is not None
    assert (first.held.ranges.prefixes, first.held.fetched_at) == (1, NOW - 86_400)
    assert (second.error, second.held and second.held.ranges.prefixes) == (None, 2)
    assert names(tmp_path) == ["a.json", "b.json"]


def test_files_from_a_folder_are_as_old_as_they_are_there(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    (source / "a.json").write_bytes(ONE)
    os.utime(source / "a.json", (NOW, NOW))
    (source / "damaged.json").write_bytes(b"{")
    there, damaged, missing = update(folder, {"a": "", "damaged": "", "missing": ""}, from_folder(source))
    assert there.held is not None
    assert there.held.fetched_at == NOW
    assert damaged.error == "no JSON"
    assert missing.error is not None
    assert "No such file" in missing.error
    assert missing.held is None


def test_a_file_is_asked_for_when_the_one_before_was_told(tmp_path: Path) -> None:
    asked = []

    def get(name: str) -> tuple[bytes, float]:
        asked.append(name)
        return ONE, NOW

    updates = update(tmp_path, {"a": "", "b": ""}, get)
    assert (next(updates).name, asked) == ("a", ["a"])
    assert (next(updates).name, asked) == ("b", ["a", "b"])


def test_a_damaged_file_in_the_folder_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "google-common-crawlers.json").write_bytes(ONE)
    (tmp_path / "openai-gptbot.json").write_bytes(ONE[:20])
    (tmp_path / "bing-bingbot.json").mkdir()
    found, wrong = held(tmp_path)
    assert set(found) == {"google-common-crawlers"}
    assert set(wrong) == {"openai-gptbot", "bing-bingbot"}
    assert held(tmp_path / "nowhere") == ({}, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="what is done as root only")
def test_files_are_not_believed_where_somebody_else_could_put_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    folder = tmp_path / "asgi-analytics-0/crawlers"
    folder.mkdir(parents=True)
    (folder / "googlebot.json").write_bytes(ONE)
    assert set(held(folder, {"googlebot": None})[0]) == {"googlebot"}
    os.chown(folder.parent, 12_345, 12_345)
    found, wrong = held(folder, {"googlebot": None})
    assert found == {}
    assert "belongs to another user" in wrong["googlebot"]


def test_the_stamp_changes_with_any_file(tmp_path: Path) -> None:
    stamps = [stamp(tmp_path), stamp(tmp_path / "nowhere")]
    (tmp_path / "a.json").write_bytes(ONE)
    stamps.append(stamp(tmp_path))
    (tmp_path / "a.json").write_bytes(TWO)
    stamps.append(stamp(tmp_path))
    assert stamps[0] == stamps[1] == ()
    assert len(set(stamps)) == 3


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataFileError):
        update(tmp_path / "file" / "folder", SOURCES, from_folder(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", '{"../x": "https://a"}', '{"A": "https://a"}', '{"": "https://a"}'])
def test_sources_are_checked(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.json").write_text(text)
    with pytest.raises(DataFileError, match=r'not \{"name": "https://…"\}'):
        read_sources(tmp_path / "sources.json")


def test_sources_that_are_not_there_are_named_once(tmp_path: Path) -> None:
    with pytest.raises(DataFileError) as caught:
        read_sources(tmp_path / "sources.json")
    assert str(caught.value) == f"{tmp_path / 'sources.json'} cannot be read: No such file or directory."


def test_the_folder_is_the_users_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASGI_ANALYTICS_CRAWLER_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_crawler_dir() == tmp_path / "asgi-analytics" / "crawlers"
    monkeypatch.setenv("ASGI_ANALYTICS_CRAWLER_DIR", "/data/x")
    assert default_crawler_dir() == Path("/data/x")


def test_a_disk_that_is_full_is_said_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data, "write_atomically", full)
    (done,) = update(tmp_path, {"a": ""}, lambda name: (ONE, NOW))
    assert done.error == f"No space left on device: {tmp_path}"
