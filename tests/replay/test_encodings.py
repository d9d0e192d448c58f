"""What a log is written in: UTF-8 is read, all else is named, where its lines would only be junk."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from tests import loaded
from tests.drive import called
from tests.replay.lines import combined

TEXT = "\n".join(combined(n, f"/{n}") for n in range(20)) + "\n"
ALLOWED = "a log is UTF-8, with or without a byte order mark, as it is or gzipped.\n"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32"),
        ("utf-32-be", "UTF-32"),
    ],
)
def test_a_log_in_another_encoding_is_refused_by_its_name(
    tmp_path: Path, encoding: str, named: str, zipped: bool
) -> None:
    path = tmp_path / "access.log"
    content = TEXT.encode(encoding)
    path.write_bytes(gzip.compress(content) if zipped else content)
    answer = called("replay", str(path))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == f"asgi-analytics: {path} seems to be {named}: {ALLOWED}"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("\ufeff".encode("utf-16-be"), "UTF-16"),
        (gzip.compress(gzip.compress(TEXT.encode())), "gzipped twice"),
        (bz2.compress(TEXT.encode()), "compressed by bzip2"),
        (lzma.compress(TEXT.encode()), "compressed by xz"),
        (b"\x28\xb5\x2f\xfd\x24", "compressed by zstd"),
        (b"PK\x03\x04\x14", "a ZIP archive"),
    ],
)
def test_what_comes_through_a_pipe_is_named_too(content: bytes, named: str) -> None:
    answer = loaded.run("replay", "-", given=content)
    assert answer.returncode == 1
    assert answer.stderr.decode() == f"asgi-analytics: standard input seems to be {named}: {ALLOWED}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(TEXT.encode(encoding))
    assert "20 read (combined), 20 judged" in called("replay", str(path)).stdout


def test_a_hole_at_the_beginning_is_no_encoding(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for zeros in (1, 4_096, 1 << 19):
        path.write_bytes(bytes(zeros) + TEXT.encode())
        assert "20 judged" in called("replay", str(path)).stdout
    path.write_bytes(b"\0")
    assert "No line of" in called("replay", str(path)).stderr
