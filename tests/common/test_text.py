"""Names of files as text that can be shown."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.common.text import shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("photos/café 👩‍🎨.jpg", "photos/café 👩‍🎨.jpg"),
        (r"C:\photos\x.jpg", r"C:\photos\x.jpg"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("\x1b[2J.jpg", r"\x1b[2J.jpg"),
        ("two\nlines\r\t.jpg", r"two\x0alines\x0d\x09.jpg"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("line\u2028end\x85", r"line\u2028end\x85"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_cannot_be_shown_is_an_escape_and_the_rest_stays(name, text):
    assert shown(name) == text


@given(st.text(st.characters(), max_size=30) | st.binary(max_size=30).map(lambda name: os.fsdecode(name)))
def test_any_name_is_one_line_that_every_file_takes(name):
    text = shown(name)

    text.encode("utf-8")
    assert len(text.splitlines()) <= 1
    assert "\x1b" not in text
    assert shown(text) == text
