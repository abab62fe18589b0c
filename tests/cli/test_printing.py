"""Names of any bytes where people and programs read them: terminal, JSON, page, picture."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from udq.cli import printing
from udq.experiments.demo.page import Section
from udq.reports import html
from udq.reports.sheet import Tile, sheet

NAME = "caf\udce9 \x1b[2J é\n.jpg"
SHOWN = r"caf\xe9 \x1b[2J é\x0a.jpg"


def test_a_line_for_people_does_not_steer_their_terminal(capsys):
    printing.say(f"photo: {NAME}")
    printing.say(f"photo: {NAME}", to=sys.stderr)

    assert capsys.readouterr() == (f"photo: {SHOWN}\n", f"photo: {SHOWN}\n")


def test_json_is_ascii_and_gives_names_back_as_they_were(capsys):
    printing.print_json({"image": NAME})
    text = capsys.readouterr().out

    assert text.isascii()
    assert json.loads(text) == {"image": NAME}


def test_an_error_shows_bytes_that_are_no_text_as_escapes(udq, tmp_path):
    code, out, err = udq("index", tmp_path / NAME, "-o", tmp_path / "x.udq")

    assert (code, out) == (2, "")
    assert err == f"udq: {tmp_path}/{SHOWN}: no such file or folder; check the spelling\n"


@pytest.mark.skipif(sys.platform == "win32", reason="consoles are told apart there")
def test_a_terminal_without_the_letters_of_a_name_gets_escapes(collection, tmp_path):
    shutil.copytree(collection.path, tmp_path / "é.udq")
    done = subprocess.run(
        [sys.executable, "-c", "from udq.cli.main import main; main()", "info", tmp_path / "é.udq"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )

    assert rb"\xe9.udq" in done.stdout
    assert done.stderr == b""


def test_pages_and_pictures_show_bytes_that_are_no_text_as_escapes(tmp_path):
    card = html.Card(html.Photo(None, (4, 3), (), NAME), name=NAME)
    section = Section(NAME, NAME, card, ())
    page = html.render("demo.html", title=NAME, alone=True, headline=[(NAME, NAME)], sections=[section])
    html.write(tmp_path / "x.html", page)
    grey = np.full((60, 80, 3), 128, np.uint8)

    assert (tmp_path / "x.html").read_text(encoding="utf-8").count(SHOWN) == 8
    (picture,) = {sheet([[Tile(grey, (), name)]], titles=[name]).tobytes() for name in ("caf\udce9", r"caf\xe9")}
    assert picture
