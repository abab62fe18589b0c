"""The benchmarks run: their runner, and the collection that whole queries are measured on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from udq import Collection

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "speed"


@pytest.fixture
def query(monkeypatch):
    """The script of that name."""
    monkeypatch.syspath_prepend(FOLDER)
    import query

    return query


def run(*words):
    return subprocess.run([sys.executable, FOLDER, *map(str, words)], capture_output=True, text=True, check=False)


def test_one_that_fails_is_named_and_stops_no_other(tmp_path):
    (tmp_path / "no photos").mkdir()

    done = run(tmp_path / "no photos", "-o", tmp_path / "out", "--tiny", "--only", "memory", "limits")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "failed: memory"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["benchmark_limits.json"]
    figures = json.loads((tmp_path / "out" / "benchmark_limits.json").read_text())
    assert figures["machine"]["cores"] >= 1
    assert figures["per_second"]["read"] > 1e8
    assert figures["per_second"]["multiply float32"] > 0
    assert "read: " in done.stdout.split("== limits: done")[1]


def test_a_name_that_is_none_is_refused(tmp_path):
    done = run(tmp_path, "-o", tmp_path / "out", "--only", "limit")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "--only: expected some of limits, scan, growth, query, verify, index, memory, add, found limit"
    )
    assert not (tmp_path / "out").exists()


def test_a_collection_grown_to_many_codes_is_a_collection(query, place):
    before = Collection.open(place / "x.udq", device="cpu")
    query.grow(place / "x.udq", 3000, np.random.default_rng(0))
    grown = Collection.open(place / "x.udq", device="cpu")

    assert grown.verify() == []
    assert 3000 <= grown.regions < 3000 + before.regions
    assert len(set(grown.names)) == len(grown)
    assert grown.names[: len(before)] == before.names
    queries = query.make_queries(place / "photos", 4, place, np.random.default_rng(0))
    first = [grown.search(file, box, k=1).matches[0].image for file, box in queries]
    assert [name.split("/")[-1] for name in first] == before.names
    old, new = before.segments[0], grown.segments[1]
    assert (new.codes[: len(old.codes)] != old.codes).sum(axis=1).max() == 1
