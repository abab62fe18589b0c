"""A manifest that lacks a key, or has a value of another type or range, is refused by the place of that key."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from udq.errors import InputError
from udq.store import schema

COLLECTIONS = Path(__file__).parents[1] / "collections"


def document(version=3):
    return json.loads((COLLECTIONS / f"format-{version}" / "collection.json").read_text())


def changed(keys, value):
    """A manifest with another value in one place."""
    *inner, last = keys
    whole = place = document()
    for key in inner:
        place = place[key]
    place[last] = value
    return whole


@pytest.mark.parametrize("version", [2, 3])
def test_manifests_of_both_formats_pass(version):
    schema.check(document(version))


def test_keys_of_later_versions_are_ignored():
    schema.check(document() | {"later": [1]})


REQUIRED = ["udq", "created", "config", "training", "model", "segments", "broken", "passed_over"]


@pytest.mark.parametrize("key", REQUIRED)
def test_every_required_key_is_missed(key):
    lacking = document()
    del lacking[key]

    with pytest.raises(ValueError, match=f"^{key}: missing$"):
        schema.check(lacking)


@pytest.mark.parametrize("name", ["codes.npy", "boxes.npy", "offsets.npy", "images.json"])
def test_every_file_of_a_segment_is_missed(name):
    lacking = document()
    del lacking["segments"][0]["files"][name]

    with pytest.raises(ValueError, match=rf"^segments\[0\]\.files\.{name}: missing$"):
        schema.check(lacking)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("udq",), 1, "udq: expected text, found 1"),
        (("next_id",), 2**62, r"next_id: expected a number below 2\*\*62, found 4611686018427387904"),
        (("model", "bytes"), 2**40, "model.bytes: expected at most 8,589,934,592 bytes, found 1099511627776"),
        (("segments", 0, "files", "images.json", "bytes"), 2**30, "images.json.bytes: expected at most 268,435,456 b"),
        (("segments", 0, "folder"), "segments/0000001", "'segments/0000001' is not a file of a collection"),
        (("segments", 0, "folder"), "segments/" + "1" * 19, "is not a file of a collection"),
        (("next_id",), -1, "next_id: expected a whole number, 0 or more, found -1"),
        (("next_id",), 2**63, "next_id: expected a whole number, 0 or more, found 9223372036854775808"),
        (("passed_over",), True, "passed_over: expected a whole number, 0 or more, found True"),
        (("segments",), {}, "segments: expected a list, found {}"),
        (("segments", 0, "images"), 1.0, r"segments\[0\].images: expected a whole number, 0 or more, found 1.0"),
        (("segments", 0, "folder"), "segments/1", r"segments\[0\].folder: 'segments/1' is not a file of a collection"),
        (("segments", 0, "files", "../x"), {}, r"segments\[0\].files: '../x' is not a file of a collection"),
        (("segments", 0, "files", "codes.npy", "sha256"), None, r"codes.npy.sha256: expected text, found None"),
        (("model", "file"), "model-000001.npz\n", r"model.file: 'model-000001.npz\\n' is not a file of a collection"),
        (("removed", "regions"), "3", "removed.regions: expected a whole number, 0 or more, found '3'"),
        (("training",), [], r"training: expected a table, found \[\]"),
        (("broken",), [{"image": "x.jpg"}], r"broken\[0\].reason: missing"),
        (("weights",), {"path": "/x"}, "weights.sha256: missing"),
        (("backbone",), {}, "backbone.file: missing"),
    ],
)
def test_other_values_are_refused_by_their_place(keys, value, message):
    with pytest.raises(ValueError, match=message):
        schema.check(changed(keys, value))


def test_a_segment_that_is_listed_twice_is_refused():
    whole = document()
    whole["segments"] *= 20_000
    with pytest.raises(ValueError, match=r"^segments\[1\]\.folder: 'segments/000001' is listed twice$"):
        schema.check(whole)


@pytest.mark.parametrize("name", ["segments/000001", "segments/999999", "segments/1000000", "segments/" + "9" * 18])
def test_numbers_of_six_to_eighteen_digits_are_names(name):
    schema.check(changed(("segments", 0, "folder"), name))


HISTORY = {
    "rounds": [{"iteration": 0, "separability": [1.0, 0.5], "discriminability": [0.1, 0.2], "quantization_error": 0.3}],
    "kept": 1,
    "stopped": None,
}


def test_a_history_of_training_is_read_with_finite_numbers_alone():
    unsound = copy.deepcopy(HISTORY)
    unsound["rounds"][0] |= {"separability": [float("nan"), 0.5], "quantization_error": float("inf")}
    found = schema.history(unsound)
    assert found["rounds"][0] == HISTORY["rounds"][0] | {"separability": [None, 0.5], "quantization_error": None}
    assert schema.history(HISTORY) == HISTORY


@pytest.mark.parametrize(
    "training",
    [None, {}, [], HISTORY | {"kept": 2}, HISTORY | {"rounds": [1]}, HISTORY | {"rounds": [{"iteration": 0}]}],
)
def test_what_is_no_history_of_training_is_read_as_none(training):
    assert schema.history(training) is None


def test_settings_of_a_later_version_are_refused():
    with pytest.raises(InputError, match=r"unknown table \[later\]"):
        schema.check(changed(("config", "later"), {}))


def test_checking_changes_nothing():
    whole = document()
    before = copy.deepcopy(whole)
    schema.check(whole)

    assert whole == before
