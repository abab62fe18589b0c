"""Two processes with other numbers of threads make the same collection and the same rankings, stage by stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "robustness"


@pytest.fixture
def script(monkeypatch):
    """The benchmark."""
    monkeypatch.syspath_prepend(FOLDER)
    import thread_counts

    return thread_counts


def test_every_stage_is_equal_with_one_and_three_threads(photos, script):
    command = [sys.executable, script.__file__, photos, "--photos", "8", "--threads", "1", "3", "--quick"]
    environment = os.environ | {"UDQ_NETWORK": "torch"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    rows = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:])

    assert done.returncode == 0, done.stderr
    assert set(rows.values()) == {"equal"}
    stages = "pixels", "pooled features", "local features", "trained layers", "codes", "ranking by default"
    assert set(stages) < set(rows)


def test_a_difference_is_counted_and_allowed_for_queries_alone(script):
    one = np.ones((2, 4), np.float32)
    other = one.copy()
    other[0, 1] = np.nextafter(np.float32(1), np.float32(2))
    for stage, allowed in (("codes", False), ("trained layers", False), ("features of queries", True)):
        found = script.compared(stage, one, other, end_to_end=False)
        assert (found["equal"], found["differing"], found["allowed"]) == (False, 1 / 8, allowed)
    assert not script.compared("features of queries", one, one + 1e-4, end_to_end=False)["allowed"]
    assert script.shown(script.compared("codes", one, one, end_to_end=False)) == "equal"
    assert script.shown(script.compared("codes", one, one[:1], end_to_end=False)) == "100.00% differ, other sizes"
