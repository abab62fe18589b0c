"""Counts with nouns, errors on one line, and file names that are safe to show."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.common.text import counted, nfc, one_line, shown


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


@pytest.mark.parametrize(
    ("number", "nouns", "text"),
    [
        (1, ["photo"], "1 photo"),
        (0, ["photo"], "0 photos"),
        (1234, ["query", "queries"], "1,234 queries"),
        (1, ["query", "queries"], "1 query"),
    ],
)
def test_a_count_has_its_noun_in_the_right_number(number, nouns, text):
    assert counted(number, *nouns) == text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines\tand a tab "), "two lines and a tab"),
        (TimeoutError(), "TimeoutError"),
        (OSError(" \n"), "OSError"),
        ("a message\nof two lines", "a message of two lines"),
    ],
)
def test_an_error_is_one_line_and_never_empty(error, line):
    assert one_line(error) == line


def test_the_composed_form_keeps_what_is_no_text():
    assert nfc("cafe\u0301") == nfc("caf\u00e9") == "caf\u00e9"
    assert nfc("a\udce9") == "a\udce9"
