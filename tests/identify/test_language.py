from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_analytics.identify.language import read_language


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de-DE,de;q=0.9,en;q=0.8", "de-de"),
        ("en;q=0.1, fr;q=0.7, de;q=0.7", "fr"),
        ("en ; q=0.5 , nl", "nl"),
        ("zh-Hant-TW", "zh-hant-tw"),
        ("*", None),
        ("*, pt-BR;q=0.3", "pt-br"),
        ("en;q=0", None),
        ("en;q=2, sv;q=0.1", "sv"),
        ("../../etc/passwd, it;q=0.1", "it"),
        ("\x00\ud800", None),
        ("a" * 9, None),
        ("en-" + "-".join(["abcdefgh"] * 5), None),
        ("٣٣", None),
        ("", None),
        (None, None),
    ],
)
def test_the_preferred_language_tag_is_found(header: str | None, language: str | None) -> None:
    assert read_language(header) == language


@given(st.text() | st.text(alphabet="ade-;q=0.19, *\n", max_size=600))
def test_anything_can_be_read_and_gives_a_short_tag(header: str) -> None:
    language = read_language(header)
    assert language is None or (len(language) <= 35 and language.isascii() and language == language.lower())


def test_the_work_is_bounded() -> None:
    assert read_language("*," * 100 + "de") is None
    assert read_language(" " * 600 + "de") is None
