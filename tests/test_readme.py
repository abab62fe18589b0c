"""What README shows is what happens: its commands print those lines, its Python runs, its tables are the figures."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")


def blocks(language):
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found, f"README has no {language} block"
    return found


def shape(text):
    """What a person reads, without figures, which differ between machines, and the photos that go with them."""
    lines = [re.sub(r"\S+\.jpg", "PHOTO", line) for line in text.splitlines()]
    return [" ".join(NUMBER.sub("0", line).split()) for line in lines]


@pytest.fixture(scope="module")
def folder(demo):
    return Path(demo["written"]["page"]).parents[1]


def test_the_console_prints_what_readme_shows(udq, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for block in blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            program, *arguments = shlex.split(command)
            assert program == "udq"
            code, out, err = udq(*arguments)

            assert code == 0, err
            assert shape(out) == shape(expected), command


def test_the_python_runs(folder, tmp_path):
    few = tmp_path / "udq-demo" / "photos"
    few.mkdir(parents=True)
    for file in sorted((folder / "udq-demo" / "photos").glob("*.jpg"))[:12]:
        shutil.copy(file, few)
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 4
        assert "coffee.jpg" in done.stdout


def test_the_tables_are_what_the_results_say():
    done = subprocess.run(
        [sys.executable, ROOT / "results" / "render.py", "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
