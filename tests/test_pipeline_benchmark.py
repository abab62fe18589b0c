"""benchmarks/decisions/pipeline.py: the threshold that a set's own answers would choose."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks" / "decisions")
    return importlib.import_module("pipeline")


@pytest.mark.parametrize(("queries", "alarms"), [(1, 0), (19, 0), (20, 1), (31, 1), (100, 5)])
def test_no_more_than_5_percent_of_absent_objects_pass_the_threshold(pipeline, queries, alarms):
    absent = [query / 128 for query in range(queries)]  # at least as far apart as rounded confidences

    least = pipeline.threshold(absent)

    assert sum(each >= least for each in absent) == alarms


def test_what_the_best_threshold_finds_is_a_mean_over_queries(pipeline):
    sure = pipeline.Sureness()
    sure.absent = [0.5] * 20 + [0.96]  # one alarm of 21 is allowed
    sure.present = [[0.97, 0.6], [0.4, 0.3, 0.2, 0.1]]

    assert sure.figures() == {
        "false_alarms_object_absent": round(1 / 21, 4),
        "positives_found": 0.25,
        "bound": 0.5,
        "precision_of_found": None,
    }

    sure.present[0][1] = 0.5  # no surer than the objects that are absent
    assert sure.figures()["bound"] == 0.25
