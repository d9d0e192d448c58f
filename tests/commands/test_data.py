"""`data update` as operators run it: address ranges of crawlers, downloaded or taken from a folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tests.command import run
from tests.drive import called
from tests.jobs.web import serve

RANGES = b'{"prefixes": [{"ipv4Prefix": "66.249.64.0/27"}, {"ipv4Prefix": "66.249.64.32/27"}]}'


def test_data_update_downloads_says_what_failed_and_keeps_what_there_was(tmp_path: Path) -> None:
    folder, sources = tmp_path / "data", tmp_path / "sources.json"
    with serve({"/a.json": RANGES, "/b.json": RANGES}) as site:
        sources.write_text(json.dumps({name: f"{site.url}/{name}.json" for name in "ab"}))
        first = called("data", "update", "--dir", str(folder), "--sources", str(sources))
        site.pages["/b.json"] = b"<html>"
        site.pages["/a.json"] = 404
        second = run("data", "update", "--sources", str(sources), ASGI_ANALYTICS_CRAWLER_DIR=str(folder))
    assert (first.returncode, first.stderr) == (0, "")
    assert "2 of 2 files are up to date" in first.stdout
    assert "2 prefixes, 0 s old" in first.stdout
    assert second.returncode == 1
    (a, b, summary) = second.stdout.splitlines()
    assert "2 prefixes" in a
    assert "kept: " in a
    assert "status 404" in a
    assert "no JSON" in b
    assert "0 of 2 files" in summary
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [RANGES, RANGES]


def test_data_update_from_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = called("data", "update", "--dir", str(tmp_path / "data"), "--from", str(missing))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"asgi-analytics: {missing} is no folder, or cannot be read.\n"


def test_data_update_takes_files_from_a_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    (source / "google-common-crawlers.json").write_bytes(RANGES)
    os.utime(source / "google-common-crawlers.json", (time.time() - 5 * 86_400,) * 2)
    done = called("data", "update", "--dir", str(folder), "--from", str(source))
    assert done.returncode == 1
    assert "google-common-crawlers          2 prefixes, 5 days old\n" in done.stdout
    assert "openai-gptbot                   none; not there: " in done.stdout


def test_data_needs_an_action_and_good_sources(tmp_path: Path) -> None:
    assert called("data").returncode == 2
    failed = called("data", "update", "--dir", str(tmp_path), "--sources", str(tmp_path / "none.json"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("asgi-analytics: ")
